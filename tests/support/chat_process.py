"""The chat application as its users run it: a process of its own, ``python docs/examples/chat``."""

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import httpx

APP: Final = Path(__file__).parents[2] / "docs" / "examples" / "chat"
LEASE: Final = 2.0
USER: Final = 7
_UP_WITHIN: Final = 60.0


class ChatProcess:
    """One server; it can be killed, asked to stop, and started again on its port.

    Attributes:
        origin: Its address.
        errors: What it has written to its error output until it ended.
    """

    def __init__(self, uri: str, database: str, *, lease: float) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port: int = probe.getsockname()[1]
        self.origin = f"http://127.0.0.1:{self._port}"
        self.errors = ""
        self._environment = {**os.environ, "MONGODB_URI": uri}
        self._options = ("--database", database, "--lease", str(lease), "--heartbeat", "0.5", "--quiet")
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it and wait until it answers."""
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(APP), "--port", str(self._port), *self._options),
            env=self._environment,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(_UP_WITHIN), httpx.AsyncClient() as client:
            while self._process.returncode is None:
                try:
                    await client.get(self.origin)
                except httpx.TransportError:
                    await asyncio.sleep(0.05)
                else:
                    return
        raise AssertionError("the server ended: " + await self._ended())

    async def kill(self) -> None:
        """End it at once, as a crash would."""
        await self._end(signal.SIGKILL)

    async def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to stop; its exit status."""
        return await self._end(how)

    async def _end(self, how: signal.Signals) -> int:
        if self._process is None:
            return 0
        if self._process.returncode is None:
            self._process.send_signal(how)
        await asyncio.wait_for(self._ended(), 15)
        status = self._process.returncode or 0
        self._process = None
        return status

    async def _ended(self) -> str:
        if self._process is not None and self._process.stderr is not None:
            self.errors += (await self._process.stderr.read()).decode()
            await self._process.wait()
        return self.errors


class Visitor:
    """A user of one server without a browser."""

    def __init__(self, server: ChatProcess, *, user: int) -> None:
        self.client = httpx.AsyncClient(base_url=server.origin, cookies={"user": str(user)}, timeout=60)

    async def trigger(self) -> str:
        """A lesson falls on a holiday; the conversation that the notification leads to."""
        url: str = (await self.client.post("/api/triggers")).raise_for_status().json()["url"]
        return url.removeprefix("/assistant/")

    async def history(self, conversation: str) -> dict[str, Any]:
        """What the page shows."""
        found: dict[str, Any] = (await self.client.get(f"/api/conversations/{conversation}")).raise_for_status().json()
        return found

    async def say(
        self,
        conversation: str,
        text: str,
        *,
        message_id: str | None = None,
        question_id: str | None = None,
        while_running: str = "hold",
    ) -> httpx.Response:
        """Deliver a message once."""
        sent = {"message_id": message_id or uuid4().hex, "text": text, "question_id": question_id}
        path = f"/api/conversations/{conversation}/messages"
        return await self.client.post(path, json={**sent, "while_running": while_running})

    async def fates(self, conversation: str) -> dict[str, str | None]:
        """What stands beside each of the user's messages, by its text."""
        messages = (await self.history(conversation))["messages"]
        return {each["text"]: each["fate"] for each in messages if each["role"] == "user"}
