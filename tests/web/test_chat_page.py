"""The assistant page as its user meets it: two windows on two server processes, by a real browser."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.support.browser import Browser, Window
from tests.support.chat_process import USER, ChatProcess, Visitor

if TYPE_CHECKING:
    from sessions.store.clients import Database

_CONTRAST: Final = """
(() => {
  const parse = (css) => { const [r, g, b, a = 1] = css.match(/[\\d.]+/g).map(Number); return { r, g, b, a }; };
  const part = (v) => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
  const light = ({ r, g, b }) => 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  const behind = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const color = parse(getComputedStyle(each).backgroundColor);
      if (color.a === 1) return color;
    }
    return { r: 255, g: 255, b: 255 };
  };
  const told = [];
  for (const element of document.querySelectorAll('body *')) {
    const words = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!(words || element.tagName === 'INPUT') || !element.getClientRects().length) continue;
    const [high, low] = [light(parse(getComputedStyle(element).color)), light(behind(element))].sort((a, b) => b - a);
    told.push([element.id || element.tagName, Math.round((high + 0.05) / (low + 0.05) * 100) / 100]);
  }
  return told;
})()
"""
_NAMELESS: Final = """
[...document.querySelectorAll('input, button, a, ol, section')].filter((each) => each.getClientRects().length
  && !(each.labels && each.labels.length) && !each.getAttribute('aria-label')
  && !document.getElementById(each.getAttribute('aria-labelledby')) && !each.textContent.trim()).map((e) => e.outerHTML)
"""


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Where the screenshots go."""
    return tmp_path


async def opened(browser: Browser, server: ChatProcess, conversation: str, *, user: int | None = USER) -> Window:
    """A window on a conversation."""
    window = await browser.window(user=user, origin=server.origin)
    await window.open(f"{server.origin}/assistant/{conversation}")
    return window


async def check(window: Window) -> None:
    """What must hold of the page whatever it shows: contrast, and a name for whatever can be used."""
    contrasts = await window.run(_CONTRAST)
    assert contrasts
    assert [each for each in contrasts if each[1] < 4.5] == []
    assert await window.run(_NAMELESS) == []


async def test_from_question_to_applied_in_two_windows(
    browser: Browser, servers: tuple[ChatProcess, ChatProcess], visitor: Visitor, pictures: Path
) -> None:
    """Question, answers, proposal, change, yes and free chat: what one window does the other shows by itself."""
    conversation = await visitor.trigger()
    left = await opened(browser, servers[0], conversation)
    right = await opened(browser, servers[1], conversation)
    for window in (left, right):
        await window.until_says("Which day suits you instead?")
        await window.until("document.getElementById('connection').textContent === 'Live'")
    await check(left)
    await left.picture(pictures / "1-question.png")

    await left.say("Sunday")
    await right.until_says("Which day from Monday to Friday?")
    await right.say("Tuesday")
    await left.until_says("Tuesday it is. At what time?")
    await left.say("will it rain?")  # no answer: ordinary chat, and the question stands
    await left.until_says("It is sunny. But first:")
    await left.say("10:00")
    for window in (left, right):
        await window.until("!document.getElementById('preview').hidden")
        await window.until_says("I can move it to Tuesday at 10:00.")
        await window.until_says("A proposal is ready.")
        await check(window)
    await left.picture(pictures / "2-preview-left.png")

    await right.run("document.getElementById('change').click()")
    assert await right.focused() == "change-text"
    await check(right)
    await right.picture(pictures / "3-change-right.png")
    await right.type("11:30")
    await right.press("Enter")
    for window in (left, right):
        await window.until("document.getElementById('preview-time').textContent === '11:30'")

    await left.run("document.getElementById('confirm').focus()")
    await left.press("Enter")
    for window in (left, right):
        await window.until_says("Done: it is in your schedule.")
        assert await window.run("document.getElementById('preview').hidden")
    assert await left.focused() == "state"  # the button that had the focus is gone
    await right.say("and how are you today")
    for window in (left, right):
        await window.until_says("nothing of your schedule waits for you", within=8)
        await check(window)
    await right.picture(pictures / "4-applied-right.png")
    told = await visitor.history(conversation)
    assert (told["status"], told["action"]) == ("applied", "free_chat")
    assert left.console + right.console == []


async def test_by_keyboard_alone(
    browser: Browser, servers: tuple[ChatProcess, ChatProcess], visitor: Visitor, pictures: Path
) -> None:
    """Every step can be done by Tab, Enter, Space and Escape, in the order of the page, with a visible focus."""
    conversation = await visitor.trigger()
    window = await opened(browser, servers[0], conversation)
    await window.until_says("Which day suits you instead?")
    assert await window.tab_to("text") == ["All conversations", "log", "not-now", "text"]
    for answer, shown in (("Monday", "At what time?"), ("9:00", "A proposal is ready.")):
        await window.type(answer)
        await window.press("Enter")
        await window.until_says(shown)
        assert await window.focused() == "text"
    passed = await window.tab_to("All conversations")
    assert passed[-1] == "All conversations"
    assert await window.tab_to("change") == ["log", "confirm", "change"]
    outline = "getComputedStyle(document.activeElement).outlineWidth"
    assert await window.run(outline) == "3px"
    await window.picture(pictures / "5-focus.png")
    await window.press(" ")
    assert await window.focused() == "change-text"
    await window.press("Escape")
    assert await window.focused() == "change"
    assert await window.tab_to("dismiss") == ["dismiss"]
    await window.press("Enter")
    await window.until_says("Dismissed: nothing was changed.")
    assert await window.focused() == "state"
    assert (await visitor.history(conversation))["status"] == "ignored"


