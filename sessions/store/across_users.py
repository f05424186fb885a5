"""What an operator looks for, over all users: each lookup as a pure function, in bounded batches.

The repository's own lookups are scoped by user. Of these only `everything` goes through the whole collection, batch by
batch; each has an index.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Final

from sessions.domain.lifecycle import SessionStatus
from sessions.store.document import LATEST_INDEX, PAGE_INDEX, STATUS_INDEX
from sessions.store.reads import REPLY_FIELDS, WITHOUT_HISTORY, Lookup
from sessions.store.updates import Filter, RawDocument, Stage
from sessions.store.writes import values_of

WITHOUT_TEXTS: Final[Mapping[str, int]] = {
    **WITHOUT_HISTORY,
    **dict.fromkeys(REPLY_FIELDS, 0),
    **dict.fromkeys(("state.pending_question", "state.missing_info", "state.failed_reason"), 0),
}
_ITS_TRIGGER: Final[Mapping[str, int]] = {"user_id": 1, "trigger_id": 1}
ANY_ID: Final[Filter] = {"_id": {"$gte": ""}}
"""All sessions, as an index counts them without the documents."""
_MOST_OF_TRIGGERS: Final = 100_000


def by_id(session_id: str) -> Lookup:
    """One session, whosever it is, with its history."""
    return Lookup({"_id": session_id}, projection=None)


def by_ids(session_ids: Sequence[str]) -> Lookup:
    """Some sessions, whosever they are."""
    return Lookup({"_id": {"$in": list(session_ids)}}, limit=len(session_ids))


def by_triggers(triggers: Collection[tuple[int, str]]) -> Lookup:
    """The sessions of some users' triggers, and a few more: any of these users with any of these triggers."""
    users, names = ({trigger[place] for trigger in triggers} for place in (0, 1))
    conditions = {"user_id": {"$in": sorted(users)}, "trigger_id": {"$in": sorted(names)}}
    return Lookup(conditions, limit=_MOST_OF_TRIGGERS, projection=_ITS_TRIGGER)


def listed(
    statuses: frozenset[SessionStatus],
    *,
    user_id: int | None = None,
    conversation_id: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    but_for: Sequence[str] = (),
    limit: int,
    with_texts: bool = False,
) -> Lookup:
    """Sessions by the moment of their last change, the newest first.

    Args:
        statuses: Only these; they are named to merge their ranges of the index.
        user_id: Only this user's.
        conversation_id: Only this conversation's.
        since: Only what changed then or later.
        until: Only what changed then or before.
        but_for: Sessions to pass over: those of an earlier batch that changed at ``until``.
        limit: The size of the batch.
        with_texts: Whether questions and reasons are read too.
    """
    conditions: Filter = {"status": {"$in": values_of(statuses)}}
    index = STATUS_INDEX
    if user_id is not None:
        conditions["user_id"], index = user_id, PAGE_INDEX
    if conversation_id is not None:
        conditions["conversation_id"], index = conversation_id, LATEST_INDEX
    if bounds := {name: at for name, at in (("$gte", since), ("$lte", until)) if at is not None}:
        conditions["updated_at"] = bounds
    if but_for:
        conditions["_id"] = {"$nin": list(but_for)}
    projection = WITHOUT_HISTORY if with_texts else WITHOUT_TEXTS
    return Lookup(conditions, sort=(("updated_at", -1),), hint=index, limit=limit, projection=projection)


def lapsed(at: datetime, *, limit: int) -> Lookup:
    """Sessions whose lease was left behind, of whichever kind, the longest first."""
    conditions = {"lease.expires_at": {"$lte": at}}
    return Lookup(conditions, sort=(("lease.expires_at", 1),), limit=limit, projection=WITHOUT_TEXTS)


def everything(*, after: RawDocument | None, limit: int, with_history: bool) -> Lookup:
    """A batch of all documents in the order of their ids, behind the last one of the batch before."""
    # By an expression, since a condition on the field itself compares with ids of the same kind only (*measured*: both
    # use the index of the ids). An id of any other kind is no repository's.
    conditions: Filter = {} if after is None else {"$expr": {"$gt": ["$_id", {"$literal": after["_id"]}]}}
    projection = None if with_history else WITHOUT_HISTORY
    return Lookup(conditions, sort=(("_id", 1),), limit=limit, projection=projection)


def how_many(conditions: Filter) -> list[Stage]:
    """How many sessions fit, as ``count``; no document if none does."""
    return [{"$match": conditions}, {"$count": "count"}]
