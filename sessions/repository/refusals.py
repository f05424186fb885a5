"""Why a guarded write changed nothing: the order of refusals, applied to the session as it was read."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sessions.domain.errors import (
    ConflictReason,
    InvalidTransition,
    LeaseLost,
    SessionError,
    SessionNotFound,
    SessionRef,
    StalePreview,
    StaleReply,
    TransitionConflict,
)
from sessions.domain.expiry import counts_as, has_lapsed_lease, has_live_lease, question_stands
from sessions.domain.inputs import to_millisecond
from sessions.domain.lifecycle import ALL, CALLS, LEASES, CallName, LeaseKind, SessionStatus
from sessions.domain.models import ActiveScheduleSessionSnapshot, Claim, to_snapshot
from sessions.store.writes import Call


@dataclass(frozen=True, slots=True)
class Replayed:
    """The call was carried out before, under the same ``operation_id``."""

    session: ActiveScheduleSessionSnapshot


@dataclass(frozen=True, slots=True)
class Lapsed:
    """A lapsed refinement stands in the way: put it back, then try again."""

    session: ActiveScheduleSessionSnapshot


@dataclass(frozen=True, slots=True)
class Exhausted:
    """Too many reruns died: the session has to be ended."""

    session: ActiveScheduleSessionSnapshot


@dataclass(frozen=True, slots=True)
class Raced:
    """Nothing is wrong any more: try again."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The call is refused; ``after_governor`` where a busy conversation would be the earlier reason."""

    error: SessionError
    after_governor: bool = False


Verdict = Replayed | Lapsed | Exhausted | Raced | Refused


def reference(
    session: ActiveScheduleSessionSnapshot | None, *, session_id: str, user_id: int, at: datetime
) -> SessionRef:
    """What an error carries of a session; its status counts what has lapsed as swept."""
    if session is None:
        return SessionRef(session_id=session_id, user_id=user_id)
    return SessionRef(
        session_id=session_id,
        user_id=user_id,
        status=counts_as(session, at),
        revision=session.revision,
        session=session,
    )


def _holds(session: ActiveScheduleSessionSnapshot, claim: Claim) -> bool:
    return (
        session.lease is not None
        and session.lease.operation_id == claim.operation_id
        and session.fencing_token == claim.token
        and session.status is LEASES[claim.kind].held_in
    )


def _replay_of_applying(call: Call, session: ActiveScheduleSessionSnapshot) -> bool:
    """Whether a call that leaves no entry in the history has done its work: its traces are the lease and the token."""
    if call.name is CallName.CLAIM_APPLY:
        lease = session.lease
        return lease is not None and lease.kind is LeaseKind.APPLY and lease.operation_id == call.operation_id
    if call.name is CallName.RELEASE and call.claim is not None and call.claim.kind is LeaseKind.APPLY:
        given_back = session.lease is None and session.status is LEASES[LeaseKind.APPLY].given_back_to
        return given_back and session.fencing_token == call.claim.token
    return False


def entries_of(call: Call, raw: dict[str, Any]) -> list[dict[str, Any]]:
    """What the history holds of this very call: the same name under the same ``operation_id``."""
    return [
        entry
        for entry in raw.get("history", [])
        if entry["operation_id"] == call.operation_id and entry["call"] == call.name.value
    ]


def _is_renewed(call: Call, session: ActiveScheduleSessionSnapshot, at: datetime) -> bool:
    """Whether the holder's lease lasts as long as he asks for: an earlier try of his was carried out."""
    if call.name is not CallName.RENEW or call.claim is None or not _holds(session, call.claim):
        return False
    return session.lease is not None and session.lease.expires_at >= to_millisecond(at + call.lease)


def _replay(
    call: Call, raw: dict[str, Any], session: ActiveScheduleSessionSnapshot, about: SessionRef, at: datetime
) -> Verdict | None:
    if _is_renewed(call, session, at):
        return Replayed(session)
    if call.name is CallName.BIND_CONVERSATION and session.conversation_id == call.conversation_id:
        return Replayed(session)
    if call.name is CallName.RECORD_NOTIFICATION and session.state.last_notification_id == call.notification_id:
        return Replayed(session)
    if call.operation_id is None:
        return None
    if _replay_of_applying(call, session):
        return Replayed(session)
    mine = entries_of(call, raw)
    if not mine:
        return None
    if not CALLS[call.name].is_claim:
        return Replayed(session)
    if mine[-1]["to_status"] == SessionStatus.FAILED.value:
        return Refused(TransitionConflict(about, reason=ConflictReason.ATTEMPTS_EXHAUSTED))
    if session.lease is not None and session.lease.operation_id == call.operation_id:
        return Replayed(session)
    return Refused(LeaseLost(about))


