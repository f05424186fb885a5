"""A confirmed preview: written back once, under one key, whoever clicks twice, breaks, dies or is stopped."""

import asyncio
import logging
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest

from sessions import (
    ActiveScheduleSessionSnapshot,
    Applied,
    ApplyClaim,
    ApplyFailed,
    ConflictReason,
    Held,
    InvalidSessionInput,
    InvalidTransition,
    LeaseLost,
    NotAnAnswer,
    SessionBridge,
    SessionNotFound,
    SessionRepository,
    SessionStatus,
    StalePreview,
    StoreUnavailable,
    Superseded,
    TimedOut,
    TransitionConflict,
    Turn,
    open_repository,
)
from sessions.domain.errors import SessionRef, WriteOutcome
from sessions.testing import MovedClock

if TYPE_CHECKING:
    from sessions.store.clients import Database

PRIVATE: Final = "my doctor's name"


async def no_graph(turn: Turn) -> NotAnAnswer:
    """A confirmation runs no graph."""
    raise AssertionError(turn)


class Schedule:
    """Where a confirmed preview is written, once for each key; it can hold up or break."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.claims: list[ApplyClaim] = []
        self.written: dict[str, str | None] = {}
        self.gate: asyncio.Event | None = None
        self.started = asyncio.Event()
        self.stopped = False

    async def __call__(self, claim: ApplyClaim) -> None:
        """Write a preview."""
        self.claims.append(claim)
        self.started.set()
        try:
            if self.gate is not None:
                await self.gate.wait()
        except asyncio.CancelledError:
            self.stopped = True
            raise
        if self.errors:
            raise self.errors.pop(0)
        self.written.setdefault(claim.idempotency_key, claim.session.current_preview_id)


async def shown(repository: SessionRepository, **more: Any) -> ActiveScheduleSessionSnapshot:
    """A session of user 1 that shows ``preview-1`` in conversation ``c``."""
    return await repository.create(1, "t", conversation_id="c", preview_id="preview-1", **more)


async def test_a_confirmation_is_written_back_once(repository: SessionRepository) -> None:
    """The preview is written under its key, the session ends applied, and a second click changes nothing."""
    session = await shown(repository)
    schedule = Schedule()
    bridge = SessionBridge(repository, no_graph, write_back=schedule)
    outcome = await bridge.confirm(1, session.session_id, preview_id="preview-1")
    assert isinstance(outcome, Applied)
    assert outcome.session == await repository.get(session.session_id, user_id=1)
    assert outcome.session.status is SessionStatus.APPLIED
    assert outcome.session.lease is None
    assert schedule.written == {f"{session.key_prefix}:preview-1": "preview-1"}
    assert await bridge.confirm(1, session.session_id, preview_id="preview-1") == outcome
    assert len(schedule.claims) == 1


async def test_without_a_write_back_it_is_apply(repository: SessionRepository) -> None:
    """A bridge that has nothing to write ends the session in one write; twice is once, and a yes at work is held."""
    session = await shown(repository)
    bridge = SessionBridge(repository, no_graph)
    claim = await repository.claim_apply(session.session_id, user_id=1, preview_id="preview-1")
    assert isinstance(await bridge.confirm(1, session.session_id, preview_id="preview-1"), Held)
    await repository.release(claim)
    outcome = await bridge.confirm(1, session.session_id, preview_id="preview-1")
    assert isinstance(outcome, Applied)
    assert (await repository.history(session.session_id, user_id=1))[-1].call == "apply"
    assert await bridge.confirm(1, session.session_id, preview_id="preview-1") == outcome
    with pytest.raises(StalePreview):
        await bridge.confirm(1, session.session_id, preview_id="preview-2")


async def test_ten_clicks_at_once_write_once(repository: SessionRepository) -> None:
    """Double clicks and two tabs: one writes, the others are held or told that it is applied."""
    session = await shown(repository)
    schedule = Schedule()
    bridge = SessionBridge(repository, no_graph, write_back=schedule)
    outcomes = await asyncio.gather(*(bridge.confirm(1, session.session_id, preview_id="preview-1") for _ in range(10)))
    assert {type(outcome) for outcome in outcomes} <= {Applied, Held}
    assert len(schedule.claims) == 1


async def test_while_a_yes_is_applied(repository: SessionRepository) -> None:
    """Confirming, dismissing and changing wait for what the user has confirmed; chat is free."""
    session = await shown(repository)
    schedule = Schedule()
    schedule.gate = asyncio.Event()
    bridge = SessionBridge(repository, no_graph, write_back=schedule)
    first = asyncio.create_task(bridge.confirm(1, session.session_id, preview_id="preview-1"))
    await schedule.started.wait()
    assert isinstance(await bridge.confirm(1, session.session_id, preview_id="preview-1"), Held)
    assert isinstance(await bridge.dismiss(1, session.session_id), Held)
    change = await bridge.refine(1, session.session_id, "later", preview_id="preview-1", message_id="m1")
    assert isinstance(change, Held)
    assert (await repository.route(1, "c")).action == "free_chat"
    schedule.gate.set()
    assert isinstance(await first, Applied)


async def test_confirmations_that_are_refused(repository: SessionRepository) -> None:
    """A preview that was replaced, a session that has ended otherwise or is another user's: raised, nothing written."""
    session = await shown(repository)
    schedule = Schedule()
    bridge = SessionBridge(repository, no_graph, write_back=schedule)
    with pytest.raises(StalePreview):
        await bridge.confirm(1, session.session_id, preview_id="preview-0")
    with pytest.raises(SessionNotFound):
        await bridge.confirm(2, session.session_id, preview_id="preview-1")
    for bad in ("", "x" * 129, None):
        wrong: Any = bad
        with pytest.raises(InvalidSessionInput, match="preview_id"):
            await bridge.confirm(1, session.session_id, preview_id=wrong)
    claim = await repository.claim_refinement(session.session_id, user_id=1, preview_id="preview-1", reply_id="m")
    assert isinstance(await bridge.confirm(1, session.session_id, preview_id="preview-1"), Held)
    await repository.release(claim)
    await repository.ignore(session.session_id, user_id=1)
    with pytest.raises(InvalidTransition):
        await bridge.confirm(1, session.session_id, preview_id="preview-1")
    assert not schedule.claims


