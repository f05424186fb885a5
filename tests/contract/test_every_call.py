"""Every call from every status: what the table allows passes, all else is refused and changes nothing."""

from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest

from sessions import (
    ActiveScheduleSessionSnapshot,
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
from sessions.status import CALLS, ENDED, LIFECYCLE, CallName, LeaseKind
from sessions.testing import MovedClock, SessionMaker, StoredDocument

Result = ActiveScheduleSessionSnapshot | RerunClaim
Doing = Callable[[SessionRepository, ActiveScheduleSessionSnapshot, RerunClaim], Awaitable[Result]]


def _preview(session: ActiveScheduleSessionSnapshot) -> str:
    return session.current_preview_id or "no-such-preview"


CALLS_ON_A_SESSION: dict[CallName, Doing] = {
    CallName.BIND_CONVERSATION: lambda r, s, _: r.bind_conversation(s.session_id, "bound", user_id=1),
    CallName.RECORD_NOTIFICATION: lambda r, s, _: r.record_notification(s.session_id, "n", user_id=1),
    CallName.CLAIM_RERUN: lambda r, s, _: r.claim_rerun(s.session_id, user_id=1, reply_id="new"),
    CallName.CLAIM_REFINEMENT: lambda r, s, _: r.claim_refinement(
        s.session_id, user_id=1, preview_id=_preview(s), reply_id="new"
    ),
    CallName.RENEW: lambda r, _, c: r.renew(c),
    CallName.RELEASE: lambda r, _, c: r.release(c),
    CallName.ASK_AGAIN: lambda r, _, c: r.ask_again(c, pending_question="And?"),
    CallName.PRESENT_PREVIEW: lambda r, _, c: r.present_preview(c, preview_id="fresh"),
    CallName.CLOSE_RERUN: lambda r, _, c: r.close_rerun(c),
    CallName.FAIL_RERUN: lambda r, _, c: r.fail_rerun(c, reason="broken"),
    CallName.APPLY: lambda r, s, _: r.apply(s.session_id, user_id=1, preview_id=_preview(s)),
    CallName.IGNORE: lambda r, s, _: r.ignore(s.session_id, user_id=1),
    CallName.FAIL: lambda r, s, _: r.fail(s.session_id, user_id=1, reason="broken"),
}
NAMES_A_PREVIEW = {CallName.CLAIM_REFINEMENT, CallName.APPLY}


def test_no_call_is_forgotten() -> None:
    """A new call in the table has a case here."""
    assert set(CALLS_ON_A_SESSION) == set(CALLS)


def refusal_of(call: CallName, status: SessionStatus, preview_id: str | None) -> tuple[type[SessionError], str] | None:
    """The first refusal that the design's order gives; None where the call passes."""
    rule = CALLS[call]
    if rule.by_holder:
        return None if status is SessionStatus.RERUNNING else (LeaseLost, "")
    if call in NAMES_A_PREVIEW and preview_id is None:
        return StalePreview, ""
    if rule.is_claim and status is SessionStatus.RERUNNING:
        return TransitionConflict, ConflictReason.IN_PROGRESS
    return None if status in rule.starts_from else (InvalidTransition, "")


@pytest.mark.parametrize("status", list(SessionStatus))
@pytest.mark.parametrize("call", list(CALLS_ON_A_SESSION))
async def test_each_call_from_each_status(
    repository: SessionRepository,
    make_session: SessionMaker,
    stored: StoredDocument,
    call: CallName,
    status: SessionStatus,
) -> None:
    """Allowed: the status entered is the table's. Refused: the typed error with the status, and not a byte changed."""
    claim = await make_session.claim()
    session = claim.session if status is SessionStatus.RERUNNING else await make_session(status)
    if status is not SessionStatus.RERUNNING:
        # A holder's call needs a claim on this very session: one that the session has since moved on from.
        claim = RerunClaim(
            session=session,
            kind=LeaseKind.REPLY,
            token=session.fencing_token + 1,
            operation_id="gone",
            reply_id="gone",
            attempt=1,
            expires_at=session.updated_at,
            lease=timedelta(seconds=1),
        )
    before = await stored(session.session_id)
    expected = refusal_of(call, status, session.current_preview_id)
    if expected is None:
        result = await CALLS_ON_A_SESSION[call](repository, session, claim)
        after = result.session if isinstance(result, RerunClaim) else result
        if (entered := CALLS[call].enters) is not None:
            assert after.status is entered
            assert entered in LIFECYCLE[status].leads_to
        assert after.revision == session.revision + 1
        assert after == await repository.get(session.session_id, user_id=1)
        return
    kind, reason = expected
    with pytest.raises(kind) as refusal:
        await CALLS_ON_A_SESSION[call](repository, session, claim)
    assert type(refusal.value) is kind
    assert refusal.value.status is status
    assert refusal.value.session == session
    assert (refusal.value.session_id, refusal.value.user_id) == (session.session_id, 1)
    assert refusal.value.revision == session.revision
    assert getattr(refusal.value, "reason", "") == reason
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
        await CALLS_ON_A_SESSION[call](repository, session, None)  # type: ignore[arg-type]  # no holder's call here
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
