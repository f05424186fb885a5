"""Why a guarded write changed nothing: the order of refusals, applied to the session as it was read."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, NamedTuple, Self

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
from sessions.domain.expiry import counts_as, has_expired, has_lapsed_lease, has_live_lease, question_standing
from sessions.domain.lifecycle import ALL, CALLS, LEASES, CallName, LeaseKind, SessionStatus
from sessions.domain.limits import to_millisecond
from sessions.domain.models import ActiveScheduleSessionSnapshot, Claim, Transition
from sessions.store.calls import Call, HolderCall
from sessions.store.reading import nulls_in, to_snapshot, to_transitions


class Found(NamedTuple):
    """A session as a refused call found it, read once for all who judge it.

    Attributes:
        session: The session as stored.
        history: Its transitions.
        at: When it was judged.
        status: What its status counts as then.
        nulls: Fields that another writer left null, and that an update may stumble over.
    """

    session: ActiveScheduleSessionSnapshot
    history: list[Transition]
    at: datetime
    status: SessionStatus
    nulls: tuple[str, ...]

    @classmethod
    def of(cls, raw: Mapping[str, Any], at: datetime) -> Self:
        """Read a stored document."""
        session = to_snapshot(raw)
        return cls(session, to_transitions(raw), at, counts_as(session, at), nulls_in(raw))

    @property
    def about(self) -> SessionRef:
        """What an error says of it."""
        return SessionRef.of(self.session, self.status)

    def entries_of(self, call: Call) -> list[Transition]:
        """What the history holds of this very call: the same name under the same ``operation_id``."""
        return [
            entry for entry in self.history if entry.operation_id == call.operation_id and entry.call == call.name.value
        ]


class Replayed(NamedTuple):
    """The call was carried out before, under the same ``operation_id``."""

    session: ActiveScheduleSessionSnapshot


class Lapsed(NamedTuple):
    """A lapsed rerun stands in the way: put it back, then try again."""

    found: Found


class Exhausted(NamedTuple):
    """Too many reruns died: the session has to be ended."""

    found: Found


class Raced:
    """Nothing is wrong any more: try again."""


class Refused(NamedTuple):
    """The call is refused; with ``busy_if`` a busy conversation would be the earlier reason."""

    error: SessionError
    busy_if: Found | None = None


class Instead(NamedTuple):
    """The call has to be made in another form: what it was meant for has changed, or is of another kind."""

    changes: Mapping[str, Any]


Verdict = Replayed | Lapsed | Exhausted | Raced | Instead | Refused


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
    if call.name is CallName.RELEASE and isinstance(call, HolderCall) and call.claim.kind is LeaseKind.APPLY:
        given_back = session.lease is None and session.status is LEASES[LeaseKind.APPLY].given_back_to
        return given_back and session.fencing_token == call.claim.token
    return False


def _is_put_off(call: Call, found: Found) -> bool:
    """Whether the lease lasts as long as its holder asks for: an earlier try was carried out."""
    lease = found.session.lease
    if not isinstance(call, HolderCall) or lease is None or not _holds(found.session, call.claim):
        return False
    until = to_millisecond(found.at + call.lease)
    if call.name is CallName.POSTPONE:
        return lease.expires_at == until
    return call.name is CallName.RENEW and lease.expires_at >= until


def _replay(call: Call, found: Found) -> Verdict | None:
    session = found.session
    if _is_put_off(call, found):
        return Replayed(session)
    if call.name is CallName.BIND_CONVERSATION and session.conversation_id == call.conversation_id:
        return Replayed(session)
    if call.name is CallName.RECORD_NOTIFICATION and session.state.last_notification_id == call.notification_id:
        return Replayed(session)
    if call.operation_id is None:
        return None
    if _replay_of_applying(call, session):
        return Replayed(session)
    mine = found.entries_of(call)
    if not mine:
        return None
    if not CALLS[call.name].is_claim:
        return Replayed(session)
    if mine[-1].to_status is SessionStatus.FAILED:
        return Refused(TransitionConflict(found.about, reason=ConflictReason.ATTEMPTS_EXHAUSTED))
    if session.lease is not None and session.lease.operation_id == call.operation_id:
        return Replayed(session)
    return Refused(LeaseLost(found.about))


def _stale(call: Call, found: Found) -> Iterator[SessionError]:
    session = found.session
    if call.reply_id is not None and call.reply_id in (*session.answered_reply_ids, *session.replaced_reply_ids):
        yield TransitionConflict(found.about, reason=ConflictReason.ALREADY_ANSWERED)
    if call.preview_id is not None and call.preview_id != session.current_preview_id:
        yield StalePreview(found.about, current_preview_id=session.current_preview_id)
    if call.question_number is not None:
        standing = question_standing(session, found.status)
        number = None if standing is None else standing.number
        if call.question_number != number:
            yield StaleReply(found.about, current_question_number=number)


def _is_replaced(call: Call, found: Found) -> bool:
    """Whether the session is under the very lease that the call's message replaces."""
    lease, replaced = found.session.lease, call.replaces
    if lease is None or replaced is None or not has_live_lease(found.session, found.at):
        return False
    is_named = (lease.operation_id, lease.reply_id) == (replaced.operation_id, replaced.reply_id)
    return is_named and lease.kind is CALLS[call.name].replaces and lease.reply_id != call.reply_id


