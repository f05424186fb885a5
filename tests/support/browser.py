"""A headless Chromium, driven by its DevTools protocol over a pipe: windows to read, type in and take pictures of."""

import asyncio
import base64
import json
import os
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

_WITHIN: Final = 15.0
_FLAGS: Final = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions"),
    *("--remote-debugging-pipe", "--window-size=900,900"),
)
# The browser reads file 3 and writes file 4.
_LAUNCH: Final = """
import fcntl, os, sys
orders, answers = (fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3])
os.dup2(orders, 3)
os.dup2(answers, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
_KEYS: Final = {
    "Tab": ("Tab", 9, ""),
    "Enter": ("Enter", 13, "\r"),
    "Escape": ("Escape", 27, ""),
    " ": ("Space", 32, " "),
}


def find_chromium() -> str | None:
    """The browser on PATH; None where there is none."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Browser:
    """One browser process; `running_browser` starts it."""

    def __init__(self, reader: asyncio.StreamReader, send_to: int) -> None:
        self._reader = reader
        self._send_to = send_to
        self._numbers = 0
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.consoles: defaultdict[str, list[str]] = defaultdict(list)
        self.listening = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        with suppress(asyncio.IncompleteReadError):
            while True:
                told = json.loads((await self._reader.readuntil(b"\0"))[:-1])
                if (answer := self._answers.pop(told.get("id", 0), None)) is not None and not answer.done():
                    answer.set_result(told)
                elif told.get("method") == "Runtime.exceptionThrown":
                    details = told["params"]["exceptionDetails"]
                    said = details.get("exception", {}).get("description", details["text"])
                    self.consoles[told["sessionId"]].append(said)
                elif told.get("method") == "Log.entryAdded":
                    self.consoles[told["sessionId"]].append(told["params"]["entry"]["text"])

    async def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol, and its answer."""
        self._numbers += 1
        order = {"id": self._numbers, "method": method, "params": parameters}
        if session is not None:
            order["sessionId"] = session
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._answers[self._numbers] = answer
        os.write(self._send_to, json.dumps(order).encode() + b"\0")
        told = await asyncio.wait_for(answer, _WITHIN)
        if "error" in told:
            raise RuntimeError(f"{method}: {told['error']}")
        result: dict[str, Any] = told["result"]
        return result

    async def window(self, *, user: int | None, origin: str) -> "Window":
        """A window with cookies of its own, as another device would have; ``user`` is signed in."""
        context = (await self.call("Target.createBrowserContext"))["browserContextId"]
        if user is not None:
            cookie = {"name": "user", "value": str(user), "url": origin, "httpOnly": True, "sameSite": "Lax"}
            await self.call("Storage.setCookies", browserContextId=context, cookies=[cookie])
        target = (await self.call("Target.createTarget", url="about:blank", browserContextId=context))["targetId"]
        session = (await self.call("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self.call(f"{domain}.enable", session)
        return Window(self, session)


class Window:
    """One page."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol."""
        return await self._browser.call(method, self._session, **parameters)

    @property
    def console(self) -> list[str]:
        """What went wrong in this window, as its console says it."""
        return self._browser.consoles[self._session]

    async def open(self, url: str) -> None:
        """Go to an address."""
        await self.call("Page.navigate", url=url)

    async def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        told = await self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in told:
            raise RuntimeError(f"{script}: {told['exceptionDetails']}")
        return told["result"].get("value")

    async def until(self, condition: str, *, within: float = _WITHIN) -> None:
        """Wait until an expression holds in the page."""
        try:
            async with asyncio.timeout(within):
                while True:
                    with suppress(RuntimeError):  # between two pages there is none to ask
                        if await self.run(f"Boolean({condition})"):
                            return
                    await asyncio.sleep(0.03)
        except TimeoutError:
            text = await self.text()
            raise AssertionError(f"within {within} s not: {condition}; the page says:\n{text}") from None

    async def until_says(self, text: str, *, within: float = _WITHIN) -> None:
        """Wait until the page shows a text."""
        await self.until(f"document.body && document.body.innerText.includes({json.dumps(text)})", within=within)

    async def text(self) -> str:
        """What a person reads on the page."""
        return str(await self.run("document.body ? document.body.innerText : ''"))

    async def press(self, key: str, *, shift: bool = False) -> None:
        """Press a key."""
        code, number, text = _KEYS[key]
        common = {"key": key, "code": code, "windowsVirtualKeyCode": number, "modifiers": 8 if shift else 0}
        await self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **common)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    async def type(self, text: str) -> None:
        """Type into what has the focus."""
        await self.call("Input.insertText", text=text)

    async def focused(self) -> str:
        """The id of what has the focus, else its text."""
        return str(await self.run("document.activeElement.id || document.activeElement.textContent.trim()"))

    async def tab_to(self, wanted: str) -> list[str]:
        """Press Tab until what has this id or text has the focus; what was passed on the way."""
        passed: list[str] = []
        while len(passed) < 30:
            await self.press("Tab")
            passed.append(await self.focused())
            if passed[-1] == wanted:
                return passed
        raise AssertionError(f"no Tab leads to {wanted}: {passed}")

    async def say(self, text: str) -> None:
        """Write a chat message and send it, by the keyboard."""
        await self.run("document.getElementById('text').focus()")
        await self.type(text)
        await self.press("Enter")

    async def picture(self, path: Path) -> None:
        """A screenshot of what is visible."""
        taken = await self.call("Page.captureScreenshot", format="png")
        await asyncio.to_thread(path.write_bytes, base64.b64decode(taken["data"]))


@asynccontextmanager
async def running_browser(binary: str) -> AsyncIterator[Browser]:
    """Start a browser with a fresh profile; leaves nothing behind."""
    profile = tempfile.mkdtemp(prefix="sessions-chromium-")
    orders, send_to = os.pipe()
    told_by, answers = os.pipe()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _LAUNCH, str(orders), str(answers)),
        *(binary, *_FLAGS, f"--user-data-dir={profile}", "about:blank"),
        pass_fds=(orders, answers),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    os.close(orders)
    os.close(answers)
    reader = asyncio.StreamReader(limit=2**26)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(told_by, "rb")
    )
    browser = Browser(reader, send_to)
    try:
        yield browser
    finally:
        with suppress(Exception):
            await browser.call("Browser.close")
        try:
            await asyncio.wait_for(process.wait(), 5)
        except TimeoutError:
            process.kill()
            await process.wait()
        browser.listening.cancel()
        await asyncio.wait({browser.listening})
        transport.close()
        os.close(send_to)
        shutil.rmtree(profile, ignore_errors=True)
