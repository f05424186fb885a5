"""Each guarded write that the repository sends, as a pure function to dicts.

Only the classic update operators are used: no text of a user can be read as an expression.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from sessions.domain.inputs import UNSET, Unset
from sessions.domain.lifecycle import (
    ALL,
    CALLS,
    ENDED,
    LEASES,
    NOT_ENDED,
    RERUNS,
    CallName,
    LeaseKind,
    SessionStatus,
)
from sessions.domain.models import Claim
from sessions.store.updates import Query, Update, entry

ANSWERS_KEPT: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call on one stored session: who calls, and what must hold for it to be carried out."""

    name: CallName
    session_id: str
    user_id: int
    operation_id: str | None = None
    reason: str = ""
    expected_revision: int | None = None
    preview_id: str | None = None
    question_number: int | None = None
    reply_id: str | None = None
    conversation_id: str | None = None
    notification_id: str | Unset | None = UNSET
    lease: timedelta = timedelta(0)
    max_attempts: int = 0
    claim: Claim | None = None
    count_attempt: bool = False
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Document paths that an outcome sets; an empty value removes the field."""


@dataclass(frozen=True, slots=True)
class Write:
    """A guarded write: it changes the document that the filter describes, or nothing."""

    filter: Query
    update: Query
    unless_done: Query = field(default_factory=dict)
    """Joins the filter where an earlier try may have been carried out, for what the filter alone would do twice."""


def values_of(statuses: frozenset[SessionStatus] | tuple[SessionStatus, ...]) -> list[str]:
    """The stored words of some statuses, in the lifecycle's order."""
    return [status.value for status in ALL if status in statuses]


def _status_in(statuses: frozenset[SessionStatus]) -> object:
    values = values_of(statuses)
    return values[0] if len(values) == 1 else {"$in": values}


# --- conditions -----------------------------------------------------------------------------------------------


def _owned(call: Call) -> Query:
    return {"_id": call.session_id, "user_id": call.user_id}


def _first_time(call: Call) -> Query:
    if call.operation_id is None:
        return {}
    unseen: Query = {"history.operation_id": {"$ne": call.operation_id}}
    if call.claim is None:
        unseen["lease.operation_id"] = {"$ne": call.operation_id}
    return unseen


def _unexpired(at: datetime) -> Query:
    # $not rather than $gt: a session without an end has no such field.
    return {"state.expires_at": {"$not": {"$lte": at}}}


def _lapsed(kind: LeaseKind, at: datetime) -> Query:
    return {"lease.kind": kind.value, "lease.expires_at": {"$lte": at}}


def _open_to_anyone(at: datetime) -> list[Query]:
    """Conditions under which somebody other than a holder finds a session that has not ended."""
    return [
        {"$or": [_unexpired(at), {"lease.expires_at": {"$gt": at}}]},
        {"lease.kind": {"$ne": LeaseKind.APPLY.value}},
    ]


def _by_holder(call: Call) -> Query:
    held = _holder_of(call)
    conditions = {**_owned(call), **_held(held), **_first_time(call)}
    # The id of the claim names another call; a rerun's stands in the history too, that of an apply claim here only.
    conditions["lease.operation_id"] = {"$eq": held.operation_id, "$ne": call.operation_id}
    return conditions


def _held(claim: Claim) -> Query:
    # Neither a revision nor a clock: the token alone says who may write.
    return {
        "status": LEASES[claim.kind].held_in.value,
        "fencing_token": claim.token,
        "lease.operation_id": claim.operation_id,
    }


# --- creation -------------------------------------------------------------------------------------------------


def new_document(call: Call, *, trigger_id: str, status: SessionStatus, question_number: int, at: datetime) -> Query:
    """The document that a creation inserts."""
    state = {
        path.removeprefix("state."): value
        for path, value in call.changes.items()
        if path.startswith("state.") and value not in (None, "", [])
    }
    return {
        "_id": call.session_id,
        "user_id": call.user_id,
        "conversation_id": call.conversation_id,
        "trigger_id": trigger_id,
        "current_preview_id": call.preview_id,
        "status": status.value,
        "state": state,
        "question_number": question_number,
        "fencing_token": 0,
        "attempts": 0,
        "answered_reply_ids": [],
        "revision": 1,
        "history": [entry(call.name, status, at, call.reason, call.operation_id)],
        "created_at": at,
        "updated_at": at,
    }


# --- writes by name -------------------------------------------------------------------------------------------


def _claim_filter(call: Call, at: datetime) -> Query:
    conditions: Query = {
        **_owned(call),
        **_unexpired(at),
        **_first_time(call),
        "attempts": {"$lt": call.max_attempts},
        "answered_reply_ids": {"$ne": call.reply_id},
    }
    rule = CALLS[call.name]
    status = _status_in(rule.starts_from)
    if rule.takes_over is not None:
        taken_over = {"status": LEASES[rule.takes_over].held_in.value, **_lapsed(rule.takes_over, at)}
        conditions["$or"] = [{"status": status}, taken_over]
    else:
        conditions |= {"status": status, "lease": {"$exists": False}}
    if call.question_number is not None:
        conditions["question_number"] = call.question_number
    if call.preview_id is not None:
        conditions["current_preview_id"] = call.preview_id
    return conditions


