"""A process that plays ``handle`` or ``confirm`` and kills itself at a given line; forked from a prepared one.

Run as ``python killed.py URI DATABASE DRIVER``. Each line of its input is a JSON list of plays; each play is carried
out in a child of its own, all at once, and the answer tells in their order where and when each child was killed.
"""

import asyncio
import json
import os
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any, Final

import sessions
from sessions import ApplyClaim, AskUser, SessionBridge, Turn, open_repository
from sessions.store.clients import connect, disconnect

MARK: Final = "answer "
LEASE: Final = timedelta(seconds=1)
LIBRARY: Final = Path(sessions.__file__).parent
TRACED: Final = {
    *(
        str(LIBRARY / f"{name}.py")
        for name in (
            *("bridge/session_bridge", "bridge/rerun", "bridge/write_back", "bridge/leased_work", "bridge/outcomes"),
            "domain/questions",
        )
    ),
    __file__,
}
OWN: Final = {"graph", "write_back"}


class Killer:
    """Counts the lines that are executed, in some functions or in all, and kills its process at the n-th."""

    def __init__(self, stop: int, only: list[str], report: int) -> None:
        self.stop = stop
        self.only = only
        self.report = report
        self.count = 0

    def trace(self, frame: FrameType, event: str, argument: object) -> Any:
        """Called by the interpreter for each frame and each line."""
        del argument
        code = frame.f_code
        if code.co_filename not in TRACED or (code.co_filename == __file__ and code.co_name not in OWN):
            return None
        if self.only and code.co_name not in self.only:
            return None
        if event == "line":
            self.count += 1
            if self.count == self.stop:
                self.tell(f"{Path(code.co_filename).name}:{frame.f_lineno} {code.co_name}")
                os.kill(os.getpid(), signal.SIGKILL)
        return self.trace

    def tell(self, where: str) -> None:
        """Say where and when, in one write."""
        os.write(self.report, json.dumps([where, time.time(), self.count]).encode())


async def _play(uri: str, database: str, driver: str, play: dict[str, Any], killer: Killer) -> None:
    client: Any = connect(uri, driver=driver)
    effects = client[database]["effects"]

    async def graph(turn: Turn) -> AskUser:
        await client[database]["runs"].insert_one({"message_id": turn.message_id, "conversation_id": play["c"]})
        await asyncio.sleep(play["slow"])
        return AskUser("And?")

    async def write_back(claim: ApplyClaim) -> None:
        await asyncio.sleep(play["slow"])
        await effects.update_one({"_id": claim.idempotency_key}, {"$inc": {"tries": 1}}, upsert=True)

    async with open_repository(client[database], lease=LEASE) as repository:
        bridge = SessionBridge(repository, graph, write_back=write_back)
        sys.settrace(killer.trace)
        if play["call"] == "handle":
            await bridge.handle(1, play["c"], "Tuesday", message_id="m1")
        else:
            await bridge.confirm(1, play["session_id"], preview_id="preview-1")
        sys.settrace(None)
    await disconnect(client)
    killer.tell("")


def _child(arguments: list[str], play: dict[str, Any]) -> tuple[int, int]:
    reads, writes = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writes)
        return pid, reads
    try:
        uri, database, driver = arguments
        asyncio.run(_play(uri, database, driver, play, Killer(play["stop"], play["only"], writes)))
    finally:
        os._exit(0)


def _serve(arguments: list[str]) -> None:
    for line in sys.stdin:
        children = [_child(arguments, play) for play in json.loads(line)]
        answers = []
        for pid, reads in children:
            with os.fdopen(reads, "rb") as report:
                told = report.read()
            os.waitpid(pid, 0)
            answers.append(json.loads(told) if told else None)
        sys.stdout.write(MARK + json.dumps(answers) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve(sys.argv[1:4])
