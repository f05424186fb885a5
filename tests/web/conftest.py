"""Two server processes of the chat application on one real ``mongod``, and a browser."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
import pytest_asyncio
from playwright.async_api import Browser, async_playwright, expect

from sessions.store.clients import connect, disconnect
from tests.support.chat_process import LEASE, USER, ChatProcess, Visitor

if TYPE_CHECKING:
    from sessions.store.clients import Database

expect.set_options(timeout=15_000)  # a page waits for two servers and a database, all on one busy machine


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
async def chromium() -> AsyncIterator[Browser]:
    """A headless Chromium, else a skip that says so."""
    binary = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if binary is None:
        pytest.skip("no chromium on PATH: apt-get install chromium")
    flags = ["--disable-gpu", "--disable-quic"]  # beside those by which Playwright keeps it quiet
    async with (
        async_playwright() as playwright,
        await playwright.chromium.launch(executable_path=binary, args=flags) as launched,
    ):
        yield launched


@pytest_asyncio.fixture(loop_scope="session")
async def browser(chromium: Browser) -> AsyncIterator[Browser]:
    """The browser; what a test has opened in it is closed when the test ends."""
    yield chromium
    for context in chromium.contexts:
        await context.close()


@pytest_asyncio.fixture(loop_scope="session")
async def visitor(servers: tuple[ChatProcess, ChatProcess]) -> AsyncIterator[Visitor]:
    """The user on the first server, without a browser."""
    made = Visitor(servers[0], user=USER)
    yield made
    await made.client.aclose()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Where the screenshots go."""
    return tmp_path