def claim(call: Call, at: datetime, *, kind: LeaseKind) -> Write:
    """Take the session for a rerun."""
    update = Update(at)
    update.lease(
        {
            "kind": kind.value,
            "operation_id": call.operation_id,
            "reply_id": call.reply_id,
            "expires_at": at + call.lease,
        }
    )
    update.add("fencing_token", 1)
    update.add("attempts", 1)
    held_in = LEASES[kind].held_in
    update.enter(held_in, entry(call.name, held_in, at, call.reason, call.operation_id))
    return Write(_claim_filter(call, at), update.build())


def claim_rerun(call: Call, at: datetime) -> Write:
    """Take a waiting session, or one whose worker died, for a reply."""
    return claim(call, at, kind=LeaseKind.REPLY)


def claim_refinement(call: Call, at: datetime) -> Write:
    """Take a ready preview for a change that the user wants."""
    return claim(call, at, kind=LeaseKind.REFINEMENT)


def _holder_of(call: Call) -> Claim:
    if call.claim is None:  # pragma: no cover - a holder's call is built with its claim only
        message = f"{call.name} is a holder's call"
        raise TypeError(message)
    return call.claim


def renew(call: Call, at: datetime) -> Write:
    """Put a lease's expiry off; never brings it forward."""
    until = at + call.lease
    update = Update(at)
    update.renew_until(until)
    return Write(
        {**_owned(call), **_held(_holder_of(call))}, update.build(), unless_done={"lease.expires_at": {"$lt": until}}
    )


def release(call: Call, at: datetime) -> Write:
    """Give a lease back: the session is exactly as it was before the claim."""
    held = _holder_of(call)
    update = Update(at)
    update.drop_lease()
    if held.kind in RERUNS:
        if not call.count_attempt:
            update.add("attempts", -1)
        back = LEASES[held.kind].given_back_to
        update.enter(back, entry(call.name, back, at, call.reason, call.operation_id))
    return Write(_by_holder(call), update.build())


def outcome(call: Call, at: datetime) -> Write:
    """Record what a rerun came to, and that its reply was answered."""
    held = _holder_of(call)
    status = CALLS[call.name].enters or held.session.status
    update = Update(at)
    update.drop_lease()
    update.clear_for(status)
    for path, value in call.changes.items():
        update.set(path, value)
    update.set("attempts", 0)
    update.append("answered_reply_ids", held.reply_id, kept=ANSWERS_KEPT)
    if status is SessionStatus.WAITING_USER_REPLY:
        update.add("question_number", 1)
    update.enter(status, entry(call.name, status, at, call.reason, call.operation_id))
    return Write(_by_holder(call), update.build())


def claim_apply(call: Call, at: datetime) -> Write:
    """Take a confirmed preview to write it back, or take it over; no change of status, so no history entry."""
    update = Update(at)
    # Field by field: the server refuses to set `lease` and to count within it at once.
    update.set("lease.kind", LeaseKind.APPLY.value)
    update.set("lease.operation_id", call.operation_id)
    update.set("lease.expires_at", at + call.lease)
    update.add("lease.attempt", 1)
    update.add("fencing_token", 1)
    conditions = {
        **_owned(call),
        **_first_time(call),
        "status": _status_in(CALLS[call.name].starts_from),
        "current_preview_id": call.preview_id,
        # A yes that was said does not expire: only the first claim of it asks for the end.
        "$or": [
            {"lease": {"$exists": False}, **_unexpired(at)},
            {**_lapsed(LeaseKind.APPLY, at), "lease.attempt": {"$lt": call.max_attempts}},
        ],
    }
    return Write(conditions, update.build())


def written_back(call: Call, at: datetime) -> Write:
    """Record what a write-back came to."""
    status = CALLS[call.name].enters or SessionStatus.APPLIED
    update = Update(at)
    update.drop_lease()
    for path, value in call.changes.items():
        update.set(path, value)
    update.enter(status, entry(call.name, status, at, call.reason, call.operation_id))
    return Write(_by_holder(call), update.build())


def _expecting(call: Call) -> Query:
    return {} if call.expected_revision is None else {"revision": call.expected_revision}


def apply(call: Call, at: datetime) -> Write:
    """End the session as applied, for the preview that the user saw."""
    update = Update(at)
    update.enter(SessionStatus.APPLIED, entry(call.name, SessionStatus.APPLIED, at, call.reason, call.operation_id))
    conditions = {
        **_owned(call),
        **_unexpired(at),
        **_first_time(call),
        **_expecting(call),
        "status": _status_in(CALLS[call.name].starts_from),
        "current_preview_id": call.preview_id,
        "lease": {"$exists": False},
    }
    return Write(conditions, update.build())


def end(call: Call, at: datetime) -> Write:
    """End the session from wherever it is; a holder at work then meets a lost lease."""
    status = CALLS[call.name].enters or SessionStatus.IGNORED
    update = Update(at)
    update.drop_lease()
    for path, value in call.changes.items():
        update.set(path, value)
    update.enter(status, entry(call.name, status, at, call.reason, call.operation_id))
    conditions = {
        **_owned(call),
        **_first_time(call),
        **_expecting(call),
        "status": _status_in(CALLS[call.name].starts_from),
        "$and": _open_to_anyone(at),
    }
    return Write(conditions, update.build())


