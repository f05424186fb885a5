"""What each public method costs: commands sent, tasks made, turns of the event loop taken.

None of them varies with the machine, so a call that grows is found here and not by somebody's benchmark.
"""

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import Any, Final, NamedTuple

import pytest

from sessions import SessionRepository, SessionStatus
from sessions.domain.lifecycle import CALLS, CallName
from sessions.testing import Backend, CommandCounter, MovedClock, SessionMaker
from tests.support.lookups_and_sweeps import LOOKUPS, SWEEPS
from tests.support.ready_call import ready_call

ROUNDS: Final = 7
"""Of so many the least counts: an answer may come in two pieces, and the driver watches its servers meanwhile."""


class Cost(NamedTuple):
    """What was done meanwhile, by anybody."""

    tasks: int
    turns: int


LOOKUP: Final = {"double": Cost(0, 1), "motor": Cost(0, 0), "pymongo": Cost(1, 4)}
CHANGE: Final = {"double": Cost(1, 3), "motor": Cost(0, 1), "pymongo": Cost(1, 4)}
"""What the library adds to each command of the driver. PyMongo Async must not be cancelled, so a task waits for it; a
change is waited for although its caller may be cancelled, and the double does nothing beside its caller."""

Call = Callable[[], Awaitable[object]]


def test_no_method_is_forgotten() -> None:
    """A new public method has a line here."""
    public = {
        name
        for name, method in inspect.getmembers(SessionRepository, inspect.iscoroutinefunction)
        if not name.startswith("_")
    }
    assert public - {"close"} == {*LOOKUPS, *SWEEPS, *(name.value for name in CALLS), "create", "get_or_create"}


@asynccontextmanager
async def counting() -> AsyncIterator[list[Cost]]:
    """The cost of what happens within the block, once it has ended."""
    loop: Any = asyncio.get_running_loop()
    once = loop._run_once
    tasks = turns = 0

    def make(in_loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], **options: Any) -> asyncio.Task[Any]:
        nonlocal tasks
        tasks += 1
        return asyncio.Task(work, loop=in_loop, **options)

    def run_once() -> None:
        nonlocal turns
        turns += 1
        once()

    counted: list[Cost] = []
    loop.set_task_factory(make)
    loop._run_once = run_once
    try:
        yield counted
    finally:
        loop.set_task_factory(None)
        del loop._run_once
        counted.append(Cost(tasks, turns))


async def least(calls: list[Call]) -> Cost:
    """The least that one of some equal calls costs."""
    found = []
    for call in calls:
        async with counting() as counted:
            await call()
        found += counted
    return Cost(*(min(each) for each in zip(*found, strict=True)))


async def assert_cost(calls: list[Call], own: Cost, backend: Backend, database: Any, counter: CommandCounter) -> None:
    """Each call sends one command, and adds no more to it than its own cost."""
    with counter.counting() as sent:
        cost = await least(calls)
    if backend.is_real:
        assert sent.total() == len(calls), sent
        bare = await least([lambda: database.command("ping")] * ROUNDS)
    else:
        bare = Cost(0, 0)
    assert cost.tasks <= bare.tasks + own.tasks
    assert cost.turns <= bare.turns + own.turns


@pytest.mark.parametrize("name", list(LOOKUPS))
async def test_a_lookup(
    repository: SessionRepository,
    make_session: SessionMaker,
    backend: Backend,
    database: Any,
    command_counter: CommandCounter,
    name: str,
) -> None:
    """One command, that finds something or not."""
    session = await make_session(conversation_id="c")
    calls: list[Call] = [lambda: LOOKUPS[name](repository, session.session_id)] * ROUNDS
    await assert_cost(calls, LOOKUP[backend.name], backend, database, command_counter)


@pytest.mark.parametrize("name", [CallName.CREATE, CallName.GET_OR_CREATE, *CALLS])
async def test_a_change(
    repository: SessionRepository,
    make_session: SessionMaker,
    backend: Backend,
    database: Any,
    command_counter: CommandCounter,
    name: CallName,
) -> None:
    """One command, and nothing beside it that finishes it if its caller is cancelled."""
    made = [await ready_call(make_session, name) for _ in range(ROUNDS)]
    await assert_cost(
        [partial(ready, repository) for ready in made], CHANGE[backend.name], backend, database, command_counter
    )


@pytest.mark.parametrize("name", list(SWEEPS))
async def test_a_sweep(
    repository: SessionRepository,
    make_session: SessionMaker,
    session_clock: MovedClock,
    backend: Backend,
    database: Any,
    command_counter: CommandCounter,
    name: str,
) -> None:
    """One command to find a batch and one for each kind of change to it, however many sessions are in it."""
    commands, sweep = SWEEPS[name]

    for _ in range(3):
        await make_session(expires_at=session_clock() + timedelta(seconds=1))
        await make_session.claim()
        await make_session(SessionStatus.APPLIED)
    session_clock.advance(minutes=2)
    with command_counter.counting() as sent:
        async with counting() as counted:
            assert await sweep(repository, session_clock) == 3
    assert not backend.is_real or sent.total() == commands
    bare = await least([lambda: database.command("ping")] * ROUNDS) if backend.is_real else Cost(0, 0)
    assert counted[0].tasks <= commands * (bare.tasks + CHANGE[backend.name].tasks)
