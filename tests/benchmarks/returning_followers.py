"""What a route costs beside browsers that all come back at once, in one run with what it costs without them.

Each follows one user, as `session_events` does, and has missed some of 300 changes.
"""

import asyncio
from collections.abc import AsyncIterator
from statistics import median
from time import perf_counter
from typing import Any, Final

from sessions import Change, SessionRepository
from sessions.store.clients import connect, disconnect
from tests.benchmarks.measuring import Advance, Effort, Figure, Row, compared
from tests.benchmarks.stacks import DATABASE, Stack
from tests.support.open_streams import open_streams

MISSED: Final = 300
USERS: Final = 50
CALLERS: Final = 4
BETWEEN_LOOKS: Final = 0.1
BETWEEN_ROUTES: Final = 0.004


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


async def most_streams(stop: asyncio.Event, database: Any) -> int:
    """The most streams that the server held."""
    most = 0
    while not stop.is_set():
        most = max(most, await open_streams(database))
        await asyncio.sleep(BETWEEN_LOOKS)
    return most


async def measured(
    repository: SessionRepository, database: Any, seen: list[Change], *, seconds: float
) -> tuple[list[float], int, float]:
    """Routes beside followers that have seen these changes last; the most streams, and when all had caught up."""
    stop, took = asyncio.Event(), list[float]()
    streams = asyncio.create_task(most_streams(stop, database))
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
    await asyncio.sleep(max(0.0, seconds - caught_up))
    stop.set()
    await asyncio.gather(*routing)
    await asyncio.gather(*(watch.aclose() for watch in watches))
    most = await streams
    while await open_streams(database):  # noqa: ASYNC110 - else those of this round are counted in the next one
        await asyncio.sleep(BETWEEN_LOOKS)
    return took, most, caught_up


async def followers(stack: Stack, effort: Effort, advance: Advance) -> AsyncIterator[Row]:
    """All of it, in turns: without them, beside them."""
    coming_back = effort.followers
    observer: Any = connect(stack.uri, driver=stack.driver)
    observed = observer[DATABASE]
    try:
        before = await missed_changes(stack.repository)
        seen = [before[number * (MISSED - USERS) // coming_back] for number in range(coming_back)]
        alone, beside, most, caught_up = list[float](), list[float](), 0, list[float]()
        for _ in range(effort.follower_rounds):
            alone += (await measured(stack.repository, observed, [], seconds=effort.follower_seconds))[0]
            took, streams, within = await measured(stack.repository, observed, seen, seconds=effort.follower_seconds)
            beside += took
            most = max(most, streams)
            caught_up.append(within)
            advance()
    finally:
        await disconnect(observer)
    yield compared(f"route, {coming_back} come back", beside, alone, against="none does")
    yield Figure("longest route beside them", 1_000 * max(beside), "ms")
    yield Figure("caught up within", median(caught_up), "s")
    yield Figure("most streams at once", most, "")
