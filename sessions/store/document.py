"""What is stored where: the collection's name, its declared indexes and its shard key."""

from collections.abc import Mapping
from typing import Final

from pymongo import IndexModel

from sessions.domain.lifecycle import INTERCEPTING, LIFECYCLE, NOT_ENDED

COLLECTION: Final = "active_schedule_sessions"
ROUTING_INDEX: Final = f"uniq_{COLLECTION}_governor"
LATEST_INDEX: Final = f"idx_{COLLECTION}_conversation_status_updated"
PAGE_INDEX: Final = f"idx_{COLLECTION}_user_status_updated"
STATUS_INDEX: Final = f"idx_{COLLECTION}_status_updated"
REPLY_INDEX: Final = f"idx_{COLLECTION}_conversation_answered"
REPLACED_INDEX: Final = f"idx_{COLLECTION}_conversation_replaced"
GOVERNOR_FIELDS: Final = frozenset({"user_id", "conversation_id"})
SHARD_KEY: Final[Mapping[str, str]] = {"user_id": "hashed"}
"""On a sharded cluster: each call that a user's request makes carries the user, and so reaches one shard."""

INDEXES: Final = (
    IndexModel([("user_id", 1), ("conversation_id", 1)], name=f"idx_{COLLECTION}_user_conv"),
    IndexModel(
        # _id breaks ties, so that a page needs no sort.
        [("user_id", 1), ("status", 1), ("updated_at", 1), ("_id", 1)],
        name=PAGE_INDEX,
    ),
    IndexModel([("status", 1), ("updated_at", 1)], name=STATUS_INDEX),
    IndexModel([("conversation_id", 1), ("status", 1), ("updated_at", 1)], name=LATEST_INDEX),
    IndexModel([("trigger_id", 1)], name=f"idx_{COLLECTION}_trigger_id"),
    IndexModel([("current_preview_id", 1)], name=f"idx_{COLLECTION}_preview_id"),
    IndexModel(
        [("user_id", 1), ("conversation_id", 1)],
        name=ROUTING_INDEX,
        unique=True,
        partialFilterExpression={
            "status": {"$in": [status.value for status in LIFECYCLE if status in INTERCEPTING]},
            "conversation_id": {"$type": "string"},
        },
    ),
    IndexModel(
        [("state.expires_at", 1)],
        name=f"idx_{COLLECTION}_expires_at",
        partialFilterExpression={"status": {"$in": [status.value for status in LIFECYCLE if status in NOT_ENDED]}},
    ),
    IndexModel(
        [("lease.expires_at", 1)],
        name=f"idx_{COLLECTION}_lease_expires_at",
        # Not on `lease` itself: the planner then answers `lease.expires_at <= t` by a collection scan.
        partialFilterExpression={"lease.expires_at": {"$exists": True}},
    ),
    # Else each message that is delivered again reads every session that its conversation ever had.
    IndexModel([("conversation_id", 1), ("answered_reply_ids", 1)], name=REPLY_INDEX),
    # An index can hold one list of the two.
    IndexModel(
        [("conversation_id", 1), ("replaced_reply_ids", 1)],
        name=REPLACED_INDEX,
        partialFilterExpression={"replaced_reply_ids": {"$exists": True}},
    ),
)
