"""Every call from every status: what the table allows passes, all else is refused and changes nothing."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from sessions import (
    ActiveScheduleSessionSnapshot,
    ApplyClaim,
    ConflictReason,
    InvalidTransition,
    LeaseLost,
    RerunClaim,
    SessionError,
    SessionRepository,
    SessionStatus,
    StalePreview,
    TransitionConflict,
)
from sessions.domain.lifecycle import CALLS, ENDED, LEASES, LIFECYCLE, CallName, LeaseKind
from sessions.testing import MovedClock, SessionMaker, StoredDocument

Result = ActiveScheduleSessionSnapshot | RerunClaim | ApplyClaim
Doing = Callable[[SessionRepository, ActiveScheduleSessionSnapshot, Any], Awaitable[Result]]


def _preview(session: ActiveScheduleSessionSnapshot) -> str:
    return session.current_preview_id or "no-such-preview"


CALLS_ON_A_SESSION: dict[CallName, Doing] = {
    CallName.BIND_CONVERSATION: lambda r, s, _: r.bind_conversation(s.session_id, "bound", user_id=1),
    CallName.RECORD_NOTIFICATION: lambda r, s, _: r.record_notification(s.session_id, "n", user_id=1),
    CallName.CLAIM_RERUN: lambda r, s, _: r.claim_rerun(s.session_id, user_id=1, reply_id="new"),
    CallName.CLAIM_REFINEMENT: lambda r, s, _: r.claim_refinement(
        s.session_id, user_id=1, preview_id=_preview(s), reply_id="new"
    ),
    CallName.CLAIM_APPLY: lambda r, s, _: r.claim_apply(s.session_id, user_id=1, preview_id=_preview(s)),
    CallName.RENEW: lambda r, _, c: r.renew(c),
    CallName.RELEASE: lambda r, _, c: r.release(c),
    CallName.POSTPONE: lambda r, _, c: r.postpone(c, after=timedelta(seconds=5)),
    CallName.ASK_AGAIN: lambda r, _, c: r.ask_again(c, pending_question="And?"),
    CallName.PRESENT_PREVIEW: lambda r, _, c: r.present_preview(c, preview_id="fresh"),
    CallName.CLOSE_RERUN: lambda r, _, c: r.close_rerun(c),
    CallName.FAIL_RERUN: lambda r, _, c: r.fail_rerun(c, reason="broken"),
    CallName.COMPLETE_APPLY: lambda r, _, c: r.complete_apply(c),
    CallName.FAIL_APPLY: lambda r, _, c: r.fail_apply(c, reason="broken"),
    CallName.INTERRUPT: lambda r, s, _: r.interrupt(s.session_id, user_id=1),
    CallName.APPLY: lambda r, s, _: r.apply(s.session_id, user_id=1, preview_id=_preview(s)),
    CallName.IGNORE: lambda r, s, _: r.ignore(s.session_id, user_id=1),
    CallName.FAIL: lambda r, s, _: r.fail(s.session_id, user_id=1, reason="broken"),
}
NAMES_A_PREVIEW = {CallName.CLAIM_REFINEMENT, CallName.CLAIM_APPLY, CallName.APPLY}


def test_no_call_is_forgotten() -> None:
    """A new call in the table has a case here."""
    assert set(CALLS_ON_A_SESSION) == set(CALLS)


async def _held(make_session: SessionMaker, kind: LeaseKind) -> RerunClaim | ApplyClaim:
    if kind is LeaseKind.APPLY:
        return await make_session.apply_claim()
    return await (make_session.claim() if kind is LeaseKind.REPLY else make_session.refinement())


async def _refused(
    call: Awaitable[Result], expected: tuple[type[SessionError], str], session: ActiveScheduleSessionSnapshot
) -> None:
    kind, reason = expected
    with pytest.raises(kind) as refusal:
        await call
    assert type(refusal.value) is kind
    assert refusal.value.status is session.status
    assert refusal.value.session == session
    assert (refusal.value.session_id, refusal.value.user_id) == (session.session_id, 1)
    assert refusal.value.revision == session.revision
    assert getattr(refusal.value, "reason", "") == reason


async def _carried_out(
    repository: SessionRepository, call: CallName, result: Result, before: ActiveScheduleSessionSnapshot
) -> None:
    after = result if isinstance(result, ActiveScheduleSessionSnapshot) else result.session
    if (entered := CALLS[call].enters) is not None:
        assert after.status is entered
        assert entered in LIFECYCLE[before.status].leads_to
    assert after.revision == before.revision + 1
    assert after == await repository.get(before.session_id, user_id=1)


OPEN = [name for name, rule in CALLS.items() if not rule.by_holder]


def refusal_of(call: CallName, status: SessionStatus, preview_id: str | None) -> tuple[type[SessionError], str] | None:
    """The first refusal that the design's order gives; None where the call passes."""
    rule = CALLS[call]
    if call in NAMES_A_PREVIEW and preview_id is None:
        return StalePreview, ""
    if rule.is_claim and status is SessionStatus.RERUNNING:
        return TransitionConflict, ConflictReason.IN_PROGRESS
    return None if status in rule.starts_from else (InvalidTransition, "")


