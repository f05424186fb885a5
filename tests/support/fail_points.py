"""The server's fail points: what a test lets it do wrong, for the length of a block."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
from pymongo.errors import OperationFailure

from tests.support.least_rights import operating

Mode = str | Mapping[str, int]
"""``alwaysOn``, ``{"times": 2}``, ``{"skip": 3}``."""


@asynccontextmanager
async def fail_point(database: Any, name: str, *, mode: Mode = "alwaysOn", **data: object) -> AsyncIterator[None]:
    """A fail point of the database's server, switched off afterwards; it stands for all who use that server."""
    async with operating(database) as admin:
        try:
            await admin.command({"configureFailPoint": name, "mode": mode, "data": data})
        except OperationFailure:
            pytest.skip("this server was started without enableTestCommands=1")
        try:
            yield
        finally:
            await admin.command({"configureFailPoint": name, "mode": "off"})


def failing(database: Any, *commands: str, mode: Mode = "alwaysOn", **how: object) -> AbstractAsyncContextManager[None]:
    """The server does something else with these commands: ``errorCode``, ``writeConcernError``, ``closeConnection``."""
    return fail_point(database, "failCommand", mode=mode, failCommands=list(commands), **how)
