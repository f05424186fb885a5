"""Processes that act on the same conversations and can be killed at any moment.

Run as ``python workers.py ORDERS``, a JSON object that `Orders` describes. It imports everything once, and then makes a
worker of a copy of itself for each line ``{"start": NAME, "seed": NUMBER}`` on its input; ``{"kill": NAME}`` ends one
at once, ``{"end": true}`` lets all end what they are doing. Each line on its output answers one of these. When its
input ends, so do they all.
"""

import asyncio
import ctypes
import json
import logging
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from sessions import CachedRouter, SessionBridge, SessionError, SessionRepository, open_repository
from sessions.store.clients import connect, disconnect
from tests.faults.journal import Journal
from tests.faults.people import PLAYS, Names, Office, Scene, act_until
from tests.faults.recorded import Recorder

MARK: Final = "answer "
LAST_WORDS_WITHIN: Final = 90.0
_TOLD_BEFORE: Final = 10.0
_DIE_WITH_PARENT: Final = 1  # PR_SET_PDEATHSIG


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """What the workers of one process are to do; it travels as JSON."""

    play: str
    """One of `PLAYS`."""
    tasks: int
    conversations: int
    """Shared by the tasks of all processes."""
    lease: float = 2.0
    max_staleness: float = 1.0
    timeout: float = 5.0
    uri: str = ""
    database: str = ""
    driver: str = ""
    journals: str = ""
    """The folder into which each worker writes what it has done."""


@asynccontextmanager
async def opened(orders: Orders, client: Any) -> AsyncIterator[SessionRepository]:
    """The repository, once the store answers."""
    while True:
        opening = open_repository(
            client[orders.database], timeout=orders.timeout, lease=timedelta(seconds=orders.lease)
        )
        try:
            repository = await opening
        except SessionError:
            await asyncio.sleep(0.1)
        else:
            break
    try:
        yield repository
    finally:
        await repository.close()


@asynccontextmanager
async def entered(orders: Orders, repository: SessionRepository) -> AsyncIterator[CachedRouter]:
    """The cache in front of it, once its stream is open."""
    router = CachedRouter(repository, max_staleness=timedelta(seconds=orders.max_staleness))
    while True:
        try:
            await router.__aenter__()
        except SessionError:
            await asyncio.sleep(0.1)
        else:
            break
    try:
        yield router
    finally:
        await router.__aexit__(None, None, None)


@asynccontextmanager
async def on_stage(orders: Orders, name: str, seed: int) -> AsyncIterator[Scene]:
    """All that one worker acts by."""
    chance = random.Random(seed)
    journal, names = Journal(Path(orders.journals) / f"{name}.jsonl", name), Names(name)
    client: Any = connect(orders.uri, driver=orders.driver)
    try:
        async with opened(orders, client) as repository, entered(orders, repository) as router:
            office = Office(client[orders.database]["effects"], chance, names)
            recorder = Recorder(repository, journal, chance)
            longest = timedelta(seconds=orders.lease)
            bridge = SessionBridge(repository, office.rerun, write_back=office.write_back, max_rerun=longest)
            async with bridge.upkeep(every=timedelta(seconds=orders.lease / 2)):
                yield Scene(repository, office, bridge, router, recorder, journal, chance, names)
    finally:
        await disconnect(client)
        journal.close()


def _tell_what_hangs() -> None:
    for task in asyncio.all_tasks():
        task.print_stack(file=sys.stderr)
    sys.stderr.flush()


async def work(orders: Orders, name: str, seed: int) -> None:
    """Act until told to end."""
    over, loop = asyncio.Event(), asyncio.get_running_loop()

    def end() -> None:
        over.set()
        loop.call_later(LAST_WORDS_WITHIN - _TOLD_BEFORE, _tell_what_hangs)

    loop.add_signal_handler(signal.SIGTERM, end)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    async with on_stage(orders, name, seed) as scene, asyncio.TaskGroup() as tasks:
        for number in range(orders.tasks):
            conversation_id = f"c{number % orders.conversations}"
            tasks.create_task(act_until(over, scene, conversation_id, PLAYS[orders.play]))


# --- the process that they are copies of ------------------------------------------------------------------------


def _start(orders: Orders, name: str, seed: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for whoever gave the orders
        asyncio.run(work(orders, name, seed))
        code = 0
    except BaseException:  # noqa: BLE001 - the copy ends here, whatever it met
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _ended(pids: dict[str, int]) -> dict[str, int]:
    """Let all end; their exit codes."""
    for pid in pids.values():
        os.kill(pid, signal.SIGTERM)
    codes: dict[str, int] = {}
    until = time.monotonic() + LAST_WORDS_WITHIN
    while len(codes) < len(pids):
        for name, pid in pids.items():
            if name not in codes:
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    codes[name] = os.waitstatus_to_exitcode(status)
                elif time.monotonic() > until:
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    return codes


def _serve(orders: Orders) -> None:
    pids: dict[str, int] = {}
    for line in sys.stdin:
        told = json.loads(line)
        answer: Any = None
        if "start" in told:
            pids[told["start"]] = _start(orders, told["start"], told["seed"])
        elif "kill" in told:
            pid = pids.pop(told["kill"])
            os.kill(pid, signal.SIGKILL)
            answer = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        else:
            answer, pids = _ended(pids), {}
        sys.stdout.write(MARK + json.dumps(answer) + "\n")
        sys.stdout.flush()
    for pid in pids.values():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A copy is told to end by it, and may be told so before it listens.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    logging.getLogger("sessions").setLevel(logging.CRITICAL)  # what fails and passes is what the campaigns are for
    _serve(Orders(**json.loads(sys.argv[1])))
