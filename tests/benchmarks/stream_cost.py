"""What a change of somebody else's session costs a process whose cache follows, beside a bare stream that reads it too.

Another process writes the same changes for both, in turns, so that the writing is not counted; the time is that of this
process's threads, whatever else the machine does. Then how far the cache lags behind at 2,000 changes a second.
Run as ``python -m tests.benchmarks.stream_cost [motor|pymongo] [--quick]``; it starts a ``mongod`` of its own.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import cycle
from statistics import median
from time import monotonic, process_time, sleep
from typing import Any, Final
from uuid import uuid4

from pymongo import MongoClient, UpdateOne

from sessions import CachedRouter, open_repository
from sessions.mongod import find_mongod, running_mongod
from sessions.store.clients import connect, default_driver, disconnect
from sessions.store.document import COLLECTION

SESSIONS: Final = 200
RATES: Final = (50, 200, 2_000)
"""Changes a second: so few that each is read alone, some, and many."""
ROUNDS: Final = 5
SECONDS: Final = 4.0
LAG_SECONDS: Final = 10.0
QUICK: Final = 4
"""By so much shorter and fewer."""
SETTLE: Final = 0.5
BETWEEN_LOOKS: Final = 0.02
BETWEEN_WRITES: Final = 0.005
WRITE: Final = "write"


# --- the other process ----------------------------------------------------------------------------------------------


def write(uri: str, database: str) -> None:
    """For each line of its input, which tells how many changes and how many a second: write them."""
    client: MongoClient[dict[str, Any]] = MongoClient(uri)
    collection = client[database][COLLECTION]
    ids = cycle([found["_id"] for found in collection.find({}, {"_id": 1})])
    for line in sys.stdin:
        count, rate = map(int, line.split())
        at_once = max(1, round(rate * BETWEEN_WRITES))
        began = monotonic()
        for number in range(0, count, at_once):
            sleep(max(0.0, began + number / rate - monotonic()))
            collection.bulk_write([changed(next(ids), number) for _ in range(at_once)])
        sys.stdout.write(f"{count / (monotonic() - began)!r}\n")
        sys.stdout.flush()
    client.close()


def changed(session_id: str, number: int) -> UpdateOne:
    """As the repository records that a notification was sent."""
    update = {
        "$inc": {"revision": 1},
        "$set": {"state.last_notification_id": f"n{number}"},
        "$max": {"updated_at": datetime.now(UTC)},
    }
    return UpdateOne({"_id": session_id}, update)


@dataclass(frozen=True, slots=True)
class Writer:
    """The other process."""

    process: asyncio.subprocess.Process

    async def write(self, count: int, rate: int) -> float:
        """So many changes; how many a second they were."""
        if self.process.stdin is None or self.process.stdout is None:
            sys.exit("the other process has no pipes")
        self.process.stdin.write(f"{count} {rate}\n".encode())
        return float(await self.process.stdout.readline())


@asynccontextmanager
async def writing(uri: str, database: str) -> AsyncIterator[Writer]:
    """The other process, for as long as it is needed."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, WRITE, uri, database, stdin=pipe, stdout=pipe
    )
    try:
        yield Writer(process)
    finally:
        if process.stdin is not None:
            process.stdin.close()
        await process.wait()


# --- this process ---------------------------------------------------------------------------------------------------


async def bare(client: Any, database: str, writer: Writer, *, count: int, rate: int) -> float:
    """Seconds of processor for each change that the driver's own stream reads."""
    opening = client[database][COLLECTION].watch(full_document="updateLookup")
    stream = await opening if isinstance(opening, Awaitable) else opening

    async def read() -> None:
        for _ in range(count):
            await anext(stream)

    async with stream:
        started = process_time()
        reading = asyncio.create_task(read())
        await writer.write(count, rate)
        await reading
        await asyncio.sleep(SETTLE)
        return (process_time() - started) / count


