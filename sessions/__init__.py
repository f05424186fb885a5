"""Which session governs this conversation? Durable, atomic session records on MongoDB."""

from sessions.cache import CachedRouter
from sessions.document import ActiveScheduleSession
from sessions.errors import (
    ConflictReason,
    ConversationBusy,
    IndexesMissing,
    InvalidSessionInput,
    InvalidTransition,
    LeaseLost,
    SessionError,
    SessionExists,
    SessionNotFound,
    StalePreview,
    StaleReply,
    StoreUnavailable,
    TransitionConflict,
    WatchInterrupted,
)
from sessions.inputs import UNSET
from sessions.models import (
    ActiveScheduleSessionSnapshot,
    ActiveScheduleSessionState,
    Page,
    RerunClaim,
    Route,
    RouteAction,
    Transition,
)
from sessions.repository import SessionRepository, open_repository
from sessions.status import SessionStatus
from sessions.watch import Change

__all__ = [
    "UNSET",
    "ActiveScheduleSession",
    "ActiveScheduleSessionSnapshot",
    "ActiveScheduleSessionState",
    "CachedRouter",
    "Change",
    "ConflictReason",
    "ConversationBusy",
    "IndexesMissing",
    "InvalidSessionInput",
    "InvalidTransition",
    "LeaseLost",
    "Page",
    "RerunClaim",
    "Route",
    "RouteAction",
    "SessionError",
    "SessionExists",
    "SessionNotFound",
    "SessionRepository",
    "SessionStatus",
    "StalePreview",
    "StaleReply",
    "StoreUnavailable",
    "Transition",
    "TransitionConflict",
    "WatchInterrupted",
    "open_repository",
]
