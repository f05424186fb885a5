"""Each guarded write that the repository sends, as a pure function to dicts.

Only the classic update operators are used: no text of a user can be read as an expression.
"""

from collections.abc import Sequence
from datetime import datetime
from functools import cache
from typing import Final, NamedTuple

from sessions.domain.inputs import UNSET
from sessions.domain.lifecycle import ALL, CALLS, LEASES, RERUNS, LeaseKind, SessionStatus, entered_by
from sessions.domain.models import Claim, Lease
from sessions.store.calls import Call, CreationCall, HolderCall
from sessions.store.updates import Filter, RawDocument, Update, UpdateOperators, entry

REPLIES_KEPT: Final = 32
REPLACED_REASON: Final = "replaced by a newer message"


class Write(NamedTuple):
    """A guarded write: it changes the document that the filter describes, or nothing."""

    filter: Filter
    update: UpdateOperators
    unless_done: Filter | None = None
    """Joins the filter if an earlier try may have been carried out, for what the filter alone would do twice."""


@cache
def values_of(statuses: frozenset[SessionStatus] | tuple[SessionStatus, ...]) -> Sequence[str]:
    """The stored words of some statuses, in the lifecycle's order."""
    return tuple(status.value for status in ALL if status in statuses)


@cache
def status_in(statuses: frozenset[SessionStatus]) -> object:
    """What a filter asks of the status."""
    values = values_of(statuses)
    return values[0] if len(values) == 1 else {"$in": values}


# --- conditions -----------------------------------------------------------------------------------------------


def owned(call: Call) -> Filter:
    """The session of the call, for its owner."""
    return {"_id": call.session_id, "user_id": call.user_id}


def _first_time(call: Call) -> Filter:
    if call.operation_id is None:
        return {}
    unseen: Filter = {"history.operation_id": {"$ne": call.operation_id}}
    if not isinstance(call, HolderCall):
        unseen["lease.operation_id"] = {"$ne": call.operation_id}
    return unseen


def _startable(call: Call) -> Filter:
    """What every call but a holder's and a rerun's claim asks of its session."""
    revision = {} if call.expected_revision is None else {"revision": call.expected_revision}
    return {**owned(call), **_first_time(call), **revision, "status": status_in(CALLS[call.name].starts_from)}


def fewer_than(field: str, most: int) -> Filter:
    """A count below a number; not by `$lt`, since what is absent or null counts as 0."""
    return {field: {"$not": {"$gte": most}}}


def unexpired(at: datetime) -> Filter:
    """No end that has passed; `$not` rather than `$gt`, since a session without an end has no such field."""
    return {"state.expires_at": {"$not": {"$lte": at}}}


def lapsed(kind: LeaseKind, at: datetime) -> Filter:
    """A lease that was left behind."""
    return {"lease.kind": kind.value, "lease.expires_at": {"$lte": at}}


def _open_to_anyone(at: datetime) -> list[Filter]:
    """Conditions under which somebody other than a holder finds a session that has not ended."""
    return [
        {"$or": [unexpired(at), {"lease.expires_at": {"$gt": at}}]},
        {"lease.kind": {"$ne": LeaseKind.APPLY.value}},
    ]


def _by_holder(call: HolderCall) -> Filter:
    conditions = {**owned(call), **_held(call.claim), **_first_time(call)}
    # The id of the claim names another call; a rerun's is in the history too, that of an apply claim only here.
    conditions["lease.operation_id"] = {"$eq": call.claim.operation_id, "$ne": call.operation_id}
    return conditions


def _held(claim: Claim) -> Filter:
    # Neither a revision nor a clock: the token alone says who may write.
    return {
        "status": LEASES[claim.kind].held_in.value,
        "fencing_token": claim.token,
        "lease.operation_id": claim.operation_id,
    }


# --- creation -------------------------------------------------------------------------------------------------


