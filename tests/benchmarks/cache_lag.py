"""How long after a write in one process another one's cached route changes.

Run as ``python tests/benchmarks/cache_lag.py [motor|pymongo]``; it starts a ``mongod`` and the other process itself.
"""

import asyncio
import sys
from statistics import quantiles
from time import monotonic
from typing import Any, Final

from sessions import CachedRouter, open_repository
from sessions.mongod import find_mongod, running_mongod
from sessions.store.clients import DEFAULT_DRIVER, connect, disconnect

ROUNDS: Final = 500
FOLLOWER: Final = "follow"


async def follow(uri: str, driver: str) -> None:
    """The other process: for each conversation on its input, when its route has changed, by the system's clock."""
    client: Any = connect(uri, driver=driver)
    async with open_repository(client["benchmark"]) as repository, CachedRouter(repository) as router:
        while line := await asyncio.to_thread(sys.stdin.readline):
            conversation_id = line.strip()
            await router.route(1, conversation_id)
            sys.stdout.write("cached\n")
            sys.stdout.flush()
            while (await router.route(1, conversation_id)).session is None:  # noqa: ASYNC110 - as a caller would
                await asyncio.sleep(0)
            sys.stdout.write(f"{monotonic()!r}\n")
            sys.stdout.flush()
    await disconnect(client)


async def lead(driver: str) -> None:
    """This process: write, and ask the other one when it saw it."""
    binary = find_mongod()
    if binary is None:
        sys.exit("no mongod on PATH, and the `server` extra has none for this platform")
    lags: list[float] = []
    async with running_mongod(binary) as uri:
        client: Any = connect(uri, driver=driver)
        async with open_repository(client["benchmark"], create_indexes=True) as repository:
            pipe = asyncio.subprocess.PIPE
            follower = await asyncio.create_subprocess_exec(
                sys.executable, __file__, FOLLOWER, uri, driver, stdin=pipe, stdout=pipe
            )
            if follower.stdin is None or follower.stdout is None:
                sys.exit("the other process has no pipes")
            for number in range(ROUNDS):
                follower.stdin.write(f"c{number}\n".encode())
                await follower.stdout.readline()
                await repository.create(1, f"t{number}", conversation_id=f"c{number}", pending_question="Which?")
                acknowledged = monotonic()
                lags.append(max(0.0, float(await follower.stdout.readline()) - acknowledged))
            follower.stdin.close()
            await follower.wait()
        await disconnect(client)
    percentiles = quantiles(lags, n=100)
    p50, p99 = percentiles[49] * 1000, percentiles[98] * 1000
    sys.stdout.write(f"{ROUNDS} transitions, acknowledged to seen elsewhere: p50 {p50:.1f} ms, p99 {p99:.1f} ms\n")


if __name__ == "__main__":
    if sys.argv[1:2] == [FOLLOWER]:
        asyncio.run(follow(*sys.argv[2:4]))
    else:
        asyncio.run(lead(sys.argv[1] if len(sys.argv) > 1 else DEFAULT_DRIVER))
