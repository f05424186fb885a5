"""The assistant page while the assistant works: two messages in a row, one in another's place, a stop, a second try."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Final

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Locator, Page, expect

from tests.support.browser import check, opened, say, tab_through
from tests.support.chat_process import ChatProcess, Visitor

QUESTION: Final = "Which day suits you instead?"
WAITS: Final = "waits until the assistant is ready"
REPLACED: Final = "replaced by a newer message"
LATER: Final = "not possible just now, trying again…"


@pytest_asyncio.fixture(loop_scope="session")
async def conversation(visitor: Visitor) -> str:
    """One in which the assistant asks."""
    return await visitor.trigger()


@pytest_asyncio.fixture(loop_scope="session")
async def windows(
    browser: Browser, servers: tuple[ChatProcess, ChatProcess], conversation: str
) -> AsyncIterator[tuple[Page, Page]]:
    """A narrow window and a wide one, each on a server of its own; no script of theirs fails."""
    left, right = [
        await opened(browser, server, conversation, width=width)
        for server, width in zip(servers, (360, 1200), strict=True)
    ]
    broken: list[str] = []
    for window in (left, right):
        window.on("pageerror", lambda error: broken.append(str(error)))
        await expect(window.get_by_role("log")).to_contain_text(QUESTION)
        await expect(window.locator("#connection")).to_have_text("Live")
    yield left, right
    assert broken == []


def said(window: Page, text: str) -> Locator:
    """A message of the user, as the server has stored it."""
    return window.locator("[data-id*='/user/']").filter(has_text=text)


def stop_in(window: Page) -> Locator:
    """The button."""
    return window.get_by_role("button", name="Stop")


def switch_in(window: Page) -> Locator:
    """Whether a new message replaces the one being worked on."""
    return window.get_by_role("switch", name="A new message replaces")


async def in_both(windows: tuple[Page, Page], *expected: tuple[str, str], name: str, pictures: Path) -> None:
    """Both windows show these messages, each with its fate; they can be read and used, and are kept as pictures."""
    for window in windows:
        for text, fate in expected:
            await expect(said(window, text).locator(".fate")).to_have_text([fate] if fate else [])
        await check(window)
        assert await window.evaluate("document.documentElement.scrollWidth <= innerWidth")
        await window.screenshot(path=pictures / f"{name}-{await window.evaluate('innerWidth')}.png", full_page=True)


async def begin_slowly(windows: tuple[Page, Page]) -> None:
    """The assistant works on the left one's answer, and both show it."""
    await say(windows[0], "slowly Monday")
    for window in windows:
        await expect(window.get_by_text("The assistant is working on it…")).to_be_visible()
        await expect(stop_in(window)).to_be_visible()


async def test_two_messages_in_a_row(
    windows: tuple[Page, Page], conversation: str, visitor: Visitor, pictures: Path
) -> None:
    """They wait, say so in every window, and are handled in their order: by ordinary chat, once that is free."""
    await begin_slowly(windows)
    for text in ("how are you", "and the weather"):
        await say(windows[0], text)
    held = ("how are you", WAITS), ("and the weather", WAITS)
    await in_both(windows, ("slowly Monday", ""), *held, name="held", pictures=pictures)
    await windows[0].reload()  # what waits is delivered by the page that is loaded then
    session_id = (await visitor.history(conversation))["session"]["session_id"]
    await visitor.client.post(f"/api/sessions/{session_id}/dismiss")
    for window in windows:
        await expect(window.get_by_text("nothing of your schedule waits for you")).to_have_count(2)
        handled = ("slowly Monday", "stopped"), ("how are you", ""), ("and the weather", "")
        for text, fate in handled:
            await expect(said(window, text).locator(".fate")).to_have_text([fate] if fate else [])
        await expect(stop_in(window)).to_be_hidden()
    written = [each["id"].split("/")[-2:] for each in (await visitor.history(conversation))["messages"]]
    asked, answered = ([message_id for role, message_id in written if role == who] for who in ("user", "assistant"))
    assert answered[1:] == asked[1:]  # the question first; what was stopped has no answer


