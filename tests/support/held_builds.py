"""Index builds that begin and wait, so that a test can look at them meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from indexes.server import Server
from sessions.store.document import COLLECTION
from tests.support.fail_points import fail_point


@asynccontextmanager
async def builds_held(database: Any) -> AsyncIterator[None]:
    """A server whose builds begin and do not end; there has to be a document for one to begin."""
    await database[COLLECTION].insert_one({"_id": "a", "trigger_id": "t"})
    async with fail_point(database, "hangAfterStartingIndexBuild"):
        yield


async def under_way(database: Any) -> str:
    """The name of the index that is being built, as soon as one is."""
    async with asyncio.timeout(30):
        while True:
            for name, definition in (await Server(database).indexes(COLLECTION) or {}).items():
                if "buildUUID" in definition:
                    return name
            await asyncio.sleep(0.01)
