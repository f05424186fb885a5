"""Every error a caller can meet, with ids and status as attributes and a text that says what to do next.

SessionError
├── InvalidSessionInput   422  an argument is outside its limits; nothing was written
├── SessionNotFound       404  this user has no such session
├── SessionExists         409  the trigger has made its session already
├── InvalidTransition     409  the status does not allow the call
├── TransitionConflict    409  somebody was first; ``reason`` says how
├── ConversationBusy      409  another session governs the conversation
├── StalePreview          409  the session offers another preview now
├── StaleReply            409  the session asks another question now
├── LeaseLost             409  the claim was taken over, given back or ended
├── WatchInterrupted      410  changes cannot be followed from there, or not on this server
├── StoreUnavailable      503  no primary answered in time; ``outcome`` says whether it may have written
├── SessionDamaged        500  the stored document of the session cannot be read
└── IndexesMissing        503  the database does not hold the governor index
"""

import copyreg
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, Final, Self

from sessions.domain.lifecycle import ENDED, SessionStatus
from sessions.domain.models import ActiveScheduleSessionSnapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRef:
    """What is known of the session that an error is about."""

    session_id: str | None = None
    user_id: int | None = None
    status: SessionStatus | None = None
    revision: int | None = None
    session: ActiveScheduleSessionSnapshot | None = None

    @classmethod
    def of(cls, session: ActiveScheduleSessionSnapshot, status: SessionStatus) -> Self:
        """What an error carries of a stored session, whose status counts as ``status`` now."""
        return cls(
            session_id=session.session_id,
            user_id=session.user_id,
            status=status,
            revision=session.revision,
            session=session,
        )


class SessionError(Exception):
    """The base of all errors of this library.

    Attributes:
        session_id: The session that the call named, if it named one.
        user_id: The user that the call named.
        status: What the session's status counts as now; ``expired`` for one that is past its ``expires_at``.
        revision: The revision of ``session``.
        session: The stored session that explains the refusal; never part of the text.
    """

    http_status: ClassVar[int] = 500

    def __init__(self, about: SessionRef, text: str) -> None:
        who = [
            f"session {about.session_id}" if about.session_id is not None else "",
            f"user {about.user_id}" if about.user_id is not None else "",
            f"status {about.status}" if about.status is not None else "",
        ]
        prefix = ", ".join(part for part in who if part)
        super().__init__(f"{prefix}: {text}" if prefix else text)
        self.session_id = about.session_id
        self.user_id = about.user_id
        self.status = about.status
        self.revision = about.revision
        self.session = about.session

    def __reduce__(self) -> tuple[Any, ...]:
        # By its class and its text, not by its arguments: nothing in a pickle depends on the layout of the package.
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__.copy()  # type: ignore[attr-defined]  # typeshed leaves it out


class InvalidSessionInput(SessionError, ValueError):
    """An argument is outside its limits; nothing was sent to the server.

    Attributes:
        argument: The argument's name.
        limit: What it must be, in words.
    """

    http_status: ClassVar[int] = 422

    def __init__(self, argument: str, limit: str) -> None:
        super().__init__(SessionRef(), f"{argument} must be {limit}; nothing was written")
        self.argument = argument
        self.limit = limit


class SessionNotFound(SessionError):
    """This user has no such session; another user's session counts as missing."""

    http_status: ClassVar[int] = 404

    def __init__(self, about: SessionRef) -> None:
        super().__init__(about, "this user has no such session: check both ids, or create it from its trigger")


class SessionExists(SessionError):
    """The trigger has made its session already."""

    http_status: ClassVar[int] = 409

    def __init__(self, about: SessionRef) -> None:
        super().__init__(about, "the trigger has its session already: use it, or call get_or_create")


class InvalidTransition(SessionError):
    """The session's status does not allow the call.

    Attributes:
        call: The call that was refused.
    """

    http_status: ClassVar[int] = 409

    def __init__(self, about: SessionRef, *, call: str, starts_from: tuple[SessionStatus, ...]) -> None:
        starts = ", ".join(starts_from)
        super().__init__(about, f"{call} starts from {starts}: read the session again and act on its present status")
        self.call = call


class ConflictReason(StrEnum):
    """Why a call that its status allows was refused."""

    IN_PROGRESS = "in_progress"
    APPLYING = "applying"
    ALREADY_ANSWERED = "already_answered"
    ALREADY_BOUND = "already_bound"
    REVISION_CHANGED = "revision_changed"
    ATTEMPTS_EXHAUSTED = "attempts_exhausted"
    OPERATION_ID_REUSED = "operation_id_reused"
    RACED = "raced"


_CONFLICT_TEXTS: Final[Mapping[ConflictReason, str]] = {
    ConflictReason.IN_PROGRESS: "another worker holds a live lease: wait for its outcome or for the lease to lapse",
    ConflictReason.APPLYING: "the user has confirmed the preview and it is being applied: wait for its outcome",
    ConflictReason.ALREADY_ANSWERED: "the outcome of this reply was recorded: drop the message, it was handled",
    ConflictReason.ALREADY_BOUND: "it is bound to another conversation and stays so: make a session of its own",
    ConflictReason.REVISION_CHANGED: "it was written since that revision: read it again and decide anew",
    ConflictReason.ATTEMPTS_EXHAUSTED: "too many reruns died without an outcome: it is not run again for this question",
    ConflictReason.OPERATION_ID_REUSED: "the operation_id names another call: use one for each call and its retries",
    ConflictReason.RACED: "others changed it each time this call tried: read it again, then repeat the call",
}


