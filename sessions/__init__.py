"""Which session governs this conversation? Durable, atomic session records on MongoDB."""

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
)
from sessions.inputs import UNSET
from sessions.models import (
    ActiveScheduleSessionSnapshot,
    ActiveScheduleSessionState,
    ApplyClaim,
    Page,
    RerunClaim,
    Route,
    RouteAction,
    Transition,
)
from sessions.repository import SessionRepository, open_repository
from sessions.status import SessionStatus

__all__ = [
    "UNSET",
    "ActiveScheduleSession",
    "ActiveScheduleSessionSnapshot",
    "ActiveScheduleSessionState",
    "ApplyClaim",
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
    "open_repository",
]