def bind_conversation(call: Call, at: datetime) -> Write:
    """Give the session its conversation, once."""
    update = Update(at)
    update.set("conversation_id", call.conversation_id)
    if call.notification_id is not UNSET:
        update.set("state.last_notification_id", call.notification_id)
    conditions = {
        **_owned(call),
        **_expecting(call),
        "conversation_id": None,
        "status": _status_in(CALLS[call.name].starts_from),
        # A lapsed refinement counts as its preview, but would still enter the governor index as `rerunning`.
        "$nor": [_lapsed(LeaseKind.REFINEMENT, at)],
        "$or": [_unexpired(at), {"lease.expires_at": {"$gt": at}}, {"lease.kind": LeaseKind.APPLY.value}],
    }
    return Write(conditions, update.build())


def record_notification(call: Call, at: datetime) -> Write:
    """Note the notification that led the user here."""
    update = Update(at)
    update.set("state.last_notification_id", call.notification_id)
    return Write({**_owned(call), "state.last_notification_id": {"$ne": call.notification_id}}, update.build())


# --- what has lapsed ------------------------------------------------------------------------------------------

EXPIRED_REASON: Final = "nobody answered before expires_at"
STALLED_REASON: Final = "the lease lapsed"


def exhausted_reason(attempts: int) -> str:
    """Why a session fails whose reruns keep dying."""
    return f"no outcome after {attempts} attempts"


def expire(at: datetime) -> Write:
    """End whatever is past its ``expires_at`` with nobody at work on it."""
    update = Update(at)
    update.drop_lease()
    update.enter(SessionStatus.EXPIRED, entry(CallName.EXPIRE_DUE, SessionStatus.EXPIRED, at, EXPIRED_REASON, None))
    conditions = {
        "status": _status_in(NOT_ENDED),
        "state.expires_at": {"$lte": at},
        "lease.kind": {"$ne": LeaseKind.APPLY.value},
        # Not `$not: {$gt}`: that shape also passes for a lease without an end.
        "$or": [{"lease": {"$exists": False}}, {"lease.expires_at": {"$lte": at}}],
    }
    return Write(conditions, update.build())


def put_back(kind: LeaseKind, at: datetime) -> Write:
    """Give back what a dead worker holds."""
    rule = LEASES[kind]
    update = Update(at)
    update.drop_lease()
    update.enter(rule.given_back_to, entry(CallName.RECOVER_STALLED, rule.given_back_to, at, STALLED_REASON, None))
    return Write({"status": rule.held_in.value, **_lapsed(kind, at), **_unexpired(at)}, update.build())


def put_back_reply(at: datetime, *, max_attempts: int) -> Write:
    """Give a dead worker's reply back, unless it has killed too many."""
    write = put_back(LeaseKind.REPLY, at)
    return Write({**write.filter, "attempts": {"$lt": max_attempts}}, write.update)


def _fail_exhausted(at: datetime, kept: Query) -> Query:
    update = Update(at)
    update.drop_lease()
    update.set("state.failed_reason", kept["reason"])
    update.enter(SessionStatus.FAILED, kept)
    return update.build()


def fail_stalled(at: datetime, *, max_attempts: int) -> Write:
    """End the sessions whose reply has killed its workers too often."""
    kept = entry(CallName.RECOVER_STALLED, SessionStatus.FAILED, at, exhausted_reason(max_attempts), None)
    conditions = {
        "status": LEASES[LeaseKind.REPLY].held_in.value,
        **_lapsed(LeaseKind.REPLY, at),
        **_unexpired(at),
        "attempts": {"$gte": max_attempts},
    }
    return Write(conditions, _fail_exhausted(at, kept))


def fail_exhausted_claim(call: Call, at: datetime, *, revision: int) -> Write:
    """End the session that a claim found exhausted, guarded by the revision it was read at."""
    kept = entry(call.name, SessionStatus.FAILED, at, exhausted_reason(call.max_attempts), call.operation_id)
    return Write({**_owned(call), "revision": revision}, _fail_exhausted(at, kept))


def narrowed(write: Write, *, session_id: str, user_id: int, revision: int) -> Write:
    """A sweep for one session that was read: guarded by its revision."""
    return Write({**write.filter, "_id": session_id, "user_id": user_id, "revision": revision}, write.update)


def narrowed_to(write: Write, session_ids: list[str]) -> Write:
    """A sweep for the sessions of one batch."""
    return Write({**write.filter, "_id": {"$in": session_ids}}, write.update)


def ended_before(before: datetime) -> Query:
    """What ended before a moment."""
    return {"status": {"$in": values_of(ENDED)}, "updated_at": {"$lt": before}}


def purge(before: datetime, session_ids: list[str]) -> Query:
    """Which sessions of one batch are deleted."""
    return {**ended_before(before), "_id": {"$in": session_ids}}