@pytest.mark.parametrize("status", list(SessionStatus))
@pytest.mark.parametrize("call", OPEN)
async def test_each_call_from_each_status(
    repository: SessionRepository,
    make_session: SessionMaker,
    stored: StoredDocument,
    call: CallName,
    status: SessionStatus,
) -> None:
    """Allowed: the status entered is the table's. Refused: the typed error with the status, and not a byte changed."""
    session = await make_session(status)
    before = await stored(session.session_id)
    expected = refusal_of(call, status, session.current_preview_id)
    doing = CALLS_ON_A_SESSION[call](repository, session, None)
    if expected is None:
        await _carried_out(repository, call, await doing, session)
        return
    await _refused(doing, expected, session)
    assert await stored(session.session_id) == before


HOLDERS = [(name, kind) for name, rule in CALLS.items() for kind in LeaseKind if kind in rule.held]


@pytest.mark.slow
@pytest.mark.parametrize("status", list(SessionStatus))
@pytest.mark.parametrize(("call", "kind"), HOLDERS)
async def test_each_holders_call_from_each_status(
    repository: SessionRepository,
    make_session: SessionMaker,
    stored: StoredDocument,
    call: CallName,
    kind: LeaseKind,
    status: SessionStatus,
) -> None:
    """Where its lease is held a holder's call passes; on a session that has moved on it meets a lost lease."""
    claim = await _held(make_session, kind)
    if status is LEASES[kind].held_in:
        session = claim.session
        await _carried_out(repository, call, await CALLS_ON_A_SESSION[call](repository, session, claim), session)
        return
    session = await make_session(status)
    # A claim on this very session, which it has moved on from.
    gone = replace(claim, session=session, token=session.fencing_token + 1)
    before = await stored(session.session_id)
    await _refused(CALLS_ON_A_SESSION[call](repository, session, gone), (LeaseLost, ""), session)
    assert await stored(session.session_id) == before


APPLYING: dict[CallName, ConflictReason] = {
    CallName.CLAIM_RERUN: ConflictReason.IN_PROGRESS,
    CallName.CLAIM_REFINEMENT: ConflictReason.IN_PROGRESS,
    CallName.CLAIM_APPLY: ConflictReason.IN_PROGRESS,
    CallName.INTERRUPT: ConflictReason.APPLYING,
    CallName.APPLY: ConflictReason.APPLYING,
    CallName.IGNORE: ConflictReason.APPLYING,
    CallName.FAIL: ConflictReason.APPLYING,
}


@pytest.mark.parametrize("live", [True, False])
@pytest.mark.parametrize("call", OPEN)
async def test_each_call_while_a_yes_is_being_applied(
    repository: SessionRepository,
    make_session: SessionMaker,
    session_clock: MovedClock,
    stored: StoredDocument,
    call: CallName,
    *,
    live: bool,
) -> None:
    """What would end, change or rerun it is refused, the lease live or lapsed; only its own claim takes over."""
    claim = await make_session.apply_claim()
    session = claim.session
    if not live:
        session_clock.at = claim.expires_at
    before = await stored(session.session_id)
    doing = CALLS_ON_A_SESSION[call](repository, session, None)
    if call not in APPLYING or (call is CallName.CLAIM_APPLY and not live):
        await _carried_out(repository, call, await doing, session)
        return
    await _refused(doing, (TransitionConflict, APPLYING[call] if live else ConflictReason.APPLYING), session)
    assert await stored(session.session_id) == before


OPEN_TO_ANYONE = [
    name for name, rule in CALLS.items() if not rule.by_holder and name is not CallName.RECORD_NOTIFICATION
]


@pytest.mark.parametrize("status", [SessionStatus.WAITING_USER_REPLY, SessionStatus.READY_PREVIEW])
@pytest.mark.parametrize("call", OPEN_TO_ANYONE)
async def test_an_expired_session_refuses_as_if_swept(
    repository: SessionRepository,
    make_session: SessionMaker,
    session_clock: MovedClock,
    stored: StoredDocument,
    call: CallName,
    status: SessionStatus,
) -> None:
    """A call on it says ``expired``, carries what is stored, and writes nothing."""
    session = await make_session(status, expires_at=session_clock() + timedelta(seconds=1))
    session_clock.advance(seconds=1)
    before = await stored(session.session_id)
    stale = call in NAMES_A_PREVIEW and session.current_preview_id is None
    with pytest.raises(StalePreview if stale else InvalidTransition) as refusal:
        await CALLS_ON_A_SESSION[call](repository, session, None)
    assert refusal.value.status is SessionStatus.EXPIRED
    assert refusal.value.session == session
    assert await stored(session.session_id) == before


@pytest.mark.parametrize("status", sorted(ENDED))
async def test_nothing_leads_out_of_an_end(
    repository: SessionRepository, make_session: SessionMaker, session_clock: MovedClock, status: SessionStatus
) -> None:
    """Sweeps leave ended sessions alone, however long they lie."""
    session = await make_session(status)
    session_clock.advance(days=30)
    assert await repository.expire_due() == 0
    assert await repository.recover_stalled() == 0
    assert await repository.get(session.session_id, user_id=1) == session
