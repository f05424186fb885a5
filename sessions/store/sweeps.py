"""Each write of a sweep, and what puts a single session back that has lapsed, as a pure function to dicts."""

from datetime import datetime
from typing import Final

from sessions.domain.lifecycle import ENDED, LEASES, NOT_ENDED, CallName, LeaseKind, SessionStatus
from sessions.domain.models import ActiveScheduleSessionSnapshot
from sessions.store.calls import Call
from sessions.store.updates import Filter, Update, UpdateOperators
from sessions.store.writes import Write, fewer_than, lapsed, owned, status_in, unexpired, values_of

EXPIRED_REASON: Final = "nobody answered before expires_at"
STALLED_REASON: Final = "the lease lapsed"


def exhausted_reason(attempts: int) -> str:
    """Why a session fails whose reruns keep dying."""
    return f"no outcome after {attempts} attempts"


def expire(at: datetime) -> Write:
    """End whatever is past its ``expires_at`` with nobody at work on it."""
    update = Update(at)
    update.drop_lease()
    update.enter(SessionStatus.EXPIRED, CallName.EXPIRE_DUE, reason=EXPIRED_REASON)
    conditions = {
        "status": status_in(NOT_ENDED),
        "state.expires_at": {"$lte": at},
        "lease.kind": {"$ne": LeaseKind.APPLY.value},
        # Not `$not: {$gt}`: that shape also passes for a lease without an end.
        "$or": [{"lease": None}, {"lease.expires_at": {"$lte": at}}],
    }
    return Write(conditions, update.build())


def put_back(kind: LeaseKind, at: datetime) -> Write:
    """Give back what a dead worker holds."""
    rule = LEASES[kind]
    update = Update(at)
    update.drop_lease()
    update.enter(rule.given_back_to, CallName.RECOVER_STALLED, reason=STALLED_REASON)
    return Write({"status": rule.held_in.value, **lapsed(kind, at), **unexpired(at)}, update.build())


def put_back_reply(at: datetime, *, max_attempts: int) -> Write:
    """Give a dead worker's reply back, unless it has killed too many."""
    write = put_back(LeaseKind.REPLY, at)
    return Write({**write.filter, **fewer_than("attempts", max_attempts)}, write.update)


def _fail_exhausted(at: datetime, by: CallName, *, attempts: int, operation_id: str | None = None) -> UpdateOperators:
    reason = exhausted_reason(attempts)
    update = Update(at)
    update.enter(SessionStatus.FAILED, by, reason=reason, operation_id=operation_id)
    update.drop_lease()
    update.set("state.failed_reason", reason)
    return update.build()


def fail_stalled(at: datetime, *, max_attempts: int) -> Write:
    """End the sessions whose reply has killed its workers too often."""
    conditions = {
        "status": LEASES[LeaseKind.REPLY].held_in.value,
        **lapsed(LeaseKind.REPLY, at),
        **unexpired(at),
        "attempts": {"$gte": max_attempts},
    }
    return Write(conditions, _fail_exhausted(at, CallName.RECOVER_STALLED, attempts=max_attempts))


def fail_exhausted_claim(call: Call, at: datetime, *, revision: int) -> Write:
    """End the session that a claim found exhausted, guarded by the revision it was read at."""
    update = _fail_exhausted(at, call.name, attempts=call.max_attempts, operation_id=call.operation_id)
    return Write({**owned(call), "revision": revision}, update)


def narrowed(write: Write, session: ActiveScheduleSessionSnapshot) -> Write:
    """A sweep for one session that was read: guarded by its revision."""
    read = {"_id": session.session_id, "user_id": session.user_id, "revision": session.revision}
    return Write({**write.filter, **read}, write.update)


def without_nulls(*fields: str) -> Write:
    """Remove fields that another writer left null, so that an update can count them up or reach into them."""
    are_null = {field: {"$eq": None, "$exists": True} for field in fields}
    return Write(are_null, {"$unset": dict.fromkeys(fields, ""), "$inc": {"revision": 1}})


def narrowed_to(write: Write, session_ids: list[str]) -> Write:
    """A sweep for the sessions of one batch."""
    return Write({**write.filter, "_id": {"$in": session_ids}}, write.update)


def ended_before(before: datetime) -> Filter:
    """What ended before a moment."""
    return {"status": {"$in": values_of(ENDED)}, "updated_at": {"$lt": before}}


def purge(before: datetime, session_ids: list[str]) -> Filter:
    """Which sessions of one batch are deleted."""
    return {**ended_before(before), "_id": {"$in": session_ids}}
