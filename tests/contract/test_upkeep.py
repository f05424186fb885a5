"""The sweeps in the background: they end what is due, finish what was confirmed, and outlive a failing server."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, Final

import pytest

from sessions import (
    ActiveScheduleSessionSnapshot,
    ApplyClaim,
    InvalidSessionInput,
    SessionRepository,
    SessionStatus,
    StoreUnavailable,
    Upkeep,
)
from sessions.bridge import upkeep
from sessions.domain.errors import SessionRef, WriteOutcome
from sessions.testing import MovedClock, SessionMaker

OFTEN: Final = timedelta(milliseconds=10)


async def until(holds: Callable[[], Awaitable[bool]], *, seconds: float = 20) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(seconds):
        while not await holds():  # noqa: ASYNC110 - what holds is seen in the store only
            await asyncio.sleep(0.01)


class WriteBack:
    """Counts what is written, once for each key."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.keys: list[str] = []

    async def __call__(self, claim: ApplyClaim) -> None:
        """Write one."""
        self.keys.append(claim.idempotency_key)
        if self.errors:
            raise self.errors.pop(0)


async def test_it_sweeps(repository: SessionRepository, make_session: SessionMaker, session_clock: MovedClock) -> None:
    """What is due ends, what dead workers hold is given back, and what waits as long as it takes is left alone."""
    due = await make_session(expires_at=session_clock() + timedelta(seconds=30))
    reply = (await make_session.claim()).session
    refinement = (await make_session.refinement()).session
    waiting = await make_session()
    session_clock.advance(seconds=61)

    async def all_swept() -> bool:
        now = [await repository.get(each.session_id, user_id=1) for each in (due, reply, refinement)]
        return [each.status.value for each in now] == ["expired", "waiting_user_reply", "ready_preview"]

    async with Upkeep(repository, every=OFTEN):
        await until(all_swept)
    assert await repository.get(waiting.session_id, user_id=1) == waiting


async def test_it_finishes_what_was_confirmed(
    repository: SessionRepository, make_session: SessionMaker, session_clock: MovedClock
) -> None:
    """A yes whose writer died is written back under the same key; without a write-back it is left to a confirmation."""
    dead = await make_session.apply_claim()
    live = await make_session.apply_claim(lease=timedelta(hours=1))
    session_clock.advance(seconds=61)

    async def applied() -> bool:
        return (await repository.get(dead.session.session_id, user_id=1)).status is SessionStatus.APPLIED

    async with Upkeep(repository, every=OFTEN):
        await asyncio.sleep(0.1)
    assert not await applied()
    write_back = WriteBack()
    async with Upkeep(repository, every=OFTEN, write_back=write_back):
        await until(applied)
    assert write_back.keys == [dead.idempotency_key]
    assert (await repository.get(live.session.session_id, user_id=1)).lease == live.session.lease


async def test_a_write_back_that_fails(
    repository: SessionRepository, make_session: SessionMaker, session_clock: MovedClock
) -> None:
    """It ends its own session as failed; the others are finished all the same."""
    for _ in range(3):
        await make_session.apply_claim()
    session_clock.advance(seconds=61)

    async def all_ended() -> bool:
        counted = await repository.count_by_status()
        return (counted[SessionStatus.APPLIED], counted[SessionStatus.FAILED]) == (2, 1)

    async with Upkeep(repository, every=OFTEN, write_back=WriteBack(ValueError())):
        await until(all_ended)


