"""The lifecycle of a session in plain Python, written from the design: what each call returns, changes, or refuses.

It imports nothing of the library and shares none of its tables, so that a mistake in one is not in the other. It knows
one caller at a time: what several at once may do is for the interleavings.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

KEPT: Final = 32
UNSET: Final = object()
WAITING, RERUNNING, READY = "waiting_user_reply", "rerunning", "ready_preview"
APPLIED, IGNORED, EXPIRED, FAILED = "applied", "ignored", "expired", "failed"
STATUSES: Final = (WAITING, RERUNNING, READY, APPLIED, IGNORED, EXPIRED, FAILED)
FINAL: Final = (APPLIED, IGNORED, EXPIRED, FAILED)
INTERCEPTING: Final = (WAITING, RERUNNING)
GIVEN_BACK: Final = {"reply": WAITING, "refinement": READY, "apply": READY}
HELD_IN: Final = {"reply": RERUNNING, "refinement": RERUNNING, "apply": READY}
LAPSED: Final = "the lease lapsed"
TOO_LATE: Final = "nobody answered before expires_at"
REPLACED: Final = "replaced by a newer message"
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
Seen = dict[str, Any]
"""What a caller sees of a session, a claim or a document, as plain values."""


class Fresh:
    """An operation id that the library drew itself: not known before it is seen, and the same ever after."""

    __hash__ = None  # type: ignore[assignment]  # it changes when it is seen

    def __init__(self) -> None:
        self.value: str | None = None

    def __eq__(self, other: object) -> bool:
        theirs = other.value if isinstance(other, Fresh) else other
        return self is other or (self.value is not None and self.value == theirs)

    def __repr__(self) -> str:
        return f"Fresh({self.value})"


class AnyOf(list[Any]):
    """Several answers of which each is right, since the design does not say which of them a lookup finds."""


class Refusal(Exception):
    """A call is refused: the kind of the error, and what it tells."""

    def __init__(self, kind: str, **seen: Any) -> None:
        super().__init__(kind, seen)
        self.kind = kind
        self.seen = seen


@dataclass
class Lease:
    """Who works on a session."""

    kind: str
    operation_id: Any
    expires_at: datetime
    reply_id: str | None = None
    attempt: int | None = None
    traceparent: str | None = None


@dataclass
class Session:
    """One document."""

    session_id: str
    user_id: int
    trigger_id: str
    status: str
    created_at: datetime
    updated_at: datetime
    conversation_id: str | None = None
    current_preview_id: str | None = None
    pending_question: str = ""
    missing_info: tuple[str, ...] = ()
    last_candidate_id: str | None = None
    last_notification_id: str | None = None
    expires_at: datetime | None = None
    failed_reason: str = ""
    question_number: int = 0
    lease: Lease | None = None
    fencing_token: int = 0
    attempts: int = 0
    answered_reply_ids: tuple[str, ...] = ()
    replaced_reply_ids: tuple[str, ...] = ()
    replacements: int = 0
    revision: int = 1
    history: list[Seen] = field(default_factory=list)

    @property
    def key(self) -> str:
        """Begins every key and every question's id: a second life after a purge has others."""
        return f"{self.session_id}:{(self.created_at - EPOCH) // timedelta(milliseconds=1)}"

    @property
    def question_id(self) -> str:
        """Names the question asked last."""
        return f"{self.key}:{self.question_number}"

    def seen(self) -> Seen:
        """What a snapshot of it shows."""
        told = {name: value for name, value in vars(self).items() if name != "history"}
        told["state"] = {name: told.pop(name) for name in STATE}
        told["lease"] = None if self.lease is None else dict(vars(self.lease))
        return told

    def document(self) -> Seen:
        """What is stored."""
        return {**self.seen(), "history": list(self.history)}


STATE: Final = (
    *("pending_question", "missing_info", "last_candidate_id", "last_notification_id"),
    *("expires_at", "failed_reason"),
)


@dataclass(frozen=True)
class Claim:
    """What a claim returns."""

    session: Seen
    kind: str
    token: int
    operation_id: Any
    reply_id: str | None
    attempt: int
    expires_at: datetime
    lease: timedelta
    idempotency_key: str

    @property
    def session_id(self) -> str:
        """Whose claim it is."""
        return str(self.session["session_id"])

    @property
    def user_id(self) -> int:
        """Whose session that is."""
        return int(self.session["user_id"])


def question_id_of(session: Seen) -> str:
    """Names the question asked last, of a session as it was seen."""
    created = (session["created_at"] - EPOCH) // timedelta(milliseconds=1)
    return f"{session['session_id']}:{created}:{session['question_number']}"