@pytest.mark.parametrize("error", [ValueError(PRIVATE), asyncio.CancelledError(PRIVATE)])
async def test_a_failing_write_back(
    repository: SessionRepository, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    """It ends the session as failed, with the exception's type and not its text; confirming again comes too late."""
    session = await shown(repository)
    bridge = SessionBridge(repository, no_graph, write_back=Schedule(error))
    with caplog.at_level(logging.DEBUG):
        outcome = await bridge.confirm(1, session.session_id, preview_id="preview-1")
    assert isinstance(outcome, ApplyFailed)
    assert outcome.session.status is SessionStatus.FAILED
    assert outcome.session.state.failed_reason == f"the write-back raised {type(error).__name__}"
    assert PRIVATE not in caplog.text
    with pytest.raises(InvalidTransition):
        await bridge.confirm(1, session.session_id, preview_id="preview-1")


async def test_after_its_writer_died(repository: SessionRepository, session_clock: MovedClock) -> None:
    """The next click finishes under the same key, so that what the dead writer wrote is not written twice."""
    session = await shown(repository)
    dead = await repository.claim_apply(session.session_id, user_id=1, preview_id="preview-1")
    schedule = Schedule()
    schedule.written[dead.idempotency_key] = "written by the dead"
    bridge = SessionBridge(repository, no_graph, write_back=schedule)
    assert isinstance(await bridge.confirm(1, session.session_id, preview_id="preview-1"), Held)
    session_clock.at = dead.expires_at
    assert isinstance(await bridge.dismiss(1, session.session_id), Held)
    assert isinstance(await bridge.confirm(1, session.session_id, preview_id="preview-1"), Applied)
    assert schedule.written == {dead.idempotency_key: "written by the dead"}
    assert [claim.attempt for claim in schedule.claims] == [2]


async def test_a_write_back_that_kills_its_writers(
    database: "Database", repository: SessionRepository, session_clock: MovedClock
) -> None:
    """After `max_attempts` dead writers the next click learns that the session has failed, and writes nothing."""
    session = await shown(repository)
    few = await open_repository(database, clock=session_clock, max_attempts=1)
    dead = await few.claim_apply(session.session_id, user_id=1, preview_id="preview-1")
    session_clock.at = dead.expires_at
    schedule = Schedule()
    outcome = await SessionBridge(few, no_graph, write_back=schedule).confirm(
        1, session.session_id, preview_id="preview-1"
    )
    assert isinstance(outcome, ApplyFailed)
    assert outcome.session.status is SessionStatus.FAILED
    assert not schedule.claims


async def test_cancelled_while_it_writes(repository: SessionRepository, session_clock: MovedClock) -> None:
    """The write-back is stopped and its claim kept, since nobody can tell what was written; the next click finishes."""
    session = await shown(repository)
    schedule = Schedule()
    schedule.gate = asyncio.Event()
    bridge = SessionBridge(repository, no_graph, write_back=schedule)
    confirming = asyncio.create_task(bridge.confirm(1, session.session_id, preview_id="preview-1"))
    await schedule.started.wait()
    confirming.cancel()
    with pytest.raises(asyncio.CancelledError):
        await confirming
    assert schedule.stopped
    left = (await repository.get(session.session_id, user_id=1)).lease
    assert left is not None
    assert left.kind == "apply"
    schedule.gate.set()
    assert isinstance(await bridge.confirm(1, session.session_id, preview_id="preview-1"), Held)
    session_clock.at = left.expires_at
    assert isinstance(await bridge.confirm(1, session.session_id, preview_id="preview-1"), Applied)
    assert len({claim.idempotency_key for claim in schedule.claims}) == 1


async def confirmed_and_cancelled(
    bridge: SessionBridge,
    repository: SessionRepository,
    session: ActiveScheduleSessionSnapshot,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A click that is cancelled when it has its claim, before its write-back begins."""
    claim_apply = repository.claim_apply

    async def claim_then_cancelled(*args: Any, **more: Any) -> ApplyClaim:
        claim = await claim_apply(*args, **more)
        confirming.cancel()
        return claim

    with monkeypatch.context() as patched:
        patched.setattr(repository, "claim_apply", claim_then_cancelled)
        confirming = asyncio.create_task(bridge.confirm(1, session.session_id, preview_id="preview-1"))
        with pytest.raises(asyncio.CancelledError):
            await confirming


async def test_cancelled_before_it_writes(repository: SessionRepository, monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim whose write-back has not begun is given back: the preview is as it was, for the next click at once."""
    session = await shown(repository)
    schedule = Schedule()
    bridge = SessionBridge(repository, no_graph, write_back=schedule)
    await confirmed_and_cancelled(bridge, repository, session, monkeypatch)
    assert not schedule.claims
    assert (await repository.get(session.session_id, user_id=1)).lease is None
    assert isinstance(await bridge.confirm(1, session.session_id, preview_id="preview-1"), Applied)


async def test_a_takeover_cancelled_before_it_writes(
    repository: SessionRepository, session_clock: MovedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever held the claim before may have written: the confirmation stands, and the next click finishes it."""
    session = await shown(repository)
    dead = await repository.claim_apply(session.session_id, user_id=1, preview_id="preview-1")
    session_clock.at = dead.expires_at
    schedule = Schedule()
    bridge = SessionBridge(repository, no_graph, write_back=schedule)
    await confirmed_and_cancelled(bridge, repository, session, monkeypatch)
    assert not schedule.claims
    assert isinstance(await bridge.dismiss(1, session.session_id), Held)
    session_clock.advance(milliseconds=1)
    assert isinstance(await bridge.confirm(1, session.session_id, preview_id="preview-1"), Applied)


async def test_a_write_back_that_takes_too_long(repository: SessionRepository, session_clock: MovedClock) -> None:
    """It is stopped at `max_rerun` and its claim left to lapse; the next click finishes under the same key."""
    session = await shown(repository)
    schedule = Schedule()
    schedule.gate = asyncio.Event()
    bridge = SessionBridge(repository, no_graph, write_back=schedule, max_rerun=timedelta(milliseconds=20))
    outcome = await bridge.confirm(1, session.session_id, preview_id="preview-1")
    assert isinstance(outcome, TimedOut)
    assert schedule.stopped
    schedule.gate.set()
    left = (await repository.get(session.session_id, user_id=1)).lease
    assert left is not None
    session_clock.at = left.expires_at
    assert isinstance(await bridge.confirm(1, session.session_id, preview_id="preview-1"), Applied)


async def test_taken_over_while_it_writes(repository: SessionRepository, session_clock: MovedClock) -> None:
    """A writer whose lease was taken over learns it at the end, and records nothing."""
    session = await shown(repository)
    slow, quick = Schedule(), Schedule()
    slow.gate = asyncio.Event()
    first = asyncio.create_task(
        SessionBridge(repository, no_graph, write_back=slow).confirm(1, session.session_id, preview_id="preview-1")
    )
    await slow.started.wait()
    session_clock.advance(seconds=61)
    second = await SessionBridge(repository, no_graph, write_back=quick).confirm(
        1, session.session_id, preview_id="preview-1"
    )
    assert isinstance(second, Applied)
    slow.gate.set()
    outcome = await first
    assert isinstance(outcome, Superseded)
    assert outcome.session == second.session
    assert slow.claims[0].idempotency_key == quick.claims[0].idempotency_key


async def test_a_lease_that_cannot_be_renewed(
    database: "Database",
    repository: SessionRepository,
    session_clock: MovedClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A failed renewal stops the write-back before the lease lapses, and the claim is not given back."""
    session = await shown(repository)
    schedule = Schedule()
    schedule.gate = asyncio.Event()
    brief = await open_repository(database, clock=session_clock, lease=timedelta(milliseconds=600))

    async def unavailable(claim: ApplyClaim) -> ApplyClaim:
        raise StoreUnavailable(SessionRef(), outcome=WriteOutcome.UNKNOWN, cause=f"made so for {claim.kind}")

    monkeypatch.setattr(brief, "renew", unavailable)
    with pytest.raises(StoreUnavailable, match="made so"):
        await SessionBridge(brief, no_graph, write_back=schedule).confirm(1, session.session_id, preview_id="preview-1")
    assert schedule.stopped
    assert (await repository.get(session.session_id, user_id=1)).lease is not None


async def test_every_conflict_is_told_apart(repository: SessionRepository, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each reason that a claim can be refused for is an outcome; what a bridge cannot meet is raised, not hidden."""
    session = await shown(repository)
    bridge = SessionBridge(repository, no_graph, write_back=Schedule())
    about = SessionRef(session_id=session.session_id, session=session)
    outcomes: dict[ConflictReason, type | None] = dict.fromkeys(ConflictReason)
    outcomes |= {ConflictReason.ATTEMPTS_EXHAUSTED: ApplyFailed}
    outcomes |= dict.fromkeys((ConflictReason.IN_PROGRESS, ConflictReason.APPLYING, ConflictReason.RACED), Held)
    for reason, expected in outcomes.items():

        async def refuse(*_: Any, reason: ConflictReason = reason, **__: Any) -> ApplyClaim:
            raise TransitionConflict(about, reason=reason)

        monkeypatch.setattr(repository, "claim_apply", refuse)
        if expected is None:
            with pytest.raises(TransitionConflict):
                await bridge.confirm(1, session.session_id, preview_id="preview-1")
        else:
            outcome = await bridge.confirm(1, session.session_id, preview_id="preview-1")
            assert type(outcome) is expected

    async def lost(*_: Any, **__: Any) -> ApplyClaim:
        raise LeaseLost(about)

    monkeypatch.setattr(repository, "claim_apply", lost)
    assert isinstance(await bridge.confirm(1, session.session_id, preview_id="preview-1"), Superseded)


async def test_an_end_that_was_raced(
    repository: SessionRepository, monkeypatch: pytest.MonkeyPatch, session_clock: MovedClock
) -> None:
    """Where the end of a write-back could not be recorded for others its claim lapses, and the next click finishes."""
    session = await shown(repository)
    schedule = Schedule()
    bridge = SessionBridge(repository, no_graph, write_back=schedule)

    async def raced(*_: object, **__: object) -> None:
        raise TransitionConflict(
            SessionRef(session_id=session.session_id, session=session), reason=ConflictReason.RACED
        )

    monkeypatch.setattr(repository, "complete_apply", raced)
    assert isinstance(await bridge.confirm(1, session.session_id, preview_id="preview-1"), Held)
    monkeypatch.undo()
    session_clock.advance(seconds=60)
    assert isinstance(await bridge.confirm(1, session.session_id, preview_id="preview-1"), Applied)
    assert len(schedule.written) == 1


def test_bad_construction(repository: SessionRepository) -> None:
    """A write-back that cannot be called is refused when the bridge is made."""
    wrong: Any = "write it"
    with pytest.raises(InvalidSessionInput, match="write_back"):
        SessionBridge(repository, no_graph, write_back=wrong)
