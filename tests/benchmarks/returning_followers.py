"""What a route costs beside browsers that all come back at once, in one run with what it costs without them.

Each follows one user, as `session_events` does, and has missed some of 300 changes.
Run as ``python tests/benchmarks/returning_followers.py [motor|pymongo] [followers]``; it starts its own ``mongod``.
"""

import asyncio
import sys
from collections.abc import Awaitable
from statistics import median, quantiles
from time import perf_counter
from typing import Any, Final

from sessions import Change, SessionRepository, open_repository
from sessions.mongod import find_mongod, running_mongod
from sessions.store.clients import DEFAULT_DRIVER, connect, disconnect
from sessions.store.document import COLLECTION

MISSED: Final = 300
USERS: Final = 50
ROUNDS: Final = 8
FOR_SECONDS: Final = 2.0
CALLERS: Final = 4
BETWEEN_LOOKS: Final = 0.1
BETWEEN_ROUTES: Final = 0.004


def told(what: str, figures: str) -> None:
    """One line of the result."""
    print(f"{what:<44} {figures}", flush=True)  # noqa: T201 - this is what it is for


async def missed_changes(repository: SessionRepository) -> list[Change]:
    """Changes of many users, with their tokens."""
    async with repository.watch() as watch:
        for number in range(MISSED):
            await repository.create(number % USERS + 1, str(number), pending_question="Which lesson?")
        return [await anext(watch) for _ in range(MISSED)]


async def routes_until(stop: asyncio.Event, repository: SessionRepository, took: list[float]) -> None:
    """Chat messages, one after the other, with a moment in between."""
    while not stop.is_set():
        start = perf_counter()
        await repository.route(1, "c")
        took.append(perf_counter() - start)
        await asyncio.sleep(BETWEEN_ROUTES)


async def most_streams(stop: asyncio.Event, admin: Any) -> int:
    """The most streams that the server held."""
    most = 0
    pipeline = [
        {"$currentOp": {"idleCursors": True, "allUsers": True}},
        {"$match": {"ns": f"benchmark.{COLLECTION}", "cursor": {"$exists": True}, "killPending": {"$ne": True}}},
    ]
    while not stop.is_set():
        found = admin.aggregate(pipeline)
        cursor = await found if isinstance(found, Awaitable) else found
        told = await cursor.to_list(None)
        # A cursor whose read has just ended is told of twice.
        most = max(most, len({each["cursor"]["cursorId"] for each in told}))
        await asyncio.sleep(BETWEEN_LOOKS)
    return most


async def measured(repository: SessionRepository, admin: Any, seen: list[Change]) -> tuple[list[float], int, float]:
    """Routes beside followers that have seen these changes last; the most streams, and when all had caught up."""
    stop, took = asyncio.Event(), list[float]()
    streams = asyncio.create_task(most_streams(stop, admin))
    routing = [asyncio.create_task(routes_until(stop, repository, took)) for _ in range(CALLERS)]
    start = perf_counter()
    watches = [repository.watch(user_id=last.snapshot.user_id, resume_after=last.token) for last in seen]
    await asyncio.gather(*(watch.__aenter__() for watch in watches))

    async def read(number: int) -> None:
        number_of_change = int(seen[number].snapshot.trigger_id)
        for _ in range((MISSED - 1 - number_of_change) // USERS):
            await anext(watches[number])

    await asyncio.gather(*(read(number) for number in range(len(watches))))
    caught_up = perf_counter() - start
    await asyncio.sleep(max(0.0, FOR_SECONDS - caught_up))
    stop.set()
    await asyncio.gather(*routing)
    await asyncio.gather(*(watch.aclose() for watch in watches))
    return took, await streams, caught_up


async def main(driver: str, followers: int) -> None:
    """All of it, in turns: without them, beside them."""
    binary = find_mongod()
    if binary is None:
        sys.exit("no mongod on PATH, and the `server` extra has none for this platform")
    async with running_mongod(binary) as uri:
        client: Any = connect(uri, driver=driver)
        observer: Any = connect(uri, driver=driver)
        async with open_repository(client["benchmark"], create_indexes=True) as repository:
            before = await missed_changes(repository)
            seen = [before[number * (MISSED - USERS) // followers] for number in range(followers)]
            alone, beside, most, caught_up = list[float](), list[float](), 0, list[float]()
            for _ in range(ROUNDS):
                alone += (await measured(repository, observer.admin, []))[0]
                took, streams, seconds = await measured(repository, observer.admin, seen)
                beside += took
                most = max(most, streams)
                caught_up.append(seconds)
        await disconnect(observer)
        await disconnect(client)
    for what, took in (("routes alone", alone), (f"routes beside {followers} that come back", beside)):
        cuts = [1_000 * cut for cut in quantiles(took, n=100)]
        told(
            what,
            f"p50 {cuts[49]:.1f} ms, p99 {cuts[98]:.1f} ms, longest {1_000 * max(took):.0f} ms, {len(took):,} routes",
        )
    told("caught up within (median)", f"{median(caught_up):.2f} s")
    told("most streams at once", f"{most}")


if __name__ == "__main__":
    given = sys.argv[1:]
    asyncio.run(main(given[0] if given else DEFAULT_DRIVER, int(given[1]) if len(given) > 1 else 100))