async def test_many_write_backs_were_interrupted(
    repository: SessionRepository,
    make_session: SessionMaker,
    session_clock: MovedClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """They are finished batch by batch; one that cannot be claimed now keeps nobody else, and is not lost."""
    monkeypatch.setattr(upkeep, "_BATCH", 2)
    for _ in range(5):
        await make_session.apply_claim()
    session_clock.advance(seconds=61)
    claim_apply = repository.claim_apply
    errors: list[Exception] = [
        StoreUnavailable(SessionRef(), outcome=WriteOutcome.NOT_WRITTEN, cause="made so"),
        ValueError("private words"),
    ]

    async def fail_first(*ids: str, **more: Any) -> ApplyClaim:
        if errors:
            raise errors.pop()
        return await claim_apply(*ids, **more)

    monkeypatch.setattr(repository, "claim_apply", fail_first)

    async def all_applied() -> bool:
        return (await repository.count_by_status())[SessionStatus.APPLIED] == 5

    async with Upkeep(repository, every=OFTEN, write_back=WriteBack()):
        await until(all_applied)
    assert "made so" in caplog.text
    assert "ValueError" in caplog.text
    assert "private words" not in caplog.text


async def test_it_outlives_a_failing_server(
    repository: SessionRepository,
    make_session: SessionMaker,
    session_clock: MovedClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Rounds that fail, for whatever reason, are followed by others, which do what those could not."""
    due = await make_session(expires_at=session_clock() + timedelta(seconds=1))
    dead = await make_session.apply_claim()
    session_clock.advance(seconds=61)
    expire_due, interrupted_applies = repository.expire_due, repository.interrupted_applies
    errors: list[Exception] = [
        StoreUnavailable(SessionRef(), outcome=WriteOutcome.UNKNOWN, cause="made so"),
        ValueError("private words"),
    ]
    more = list(errors)

    async def fail_first(**limits: int) -> int:
        if errors:
            raise errors.pop()
        return await expire_due(**limits)

    async def fail_first_too(**limits: int) -> list[ActiveScheduleSessionSnapshot]:
        if more:
            raise more.pop()
        return await interrupted_applies(**limits)

    monkeypatch.setattr(repository, "expire_due", fail_first)
    monkeypatch.setattr(repository, "interrupted_applies", fail_first_too)

    async def both_ended() -> bool:
        return all([(await repository.get(each.session_id, user_id=1)).status.is_final for each in (due, dead.session)])

    with caplog.at_level(logging.DEBUG):
        async with Upkeep(repository, every=OFTEN, write_back=WriteBack()):
            await until(both_ended)
    assert "made so" in caplog.text
    assert "ValueError" in caplog.text
    assert "private words" not in caplog.text


async def test_a_write_back_that_hangs_holds_nobody_up(
    repository: SessionRepository, make_session: SessionMaker, session_clock: MovedClock
) -> None:
    """What was interrupted later is finished meanwhile; the one that hangs takes one place."""
    first = await make_session.apply_claim()
    session_clock.advance(seconds=61)
    started = asyncio.Event()
    written: list[str] = []

    async def write(claim: ApplyClaim) -> None:
        if claim.session.session_id == first.session.session_id:
            started.set()
            await asyncio.Event().wait()
        written.append(claim.session.session_id)

    async with Upkeep(repository, every=OFTEN, write_back=write):
        await started.wait()
        # Lapsed when it is made, so that the clock does not pass the lease of the one that hangs.
        later = await make_session.apply_claim(lease=timedelta(milliseconds=1))
        session_clock.advance(seconds=0.001)

        async def is_applied() -> bool:
            return (await repository.get(later.session.session_id, user_id=1)).status is SessionStatus.APPLIED

        await until(is_applied)
    assert written == [later.session.session_id]
    assert (await repository.get(first.session.session_id, user_id=1)).lease is not None


async def test_it_stops(repository: SessionRepository, make_session: SessionMaker, session_clock: MovedClock) -> None:
    """Leaving the block ends every task, stops a write-back under way and keeps its claim; nothing happens after."""
    dead = await make_session.apply_claim()
    session_clock.advance(seconds=61)
    started = asyncio.Event()
    before = asyncio.all_tasks()

    async def hang(claim: ApplyClaim) -> None:
        started.set()
        await asyncio.Event().wait()
        raise AssertionError(claim)

    async with Upkeep(repository, every=OFTEN, write_back=hang):
        await started.wait()
    assert {task for task in asyncio.all_tasks() - before if "upkeep" in task.get_name()} == set()
    left = await repository.get(dead.session.session_id, user_id=1)
    assert left.lease is not None
    assert left.fencing_token == dead.token + 1
    due = await make_session(expires_at=session_clock() + timedelta(seconds=1))
    session_clock.advance(seconds=1)
    await asyncio.sleep(0.05)
    assert (await repository.get(due.session_id, user_id=1)).status is SessionStatus.WAITING_USER_REPLY


async def test_it_stops_with_its_block(repository: SessionRepository) -> None:
    """An error in the block leaves it as it is; the upkeep ends."""
    before = asyncio.all_tasks()
    with pytest.raises(KeyError):
        async with Upkeep(repository, every=OFTEN):
            raise KeyError
    if left := asyncio.all_tasks() - before:
        # A read that PyMongo Async has in its hands is not cancelled; it ends by itself, as no upkeep would.
        _, pending = await asyncio.wait(left, timeout=20)
        assert not pending


async def test_its_pauses_are_spread(repository: SessionRepository) -> None:
    """Processes that start together do not sweep together; after failures the pauses grow, up to a bound."""
    upkeep = Upkeep(repository, every=timedelta(seconds=10))
    for failures, longest in ((0, 10), (1, 20), (2, 40), (3, 80), (50, 80), (5_000, 80)):
        pauses = {_nth_pause(upkeep, failures) for _ in range(50)}
        assert len(pauses) > 1
        assert all(longest * 0.75 <= pause <= longest * 1.25 for pause in pauses)


def _nth_pause(upkeep: Upkeep, failures: int) -> float:
    pauses = upkeep._pauses()
    for _ in range(failures):
        pauses.next()
    return pauses.next()


def test_bad_construction(repository: SessionRepository) -> None:
    """Arguments outside their limits are refused when it is made, not when it runs."""
    wrong: Any = "often"
    with pytest.raises(InvalidSessionInput, match="every"):
        Upkeep(repository, every=wrong)
    with pytest.raises(InvalidSessionInput, match="write_back"):
        Upkeep(repository, write_back=wrong)
