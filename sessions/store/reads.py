"""Each lookup that the repository sends, as a pure function to a filter, an order and the index it names."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final, NamedTuple

from sessions.domain.errors import SessionRef
from sessions.domain.lifecycle import ALL, INTERCEPTING, RERUNS, LeaseKind, SessionStatus
from sessions.store.document import LATEST_INDEX, PAGE_INDEX, ROUTING_INDEX
from sessions.store.sweeps import ended_before, expire
from sessions.store.updates import Filter, Stage
from sessions.store.writes import values_of

WITHOUT_HISTORY: Final[Mapping[str, int]] = {"history": 0}
REPLY_FIELDS: Final = ("answered_reply_ids", "replaced_reply_ids")
"""Where a session keeps the messages that it is done with."""
_GOVERNS: Final = {"$in": values_of(INTERCEPTING)}
_ANY: Final = {"$in": values_of(ALL)}


class Lookup(NamedTuple):
    """A read: what to look for, in which order, by which index."""

    filter: Filter
    sort: tuple[tuple[str, int], ...] = ()
    hint: str | None = None
    limit: int = 1
    projection: Mapping[str, int] | None = WITHOUT_HISTORY

    @property
    def about(self) -> SessionRef:
        """What an error carries: whom it asks for, as far as it names anybody."""
        # A lookup of alternatives names the user in each.
        alternative = self.filter.get("$or", [{}])[0]
        session_id, user_id = self.filter.get("_id"), self.filter.get("user_id", alternative.get("user_id"))
        return SessionRef(session_id=session_id if isinstance(session_id, str) else None, user_id=user_id)


def but_for(lookup: Lookup, session_ids: list[str]) -> Lookup:
    """The same without some sessions."""
    return lookup._replace(filter={**lookup.filter, "_id": {"$nin": session_ids}}) if session_ids else lookup


def by_id(session_id: str, user_id: int, *, with_history: bool = False) -> Lookup:
    """One session by its id, for its owner."""
    return Lookup({"_id": session_id, "user_id": user_id}, projection=None if with_history else WITHOUT_HISTORY)


def governor(user_id: int, conversation_id: str) -> Lookup:
    """Who governs a conversation; the ``$type`` lets the planner see that the partial index fits."""
    return Lookup(
        {
            "user_id": user_id,
            "conversation_id": {"$eq": conversation_id, "$type": "string"},
            "status": _GOVERNS,
        },
        hint=ROUTING_INDEX,
    )


def governors(user_id: int, conversation_ids: list[str]) -> Lookup:
    """Who governs each of some conversations; at most one session each."""
    return Lookup(
        {
            "user_id": user_id,
            "conversation_id": {"$in": conversation_ids, "$type": "string"},
            "status": _GOVERNS,
        },
        hint=ROUTING_INDEX,
        limit=len(conversation_ids),
    )


def latest(user_id: int, conversation_id: str) -> Lookup:
    """The session of a conversation that changed last, ended or not; all statuses are named to merge their ranges."""
    return Lookup(
        {"conversation_id": conversation_id, "status": _ANY, "user_id": user_id},
        sort=(("updated_at", -1),),
        hint=LATEST_INDEX,
    )


def by_reply(user_id: int, conversation_id: str, reply_id: str) -> Lookup:
    """The session of a conversation that recorded a reply, or in which a newer one replaced it."""
    # Nothing stands beside the `$or`: only then the server plans each alternative by itself, which costs a key or none.
    # With the user outside it has tried all combinations of indexes but this one, and read the whole conversation.
    asked = {"user_id": user_id, "conversation_id": conversation_id}
    return Lookup({"$or": [{**asked, field: reply_id} for field in REPLY_FIELDS]})


def by_trigger(user_id: int, trigger_id: str) -> Lookup:
    """The session that a trigger made."""
    return Lookup({"trigger_id": trigger_id, "user_id": user_id})


def by_preview(user_id: int, preview_id: str) -> Lookup:
    """The session that offers, or offered last, a preview."""
    return Lookup({"current_preview_id": preview_id, "user_id": user_id})


def page(user_id: int, statuses: frozenset[SessionStatus], *, limit: int, after: tuple[datetime, str] | None) -> Lookup:
    """A user's sessions, newest first; one more than asked for, to know whether there is a next page."""
    conditions: Filter = {"user_id": user_id, "status": {"$in": values_of(statuses)}}
    if after is not None:
        moment, session_id = after
        # The $lte bounds the index; the $or only drops what ties with the last page's end.
        conditions["updated_at"] = {"$lte": moment}
        conditions["$or"] = [{"updated_at": {"$lt": moment}}, {"_id": {"$lt": session_id}}]
    # Named, since for a user with few sessions the planner may as well take another index, and sort in memory.
    return Lookup(conditions, sort=(("updated_at", -1), ("_id", -1)), hint=PAGE_INDEX, limit=limit + 1)


def due(at: datetime, *, limit: int) -> Lookup:
    """A batch of sessions to expire, the longest overdue first."""
    return Lookup(expire(at).filter, sort=(("state.expires_at", 1),), limit=limit, projection={"_id": 1})


def stalled(at: datetime, *, limit: int) -> Lookup:
    """A batch of sessions whose rerun was left behind, the longest first."""
    kinds = [kind.value for kind in LeaseKind if kind in RERUNS]
    conditions = {"lease.kind": {"$in": kinds}, "lease.expires_at": {"$lte": at}}
    return Lookup(conditions, sort=(("lease.expires_at", 1),), limit=limit, projection={"_id": 1})


def interrupted(at: datetime, *, limit: int) -> Lookup:
    """Sessions whose write-back was left behind, the longest first."""
    conditions = {"lease.kind": LeaseKind.APPLY.value, "lease.expires_at": {"$lte": at}}
    return Lookup(conditions, sort=(("lease.expires_at", 1),), limit=limit)


def ended(before: datetime, *, limit: int) -> Lookup:
    """A batch of sessions that ended before a moment."""
    return Lookup(ended_before(before), sort=(("updated_at", 1),), limit=limit, projection={"_id": 1})


def count_by_status() -> list[Stage]:
    """How many sessions are in each status; every status is named, so that an index tells it without the documents."""
    return [{"$match": {"status": _ANY}}, {"$group": {"_id": "$status", "count": {"$sum": 1}}}]
