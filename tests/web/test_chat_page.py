"""The assistant page as its user meets it: two windows on two server processes, by a real browser."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.async_api import Browser, expect

from tests.support.browser import check, new_window, opened, say, tab_through
from tests.support.chat_process import USER, ChatProcess, Visitor

if TYPE_CHECKING:
    from sessions.store.clients import Database


async def test_from_question_to_applied_in_two_windows(
    browser: Browser, servers: tuple[ChatProcess, ChatProcess], visitor: Visitor, pictures: Path
) -> None:
    """Question, answers, proposal, change, yes and free chat: what one window does the other shows by itself."""
    conversation = await visitor.trigger()
    left, right = [await new_window(browser, server) for server in servers]
    console: list[str] = []
    for window in (left, right):
        window.on("console", lambda message: console.append(message.text))
        window.on("pageerror", lambda error: console.append(str(error)))
        await window.goto(f"/assistant/{conversation}")
        await expect(window.get_by_role("log")).to_contain_text("Which day suits you instead?")
        await expect(window.locator("#connection")).to_have_text("Live")
    await check(left)
    await left.screenshot(path=pictures / "1-question.png")

    await say(left, "Sunday")
    await expect(right.get_by_role("log")).to_contain_text("Which day from Monday to Friday?")
    await say(right, "Tuesday")
    await expect(left.get_by_role("log")).to_contain_text("Tuesday it is. At what time?")
    await say(left, "will it rain?")  # no answer: ordinary chat, and the question stands
    await expect(left.get_by_role("log")).to_contain_text("It is sunny. But first:")
    await say(left, "10:00")
    for window in (left, right):
        await expect(window.get_by_role("region", name="Proposed change")).to_be_visible()
        await expect(window.get_by_role("log")).to_contain_text("I can move it to Tuesday at 10:00.")
        await expect(window.get_by_text("A proposal is ready.")).to_be_visible()
        await check(window)
    await left.screenshot(path=pictures / "2-preview-left.png")

    await right.get_by_role("button", name="Change the time…").click()
    await expect(right.get_by_label("New time")).to_be_focused()
    await check(right)
    await right.screenshot(path=pictures / "3-change-right.png")
    await right.keyboard.type("11:30")
    await right.keyboard.press("Enter")
    for window in (left, right):
        await expect(window.locator("#preview-time")).to_have_text("11:30")

    await left.get_by_role("button", name="Confirm").press("Enter")
    for window in (left, right):
        await expect(window.get_by_text("Done: it is in your schedule.")).to_be_visible()
        await expect(window.get_by_role("region", name="Proposed change")).to_be_hidden()
    await expect(left.locator("#state")).to_be_focused()  # the button that had the focus is gone
    await say(right, "and how are you today")
    for window in (left, right):
        free_chat = "nothing of your schedule waits for you"
        await expect(window.get_by_role("log")).to_contain_text(free_chat, timeout=8_000)
        await check(window)
    await right.screenshot(path=pictures / "4-applied-right.png")
    told = await visitor.history(conversation)
    assert (told["status"], told["action"]) == ("applied", "free_chat")
    assert console == []


async def test_by_keyboard_alone(
    browser: Browser, servers: tuple[ChatProcess, ChatProcess], visitor: Visitor, pictures: Path
) -> None:
    """Every step can be done by Tab, Enter, Space and Escape, in the order of the page, with a visible focus."""
    conversation = await visitor.trigger()
    window = await opened(browser, servers[0], conversation)
    back, log = window.get_by_role("link", name="All conversations"), window.get_by_role("log")
    not_now, confirm, change, dismiss, send = (
        window.get_by_role("button", name=name)
        for name in ("Not now", "Confirm", "Change the time…", "Dismiss", "Send")
    )
    text, switch = window.locator("#text"), window.get_by_role("switch")
    await expect(log).to_contain_text("Which day suits you instead?")
    await tab_through(window, back, log, not_now, text)
    await window.keyboard.type("Monday")
    await window.keyboard.press("Enter")
    await expect(log).to_contain_text("At what time?")
    await expect(text).to_be_focused()
    await window.keyboard.type("9:00")
    await window.keyboard.press("Enter")
    await expect(window.get_by_text("A proposal is ready.")).to_be_visible()
    await expect(text).to_be_focused()
    await tab_through(window, send, switch)
    await window.keyboard.press("Tab")  # from the page's last stop to the browser's own, and then begin again
    await tab_through(window, back, log, confirm, change)
    await expect(change).to_have_css("outline-width", "3px")
    await window.screenshot(path=pictures / "5-focus.png")
    await window.keyboard.press("Space")
    await expect(window.get_by_label("New time")).to_be_focused()
    await window.keyboard.press("Escape")
    await expect(change).to_be_focused()
    await tab_through(window, dismiss)
    await window.keyboard.press("Enter")
    await expect(window.get_by_text("Dismissed: nothing was changed.")).to_be_visible()
    await expect(window.locator("#state")).to_be_focused()
    assert (await visitor.history(conversation))["status"] == "ignored"


async def test_the_failed_state(
    browser: Browser, servers: tuple[ChatProcess, ChatProcess], visitor: Visitor, pictures: Path
) -> None:
    """A graph that cannot go on: the page says so, why, and what to do; chat is free again."""
    conversation = await visitor.trigger()
    window = await opened(browser, servers[1], conversation)
    await expect(window.get_by_role("log")).to_contain_text("Which day suits you instead?")
    await say(window, "break")
    alert = window.get_by_role("alert")
    await expect(alert).to_contain_text("The assistant could not go on")
    await expect(alert).to_contain_text("The calendar did not let us in.")
    await check(window)
    await window.screenshot(path=pictures / "6-failed.png")
    await say(window, "hello")
    await expect(window.get_by_role("log")).to_contain_text("nothing of your schedule waits for you")


async def test_what_is_not_there(
    browser: Browser, servers: tuple[ChatProcess, ChatProcess], visitor: Visitor, pictures: Path
) -> None:
    """A conversation that does not exist and one of another user: the same 404, and a page that says so."""
    conversation = await visitor.trigger()
    stranger = Visitor(servers[1], user=8)
    answers = [await stranger.client.get(f"/assistant/{each}") for each in (conversation, "no-such")]
    await stranger.client.aclose()
    assert [answer.status_code for answer in answers] == [404, 404]
    assert answers[0].content == answers[1].content
    for each in (conversation, "no-such"):
        window = await opened(browser, servers[1], each, user=8)
        await expect(window.get_by_role("heading", name="This conversation does not exist")).to_be_focused()
        await expect(window.get_by_text("Which day")).to_have_count(0)
        await check(window)
    await window.screenshot(path=pictures / "7-missing.png")
    nobody = await opened(browser, servers[1], conversation, user=None)
    await expect(nobody.get_by_text("Choose a user first")).to_be_visible()


@pytest.mark.parametrize(
    "path", ["assistant/%ff", "assistant/%E0%A4", "assistant/a%2Fb", "assistant/a/b", "assistant/", "nothing"]
)
async def test_an_address_that_leads_nowhere(
    browser: Browser, servers: tuple[ChatProcess, ChatProcess], path: str
) -> None:
    """Whatever was mistyped: a 404, and a page that says so and leads on."""
    window = await new_window(browser, servers[0])
    answer = await window.goto(f"/{path}")
    await expect(window.get_by_role("heading", name="does not exist")).to_be_visible()
    await expect(window.get_by_role("link", name="Go to your conversations")).to_be_visible()
    assert answer is not None
    assert answer.status == 404
    await check(window)


async def test_a_conversation_with_a_slash_in_its_id(
    browser: Browser, servers: tuple[ChatProcess, ChatProcess], chat_database: "Database"
) -> None:
    """Its page, its messages and its changes are found, however the address is written."""
    await chat_database["conversations"].insert_one({"_id": "a/b c", "user_id": USER, "title": "Slashed", "at": 1})
    for path in ("a%2Fb%20c", "a/b c"):
        window = await opened(browser, servers[0], path)
        await expect(window.get_by_role("heading", name="Slashed")).to_be_visible()
        await expect(window.locator("#connection")).to_have_text("Live")
        await say(window, f"hello from {path}")
        await expect(window.get_by_role("log")).to_contain_text("It is sunny")


async def test_reload_and_back(browser: Browser, servers: tuple[ChatProcess, ChatProcess], visitor: Visitor) -> None:
    """A reload, and a way there and back, show what stood before and stay live."""
    conversation = await visitor.trigger()
    window = await opened(browser, servers[0], conversation)
    said = window.get_by_role("log").locator(".user")
    await expect(window.get_by_role("log")).to_contain_text("Which day suits you instead?")
    await say(window, "Wednesday")
    await expect(window.get_by_role("log")).to_contain_text("Wednesday it is. At what time?")
    await window.reload()
    await expect(said).to_have_text("You\nWednesday", use_inner_text=True)
    await expect(window.get_by_text("The assistant waits for your answer.")).to_be_visible()
    await window.get_by_role("link", name="All conversations").click()
    listed = window.get_by_role("listitem").filter(has=window.locator(f"[href='/assistant/{conversation}']"))
    await expect(listed).to_contain_text("waits for your answer")
    await expect(window).to_have_url("/")
    await window.go_back()
    await expect(said).to_have_text("You\nWednesday", use_inner_text=True)
    await expect(window.locator("#connection")).to_have_text("Live")
    await visitor.say(conversation, "14:00")
    await expect(window.get_by_text("A proposal is ready.")).to_be_visible()


async def test_a_history_that_does_not_load(
    browser: Browser, servers: tuple[ChatProcess, ChatProcess], visitor: Visitor, pictures: Path
) -> None:
    """The page says that it could not load, and a retry that has the focus loads it."""
    conversation = await visitor.trigger()
    window = await new_window(browser, servers[0])
    await window.route("**/api/conversations/*", lambda route: route.abort())
    await window.goto(f"/assistant/{conversation}")
    await expect(window.get_by_role("heading", name="The conversation could not be loaded")).to_be_visible()
    await expect(window.get_by_role("button", name="Try again")).to_be_focused()
    await check(window)
    await window.screenshot(path=pictures / "8-not-loaded.png")
    async with window.expect_event("requestfailed"):
        await window.keyboard.press("Enter")
    await expect(window.get_by_text("Nothing is lost.")).to_be_visible()
    await window.unroute_all()
    await window.keyboard.press("Enter")
    await expect(window.get_by_role("log")).to_contain_text("Which day suits you instead?")


async def test_a_lost_connection(
    browser: Browser, servers: tuple[ChatProcess, ChatProcess], visitor: Visitor, pictures: Path
) -> None:
    """The server stops, in good order, and comes again: the page says so, keeps what was written, and catches up."""
    conversation = await visitor.trigger()
    window = await opened(browser, servers[1], conversation)
    await expect(window.locator("#connection")).to_have_text("Live")
    assert await servers[1].stop() == 0  # although its event stream was open
    assert servers[1].errors == ""
    await expect(window.locator("#connection")).to_have_text("Connection lost. Trying again…")
    await check(window)
    await visitor.say(conversation, "Friday")  # meanwhile, by the other process
    await say(window, "10:15")
    await expect(window.get_by_text("not sent yet, trying again…")).to_be_visible()
    await check(window)
    await window.screenshot(path=pictures / "9-lost.png")
    await servers[1].start()
    await expect(window.locator("#connection")).to_have_text("Live")
    # What was written answers the question that was seen, not the one that was asked meanwhile.
    await expect(window.get_by_text("The question has changed meanwhile.")).to_be_visible()
    await expect(window.get_by_role("log")).to_contain_text("Friday it is. At what time?")
    await expect(window.locator("#text")).to_have_value("10:15")
    await window.locator("#text").press("Enter")
    await expect(window.get_by_text("A proposal is ready.")).to_be_visible()


async def test_a_message_that_is_refused_for_good(
    browser: Browser, servers: tuple[ChatProcess, ChatProcess], visitor: Visitor
) -> None:
    """It goes back to its sender with a note, and what they write next is sent."""
    conversation = await visitor.trigger()
    window = await opened(browser, servers[0], conversation)
    text = window.locator("#text")
    submit = "(input, text) => { input.value = text; input.form.requestSubmit() }"
    await expect(window.get_by_role("log")).to_contain_text("Which day suits you instead?")
    # No keyboard types the first of these; an input takes it all the same.
    for refused in ("nul \0 here", "x" * 4001):
        await text.evaluate(submit, refused)
        await expect(window.get_by_text("The message was refused and not sent.")).to_be_visible()
        await text.clear()
    await say(window, "Tuesday")
    await expect(window.get_by_role("log")).to_contain_text("Tuesday it is. At what time?")
    await expect(window.get_by_text("refused")).to_have_count(0)
    await text.evaluate(submit, "10:00 \ud800")
    await expect(window.get_by_text("A proposal is ready.")).to_be_visible()


@pytest.mark.parametrize("width", [360, 1200])
async def test_a_word_without_an_end(
    browser: Browser,
    servers: tuple[ChatProcess, ChatProcess],
    visitor: Visitor,
    chat_database: "Database",
    pictures: Path,
    width: int,
) -> None:
    """It is broken where the line ends, in the title, in messages, on a card and in a notice."""
    long = "Donaudampfschifffahrt" * 12
    conversation = await visitor.trigger()
    await chat_database["conversations"].update_one({"_id": conversation}, {"$set": {"title": long}})
    window = await opened(browser, servers[0], conversation, width=width)
    await expect(window.get_by_role("log")).to_contain_text("Which day suits you instead?")
    await say(window, "Tuesday")
    await expect(window.get_by_role("log")).to_contain_text("At what time?")
    await say(window, long)
    await expect(window.get_by_role("region", name="Proposed change")).to_be_visible()
    await window.evaluate("text => problem(text)", long)
    await window.screenshot(path=pictures / f"10-long-{width}.png")
    sticking_out = """
    [...document.querySelectorAll('body *')].filter((each) => each.getClientRects().length
      && (each.getBoundingClientRect().right > innerWidth || each.scrollWidth > each.clientWidth + 1 && each.clientWidth
        && each.tagName !== 'INPUT')).map((each) => each.id || each.tagName)
    """
    assert await window.evaluate(sticking_out) == []
    assert await window.evaluate("document.documentElement.scrollWidth <= innerWidth")


async def test_an_answer_that_comes_too_late(
    browser: Browser, servers: tuple[ChatProcess, ChatProcess], visitor: Visitor, pictures: Path
) -> None:
    """While offline the page does not say "Live"; what was answered elsewhere meanwhile is said to be answered."""
    conversation = await visitor.trigger()
    await visitor.say(conversation, "Monday")
    window = await opened(browser, servers[1], conversation)
    await expect(window.locator("#connection")).to_have_text("Live")
    await window.context.set_offline(True)
    await expect(window.locator("#connection")).to_have_text("Connection lost. Trying again…")
    await say(window, "9:30")
    await expect(window.get_by_text("not sent yet, trying again…")).to_be_visible()
    await visitor.say(conversation, "9:00")
    await window.context.set_offline(False)
    late = "This was already answered. Look at how things stand now; your text is below."
    await expect(window.get_by_text(late)).to_be_visible()
    await expect(window.get_by_text("A proposal is ready.")).to_be_visible()
    await expect(window.locator("#text")).to_have_value("9:30")
    await expect(window.locator("#connection")).to_have_text("Live")
    await window.screenshot(path=pictures / "11-too-late.png")
