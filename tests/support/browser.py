"""The windows of a browser that Playwright drives."""

from playwright.async_api import Browser, Page

from tests.support.chat_process import USER, ChatProcess


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