async def test_a_held_message_and_another_question(windows: tuple[Page, Page], pictures: Path) -> None:
    """Another window replaces the run and is asked anew: what waited answers no question that its user had not seen."""
    left, right = windows
    await begin_slowly(windows)
    await say(left, "Friday")
    await in_both(windows, ("Friday", WAITS), name="held-too", pictures=pictures)
    await left.locator("#text").fill("and")  # already at the next one
    await switch_in(right).check()
    await say(right, "Tuesday")
    await expect(left.get_by_role("alert")).to_contain_text("The question has changed meanwhile.")
    await expect(left.locator("#text")).to_have_value("and Friday")
    for window in windows:
        await expect(window.get_by_role("log")).to_contain_text("Tuesday it is. At what time?")
        await expect(said(window, "Friday")).to_have_count(0)
    await in_both(windows, ("slowly Monday", REPLACED), ("Tuesday", ""), name="another-question", pictures=pictures)


async def test_a_message_that_replaces_the_run(windows: tuple[Page, Page], pictures: Path) -> None:
    """With the switch on, in this window alone and for as long as it is open; the page says what was replaced."""
    left, right = windows
    await switch_in(left).focus()
    await left.keyboard.press("Space")
    await left.reload()
    await expect(switch_in(left)).to_be_checked()
    await expect(switch_in(right)).not_to_be_checked()
    await begin_slowly(windows)
    await stop_in(right).focus()
    await say(left, "slowly Tuesday")
    await in_both(windows, ("slowly Monday", REPLACED), ("slowly Tuesday", ""), name="replaced", pictures=pictures)
    await expect(stop_in(right)).to_be_focused()  # it is there as before
    await say(left, "Wednesday")
    for window in windows:
        await expect(window.get_by_role("log")).to_contain_text("Wednesday it is. At what time?")
        for text in ("slowly Monday", "slowly Tuesday"):
            await expect(said(window, text).locator(".fate")).to_have_text(REPLACED)


async def test_stop(windows: tuple[Page, Page], pictures: Path) -> None:
    """From the other window, by keyboard: the question stands, the message says what became of it and is sent anew."""
    left, right = windows
    await begin_slowly(windows)
    link, log = right.get_by_role("link", name="All conversations"), right.get_by_role("log")
    text, send = right.locator("#text"), right.get_by_role("button", name="Send", exact=True)
    await right.locator("#title").focus()
    await tab_through(right, link, log, stop_in(right), text, send, switch_in(right))
    await stop_in(right).focus()
    await right.keyboard.press("Enter")
    await expect(right.locator("#state")).to_be_focused()
    for window in windows:
        await expect(window.get_by_role("region", name="The assistant asks")).to_contain_text(QUESTION)
        await expect(window.get_by_text("The assistant waits for your answer.")).to_be_visible()
        await expect(stop_in(window)).to_be_hidden()
    await in_both(windows, ("slowly Monday", "stopped"), name="stopped", pictures=pictures)
    again = right.get_by_role("button", name="Send again…")
    await right.locator("#title").focus()
    await tab_through(right, link, log, again, right.get_by_role("button", name="Not now"), text)
    await expect(again).to_have_css("outline-color", "rgb(255, 255, 255)")  # on the message's blue
    await left.get_by_role("button", name="Send again…").press("Enter")
    await expect(left.locator("#text")).to_be_focused()
    await expect(left.locator("#text")).to_have_value("slowly Monday")
    await say(left, "Monday")
    for window in windows:
        await expect(window.get_by_role("log")).to_contain_text("Monday it is. At what time?")
        await expect(said(window, "slowly Monday").locator(".fate")).to_have_text("stopped")


