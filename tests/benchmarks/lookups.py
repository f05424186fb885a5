"""Every way to find a session, beside the bare driver that sends the same command."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from typing import Final

from sessions import CachedRouter, SessionRepository
from tests.benchmarks.bare import Unequal, check_equal, check_exchanges, ready, sent_by
from tests.benchmarks.measuring import Advance, Call, Comparison, Effort, Figure, Row, always, compared, interleaved
from tests.benchmarks.stacks import BARE, Stack
from tests.benchmarks.stories import QUESTION

MANY: Final = 100
PAGE: Final = 50
CACHED_EACH: Final = 1_000
READER: Final = 800_001
CONVERSATIONS: Final = [f"conversation-{number}" for number in range(MANY)]

Lookup = Callable[[SessionRepository], Awaitable[object]]


async def store_governed(repository: SessionRepository) -> str:
    """A user with a hundred governed conversations; the id of the first one's session."""
    made = [
        await repository.create(READER, f"trigger-{number}", conversation_id=name, pending_question=QUESTION)
        for number, name in enumerate(CONVERSATIONS)
    ]
    return made[0].session_id


def route_hit(repository: SessionRepository) -> Awaitable[object]:
    """Somebody governs."""
    return repository.route(READER, CONVERSATIONS[0])


def _lookups(session_id: str) -> Mapping[str, tuple[Lookup, float]]:
    return {
        "route, hit": (route_hit, 1.05),
        "route, miss": (lambda repository: repository.route(READER, "nobody's"), 1.0),
        "get": (lambda repository: repository.get(session_id, user_id=READER), 1.07),
        "latest": (lambda repository: repository.latest(READER, CONVERSATIONS[0]), 1.07),
    }


_BATCHES: Final[Mapping[str, tuple[Lookup, float]]] = {
    f"list_sessions({PAGE})": (lambda repository: repository.list_sessions(READER, limit=PAGE), 1.2),
    f"route_many({MANY})": (lambda repository: repository.route_many(READER, CONVERSATIONS), 1.4),
}


async def bare_lookup(stack: Stack, name: str, lookup: Lookup) -> Call:
    """The driver's call that finds what this lookup finds; they are compared first.

    Raises:
        Unequal: They do not find the same.
    """
    ours = await sent_by(stack.recorder, partial(lookup, stack.heard))
    if len(ours) != 1:
        raise Unequal(f"{name} sent {len(ours)} commands, and is to be one")
    check_exchanges(name, ours, await sent_by(stack.recorder, ready(ours[0].command, stack.heard_bare)), {})
    return ready(ours[0].command, stack.bare)


async def lookups(stack: Stack, effort: Effort, advance: Advance) -> AsyncIterator[Row]:
    """All of them."""
    session_id = await store_governed(stack.repository)
    for chosen, times in ((_lookups(session_id), effort.reads), (_BATCHES, effort.batches)):
        for name, (lookup, aim) in chosen.items():
            bare = await bare_lookup(stack, name, lookup)
            sides: list[Call] = [partial(lookup, stack.repository), bare]
            took = await interleaved(always(sides), times, warm_up=effort.warm_up, advance=advance)
            yield compared(name, *took, against=BARE, aim=aim)
    yield await _many_at_once(stack, effort, advance)
    cached = await _cached(stack, effort, advance)
    yield cached
    yield Figure("cached route, hot, p50", cached.ours.p50 * 1e6, "µs", aim=1.5)


async def _many_at_once(stack: Stack, effort: Effort, advance: Advance) -> Comparison:
    async def at_once() -> None:
        await stack.repository.route_many(READER, CONVERSATIONS)

    async def one_by_one() -> None:
        for name in CONVERSATIONS:
            await stack.repository.route(READER, name)

    sides = always([at_once, one_by_one])
    took = await interleaved(sides, effort.batches, warm_up=effort.warm_up, advance=advance)
    return compared(f"route_many({MANY})", *took, against=f"{MANY} x route", aim=1 / 25)


async def _cached(stack: Stack, effort: Effort, advance: Advance) -> Comparison:
    """A thousand cached routes are one turn: one alone is as short as the reading of the clock."""
    async with CachedRouter(stack.repository) as router:

        async def from_memory() -> None:
            for _ in range(CACHED_EACH):
                await router.route(READER, CONVERSATIONS[0])

        async def looked_up() -> None:
            await stack.repository.route(READER, CONVERSATIONS[0])

        cached, uncached = await router.route(READER, CONVERSATIONS[0]), await route_hit(stack.repository)
        check_equal("the cached route", cached, uncached)
        sides = always([from_memory, looked_up])
        memory, database = await interleaved(sides, effort.reads, warm_up=effort.warm_up, advance=advance)
    each = [took / CACHED_EACH for took in memory]
    return compared("cached route, hot", each, database, against="route", aim=1 / 700)
