"""The declared indexes of Beanie documents on a live database: planned, applied, checked and explained."""

from indexes.building import Applied, Resolution, apply
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
from indexes.explaining import Explanation, explain
from indexes.plan import Plan, check, plan
from indexes.progress import Progress
from indexes.sharding import shard

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
