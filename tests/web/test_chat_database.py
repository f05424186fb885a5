"""The chat application while its database is down, or is there and does not answer."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import Browser, expect

from sessions.mongod import Member, find_mongod, running_replica_set
from tests.support.browser import new_window
from tests.support.chat_process import USER, ChatProcess, Visitor

SOON = 20.0
"""Seconds on a busy machine; by itself the driver waits thirty, and for a frozen server for ever."""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def member() -> AsyncIterator[tuple[Member, ChatProcess]]:
    """A server process, and the database process that it alone uses."""
    if (binary := find_mongod()) is None:
        pytest.skip("no mongod on PATH, and the `server` extra has none for this platform")
    async with running_replica_set(binary, members=1) as alone:
        server = ChatProcess(alone.uri, "chat", lease=60)
        try:
            await server.start()
            yield alone.members[0], server
        finally:
            await server.kill()


@pytest_asyncio.fixture(loop_scope="session")
async def frozen(member: tuple[Member, ChatProcess]) -> AsyncIterator[tuple[Member, ChatProcess, str]]:
    """The same, and a conversation; the database goes on when the test has ended."""
    database, server = member
    visitor = Visitor(server, user=USER)
    conversation = await visitor.trigger()
    await visitor.client.aclose()
    try:
        yield database, server, conversation
    finally:
        database.thaw()


async def test_pages_and_calls_while_the_database_is_frozen(frozen: tuple[Member, ChatProcess, str]) -> None:
    """The page comes soon, and says by its status that it may be incomplete; the calls are refused as soon."""
    database, server, conversation = frozen
    visitor = Visitor(server, user=USER)
    database.freeze()
    paths = [f"/assistant/{conversation}", f"/api/conversations/{conversation}", "/api/conversations"]
    async with asyncio.timeout(SOON):
        answers = await asyncio.gather(*(visitor.client.get(path) for path in paths))
    await visitor.client.aclose()
    assert [answer.status_code for answer in answers] == [503, 503, 503]
    assert answers[0].headers["content-type"].startswith("text/html")
    assert answers[1].headers["content-type"] == "application/problem+json"


async def test_the_page_while_the_database_is_frozen(browser: Browser, frozen: tuple[Member, ChatProcess, str]) -> None:
    """A page that is open says that it shows what was; one that is opened says that it cannot; both come back."""
    database, server, conversation = frozen
    address = f"/assistant/{conversation}"
    window, later = [await new_window(browser, server) for _ in range(2)]
    question = "Which day suits you instead?"
    await window.goto(address)
    await expect(window.locator("#connection")).to_have_text("Live")
    database.freeze()
    await later.goto(address, timeout=SOON * 1000)
    unread = later.get_by_text("The server cannot read it at the moment.")
    await expect(unread).to_be_visible(timeout=SOON * 1000)
    await expect(later.get_by_role("button", name="Try again")).to_be_focused()
    unread = window.get_by_text("Cannot be read at the moment. Trying again…")
    await expect(unread).to_be_visible(timeout=(SOON + 5) * 1000)  # it looks every 5 s
    await expect(window.get_by_role("log")).to_contain_text(question)
    database.thaw()
    await expect(window.locator("#connection")).to_have_text("Live")
    await later.keyboard.press("Enter")
    await expect(later.get_by_role("log")).to_contain_text(question)
