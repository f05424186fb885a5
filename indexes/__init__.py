"""The declared indexes of Beanie documents on a live database: planned, applied, checked and explained."""

from indexes.applier import Applied, apply
from indexes.errors import (
    BadChoice,
    BadDocument,
    CannotShard,
    IndexToolError,
    LockHeld,
    MissingRight,
    NotSharded,
    Unreachable,
    Unsettled,
)
from indexes.planner import Plan, check, plan
from indexes.progress import Progress
from indexes.session_collection.explaining import Explanation, explain
from indexes.session_collection.sharding import shard
from indexes.session_collection.superseding import Resolution

__all__ = [
    "Applied",
    "BadChoice",
    "BadDocument",
    "CannotShard",
    "Explanation",
    "IndexToolError",
    "LockHeld",
    "MissingRight",
    "NotSharded",
    "Plan",
    "Progress",
    "Resolution",
    "Unreachable",
    "Unsettled",
    "apply",
    "check",
    "explain",
    "plan",
    "shard",
]
