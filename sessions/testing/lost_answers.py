"""Writes that are carried out and whose answers are lost."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest
from pymongo.errors import OperationFailure

from sessions.store.clients import Database
from sessions.testing.double import refuse_the_double

_WRITES: Final = ("insert", "update", "delete", "findAndModify")
_WAITED_IN_VAIN: Final = {"code": 64, "errmsg": "the answer was lost"}  # drivers do not repeat a write by themselves


@asynccontextmanager
async def lost_acknowledgements(database: Database, *, times: int = 1) -> AsyncIterator[None]:
    """Within the block the next writes are carried out, and their callers are told that it is not known.

    They meet an error of the driver, for a ``findAndModify`` and an ``insert`` alike. It concerns all writes on the
    server, so another process's tests need a server of their own.

    Args:
        database: On which server.
        times: How many writes, from the block's first.

    Raises:
        DoubleShowsNoRace: The database is the in-memory double.
        pytest.skip.Exception: The server was started without ``enableTestCommands``.
    """
    refuse_the_double(database, "lost_acknowledgements")
    client: Any = database.client
    how = {"failCommands": list(_WRITES), "writeConcernError": _WAITED_IN_VAIN}
    try:
        await client.admin.command({"configureFailPoint": "failCommand", "mode": {"times": times}, "data": how})
    except OperationFailure:
        pytest.skip(
            "this server was started without --setParameter enableTestCommands=1, or its user may not set fail points"
        )
    try:
        yield
    finally:
        await client.admin.command({"configureFailPoint": "failCommand", "mode": "off"})
