"""As many whole sessions as one process holds, then ten times as many: memory stays, waits end, all recovers."""

import asyncio
import gc
import logging
import sys
import time
from pathlib import Path
from typing import Any, Final

from sessions import Applied, AskUser, SessionBridge, SessionRepository, ShowPreview, StoreUnavailable, Turn
from sessions.mongod import find_mongod, running_mongod
from sessions.repository import open_repository
from sessions.store.clients import Database
from tests.faults.campaign import Setting, Tally, Unable
from tests.support.connected import connected

TASKS: Final = 50
OVERLOAD: Final = 10
TIMEOUT: Final = 2.0
BOUND: Final = 30.0
"""Seconds that one call may last on a machine that has ten times too much to do: far beyond its time limit."""
SECONDS: Final = {True: 15.0, False: 300.0}
OVERLOADED_SECONDS: Final = {True: 5.0, False: 30.0}
SETTLED_AFTER: Final = 20.0
"""Seconds after which, on a busy machine too, the stream that the last run followed is closed."""
MOST_GROWTH: Final = 0.10
_PAGE: Final = 4_096


def resident() -> int:
    """Bytes of memory that this process holds."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * _PAGE


class Warnings(logging.Handler):
    """What asyncio's debug mode and the library complain of."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.told: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it, but for a callback that was slow: that is the load."""
        if "took" not in record.getMessage():
            self.told.append(record.getMessage())


class Load:
    """Tasks that play whole sessions one after the other, and what came of their calls."""

    def __init__(self, repository: SessionRepository, setting: Setting) -> None:
        self._bridge = SessionBridge(repository, self._graph, write_back=self._write_back)
        self._setting = setting
        self._sessions = 0
        self._until = 0.0
        self.acknowledged = 0
        self.refused = 0
        self.longest = 0.0

    async def _graph(self, turn: Turn) -> AskUser | ShowPreview:
        await asyncio.sleep(0)
        return AskUser("And when?") if turn.text == "first" else ShowPreview(f"p-{turn.message_id}")

    async def _write_back(self, _: object) -> None:
        await asyncio.sleep(0)

    async def _call(self, call: Any) -> Any:
        began = time.monotonic()
        try:
            answer = await call
        except StoreUnavailable:
            self.refused += 1
            return None
        finally:
            self.longest = max(self.longest, time.monotonic() - began)
        self.acknowledged += 1
        return answer

    async def _play(self) -> None:
        """One whole session, or as far as nothing is refused: what follows would answer a question not asked."""
        self._sessions += 1
        name = f"s{self._sessions}"
        started = await self._call(self._bridge.start(1, name, AskUser("Which day?"), conversation_id=name))
        if started is None:
            return
        for text in ("first", "second"):
            if await self._call(self._bridge.handle(1, name, text, message_id=f"{name}-{text}")) is None:
                return
        done = await self._call(self._bridge.confirm(1, started.session.session_id, preview_id=f"p-{name}-second"))
        assert done is None or isinstance(done, Applied), done
        self._setting.advance()

    async def _repeat(self) -> None:
        while time.monotonic() < self._until:
            await self._play()

    async def run(self, tasks: int, seconds: float) -> None:
        """So many tasks for so long."""
        self._until = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            for _ in range(tasks):
                group.create_task(self._repeat())


async def run(setting: Setting) -> Tally:
    """The soak, the overload, and the calm after it."""
    if (binary := find_mongod()) is None:
        raise Unable("no mongod on PATH, and the `server` extra has none for this platform")
    if not sys.platform.startswith("linux"):
        raise Unable("memory is read from /proc, which this system has not")
    loop = asyncio.get_running_loop()
    heard = Warnings()
    for name in ("asyncio", "sessions"):
        logging.getLogger(name).addHandler(heard)
    loop.set_debug(setting.is_short)  # in the long form it would be the load
    try:
        async with running_mongod(binary) as uri, connected(uri, driver=setting.driver) as client:
            return await _measured(setting, client["load"], heard)
    finally:
        loop.set_debug(False)
        for name in ("asyncio", "sessions"):
            logging.getLogger(name).removeHandler(heard)


async def _left_after(before: set["asyncio.Task[Any]"]) -> list[str]:
    """The tasks that are there and were not before, once things have settled; who they are is told."""
    ends = time.monotonic() + SETTLED_AFTER
    while True:
        left = [f"{task.get_name()}: {task.get_coro()}" for task in asyncio.all_tasks() - before if not task.done()]
        if not left or time.monotonic() > ends:
            sys.stderr.writelines(f"left behind: {each}\n" for each in left)
            return left
        await asyncio.sleep(0.1)


async def _measured(setting: Setting, database: Database, heard: Warnings) -> Tally:
    seconds = SECONDS[setting.is_short]
    async with open_repository(database, create_indexes=True, timeout=30) as repository:
        calm = Load(repository, setting)
        await calm.run(TASKS, seconds / 3)  # until caches and pools are full
        tasks, before = asyncio.all_tasks(), resident()
        soak = Load(repository, setting)
        soak._sessions = calm._sessions
        await soak.run(TASKS, seconds)
        growth = resident() / before - 1
        left = await _left_after(tasks)
    warned = list(heard.told)
    asyncio.get_running_loop().set_debug(False)  # it would be the overload
    async with open_repository(database, timeout=TIMEOUT) as repository:
        flood = Load(repository, setting)
        flood._sessions = soak._sessions
        await flood.run(TASKS * OVERLOAD, OVERLOADED_SECONDS[setting.is_short])
        after = Load(repository, setting)
        after._sessions = flood._sessions + 1_000_000
        await after.run(1, 1.0)
    return {
        "acknowledged": calm.acknowledged + soak.acknowledged + flood.acknowledged + after.acknowledged,
        "a second": round(soak.acknowledged / seconds),
        "refused in calm": calm.refused + soak.refused + after.refused,
        "memory grown, %": round(growth * 100, 1),
        "left behind": len(left),
        "warnings": len(warned),
        "refused in overload": flood.refused,
        "longest call in overload, s": round(flood.longest, 2),
    }