async def test_the_failed_state(
    browser: Browser, servers: tuple[ChatProcess, ChatProcess], visitor: Visitor, pictures: Path
) -> None:
    """A graph that cannot go on: the page says so, why, and what to do; chat is free again."""
    conversation = await visitor.trigger()
    window = await opened(browser, servers[1], conversation)
    await window.until_says("Which day suits you instead?")
    await window.say("break")
    await window.until_says("The assistant could not go on")
    await window.until_says("The calendar did not let us in.")
    assert await window.run("document.getElementById('failed').getAttribute('role')") == "alert"
    await check(window)
    await window.picture(pictures / "6-failed.png")
    await window.say("hello")
    await window.until_says("nothing of your schedule waits for you")


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
        await window.until_says("This conversation does not exist")
        assert await window.focused() == "missing-title"
        assert "Which day" not in await window.text()
        await check(window)
    await window.picture(pictures / "7-missing.png")
    nobody = await opened(browser, servers[1], conversation, user=None)
    await nobody.until_says("Choose a user first")


@pytest.mark.parametrize(
    "path", ["assistant/%ff", "assistant/%E0%A4", "assistant/a%2Fb", "assistant/a/b", "assistant/", "nothing"]
)
async def test_an_address_that_leads_nowhere(
    browser: Browser, servers: tuple[ChatProcess, ChatProcess], path: str
) -> None:
    """Whatever was mistyped: a 404, and a page that says so and leads on."""
    window = await browser.window(user=USER, origin=servers[0].origin)
    await window.open(f"{servers[0].origin}/{path}")
    await window.until_says("does not exist")
    await window.until_says("Go to your conversations")
    assert await window.run("performance.getEntriesByType('navigation')[0].responseStatus") == 404
    await check(window)


async def test_a_conversation_with_a_slash_in_its_id(
    browser: Browser, servers: tuple[ChatProcess, ChatProcess], chat_database: "Database"
) -> None:
    """Its page, its messages and its changes are found, however the address is written."""
    await chat_database["conversations"].insert_one({"_id": "a/b c", "user_id": USER, "title": "Slashed", "at": 1})
    for path in ("a%2Fb%20c", "a/b c"):
        window = await opened(browser, servers[0], path)
        await window.until_says("Slashed")
        await window.until("document.getElementById('connection').textContent === 'Live'")
        await window.say(f"hello from {path}")
        await window.until_says("It is sunny")


async def test_reload_and_back(browser: Browser, servers: tuple[ChatProcess, ChatProcess], visitor: Visitor) -> None:
    """A reload, and a way there and back, show what stood before and stay live."""
    conversation = await visitor.trigger()
    window = await opened(browser, servers[0], conversation)
    await window.until_says("Which day suits you instead?")
    await window.say("Wednesday")
    await window.until_says("Wednesday it is. At what time?")
    await window.call("Page.reload")
    await window.until_says("You\nWednesday")
    await window.until_says("The assistant waits for your answer.")
    await window.run("document.querySelector('header a').click()")
    await window.until_says("waits for your answer")
    await window.until("location.pathname === '/'")
    await window.run("history.back()")
    await window.until_says("You\nWednesday")
    await window.until("document.getElementById('connection').textContent === 'Live'")
    await visitor.say(conversation, "14:00")
    await window.until_says("A proposal is ready.")


async def test_a_history_that_does_not_load(
    browser: Browser, servers: tuple[ChatProcess, ChatProcess], visitor: Visitor, pictures: Path
) -> None:
    """The page says that it could not load, and a retry that has the focus loads it."""
    conversation = await visitor.trigger()
    window = await browser.window(user=USER, origin=servers[0].origin)
    await window.call("Network.setBlockedURLs", urls=["*/api/conversations/*"])
    await window.open(f"{servers[0].origin}/assistant/{conversation}")
    await window.until_says("The conversation could not be loaded")
    assert await window.focused() == "retry"
    await check(window)
    await window.picture(pictures / "8-not-loaded.png")
    await window.press("Enter")
    await window.until_says("Nothing is lost.")
    await window.call("Network.setBlockedURLs", urls=[])
    await window.press("Enter")
    await window.until_says("Which day suits you instead?")


