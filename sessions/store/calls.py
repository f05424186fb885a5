"""One call on one stored session, its arguments checked: who calls, and what must hold for it to be carried out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from sessions.domain.errors import SessionRef
from sessions.domain.inputs import UNSET, Unset
from sessions.domain.lifecycle import CallName, LeaseKind, SessionStatus
from sessions.domain.models import Claim, Lease


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call."""

    name: CallName
    session_id: str
    user_id: int
    operation_id: str | None = None
    reason: str = ""
    expected_revision: int | None = None
    preview_id: str | None = None
    question_number: int | None = None
    reply_id: str | None = None
    replaces: Lease | None = None
    """The lease of the run that the call's message replaces."""
    interrupts: LeaseKind = LeaseKind.REPLY
    conversation_id: str | None = None
    notification_id: str | Unset | None = UNSET
    lease: timedelta = timedelta(0)
    traceparent: str | None = None
    max_attempts: int = 0
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Document paths that the call sets; an empty value removes the field."""

    @property
    def about(self) -> SessionRef:
        """What an error carries before the session was read."""
        return SessionRef(session_id=self.session_id, user_id=self.user_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class CreationCall(Call):
    """A call that makes the session of a trigger, in the status that it begins with."""

    trigger_id: str
    status: SessionStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class HolderCall(Call):
    """A call that only the holder of a claim can make, on the claim's session."""

    session_id: str = field(init=False)
    user_id: int = field(init=False)
    claim: Claim
    count_attempt: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "session_id", self.claim.session.session_id)
        object.__setattr__(self, "user_id", self.claim.session.user_id)
