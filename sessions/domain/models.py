"""The frozen values that service, repository and cache share; none of them does I/O or takes a decision."""

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

from sessions.domain.lifecycle import LeaseKind, SessionStatus
from sessions.domain.limits import IDENTIFIERS, TEXT_LISTS, TEXTS, checked_moment

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
UtcMoment = Annotated[datetime, AfterValidator(checked_moment)]


def derive_session_id(user_id: int, trigger_id: str) -> str:
    """The id of the session that a trigger makes: nobody can choose another user's, and a trigger has only one."""
    return hashlib.sha256(f"{user_id}:{trigger_id}".encode()).hexdigest()[:32]


class ActiveScheduleSessionState(BaseModel):
    """The light state: the question, what is missing, what belongs to it, when it ends, why it failed.

    Texts are trimmed and bounded as the repository's arguments are; its JSON omits what is empty.
    """

    model_config = ConfigDict(frozen=True)

    pending_question: Annotated[str, AfterValidator(TEXTS["pending_question"].checked)] = ""
    missing_info: Annotated[tuple[str, ...], AfterValidator(TEXT_LISTS["missing_info"].checked)] = ()
    last_candidate_id: Annotated[str, AfterValidator(IDENTIFIERS["candidate_id"].checked)] | None = None
    last_notification_id: Annotated[str, AfterValidator(IDENTIFIERS["notification_id"].checked)] | None = None
    expires_at: UtcMoment | None = None
    failed_reason: Annotated[str, AfterValidator(TEXTS["reason"].checked)] = ""

    @model_serializer(mode="wrap")
    def _omit_empty(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in serialize(self).items() if value not in (None, "", [], ())}


class Lease(BaseModel):
    """Who works on a session, and until when nobody else may."""

    model_config = ConfigDict(frozen=True)

    kind: LeaseKind
    operation_id: str
    reply_id: str | None = None
    attempt: int | None = None
    expires_at: UtcMoment
    traceparent: str | None = None
    """The OpenTelemetry span of whoever works, if there is one, for whoever goes on from it."""

    def is_live(self, at: datetime) -> bool:
        """Whether the lease still keeps others away; from its expiry on it has lapsed."""
        return self.expires_at > at


class Question(NamedTuple):
    """One question of one session; its text is the ``question_id``, by which a reply says what it answers.

    A session that is made again after a purge has the id of the one before it, so its creation belongs to the name.
    """

    session_id: str
    created_ms: int
    number: int

    def __str__(self) -> str:
        return f"{self.session_id}:{self.created_ms}:{self.number}"


class ActiveScheduleSessionSnapshot(BaseModel):
    """A session as it was stored at one revision; it round-trips through JSON without loss."""

    model_config = ConfigDict(frozen=True)

    session_id: str
    user_id: int
    conversation_id: str | None = None
    trigger_id: str
    current_preview_id: str | None = None
    status: SessionStatus
    state: ActiveScheduleSessionState = ActiveScheduleSessionState()
    question_number: int = 0
    lease: Lease | None = None
    fencing_token: int = 0
    attempts: int = 0
    answered_reply_ids: tuple[str, ...] = ()
    replaced_reply_ids: tuple[str, ...] = ()
    replacements: int = 0
    """How many of the last of these were replaced since the last recorded outcome."""
    revision: int
    created_at: UtcMoment
    updated_at: UtcMoment

    @property
    def question_id(self) -> str:
        """Names the question asked last, for a reply that says which one it answers."""
        return str(self.question)

    @property
    def question(self) -> Question:
        """The question asked last, whether it still stands or not."""
        return Question(self.session_id, self._created_ms, self.question_number)

    @property
    def replaced_since_asked(self) -> tuple[str, ...]:
        """The messages that a newer one replaced since the last outcome was recorded."""
        return self.replaced_reply_ids[-self.replacements :] if self.replacements > 0 else ()

    @property
    def key_prefix(self) -> str:
        """Begins every idempotency key of this session, and of no other one, purged ones included."""
        return f"{self.session_id}:{self._created_ms}"

    @property
    def _created_ms(self) -> int:
        return (self.created_at - _EPOCH) // timedelta(milliseconds=1)


class Transition(BaseModel):
    """One entry of a session's history: a change of status, or a take-over."""

    model_config = ConfigDict(frozen=True)

    from_status: SessionStatus | None = None
    """The entry before; None for the first one that is kept."""
    to_status: SessionStatus
    at: UtcMoment
    reason: str = ""
    operation_id: str | None = None
    call: str


class RouteAction(StrEnum):
    """What a chat entry point does with the next message."""

    FREE_CHAT = "free_chat"
    RESUME = "resume"
    HOLD = "hold"


@dataclass(frozen=True, slots=True)
class Route:
    """Who governs a conversation; ``session`` is None for ``free_chat``."""

    action: RouteAction
    session: ActiveScheduleSessionSnapshot | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a user's sessions, newest first; ``after`` asks for the next one and is None on the last."""

    sessions: tuple[ActiveScheduleSessionSnapshot, ...]
    after: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldClaim:
    """What both kinds of claim have.

    Attributes:
        session: The session as the claim left it.
        kind: What it is claimed for.
        token: The fencing token; a later claim has a greater one.
        operation_id: The claim's own.
        attempt: Which try this is, from 1: which rerun since the last recorded outcome, or which write-back of this
            confirmation.
        expires_at: When others may take over, unless it is renewed.
        lease: How long the claim and each renewal last.
    """

    session: ActiveScheduleSessionSnapshot = field(repr=False)
    kind: LeaseKind
    token: int
    operation_id: str
    attempt: int
    expires_at: datetime
    lease: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplyClaim(HeldClaim):
    """The right to write a confirmed preview into the schedule; a confirmation is no message, so it has no reply."""

    kind: LeaseKind = LeaseKind.APPLY
    reply_id: None = None

    @property
    def idempotency_key(self) -> str:
        """The same for each write-back of one preview, so that the target can tell a repetition."""
        return f"{self.session.key_prefix}:{self.session.current_preview_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RerunClaim(HeldClaim):
    """The right to rerun the graph for one reply or one refinement.

    Attributes:
        reply_id: The message that is being answered.
    """

    reply_id: str

    @property
    def idempotency_key(self) -> str:
        """The same for each rerun of one message, for the graph's own side effects."""
        return f"{self.session.key_prefix}:{self.reply_id}"


Claim = RerunClaim | ApplyClaim
"""What a holder's call is given."""


def rerun_claim_of(session: ActiveScheduleSessionSnapshot, lease: timedelta) -> RerunClaim | None:
    """The claim of whoever holds the session for a rerun; None if no reply is held."""
    held = session.lease
    if held is None or held.reply_id is None:
        return None
    return RerunClaim(
        session=session,
        kind=held.kind,
        token=session.fencing_token,
        operation_id=held.operation_id,
        reply_id=held.reply_id,
        attempt=session.attempts,
        expires_at=held.expires_at,
        lease=lease,
    )


def apply_claim_of(session: ActiveScheduleSessionSnapshot, lease: timedelta) -> ApplyClaim | None:
    """The claim of whoever may write the preview back; None if nobody may."""
    held = session.lease
    if held is None or held.attempt is None:
        return None
    return ApplyClaim(
        session=session,
        kind=held.kind,
        token=session.fencing_token,
        operation_id=held.operation_id,
        attempt=held.attempt,
        expires_at=held.expires_at,
        lease=lease,
    )
