"""The windows of a browser that Playwright drives."""

from typing import Final

from playwright.async_api import Browser, Locator, Page, expect

from tests.support.chat_process import USER, ChatProcess

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


async def new_window(browser: Browser, server: ChatProcess, *, user: int | None = USER, width: int = 900) -> Page:
    """A window with cookies of its own, as another device would have; ``user`` is signed in."""
    context = await browser.new_context(
        base_url=server.origin, viewport={"width": width, "height": 900}, is_mobile=width < 500
    )
    if user is not None:
        await context.add_cookies(
            [{"name": "user", "value": str(user), "url": server.origin, "httpOnly": True, "sameSite": "Lax"}]
        )
    return await context.new_page()


async def opened(
    browser: Browser, server: ChatProcess, conversation: str, *, user: int | None = USER, width: int = 900
) -> Page:
    """A window on a conversation."""
    window = await new_window(browser, server, user=user, width=width)
    await window.goto(f"/assistant/{conversation}")
    return window


async def say(window: Page, text: str) -> None:
    """Write a chat message and send it, by the keyboard."""
    message = window.locator("#text")
    await message.fill(text)
    await message.press("Enter")


async def tab_through(window: Page, *stops: Locator) -> None:
    """Press Tab for each of these: they get the focus in this order, and nothing between them does."""
    for stop in stops:
        await window.keyboard.press("Tab")
        await expect(stop).to_be_focused()


async def check(window: Page) -> None:
    """What must hold of the page whatever it shows: contrast, and a name for whatever can be used."""
    contrasts = await window.evaluate(_CONTRAST)
    assert contrasts
    assert [each for each in contrasts if each[1] < 4.5] == []
    assert await window.evaluate(_NAMELESS) == []