async def test_a_lost_connection(
    browser: Browser, servers: tuple[ChatProcess, ChatProcess], visitor: Visitor, pictures: Path
) -> None:
    """The server stops, in good order, and comes again: the page says so, keeps what was written, and catches up."""
    conversation = await visitor.trigger()
    window = await opened(browser, servers[1], conversation)
    await window.until("document.getElementById('connection').textContent === 'Live'")
    assert await servers[1].stop() == 0  # although its event stream was open
    assert servers[1].errors == ""
    await window.until_says("Connection lost. Trying again…")
    await check(window)
    await visitor.say(conversation, "Friday")  # meanwhile, by the other process
    await window.say("10:15")
    await window.until_says("not sent yet, trying again…")
    await check(window)
    await window.picture(pictures / "9-lost.png")
    await servers[1].start()
    await window.until("document.getElementById('connection').textContent === 'Live'")
    # What was written answers the question that was seen, not the one that was asked meanwhile.
    await window.until_says("The question has changed meanwhile.")
    await window.until_says("Friday it is. At what time?")
    assert await window.run("document.getElementById('text').value") == "10:15"
    await window.run("document.getElementById('text').focus()")
    await window.press("Enter")
    await window.until_says("A proposal is ready.")


async def test_a_message_that_is_refused_for_good(
    browser: Browser, servers: tuple[ChatProcess, ChatProcess], visitor: Visitor
) -> None:
    """It goes back to its sender with a note, and what he writes next is sent."""
    conversation = await visitor.trigger()
    window = await opened(browser, servers[0], conversation)
    await window.until_says("Which day suits you instead?")
    # No keyboard types the first of these; an input takes it all the same.
    for text in ("nul \\u0000 here", "x" * 4001):
        await window.run(
            f"document.getElementById('text').value = '{text}'; document.getElementById('composer').requestSubmit()"
        )
        await window.until_says("The message was refused and not sent.")
        await window.run("document.getElementById('text').value = ''")
    await window.say("Tuesday")
    await window.until_says("Tuesday it is. At what time?")
    assert "refused" not in await window.text()
    await window.run(
        "document.getElementById('text').value = '10:00 \\ud800'; document.getElementById('composer').requestSubmit()"
    )
    await window.until_says("A proposal is ready.")


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
    window = await opened(browser, servers[0], conversation)
    await window.call(
        "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 500
    )
    await window.until_says("Which day suits you instead?")
    await window.say("Tuesday")
    await window.until_says("At what time?")
    await window.say(long)
    await window.until("!document.getElementById('preview').hidden")
    await window.run(f"problem('{long}')")
    await window.picture(pictures / f"10-long-{width}.png")
    sticking_out = """
    [...document.querySelectorAll('body *')].filter((each) => each.getClientRects().length
      && (each.getBoundingClientRect().right > innerWidth || each.scrollWidth > each.clientWidth + 1 && each.clientWidth
        && each.tagName !== 'INPUT')).map((each) => each.id || each.tagName)
    """
    assert await window.run(sticking_out) == []
    assert await window.run("document.documentElement.scrollWidth <= innerWidth")


async def test_an_answer_that_comes_too_late(
    browser: Browser, servers: tuple[ChatProcess, ChatProcess], visitor: Visitor, pictures: Path
) -> None:
    """While offline the page does not say "Live"; what was answered elsewhere meanwhile is said to be answered."""
    conversation = await visitor.trigger()
    await visitor.say(conversation, "Monday")
    window = await opened(browser, servers[1], conversation)
    await window.until("document.getElementById('connection').textContent === 'Live'")
    network = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    await window.call("Network.emulateNetworkConditions", offline=True, **network)
    await window.until_says("Connection lost. Trying again…")
    await window.say("9:30")
    await window.until_says("not sent yet, trying again…")
    await visitor.say(conversation, "9:00")
    await window.call("Network.emulateNetworkConditions", offline=False, **network)
    await window.until_says("This was already answered. Look at how things stand now; your text is below.")
    await window.until_says("A proposal is ready.")
    assert await window.run("document.getElementById('text').value") == "9:30"
    await window.until("document.getElementById('connection').textContent === 'Live'")
    await window.picture(pictures / "11-too-late.png")


async def test_a_message_that_is_held(
    browser: Browser, servers: tuple[ChatProcess, ChatProcess], visitor: Visitor, pictures: Path
) -> None:
    """It says that it waits for as long as it does, also where the server has stored it already."""
    conversation = await visitor.trigger()
    window = await opened(browser, servers[1], conversation)
    await window.until_says("Which day suits you instead?")
    running = asyncio.create_task(visitor.say(conversation, "slowly Monday"))
    await window.until_says("The assistant is working on it…")
    await window.say("please hurry")
    held = "[...document.querySelectorAll('#log li')].find((each) => each.dataset.id.includes('/user/')"
    held += " && each.innerText.includes('please hurry'))?.innerText.includes('waits until the assistant is ready')"
    await window.run("load()")
    await window.until(held)
    await window.run("load()")
    assert await window.run(held)
    await window.picture(pictures / "12-held.png")
    session_id = (await visitor.history(conversation))["session"]["session_id"]
    await visitor.client.post(f"/api/sessions/{session_id}/dismiss")
    await window.until_says("The question has gone meanwhile. Look at how things stand now; your text is below.")
    await window.until("!document.body.innerText.includes('waits until')")
    running.cancel()
    await asyncio.wait({running})
