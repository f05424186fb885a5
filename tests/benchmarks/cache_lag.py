"""How long after a write in one process another one's cached route changes.

The other process is started as ``python -m tests.benchmarks.cache_lag DRIVER URI DATABASE``.
"""

import asyncio
import sys
from time import monotonic
from typing import Any, Final

from sessions import CachedRouter, SessionRepository, open_repository
from sessions.store.clients import connect, disconnect
from tests.benchmarks.measuring import FULL, QUICK, timing_of
from tests.benchmarks.stacks import DATABASE, drop
from tests.benchmarks.stories import QUESTION

_USER: Final = 1


async def follow(driver: str, uri: str, database: str) -> None:
    """The other process: for each conversation on its input, when its route has changed, by the system's clock."""
    client: Any = connect(uri, driver=driver)
    async with open_repository(client[database]) as repository, CachedRouter(repository) as router:
        while line := await asyncio.to_thread(sys.stdin.readline):
            conversation_id = line.strip()
            await router.route(_USER, conversation_id)
            sys.stdout.write("cached\n")
            sys.stdout.flush()
            while (await router.route(_USER, conversation_id)).session is None:  # noqa: ASYNC110 - as a caller would
                await asyncio.sleep(0)
            sys.stdout.write(f"{monotonic()!r}\n")
            sys.stdout.flush()
    await disconnect(client)


async def measure(driver: str, uri: str, quick: bool) -> dict[str, float]:  # noqa: FBT001 - as its siblings have it
    """Milliseconds from the acknowledgement of a write to its effect elsewhere."""
    pipe = asyncio.subprocess.PIPE
    await drop(driver, uri, DATABASE)
    client: Any = connect(uri, driver=driver)
    async with open_repository(client[DATABASE], create_indexes=True) as repository:
        command = (sys.executable, "-m", __spec__.name, driver, uri, DATABASE)
        follower = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
        try:
            effort = QUICK if quick else FULL
            lags = [await _lag(repository, follower, number) for number in range(effort.lags)]
            await _ended(follower)
        finally:
            if follower.returncode is None:
                follower.kill()
                await follower.wait()
    await disconnect(client)
    await drop(driver, uri, DATABASE)
    timing = timing_of(lags)
    return {"transition_lag_p50_ms": timing.p50 * 1_000, "transition_lag_p99_ms": timing.p99 * 1_000}


async def _ended(follower: asyncio.subprocess.Process) -> None:
    """Let it close its stream: that of a process which is killed stays with the server, beside those measured next."""
    if follower.stdin is not None:
        follower.stdin.close()
    await follower.wait()


async def _lag(repository: SessionRepository, follower: asyncio.subprocess.Process, number: int) -> float:
    if follower.stdin is None or follower.stdout is None:
        raise LookupError("the other process has no pipes")
    follower.stdin.write(f"c{number}\n".encode())
    await follower.stdout.readline()
    await repository.create(_USER, f"t{number}", conversation_id=f"c{number}", pending_question=QUESTION)
    acknowledged = monotonic()
    return max(0.0, float(await follower.stdout.readline()) - acknowledged)


if __name__ == "__main__":
    asyncio.run(follow(*sys.argv[1:4]))
