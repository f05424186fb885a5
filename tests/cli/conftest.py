"""An operator at a database on the real server."""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from sessions import SessionRepository, open_repository
from tests.support.sessions_command import Operator

if TYPE_CHECKING:
    from sessions.store.clients import Database


@pytest_asyncio.fixture(loop_scope="session")
async def sessions(shared: "Database") -> AsyncIterator[SessionRepository]:
    """The sessions of the database, by the server's clock."""
    async with open_repository(shared) as repository:
        yield repository


@pytest.fixture
def operator(shared: "Database", mongod_uri: str) -> Operator:
    """Runs commands there."""
    return Operator(mongod_uri, shared.name)