def _wrong_status(call: Call, found: Found) -> Iterator[SessionError]:
    rule = CALLS[call.name]
    if rule.is_claim and has_live_lease(found.session, found.at) and not _is_replaced(call, found):
        yield TransitionConflict(found.about, reason=ConflictReason.IN_PROGRESS)
    is_ending = rule.enters is not None and not rule.is_claim and not rule.by_holder
    is_applying = found.session.lease is not None and found.session.lease.kind is LeaseKind.APPLY
    if is_applying and (is_ending or rule.is_claim or rule.gives_back) and rule.takes_over is not LeaseKind.APPLY:
        yield TransitionConflict(found.about, reason=ConflictReason.APPLYING)
    taken_over = rule.takes_over is not None and found.status is LEASES[rule.takes_over].held_in
    starts = found.status in rule.starts_from or taken_over or _is_replaced(call, found)
    if not starts and not rule.by_holder:
        starts_from = tuple(start for start in ALL if start in rule.starts_from)
        yield InvalidTransition(found.about, call=call.name, starts_from=starts_from)


def _attempts(call: Call, session: ActiveScheduleSessionSnapshot) -> int:
    """How often what the claim asks for was begun without an outcome."""
    if call.name is not CallName.CLAIM_APPLY:
        return session.attempts
    return session.lease.attempt or 0 if session.lease is not None else 0


def _conflict(call: Call, found: Found) -> ConflictReason | None:
    session = found.session
    if call.expected_revision is not None and call.expected_revision != session.revision:
        return ConflictReason.REVISION_CHANGED
    if call.name is CallName.BIND_CONVERSATION and session.conversation_id is not None:
        return ConflictReason.ALREADY_BOUND
    if CALLS[call.name].is_claim and call.replaces is None and _attempts(call, session) >= call.max_attempts:
        return ConflictReason.ATTEMPTS_EXHAUSTED
    seen = {entry.operation_id for entry in found.history}
    seen.add(session.lease.operation_id if session.lease is not None else None)
    if call.operation_id is not None and call.operation_id in seen:
        return ConflictReason.OPERATION_ID_REUSED
    return None


def _other_form(call: Call, found: Found) -> Verdict | None:
    """What an interruption or a replacement comes to where its run is of another kind, has lapsed or has ended."""
    lease = found.session.lease
    if CALLS[call.name].gives_back and lease is not None and lease.kind in CALLS[call.name].gives_back:
        if not has_live_lease(found.session, found.at):
            # Its worker may only be slow: put back it can't renew.
            return None if has_expired(found.session, found.at) else Lapsed(found)
        return None if lease.kind is call.interrupts else Instead({"interrupts": lease.kind})
    if call.replaces is None or has_live_lease(found.session, found.at):
        return None
    return Instead({"replaces": None})


def explain(call: Call, found: Found | None) -> Verdict:
    """The first refusal that holds, in the order that the design gives; or what has to happen before another try."""
    if found is None:
        return Refused(SessionNotFound(call.about))
    if (replay := _replay(call, found)) is not None:
        return replay
    if isinstance(call, HolderCall) and not _holds(found.session, call.claim):
        return Refused(LeaseLost(found.about))
    if (other := _other_form(call, found)) is not None:
        return other
    refusals = (*_stale(call, found), *_wrong_status(call, found))
    if refusals:
        return Refused(refusals[0])
    reason = _conflict(call, found)
    if reason is ConflictReason.ATTEMPTS_EXHAUSTED and CALLS[call.name].takes_over is not None:
        return Exhausted(found)
    if reason is not None:
        return Refused(TransitionConflict(found.about, reason=reason), busy_if=found)
    if not isinstance(call, HolderCall) and has_lapsed_lease(found.session, LeaseKind.REFINEMENT, found.at):
        return Lapsed(found)
    return Raced()
