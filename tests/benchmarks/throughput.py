"""How many routes a second: by many tasks at once, in one and in two processes, beside the bare driver's.

The routing processes are started as ``python -m tests.benchmarks.throughput DRIVER URI``.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median
from time import perf_counter
from typing import Final

from tests.benchmarks.lookups import bare_lookup, route_hit, store_governed
from tests.benchmarks.measuring import Advance, Call, Effort, Rate, Row, parts_of
from tests.benchmarks.stacks import BARE, Stack, connected

PROCESSES: Final = (1, 2)
SIDES: Final = ("ours", "bare")
_AIMED: Final = 100
# As the bare driver does, a call waits for its turn: a thousand tasks share the hundred connections of a client.
_PATIENCE: Final = 60.0


async def calls_in(call: Call, *, tasks: int, seconds: float) -> int:
    """How many calls so many tasks make in a time, each the next one as soon as its last is answered."""
    ends = perf_counter() + seconds
    done = 0

    async def again() -> None:
        nonlocal done
        while perf_counter() < ends:
            await call()
            done += 1

    await asyncio.gather(*(again() for _ in range(tasks)))
    return done


async def serve(driver: str, uri: str) -> None:
    """A routing process: for each line of its input, a side, how many tasks and how long, tell the calls a second."""
    async with connected(driver, uri, timeout=_PATIENCE) as stack:
        calls: dict[str, Call] = {
            "ours": partial(route_hit, stack.repository),
            "bare": await bare_lookup(stack, "route", route_hit),
        }
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while line := await asyncio.to_thread(sys.stdin.readline):
            side, tasks, seconds = line.split()
            begun = perf_counter()
            done = await calls_in(calls[side], tasks=int(tasks), seconds=float(seconds))
            sys.stdout.write(f"{done / (perf_counter() - begun)!r}\n")
            sys.stdout.flush()


@dataclass(frozen=True, slots=True)
class Server:
    """A routing process."""

    process: asyncio.subprocess.Process

    async def line(self) -> str:
        """The next line of its output."""
        if self.process.stdout is None:
            raise LookupError("it has no pipe")
        if not (line := await self.process.stdout.readline()):
            raise ChildProcessError("a routing process has ended")
        return line.decode()

    async def rate(self, side: str, tasks: int, seconds: float) -> float:
        """Let it route; calls a second."""
        if self.process.stdin is None:
            raise LookupError("it has no pipe")
        self.process.stdin.write(f"{side} {tasks} {seconds}\n".encode())
        return float(await self.line())


@asynccontextmanager
async def running_servers(number: int, stack: Stack) -> AsyncIterator[list[Server]]:
    """So many processes, ready to route; they end with the block."""
    pipe = asyncio.subprocess.PIPE
    command = (sys.executable, "-m", __spec__.name, stack.driver, stack.uri)
    servers: list[Server] = []
    try:
        while len(servers) < number:
            servers.append(Server(await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)))
        for server in servers:
            await server.line()
        yield servers
    finally:
        for server in servers:
            if server.process.returncode is None:
                server.process.kill()
            await server.process.wait()


async def throughput(stack: Stack, effort: Effort, advance: Advance) -> AsyncIterator[Row]:
    """Each number of tasks with each number of processes, both sides in turns."""
    await store_governed(stack.repository)
    async with running_servers(max(PROCESSES), stack) as servers:
        for processes in PROCESSES:
            for tasks in effort.tasks:
                measured: dict[str, list[float]] = {side: [] for side in SIDES}
                for turn in range(-1, effort.rate_rounds):
                    for side in SIDES if turn % 2 else reversed(SIDES):
                        working = (server.rate(side, tasks, effort.rate_seconds) for server in servers[:processes])
                        rates = await asyncio.gather(*working)
                        if turn >= 0:  # the first one warms up
                            measured[side].append(sum(rates))
                    advance()
                yield _rate(measured, tasks, processes)


def _rate(measured: dict[str, list[float]], tasks: int, processes: int) -> Rate:
    ours, bare = measured["ours"], measured["bare"]
    # Each round beside its own neighbour: a machine that grows busy slows both.
    ratios = [one / other for one, other in zip(ours, bare, strict=True)]
    parts = parts_of(ratios)
    aim = 0.95 if tasks == _AIMED else None
    return Rate(
        *("route", BARE, tasks, processes, median(ours), median(bare)), median(ratios), min(parts), max(parts), aim
    )


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:3]))
