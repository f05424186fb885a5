"""Two server processes of the chat application on one real ``mongod``, and a browser."""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
import pytest_asyncio

from sessions.store.clients import connect, disconnect
from tests.support.browser import Browser, find_chromium, running_browser
from tests.support.chat_process import LEASE, USER, ChatProcess, Visitor

if TYPE_CHECKING:
    from sessions.store.clients import Database


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def chat_database(mongod_uri: str) -> AsyncIterator["Database"]:
    """The database of the two processes, which is removed at the end."""
    client: Any = connect(mongod_uri)
    database = client[f"chat_{uuid4().hex[:16]}"]
    yield database
    await client.drop_database(database.name)
    await disconnect(client)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def servers(mongod_uri: str, chat_database: "Database") -> AsyncIterator[tuple[ChatProcess, ChatProcess]]:
    """Two processes over one database."""
    first, second = (ChatProcess(mongod_uri, chat_database.name, lease=LEASE) for _ in range(2))
    try:
        await first.start()
        await second.start()
        yield first, second
    finally:
        await first.kill()
        await second.kill()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    """A headless Chromium, else a skip that says so."""
    if (binary := find_chromium()) is None:
        pytest.skip("no chromium on PATH: apt-get install chromium")
    async with running_browser(binary) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def visitor(servers: tuple[ChatProcess, ChatProcess]) -> AsyncIterator[Visitor]:
    """The user on the first server, without a browser."""
    made = Visitor(servers[0], user=USER)
    yield made
    await made.client.aclose()
