"""Which session governs this conversation? Durable, atomic session records on MongoDB."""

from typing import TYPE_CHECKING

from sessions.bridge import SessionBridge, Upkeep
from sessions.bridge.graph import AskUser, Close, Fail, GraphResult, NotAnAnswer, ShowPreview, Turn
from sessions.bridge.outcomes import (
    AlreadyHandled,
    Applied,
    ApplyFailed,
    Asked,
    Closed,
    Confirmed,
    Deferred,
    Dismissed,
    FreeChat,
    Handled,
    Held,
    Outcome,
    PreviewShown,
    RerunFailed,
    Started,
    Stopped,
    Superseded,
    TimedOut,
    action_url,
)
from sessions.bridge.rerun import Rerun
from sessions.bridge.transient_failures import TryAgain
from sessions.bridge.while_running import WhileRunning
from sessions.bridge.write_back import WriteBack
from sessions.cache import CachedRouter, CacheStats
from sessions.changes import Change, Watch
from sessions.domain.errors import (
    ConflictReason,
    ConversationBusy,
    IndexesMissing,
    InvalidSessionInput,
    InvalidTransition,
    LeaseLost,
    SessionDamaged,
    SessionError,
    SessionExists,
    SessionNotFound,
    SessionRef,
    StalePreview,
    StaleReply,
    StoreUnavailable,
    TransitionConflict,
    WatchInterrupted,
    WriteOutcome,
)
from sessions.domain.inputs import UNSET, Unset
from sessions.domain.lifecycle import LeaseKind, SessionStatus
from sessions.domain.models import (
    ActiveScheduleSessionSnapshot,
    ActiveScheduleSessionState,
    ApplyClaim,
    Lease,
    Page,
    Question,
    RerunClaim,
    Route,
    RouteAction,
    Transition,
)
from sessions.public_names import carry_module_name
from sessions.repository import Opening, SessionRepository, open_repository
from sessions.store.clients import ClientSession, Database

if TYPE_CHECKING:
    from sessions.store.beanie_document import ActiveScheduleSession, StoredTransition

__all__ = [
    "UNSET",
    "ActiveScheduleSession",
    "ActiveScheduleSessionSnapshot",
    "ActiveScheduleSessionState",
    "AlreadyHandled",
    "Applied",
    "ApplyClaim",
    "ApplyFailed",
    "AskUser",
    "Asked",
    "CacheStats",
    "CachedRouter",
    "Change",
    "ClientSession",
    "Close",
    "Closed",
    "Confirmed",
    "ConflictReason",
    "ConversationBusy",
    "Database",
    "Deferred",
    "Dismissed",
    "Fail",
    "FreeChat",
    "GraphResult",
    "Handled",
    "Held",
    "IndexesMissing",
    "InvalidSessionInput",
    "InvalidTransition",
    "Lease",
    "LeaseKind",
    "LeaseLost",
    "NotAnAnswer",
    "Opening",
    "Outcome",
    "Page",
    "PreviewShown",
    "Question",
    "Rerun",
    "RerunClaim",
    "RerunFailed",
    "Route",
    "RouteAction",
    "SessionBridge",
    "SessionDamaged",
    "SessionError",
    "SessionExists",
    "SessionNotFound",
    "SessionRef",
    "SessionRepository",
    "SessionStatus",
    "ShowPreview",
    "StalePreview",
    "StaleReply",
    "Started",
    "Stopped",
    "StoreUnavailable",
    "StoredTransition",
    "Superseded",
    "TimedOut",
    "Transition",
    "TransitionConflict",
    "TryAgain",
    "Turn",
    "Unset",
    "Upkeep",
    "Watch",
    "WatchInterrupted",
    "WhileRunning",
    "WriteBack",
    "WriteOutcome",
    "action_url",
    "open_repository",
]

carry_module_name(globals())


def __getattr__(name: str) -> object:
    """The Beanie document with what belongs to it, imported when it is asked for: only its users need Beanie."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from sessions.store import beanie_document  # noqa: PLC0415

    globals().update({name: getattr(beanie_document, name) for name in ("ActiveScheduleSession", "StoredTransition")})
    carry_module_name(globals())
    return globals()[name]
