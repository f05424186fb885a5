"""An index that the server is still building is seen as unfinished, waited for, and built again if aborted."""

import asyncio
from typing import Any

import pytest

from indexes import Plan, Unreachable, apply, check, plan
from indexes.actions import Action, Step
from indexes.planner import Standing
from indexes.progress import Progress
from sessions import IndexesMissing, open_repository
from sessions.store.clients import connect, disconnect
from sessions.store.document import COLLECTION, INDEXES, ROUTING_INDEX
from sessions.testing import Backend, MovedClock
from tests.support.fail_points import failing
from tests.support.held_builds import builds_held, under_way

pytestmark = pytest.mark.needs("server")


async def test_an_unfinished_index_is_no_index_yet(database: Any, session_clock: MovedClock) -> None:
    """A plain listing shows it like any other. Opening refuses it, plan says that it is building, and check fails."""
    async with builds_held(database):
        applying = asyncio.ensure_future(apply(database))
        assert await under_way(database) == ROUTING_INDEX
        assert ROUTING_INDEX in await database[COLLECTION].index_information()
        with pytest.raises(IndexesMissing, match="still being built"):
            await open_repository(database, clock=session_clock)
        planned: Plan = await plan(database)
        assert [index.name for index in planned.named(Standing.BUILDING)] == [ROUTING_INDEX]
        assert planned.steps[0].action is Action.WAIT
        assert not (await check(database)).is_as_declared
    assert len((await applying).steps) == len(INDEXES)
    async with open_repository(database, clock=session_clock):
        pass


async def test_a_build_left_to_the_server_is_waited_for(database: Any) -> None:
    """The server goes on with what a killed run began, and the next run waits for it rather than begin another."""
    declared = (await plan(database)).steps[0].definition
    waited: list[Step] = []
    waits = asyncio.Event()

    def note(progress: Progress) -> None:
        if progress.step is not None and progress.step.action is Action.WAIT:
            waited.append(progress.step)
            waits.set()

    async with builds_held(database):
        orphan = asyncio.ensure_future(
            database.command({"createIndexes": COLLECTION, "indexes": [dict(declared)], "commitQuorum": "majority"})
        )
        await under_way(database)
        applying = asyncio.ensure_future(apply(database, tell=note))
        await waits.wait()
    await orphan
    done = await applying
    assert {step.index for step in waited} == {ROUTING_INDEX}
    assert len(done.steps) == len(INDEXES) - 1
    assert (await check(database)).is_as_declared


async def test_a_build_that_is_aborted_is_built_again(database: Any) -> None:
    """Dropping an index that is being built aborts the build (error 276). The run looks again, and builds it."""
    async with builds_held(database):
        applying = asyncio.ensure_future(apply(database))
        name = await under_way(database)
        dropping = asyncio.ensure_future(database.command({"dropIndexes": COLLECTION, "index": name}))
        await asyncio.sleep(0.1)  # until the server has it: it aborts the build once that goes on
    await dropping
    assert len((await applying).steps) == len(INDEXES)
    assert (await check(database)).is_as_declared


async def test_a_client_with_a_time_limit_builds_all_the_same(database: Any, mongod_uri: str, backend: Backend) -> None:
    """The limit is for the application's queries. A build that it cut short would be aborted at each run."""
    client: Any = connect(mongod_uri, driver=backend.name, timeoutMS=500)
    try:
        async with builds_held(database):
            applying = asyncio.ensure_future(apply(client[database.name]))
            await asyncio.sleep(2)
            assert not applying.done()
        assert len((await applying).steps) == len(INDEXES)
    finally:
        await disconnect(client)


async def test_a_lost_connection_leaves_what_was_done(database: Any) -> None:
    """The run ends with one error. What it had built stays, and the next run goes on from there."""
    async with failing(database, "createIndexes", mode={"skip": 3}, closeConnection=True):
        with pytest.raises(Unreachable, match="run this again"):
            await apply(database)
    assert len((await apply(database)).steps) == len(INDEXES) - 3
    assert (await check(database)).is_as_declared
