"""How long after a `stop` or a replacing message in one process the graph in another one is cancelled.

The other process is started as ``python -m tests.benchmarks.run_ends DRIVER URI DATABASE``.
"""

import asyncio
import random
import sys
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any, Final

from sessions import AskUser, SessionBridge, SessionRepository, Turn, open_repository
from sessions.store.clients import connect, disconnect
from tests.benchmarks.measuring import FULL, QUICK, timing_of
from tests.benchmarks.stacks import DATABASE, drop
from tests.benchmarks.stories import QUESTION

_USER: Final = 1
_LONGEST_BEFORE: Final = 0.5
"""Seconds that a run has lasted at most when it is ended: some are ended before they follow any stream."""
End = Callable[[SessionRepository, str], Awaitable[object]]


def _say(told: str) -> None:
    sys.stdout.write(f"{told}\n")
    sys.stdout.flush()


async def _hanging(_: Turn) -> AskUser:
    """The graph: says when it begins, and when it was cancelled, by the system's clock."""
    _say("began")
    try:
        await asyncio.Event().wait()
    finally:
        _say(repr(monotonic()))
    raise NotImplementedError


async def work(driver: str, uri: str, database: str) -> None:
    """The other process: works on a message of each conversation on its input."""
    client: Any = connect(uri, driver=driver)
    async with open_repository(client[database]) as repository:
        bridge = SessionBridge(repository, _hanging)
        while line := await asyncio.to_thread(sys.stdin.readline):
            await bridge.handle(_USER, line.strip(), "Tuesday", message_id="m1")
            _say("ended")
    await disconnect(client)


async def _stop(repository: SessionRepository, session_id: str) -> None:
    await SessionBridge(repository, _hanging).stop(_USER, session_id)


async def _replace(repository: SessionRepository, session_id: str) -> None:
    lease = (await repository.get(session_id, user_id=_USER)).lease
    await repository.claim_rerun(session_id, user_id=_USER, reply_id="m2", replaces=lease)


_ENDS: Final[dict[str, End]] = {"stopped": _stop, "replaced": _replace}


async def measure(driver: str, uri: str, quick: bool) -> dict[str, float]:  # noqa: FBT001 - as its siblings have it
    """Milliseconds from the acknowledgement of the write to the cancellation."""
    pipe = asyncio.subprocess.PIPE
    await drop(driver, uri, DATABASE)
    client: Any = connect(uri, driver=driver)
    found: dict[str, float] = {}
    async with open_repository(client[DATABASE], create_indexes=True) as repository:
        command = (sys.executable, "-m", __spec__.name, driver, uri, DATABASE)
        worker = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
        chance = random.Random(1)
        try:
            effort = QUICK if quick else FULL
            for name, end in _ENDS.items():
                took = [
                    await _until_cancelled(
                        repository, worker, f"{name}-{number}", end, chance.uniform(0, _LONGEST_BEFORE)
                    )
                    for number in range(effort.lags)
                ]
                timing = timing_of(took)
                found |= {f"{name}_p50_ms": timing.p50 * 1_000, f"{name}_p99_ms": timing.p99 * 1_000}
            if worker.stdin is not None:
                worker.stdin.close()
            await worker.wait()
        finally:
            if worker.returncode is None:
                worker.kill()
                await worker.wait()
    await disconnect(client)
    await drop(driver, uri, DATABASE)
    return found


async def _until_cancelled(
    repository: SessionRepository, worker: asyncio.subprocess.Process, name: str, end: End, after: float
) -> float:
    if worker.stdin is None or worker.stdout is None:
        raise LookupError("the other process has no pipes")
    session = await repository.create(_USER, name, conversation_id=name, pending_question=QUESTION)
    worker.stdin.write(f"{name}\n".encode())
    await worker.stdout.readline()
    await asyncio.sleep(after)
    await end(repository, session.session_id)
    acknowledged = monotonic()
    cancelled = float(await worker.stdout.readline())
    await worker.stdout.readline()
    return max(0.0, cancelled - acknowledged)


if __name__ == "__main__":
    asyncio.run(work(*sys.argv[1:4]))