async def followed(client: Any, database: str, writer: Writer, *, count: int, rate: int) -> float:
    """The same for a repository whose cache holds each session that changes."""
    async with open_repository(client[database]) as repository, CachedRouter(repository) as router:
        for number in range(SESSIONS):
            await router.route(1, f"c{number}")
        started = process_time()
        await writer.write(count, rate)
        while router.stats().evictions < SESSIONS:  # noqa: ASYNC110 - nothing is announced
            await asyncio.sleep(BETWEEN_LOOKS)
        await asyncio.sleep(SETTLE)
        cost = (process_time() - started) / count
        if router.stats().entries:
            sys.exit("the cache has missed changes")
        return cost


async def lags(client: Any, database: str, writer: Writer, *, count: int, rate: int) -> tuple[list[float], float]:
    """How far the cache lagged behind, each time one looked, and how many changes a second there were."""
    found: list[float] = []
    async with open_repository(client[database]) as repository, CachedRouter(repository) as router:
        told = asyncio.create_task(writer.write(count, rate))
        while not told.done():
            await asyncio.sleep(BETWEEN_LOOKS)
            if (lag := router.stats().lag) is not None:
                found.append(lag.total_seconds())
        return found, await told


async def measure(driver: str, uri: str, quick: bool) -> dict[str, float]:  # noqa: FBT001 - a switch of the command line
    """Processor time a change in µs of both and their ratio, at each rate; the cache's lag in ms.

    Args:
        driver: ``motor`` or ``pymongo``.
        uri: A replica set; a database is made on it and dropped again.
        quick: A quarter of the time, for a first look.
    """
    database = f"benchmark_{uuid4().hex[:8]}"
    fraction = QUICK if quick else 1
    figures: dict[str, float] = {}
    client: Any = connect(uri, driver=driver)
    async with open_repository(client[database], create_indexes=True) as repository:
        for number in range(SESSIONS):
            await repository.create(1, f"t{number}", conversation_id=f"c{number}", pending_question="Which lesson?")
    async with writing(uri, database) as writer:
        for rate in RATES:
            count = max(SESSIONS, round(rate * SECONDS / fraction))  # each session that is cached changes
            costs: dict[Any, list[float]] = {bare: [], followed: []}
            for _ in range(max(2, ROUNDS // fraction)):
                for each, took in costs.items():
                    took.append(await each(client, database, writer, count=count, rate=rate))
            figures[f"bare_us_{rate}"] = 1e6 * median(costs[bare])
            figures[f"followed_us_{rate}"] = 1e6 * median(costs[followed])
            figures[f"ratio_{rate}"] = median(ours / theirs for theirs, ours in zip(*costs.values(), strict=True))
        rate = RATES[-1]
        count = round(rate * LAG_SECONDS / fraction)
        found, figures["written_a_second"] = await lags(client, database, writer, count=count, rate=rate)
        figures["lag_p50_ms"], figures["lag_max_ms"] = 1e3 * median(found), 1e3 * max(found)
    await client.drop_database(database)
    await disconnect(client)
    return figures


async def main(driver: str, *, quick: bool) -> None:
    """Measure and tell."""
    binary = find_mongod()
    if binary is None:
        sys.exit("no mongod on PATH, and the `server` extra has none for this platform")
    async with running_mongod(binary) as uri:
        figures = await measure(driver, uri, quick)
    for rate in RATES:
        ours, theirs, ratio = (figures[f"{name}_{rate}"] for name in ("followed_us", "bare_us", "ratio"))
        sys.stdout.write(f"{driver}, {rate:,} changes/s: {ours:.0f} µs each, bare {theirs:.0f} µs: {ratio:.2f}\n")
    p50, most, written = figures["lag_p50_ms"], figures["lag_max_ms"], figures["written_a_second"]
    sys.stdout.write(f"{driver}, lag at {written:,.0f} changes/s: p50 {p50:.0f} ms, longest {most:.0f} ms\n")


if __name__ == "__main__":
    if sys.argv[1:2] == [WRITE]:
        write(*sys.argv[2:4])
    else:
        given = [each for each in sys.argv[1:] if not each.startswith("-")]
        asyncio.run(main(given[0] if given else default_driver(), quick="--quick" in sys.argv))
