"""One ``apply`` at a time, by a lock with a lease; what somebody else changes meanwhile is noticed."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest

from indexes import LockHeld, Unsettled, apply, check
from indexes.lock import LOCKS, locked
from indexes.progress import Progress
from indexes.server import Server
from sessions.store.document import COLLECTION, INDEXES
from tests.support.fail_points import failing

pytestmark = pytest.mark.needs("server")

SHORT: Final = timedelta(seconds=1)
TRIGGER: Final = f"idx_{COLLECTION}_trigger_id"


async def lock_of(database: Any) -> dict[str, Any] | None:
    """The lock document as it is stored."""
    found: dict[str, Any] | None = await database[LOCKS].find_one()
    return found


async def test_a_second_run_waits_and_then_gives_up(database: Any) -> None:
    """While the lock is held the second run changes nothing. It is told that it waits, and may try again."""
    waited: list[Progress] = []
    async with locked(Server(database), lease=timedelta(seconds=10), wait=SHORT, on_wait=lambda: None):
        with pytest.raises(LockHeld, match="another apply is at work"):
            await apply(database, wait=SHORT, tell=waited.append)
    assert waited
    assert all(progress.step is None for progress in waited)
    assert await database[COLLECTION].index_information() == {}
    await apply(database, wait=SHORT)
    assert await lock_of(database) is None


async def test_a_second_run_goes_on_when_the_first_has_ended(database: Any) -> None:
    """It waits, finds that all is done, and does nothing itself."""
    first, second = await asyncio.gather(apply(database), apply(database))
    assert len(first.steps) + len(second.steps) == len(INDEXES)
    assert (await check(database)).is_as_declared


async def test_a_killed_runs_lock_lapses(database: Any) -> None:
    """Nobody has to free it by hand. Once its lease has lapsed by the server's clock, the next run takes it."""
    left = {"_id": "apply", "holder": "killed", "expires_at": datetime.now(UTC) + timedelta(seconds=1)}
    await database[LOCKS].insert_one(left)
    await apply(database)
    assert (await check(database)).is_as_declared


async def test_a_run_that_lost_its_lock_stops_before_its_next_step(database: Any) -> None:
    """A run that stood still for longer than its lease must not drop what another has judged meanwhile."""

    def steal(progress: Progress) -> None:
        if progress.ended and not stolen:
            stolen.append(asyncio.ensure_future(database[LOCKS].update_one({}, {"$set": {"holder": "another"}})))

    stolen: list[Any] = []
    with pytest.raises(LockHeld, match="took the lock over"):
        await apply(database, tell=steal)
    await stolen[0]
    assert (await lock_of(database) or {})["holder"] == "another"
    assert len(await database[COLLECTION].index_information()) < len(INDEXES)


@pytest.mark.parametrize(("command", "code"), [("createIndexes", 276), ("createIndexes", 85), ("dropIndexes", 27)])
async def test_what_somebody_else_did_meanwhile_is_replanned(database: Any, command: str, code: int) -> None:
    """After an aborted build, or an index that came or went between look and step, the run looks again and goes on."""
    await apply(database)
    await database[COLLECTION].drop_index(TRIGGER)
    await database[COLLECTION].create_index([("trigger_id", 1)], name=TRIGGER, sparse=True)
    async with failing(database, command, mode={"times": 1}, errorCode=code):
        done = await apply(database)
    assert len(done.steps) == 4
    assert (await check(database)).is_as_declared


async def test_a_build_that_is_aborted_again_and_again_ends_the_run(database: Any, monkeypatch: Any) -> None:
    """The run ends with an error, rather than trying for ever. What was done stays."""
    monkeypatch.setattr("indexes.applier._POLL_SECONDS", 0.001)
    async with failing(database, "createIndexes", mode={"times": 1000}, errorCode=276):
        with pytest.raises(Unsettled, match="somebody else"):
            await apply(database)
    await apply(database)
    assert (await check(database)).is_as_declared
