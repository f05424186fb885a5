"""Ends sessions that keep the governor index from being built: of those of one conversation the newest stays."""

from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from typing import Any, Final
from uuid import uuid4

from pymongo.errors import PyMongoError

from indexes.conflicts import Conflict
from indexes.errors import Unreachable
from indexes.server import RIGHTS, Server, understood
from indexes.session_collection.session_document import GOVERNS
from sessions.domain.errors import StoreUnavailable
from sessions.domain.lifecycle import CallName, LeaseKind
from sessions.store import sweeps, writes
from sessions.store.calls import Call
from sessions.store.clients import Database
from sessions.store.collection import SessionCollection
from sessions.store.document import COLLECTION, ROUTING_INDEX

_SECONDS: Final = 60.0
_GROUPS_AT_ONCE: Final = 1000
_RIVALS: Final[list[dict[str, Any]]] = [
    {"$match": GOVERNS},
    {"$sort": {"created_at": -1, "_id": -1}},
    {
        "$group": {
            "_id": {"user_id": "$user_id", "conversation_id": "$conversation_id"},
            "sessions": {"$push": {"session_id": "$_id", "revision": "$revision"}},
        }
    },
    {"$match": {"sessions.1": {"$exists": True}}},
    {"$limit": _GROUPS_AT_ONCE},
]


class Resolution(StrEnum):
    """What may be done about stored documents that violate a unique index to be built."""

    SUPERSEDE_OLDER = "supersede-older"


def can_resolve(conflicts: Iterable[Conflict]) -> bool:
    """Whether all are about the governor index. Of other documents the tool can't know which may go."""
    return all(conflict.collection == COLLECTION and conflict.index == ROUTING_INDEX for conflict in conflicts)


async def supersede_older(database: Database, server: Server) -> list[str]:
    """End all but the newest of the sessions that govern one conversation, as ``ignored`` with the reason.

    What has lapsed is swept first, since an expired session governs nothing.

    Args:
        database: The database of the sessions.
        server: The same, for commands.

    Returns:
        The ids of the sessions that were ended. A session that was written meanwhile is left for the next look.
    """
    try:
        return await _supersede(database, server)
    except StoreUnavailable as error:
        cause = error.__cause__
        if not isinstance(cause, PyMongoError):
            raise Unreachable(str(error)) from error
        raise understood(cause, RIGHTS["findAndModify"], f"{server.name}.{COLLECTION}") or cause from error


async def _supersede(database: Database, server: Server) -> list[str]:
    collection = SessionCollection(database, timeout=_SECONDS)
    ended: list[str] = []
    while groups := await server.aggregate(COLLECTION, _RIVALS, quick=False, allowDiskUse=True):
        at = await collection.server_time()
        rivals = [session["session_id"] for group in groups for session in group["sessions"]]
        swept = await collection.for_one_call().update_many(sweeps.narrowed_to(sweeps.expire(at), rivals))
        swept += await collection.for_one_call().update_many(
            sweeps.narrowed_to(sweeps.put_back(LeaseKind.REFINEMENT, at), rivals)
        )
        if swept:
            continue  # some of them governed nothing
        progress = [session_id for group in groups for session_id in await _end_older(collection, group, at)]
        ended += progress
        if not progress:
            break
    return ended


async def _end_older(collection: SessionCollection, group: dict[str, Any], at: datetime) -> list[str]:
    newest, *older = group["sessions"]
    reason = f"superseded by session {newest['session_id']}, which governs the same conversation"
    ended = []
    for session in older:
        call = Call(
            name=CallName.IGNORE,
            session_id=session["session_id"],
            user_id=group["_id"]["user_id"],
            expected_revision=session["revision"],
            operation_id=uuid4().hex,
            reason=reason,
        )
        if await collection.for_one_call().find_one_and_update(writes.end(call, at), about=call.about) is not None:
            ended.append(call.session_id)
    return ended