def new_document(call: CreationCall, at: datetime) -> RawDocument:
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
        "trigger_id": call.trigger_id,
        "current_preview_id": call.preview_id,
        "status": call.status.value,
        "state": state,
        "question_number": 1 if call.status is SessionStatus.WAITING_USER_REPLY else 0,
        "fencing_token": 0,
        "attempts": 0,
        "replacements": 0,
        # Without `replaced_reply_ids`: their index holds only sessions that have some.
        "answered_reply_ids": [],
        "revision": 1,
        "history": [entry(call.name, call.status, at, call.reason, call.operation_id)],
        "created_at": at,
        "updated_at": at,
    }


def _entering(call: Call, status: SessionStatus, at: datetime) -> Update:
    update = Update(at)
    update.enter(status, call.name, reason=call.reason, operation_id=call.operation_id)
    return update


# --- writes by name -------------------------------------------------------------------------------------------


def _claim_filter(call: Call) -> Filter:
    conditions: Filter = {
        **owned(call),
        **_first_time(call),
        "answered_reply_ids": {"$ne": call.reply_id},
        "replaced_reply_ids": {"$ne": call.reply_id},
    }
    if call.question_number is not None:
        # What is absent or null counts as 0.
        conditions["question_number"] = {"$in": [0, None]} if call.question_number == 0 else call.question_number
    if call.preview_id is not None:
        conditions["current_preview_id"] = call.preview_id
    return conditions


def _free_for(call: Call, at: datetime) -> Filter:
    """Nobody works on the session, or whoever did has died."""
    rule = CALLS[call.name]
    conditions = {**unexpired(at), **fewer_than("attempts", call.max_attempts)}
    status = status_in(rule.starts_from)
    if rule.takes_over is None:
        return {**conditions, "status": status, "lease": None}
    taken_over = {"status": LEASES[rule.takes_over].held_in.value, **lapsed(rule.takes_over, at)}
    return {**conditions, "$or": [{"status": status}, taken_over]}


def _held_by(replaced: Lease, call: Call, at: datetime, *, kind: LeaseKind) -> Filter:
    """The run that is to be replaced is still under way."""
    return {
        "status": LEASES[kind].held_in.value,
        # Not the kind of the lease that was named: a write-back, or a run of the other kind, is never replaced.
        "lease.kind": kind.value,
        "lease.operation_id": {"$eq": replaced.operation_id, "$ne": call.operation_id},
        "lease.reply_id": {"$eq": replaced.reply_id, "$ne": call.reply_id},
        "lease.expires_at": {"$gt": at},
    }


def claim(call: Call, at: datetime, *, kind: LeaseKind) -> Write:
    """Take the session for a rerun, from nobody or from an older message."""
    replaced = call.replaces
    update = Update(at)
    reason = "" if replaced is None else REPLACED_REASON
    update.enter(LEASES[kind].held_in, call.name, reason=reason, operation_id=call.operation_id)
    traced = {} if call.traceparent is None else {"traceparent": call.traceparent}
    update.lease(
        {
            "kind": kind.value,
            "operation_id": call.operation_id,
            "reply_id": call.reply_id,
            "expires_at": at + call.lease,
            **traced,
        }
    )
    update.add("fencing_token", 1)
    if replaced is None:
        update.add("attempts", 1)
        guard = _free_for(call, at)
    else:
        update.add("replacements", 1)
        update.append("replaced_reply_ids", replaced.reply_id, kept=REPLIES_KEPT)
        guard = _held_by(replaced, call, at, kind=kind)
    return Write({**_claim_filter(call), **guard}, update.build())


def claim_rerun(call: Call, at: datetime) -> Write:
    """Take a waiting session, or one whose worker died, for a reply."""
    return claim(call, at, kind=LeaseKind.REPLY)


def claim_refinement(call: Call, at: datetime) -> Write:
    """Take a ready preview for a change that the user wants."""
    return claim(call, at, kind=LeaseKind.REFINEMENT)


def renew(call: HolderCall, at: datetime) -> Write:
    """Put a lease's expiry off; never brings it forward."""
    until = at + call.lease
    update = Update(at)
    update.renew_until(until)
    return Write({**owned(call), **_held(call.claim)}, update.build(), unless_done={"lease.expires_at": {"$lt": until}})