async def test_stop_lets_the_next_one_on(windows: tuple[Page, Page]) -> None:
    """What waited behind the message that is stopped is worked on next: the same question stands, it is its answer."""
    left, right = windows
    await begin_slowly(windows)
    await say(left, "Thursday")
    await expect(said(left, "Thursday").locator(".fate")).to_have_text(WAITS)
    await stop_in(left).click()
    for window in (left, right):
        await expect(window.get_by_role("log")).to_contain_text("Thursday it is. At what time?")
        await expect(said(window, "slowly Monday").locator(".fate")).to_have_text("stopped")
        await expect(said(window, "Thursday").locator(".fate")).to_have_count(0)


async def test_stop_of_a_change(
    windows: tuple[Page, Page], conversation: str, visitor: Visitor, pictures: Path
) -> None:
    """The proposal stands as it was, and whoever wanted the change is told, and keeps what they wrote."""
    left = windows[0]
    for text in ("Monday", "10:00"):
        await visitor.say(conversation, text)
    await left.get_by_role("button", name="Change the time…").click()
    await left.get_by_label("New time").fill("slowly 11:30")
    await left.keyboard.press("Enter")
    for window in windows:
        await expect(stop_in(window)).to_be_visible()
        await expect(window.get_by_role("region", name="Proposed change")).to_be_hidden()
    await say(left, "how are you")  # no question stands that it could name
    await expect(said(left, "how are you").locator(".fate")).to_have_text(WAITS)
    await stop_in(left).click()
    await expect(left.get_by_role("alert")).to_contain_text("That was stopped.")
    for window in windows:
        await expect(window.locator("#preview-time")).to_have_text("10:00")
        await expect(window.get_by_role("region", name="Proposed change")).to_be_visible()
        await expect(window.get_by_role("log")).to_contain_text("nothing of your schedule waits for you")
    await in_both(windows, ("how are you", ""), name="change-stopped", pictures=pictures)
    await left.get_by_role("button", name="Change the time…").click()
    await expect(left.get_by_label("New time")).to_have_value("slowly 11:30")


async def test_a_provider_that_fails_once(windows: tuple[Page, Page], pictures: Path) -> None:
    """The page says that it is tried again, delivers it again by itself, and keeps the order meanwhile."""
    left = windows[0]
    await say(left, "flaky Monday")
    await in_both(windows, ("flaky Monday", LATER), name="deferred", pictures=pictures)
    await say(left, "10:00 then?")
    for window in windows:
        await expect(window.get_by_role("log")).to_contain_text("Monday it is. At what time?")
        await expect(said(window, "flaky Monday").locator(".fate")).to_have_count(0)
    # It was written to the question before: its sender is told, and has it still.
    await expect(left.get_by_role("alert")).to_contain_text("The question has changed meanwhile.")
    await expect(left.locator("#text")).to_have_value("10:00 then?")


@pytest.mark.parametrize("while_running", ["hold", "replace"])
async def test_what_is_sent_before_the_first_is_worked_on(
    windows: tuple[Page, Page], conversation: str, visitor: Visitor, while_running: str
) -> None:
    """The page keeps its order though both messages are written at once, and though the first takes its time."""
    left = windows[0]
    await switch_in(left).set_checked(while_running == "replace")
    gate = asyncio.Event()

    async def late(go_on: Awaitable[None]) -> None:
        await gate.wait()
        await go_on

    await left.route("**/messages", lambda route: late(route.continue_()), times=1)
    await say(left, "slowly Monday")
    await say(left, "Tuesday")
    await expect(left.get_by_text("sending…")).to_have_count(2)
    await asyncio.sleep(0.5)  # time enough for a page that does not wait
    assert len((await visitor.history(conversation))["messages"]) == 1
    gate.set()
    expected = {"hold": ("", WAITS), "replace": (REPLACED, "")}[while_running]
    for text, fate in zip(("slowly Monday", "Tuesday"), expected, strict=True):
        await expect(said(left, text)).to_be_visible()
        await expect(said(left, text).locator(".fate")).to_have_text([fate] if fate else [])