class TransitionConflict(SessionError):
    """Somebody was first.

    Attributes:
        reason: How, as one of a closed list.
    """

    http_status: ClassVar[int] = 409

    def __init__(self, about: SessionRef, *, reason: ConflictReason) -> None:
        super().__init__(about, f"{reason}: {_CONFLICT_TEXTS[reason]}")
        self.reason = reason


class ConversationBusy(SessionError):
    """Another session governs the conversation.

    Attributes:
        governing_session_id: That session; None if it had gone again by the time it was looked up.
    """

    http_status: ClassVar[int] = 409

    def __init__(self, about: SessionRef, *, governing_session_id: str | None) -> None:
        governor = f"session {governing_session_id}" if governing_session_id else "another session"
        super().__init__(about, f"{governor} governs the conversation: wait until it has ended, or end it first")
        self.governing_session_id = governing_session_id


class StalePreview(SessionError):
    """The call names a preview that the session does not offer now.

    Attributes:
        current_preview_id: The preview on offer; None if there is none.
    """

    http_status: ClassVar[int] = 409

    def __init__(self, about: SessionRef, *, current_preview_id: str | None) -> None:
        if current_preview_id:
            now = f"the preview on offer is {current_preview_id!r}: show it and ask the user again"
        elif about.status in ENDED:
            now = "no preview is on offer any more: show the user how the session has ended"
        else:
            now = "no preview is on offer now: show the user the question that stands, or wait for the next preview"
        super().__init__(about, now)
        self.current_preview_id = current_preview_id


class StaleReply(SessionError):
    """The reply names a question that the session does not ask now.

    Attributes:
        current_question_number: The question that stands; None if none does.
    """

    http_status: ClassVar[int] = 409

    def __init__(self, about: SessionRef, *, current_question_number: int | None) -> None:
        now = "no question" if current_question_number is None else f"question {current_question_number}"
        super().__init__(about, f"{now} stands now: show the user what stands, and let them answer that")
        self.current_question_number = current_question_number


class LeaseLost(SessionError):
    """The claim no longer holds the session: it was taken over, given back or ended; throw the result away."""

    http_status: ClassVar[int] = 409

    def __init__(self, about: SessionRef) -> None:
        super().__init__(about, "the claim lost its lease: stop the work and throw its result away")


class WatchInterrupted(SessionError):
    """Changes cannot be followed from where the watcher left off, or not at all on this server.

    Attributes:
        needs_replica_set: This server, or the in-memory double, has no change streams.
    """

    http_status: ClassVar[int] = 410

    def __init__(self, cause: str, *, needs_replica_set: bool = False) -> None:
        advice = (
            "following changes needs a replica set, of one member at least: start mongod with --replSet"
            if needs_replica_set
            else "read the sessions that matter, then watch anew without resume_after"
        )
        super().__init__(SessionRef(), f"changes cannot be followed ({cause}): {advice}")
        self.needs_replica_set = needs_replica_set


class SessionDamaged(SessionError):
    """The stored document of the session cannot be read: a field is missing, of a wrong type or beyond its limit.

    Attributes:
        fields: The names of the fields; never what they hold.
    """

    http_status: ClassVar[int] = 500

    def __init__(self, *, session_id: str | None, user_id: int | None, fields: tuple[str, ...]) -> None:
        about = SessionRef(session_id=session_id, user_id=user_id)
        super().__init__(about, f"the stored document is damaged in {', '.join(fields)}: put these right, or delete it")
        self.fields = fields


class WriteOutcome(StrEnum):
    """What is known of a write that met an unavailable store."""

    NOT_WRITTEN = "not_written"
    UNKNOWN = "unknown"


class StoreUnavailable(SessionError):
    """The database did not answer, or refused to serve, within the repository's ``timeout``.

    Attributes:
        outcome: ``not_written``, or ``unknown`` if the write may have happened.
        may_pass: Whether trying again can help. A missing right, a validator or a foreign unique index cannot pass.
    """

    http_status: ClassVar[int] = 503
    may_pass: bool = True

    def __init__(self, about: SessionRef, *, outcome: WriteOutcome, cause: str, may_pass: bool = True) -> None:
        advice = {
            WriteOutcome.NOT_WRITTEN: "nothing was written: try again later",
            WriteOutcome.UNKNOWN: "the write may have happened: repeat the call with the same operation_id",
        }[outcome]
        if not may_pass:
            advice = "nothing was written, and trying again does not help: put this right first"
        super().__init__(about, f"the store is unavailable ({cause}); {advice}")
        self.outcome = outcome
        self.may_pass = may_pass


class IndexesMissing(SessionError):
    """The database lacks the governor index as declared, so that two sessions could govern one conversation.

    Also if its collection is one that cannot hold sessions: a view, a time series, one with a default collation.

    Attributes:
        differences: What differs, one sentence each.
    """

    http_status: ClassVar[int] = 503

    def __init__(
        self, differences: tuple[str, ...], *, cure: str = "run `python -m indexes apply` on this database"
    ) -> None:
        found = "; ".join(differences)
        super().__init__(SessionRef(), f"{found}: {cure}, then open it again")
        self.differences = differences
