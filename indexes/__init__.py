"""The declared indexes of Beanie documents on a live database: planned, applied, checked and explained.

What the calls share:
    - ``database``: a database of Motor or PyMongo Async.
    - ``documents``: a list of Beanie document classes, which need not be initialised. Default: the session document.

Raises:
    BadDocument: The documents declare what no collection can hold.
    BadChoice: An argument is outside its limits; nothing was sent.
    MissingRight: The user lacks a right. What was done before stays.
    Unreachable: No primary answered. What was done before stays.
"""

from indexes.actions import Action, Blocked, Step
from indexes.applier import Applied, apply
from indexes.conflicts import Conflict
from indexes.errors import (
    BadChoice,
    BadDocument,
    CannotShard,
    IndexToolError,
    LockHeld,
    MissingRight,
    NotSharded,
    UnfitCollection,
    Unreachable,
    Unsettled,
)
from indexes.planner import IndexStanding, Plan, Standing, Use, check, plan
from indexes.progress import Progress, Tell
from indexes.session_collection.explaining import Explained, Explanation, explain
from indexes.session_collection.sharding import ShardingStep, shard
from indexes.session_collection.superseding import Resolution
from sessions.public_names import carry_module_name
from sessions.store.index_definitions import Aspect, Difference

__all__ = [
    "Action",
    "Applied",
    "Aspect",
    "BadChoice",
    "BadDocument",
    "Blocked",
    "CannotShard",
    "Conflict",
    "Difference",
    "Explained",
    "Explanation",
    "IndexStanding",
    "IndexToolError",
    "LockHeld",
    "MissingRight",
    "NotSharded",
    "Plan",
    "Progress",
    "Resolution",
    "ShardingStep",
    "Standing",
    "Step",
    "Tell",
    "UnfitCollection",
    "Unreachable",
    "Unsettled",
    "Use",
    "apply",
    "check",
    "explain",
    "plan",
    "shard",
]

carry_module_name(globals())
