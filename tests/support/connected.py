"""A client that is closed however the test ends: one that is not fails the test in which it is collected."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sessions.store.clients import connect, disconnect


@asynccontextmanager
async def connected(uri: str, *, driver: str | None = None) -> AsyncIterator[Any]:
    """A client of this server, for one block."""
    client = connect(uri, driver=driver)
    try:
        yield client
    finally:
        await disconnect(client)