def _stale(
    call: Call, session: ActiveScheduleSessionSnapshot, about: SessionRef, at: datetime
) -> Iterator[SessionError]:
    if call.reply_id is not None and call.reply_id in session.answered_reply_ids:
        yield TransitionConflict(about, reason=ConflictReason.ALREADY_ANSWERED)
    if call.preview_id is not None and call.preview_id != session.current_preview_id:
        yield StalePreview(about, current_preview_id=session.current_preview_id)
    if call.question_number is not None:
        stands = session.question_number if question_stands(session, at) else None
        if call.question_number != stands:
            yield StaleReply(about, current_question_number=stands)


def _wrong_status(
    call: Call, session: ActiveScheduleSessionSnapshot, about: SessionRef, at: datetime
) -> Iterator[SessionError]:
    rule = CALLS[call.name]
    status = counts_as(session, at)
    if rule.is_claim and has_live_lease(session, at):
        yield TransitionConflict(about, reason=ConflictReason.IN_PROGRESS)
    is_ending = rule.enters is not None and not rule.is_claim and not rule.by_holder
    is_applying = session.lease is not None and session.lease.kind is LeaseKind.APPLY
    if is_applying and (is_ending or rule.is_claim) and rule.takes_over is not LeaseKind.APPLY:
        yield TransitionConflict(about, reason=ConflictReason.APPLYING)
    taken_over = rule.takes_over is not None and status is LEASES[rule.takes_over].held_in
    if status not in rule.starts_from and not taken_over and not rule.by_holder:
        starts_from = tuple(start for start in ALL if start in rule.starts_from)
        yield InvalidTransition(about, call=call.name, starts_from=starts_from)


def _attempts(call: Call, session: ActiveScheduleSessionSnapshot) -> int:
    """How often what the claim asks for was begun without an outcome."""
    if call.name is not CallName.CLAIM_APPLY:
        return session.attempts
    return session.lease.attempt or 0 if session.lease is not None else 0


def _conflict(call: Call, raw: dict[str, Any], session: ActiveScheduleSessionSnapshot) -> ConflictReason | None:
    if call.expected_revision is not None and call.expected_revision != session.revision:
        return ConflictReason.REVISION_CHANGED
    if call.name is CallName.BIND_CONVERSATION and session.conversation_id is not None:
        return ConflictReason.ALREADY_BOUND
    if CALLS[call.name].is_claim and _attempts(call, session) >= call.max_attempts:
        return ConflictReason.ATTEMPTS_EXHAUSTED
    seen = {entry["operation_id"] for entry in raw.get("history", [])}
    seen.add(session.lease.operation_id if session.lease is not None else None)
    if call.operation_id is not None and call.operation_id in seen:
        return ConflictReason.OPERATION_ID_REUSED
    return None


def explain(call: Call, raw: dict[str, Any] | None, at: datetime) -> Verdict:
    """The first refusal that holds, in the order that the design gives; or what has to happen before another try."""
    if raw is None:
        return Refused(SessionNotFound(SessionRef(session_id=call.session_id, user_id=call.user_id)))
    session = to_snapshot(raw)
    about = reference(session, session_id=call.session_id, user_id=call.user_id, at=at)
    if (replay := _replay(call, raw, session, about, at)) is not None:
        return replay
    if call.claim is not None and not _holds(session, call.claim):
        return Refused(LeaseLost(about))
    refusals = (*_stale(call, session, about, at), *_wrong_status(call, session, about, at))
    if refusals:
        return Refused(refusals[0])
    reason = _conflict(call, raw, session)
    if reason is ConflictReason.ATTEMPTS_EXHAUSTED and CALLS[call.name].takes_over is not None:
        return Exhausted(session)
    if reason is not None:
        return Refused(TransitionConflict(about, reason=reason), after_governor=True)
    if call.claim is None and has_lapsed_lease(session, LeaseKind.REFINEMENT, at):
        return Lapsed(session)
    return Raced()