def session_id_of(user_id: int, trigger_id: str) -> str:
    """The id that a trigger's session has."""
    return hashlib.sha256(f"{user_id}:{trigger_id}".encode()).hexdigest()[:32]


class Lifecycle:
    """All sessions, and the rules for one call after another.

    Attributes:
        now: The moment; it is moved from outside.
        sessions: Each by its id.
        versions: Each session as every write left it, by its key and revision.
    """

    def __init__(self, now: datetime, *, lease: timedelta, max_attempts: int) -> None:
        self.now = now
        self.lease = lease
        self.max_attempts = max_attempts
        self.sessions: dict[str, Session] = {}
        self.versions: dict[tuple[str, int], Seen] = {}

    # --- what time does -------------------------------------------------------------------------------------------

    def is_live(self, session: Session) -> bool:
        """Whether somebody works on it undisturbed."""
        return session.lease is not None and session.lease.expires_at > self.now

    def has_lease(self, session: Session, kind: str) -> bool:
        """Whether it is under such a lease, live or lapsed."""
        return session.lease is not None and session.lease.kind == kind

    def has_expired(self, session: Session) -> bool:
        """Whether it is past its end with nobody at work; a confirmation does not expire."""
        ends = session.expires_at
        if ends is None or ends > self.now or session.status in FINAL:
            return False
        return not self.has_lease(session, "apply") and not self.is_live(session)

    def counts_as(self, session: Session) -> str:
        """The status as if all that has lapsed had been swept."""
        if self.has_expired(session):
            return EXPIRED
        if self.has_lease(session, "refinement") and not self.is_live(session):
            return READY
        return session.status

    def standing_question(self, session: Session, status: str) -> int | None:
        """The number of the question that a reply can answer."""
        stands = status == WAITING or (status == RERUNNING and self.has_lease(session, "reply"))
        return session.question_number if stands else None

    # --- writing --------------------------------------------------------------------------------------------------

    def write(self, session: Session, **changes: Any) -> None:
        """Change fields: one revision more, and never an earlier moment."""
        for name, value in changes.items():
            setattr(session, name, value)
        session.revision += 1
        session.updated_at = max(session.updated_at, self.now)
        self.versions[session.key, session.revision] = session.seen()

    def enter(
        self, session: Session, status: str, call: str, *, reason: str = "", operation_id: Any = None, **changes: Any
    ) -> None:
        """Change the status, which the history keeps."""
        entry = self.entry(status, call, reason, operation_id)
        session.history = [*session.history, entry][-KEPT:]
        self.write(session, status=status, **changes)

    def entry(self, status: str, call: str, reason: str, operation_id: Any) -> Seen:
        """What the history keeps of one change."""
        return {"to_status": status, "at": self.now, "reason": reason, "operation_id": operation_id, "call": call}

    def put_back(self, session: Session) -> None:
        """End what has expired, or give back what a dead worker holds."""
        if self.has_expired(session):
            self.enter(session, EXPIRED, "expire_due", reason=TOO_LATE, lease=None)
        elif session.lease is not None:
            self.enter(session, GIVEN_BACK[session.lease.kind], "recover_stalled", reason=LAPSED, lease=None)

    # --- refusing -------------------------------------------------------------------------------------------------

    def refused(self, kind: str, session: Session, **more: Any) -> Refusal:
        """A refusal that a stored session explains."""
        about = {"session_id": session.session_id, "user_id": session.user_id, "revision": session.revision}
        return Refusal(kind, **about, status=self.counts_as(session), session=session.seen(), **more)

    def conflict(self, session: Session, reason: str) -> Refusal:
        """Somebody was first."""
        return self.refused("TransitionConflict", session, reason=reason)

    def found(self, session_id: str, user_id: int) -> Session:
        """The session, of this user."""
        session = self.sessions.get(session_id)
        if session is None or session.user_id != user_id:
            raise Refusal("SessionNotFound", session_id=session_id, user_id=user_id, status=None, session=None)
        return session

    def done_before(self, session: Session, call: str, operation_id: Any) -> list[Seen]:
        """What the history holds of this very call."""
        return [entry for entry in session.history if entry["operation_id"] == operation_id and entry["call"] == call]

    def refuse_reused(self, session: Session, operation_id: Any) -> None:
        """An id names one call only."""
        seen = [entry["operation_id"] for entry in session.history]
        if session.lease is not None:
            seen.append(session.lease.operation_id)
        if operation_id is not None and operation_id in seen:
            raise self.conflict(session, "operation_id_reused")

    def rival(self, user_id: int, conversation_id: str | None, *, but: str) -> Session | None:
        """The other session that occupies a conversation."""
        return next(
            (
                session
                for session in self.sessions.values()
                if conversation_id is not None
                and (session.user_id, session.conversation_id) == (user_id, conversation_id)
                and session.status in INTERCEPTING
                and session.session_id != but
            ),
            None,
        )

    def busy(self, rival: Session | None) -> bool:
        """Whether a rival governs by now."""
        return rival is not None and self.counts_as(rival) in INTERCEPTING

    def make_way(self, rival: Session | None, about: Session | None, ids: Seen) -> None:
        """Put a rival back that has lapsed; refuse if it has not."""
        if rival is None:
            return
        if not self.busy(rival):
            self.put_back(rival)
            return
        governing = {"governing_session_id": rival.session_id}
        if about is None:
            raise Refusal("ConversationBusy", **ids, status=None, session=None, **governing)
        raise self.refused("ConversationBusy", about, **governing)

    def ahead(self, moment: datetime | None) -> None:
        """An end that is given lies ahead."""
        if moment is not None and moment <= self.now:
            raise invalid("expires_at")

    # --- creation and binding -------------------------------------------------------------------------------------

    def make(
        self,
        call: str,
        user_id: int,
        trigger_id: str,
        *,
        conversation_id: str | None = None,
        pending_question: str = "",
        missing_info: Sequence[str] = (),
        preview_id: str | None = None,
        candidate_id: str | None = None,
        notification_id: str | None = None,
        expires_at: datetime | None = None,
        ignored: bool = False,
        reason: str = "",
        operation_id: Any = None,
    ) -> tuple[Session, bool]:
        """The trigger's session, and whether this call made it."""
        ways = [WAITING] * bool(pending_question or missing_info) + [READY] * bool(preview_id) + [IGNORED] * ignored
        if len(ways) != 1:
            raise invalid("pending_question")
        self.ahead(expires_at)
        session_id = session_id_of(user_id, trigger_id)
        if (stored := self.sessions.get(session_id)) is not None:
            return stored, bool(self.done_before(stored, call, operation_id))
        if ways[0] in INTERCEPTING:
            rival = self.rival(user_id, conversation_id, but=session_id)
            self.make_way(rival, None, {"session_id": session_id, "user_id": user_id})
        made = Session(
            session_id=session_id,
            user_id=user_id,
            trigger_id=trigger_id,
            status=ways[0],
            created_at=self.now,
            updated_at=self.now,
            conversation_id=conversation_id,
            current_preview_id=preview_id,
            pending_question=pending_question,
            missing_info=tuple(missing_info),
            last_candidate_id=candidate_id,
            last_notification_id=notification_id,
            expires_at=expires_at,
            question_number=int(ways[0] == WAITING),
            history=[self.entry(ways[0], call, reason, operation_id)],
        )
        self.sessions[session_id] = made
        self.versions[made.key, 1] = made.seen()
        return made, True

    def bind_conversation(
        self,
        session_id: str,
        conversation_id: str,
        *,
        user_id: int,
        notification_id: Any = UNSET,
        expected_revision: int | None = None,
    ) -> Session:
        """Once; again to the same one changes nothing."""
        session = self.found(session_id, user_id)
        if session.conversation_id == conversation_id:
            return session
        status = self.counts_as(session)
        if status in FINAL:
            raise self.refused("InvalidTransition", session, call="bind_conversation")
        rival = self.rival(user_id, conversation_id, but=session_id) if status in INTERCEPTING else None
        if self.busy(rival):
            self.make_way(rival, session, {})
        if expected_revision not in (None, session.revision):
            raise self.conflict(session, "revision_changed")
        if session.conversation_id is not None:
            raise self.conflict(session, "already_bound")
        self.make_way(rival, session, {})
        if status != session.status:
            self.put_back(session)
        noted = {} if notification_id is UNSET else {"last_notification_id": notification_id}
        self.write(session, conversation_id=conversation_id, **noted)
        return session

    def record_notification(self, session_id: str, notification_id: str, *, user_id: int) -> Session:
        """In any status; the same one again changes nothing."""
        session = self.found(session_id, user_id)
        if session.last_notification_id != notification_id:
            self.write(session, last_notification_id=notification_id)
        return session


def invalid(argument: str) -> Refusal:
    """An argument is outside its limits."""
    return Refusal("InvalidSessionInput", argument=argument, session_id=None, user_id=None, status=None, session=None)


def kept(ids: tuple[str, ...], added: str | None) -> tuple[str, ...]:
    """The last of a bounded list of ids."""
    return (*ids, str(added))[-KEPT:]


def latest_of(sessions: Iterable[Session]) -> AnyOf:
    """Whichever of these changed last."""
    found = list(sessions)
    last = max((session.updated_at for session in found), default=None)
    return AnyOf(session.seen() for session in found if session.updated_at == last) or AnyOf([None])