def postpone(call: HolderCall, at: datetime) -> Write:
    """Let a lease lapse at another moment than it would."""
    until = at + call.lease
    update = Update(at)
    update.set("lease.expires_at", until)
    return Write({**owned(call), **_held(call.claim)}, update.build(), unless_done={"lease.expires_at": {"$ne": until}})


def release(call: HolderCall, at: datetime) -> Write:
    """Give a lease back: the session is exactly as it was before the claim."""
    if call.claim.kind in RERUNS:
        update = _entering(call, LEASES[call.claim.kind].given_back_to, at)
        if not call.count_attempt:
            update.add("attempts", -1)
    else:
        update = Update(at)  # no change of status, so no history entry
    update.drop_lease()
    return Write(_by_holder(call), update.build())


def interrupt(call: Call, at: datetime) -> Write:
    """Give a live rerun back from outside: as its holder's release, and its holder can't write any more."""
    update = _entering(call, LEASES[call.interrupts].given_back_to, at)
    update.add("attempts", -1)
    update.add("fencing_token", 1)
    update.drop_lease()
    held = {"lease.kind": call.interrupts.value, "lease.expires_at": {"$gt": at}}
    return Write({**_startable(call), **held}, update.build())


def outcome(call: HolderCall, at: datetime) -> Write:
    """Record what a rerun came to, and that its reply was answered."""
    status = entered_by(call.name)
    update = _entering(call, status, at)
    update.drop_lease()
    update.clear_for(status)
    for path, value in call.changes.items():
        update.set(path, value)
    update.set("attempts", 0)
    update.set("replacements", 0)
    update.append("answered_reply_ids", call.claim.reply_id, kept=REPLIES_KEPT)
    if status is SessionStatus.WAITING_USER_REPLY:
        update.add("question_number", 1)
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
        **_startable(call),
        "current_preview_id": call.preview_id,
        # A confirmation does not expire: only the first claim asks for the end.
        "$or": [
            {"lease": None, **unexpired(at)},
            {**lapsed(LeaseKind.APPLY, at), **fewer_than("lease.attempt", call.max_attempts)},
        ],
    }
    return Write(conditions, update.build())


def written_back(call: HolderCall, at: datetime) -> Write:
    """Record what a write-back came to."""
    update = _entering(call, entered_by(call.name), at)
    update.drop_lease()
    for path, value in call.changes.items():
        update.set(path, value)
    return Write(_by_holder(call), update.build())


def apply(call: Call, at: datetime) -> Write:
    """End the session as applied, for the preview that the user saw."""
    update = _entering(call, entered_by(call.name), at)
    conditions = {
        **_startable(call),
        **unexpired(at),
        "current_preview_id": call.preview_id,
        "lease": None,
    }
    return Write(conditions, update.build())


def end(call: Call, at: datetime) -> Write:
    """End the session from wherever it is; a holder at work then meets a lost lease."""
    update = _entering(call, entered_by(call.name), at)
    update.drop_lease()
    for path, value in call.changes.items():
        update.set(path, value)
    return Write({**_startable(call), "$and": _open_to_anyone(at)}, update.build())


def bind_conversation(call: Call, at: datetime) -> Write:
    """Give the session its conversation, once."""
    update = Update(at)
    update.set("conversation_id", call.conversation_id)
    if call.notification_id is not UNSET:
        update.set("state.last_notification_id", call.notification_id)
    conditions = {
        **_startable(call),
        "conversation_id": None,
        # A lapsed refinement counts as its preview, but would still enter the governor index as `rerunning`.
        "$nor": [lapsed(LeaseKind.REFINEMENT, at)],
        "$or": [unexpired(at), {"lease.expires_at": {"$gt": at}}, {"lease.kind": LeaseKind.APPLY.value}],
    }
    return Write(conditions, update.build())


def record_notification(call: Call, at: datetime) -> Write:
    """Note the notification that led the user here."""
    update = Update(at)
    update.set("state.last_notification_id", call.notification_id)
    return Write({**owned(call), "state.last_notification_id": {"$ne": call.notification_id}}, update.build())
