"""What the bridge tells its caller; frozen values, none does I/O, and no repr shows the payload."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final
from urllib.parse import quote

from sessions.domain.errors import ConflictReason, InvalidSessionInput, LeaseLost, SessionError, TransitionConflict
from sessions.domain.lifecycle import CallName
from sessions.domain.models import ActiveScheduleSessionSnapshot


@dataclass(frozen=True, slots=True, repr=False)
class Outcome:
    """What came of a call on a session.

    Attributes:
        session: The session as the call left or found it.
        payload: What the graph's answer carried; None if no graph ran.
    """

    session: ActiveScheduleSessionSnapshot
    payload: object = field(default=None, hash=False)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(session {self.session.session_id}, {self.session.status})"


@dataclass(frozen=True, slots=True, repr=False)
class FreeChat:
    """Ordinary chat answers the message.

    Attributes:
        session: The session whose question stands, if the graph said that the message is no answer to it; None
            if nobody governs the conversation.
        payload: What the graph's answer carried.
    """

    session: ActiveScheduleSessionSnapshot | None = None
    payload: object = field(default=None, hash=False)

    def __repr__(self) -> str:
        return "FreeChat()" if self.session is None else f"FreeChat(session {self.session.session_id})"


class Asked(Outcome):
    """A question stands: show it; it is the session's ``state``. Also for an empty message, without a run."""

    __slots__ = ()


class PreviewShown(Outcome):
    """A preview can be shown and confirmed: the session's ``current_preview_id``. Chat is free."""

    __slots__ = ()


class Closed(Outcome):
    """There is nothing to do any more: the session has ended as ``ignored``."""

    __slots__ = ()


@dataclass(frozen=True, repr=False)
class Held(Outcome):
    """Somebody works on the session: nothing was consumed; keep the message, or try the button again, later.

    Attributes:
        question_id: What to pass, with ``redelivered=True``, when the message is delivered to `SessionBridge.handle`
            again, so that it cannot answer a question asked later than it was written; None for anything else.
    """

    question_id: str | None = field(default=None, compare=False)


class AlreadyHandled(Outcome):
    """This message or trigger was handled before: there is nothing to do."""

    __slots__ = ()


class RerunFailed(Outcome):
    """The graph cannot go on, the session says why. If only the attempts at a change are spent, its preview stands.

    The session has ended as ``failed`` in the first case, and is ``ready_preview`` in the second.
    """

    __slots__ = ()


class TimedOut(Outcome):
    """The work took longer than ``max_rerun`` and was cancelled.

    A question or a preview stands as before, the attempt counted. A write-back is finished under the same key.
    """

    __slots__ = ()


class Superseded(Outcome):
    """The lease was lost, to another worker or an ending: the result was thrown away; act on the session's status."""

    __slots__ = ()


@dataclass(frozen=True, repr=False)
class Deferred(Outcome):
    """The work cannot be done now, and nothing ended by it.

    A message was not consumed: deliver it again, as after `Held`. A confirmation stands: confirm again, or leave it to
    `Upkeep`.

    Attributes:
        after: How long to wait before that.
        question_id: What to pass then, with ``redelivered=True``, as `Held` has it.
    """

    after: timedelta = timedelta(0)
    question_id: str | None = field(default=None, compare=False)


class Stopped(Outcome):
    """No rerun is under way any more: the question, or the preview, stands as before; also where none was."""

    __slots__ = ()


class Applied(Outcome):
    """The confirmed preview is written; even if it had been before."""

    __slots__ = ()


class ApplyFailed(Outcome):
    """The write-back failed: the session has ended as ``failed`` and says why."""

    __slots__ = ()


class Dismissed(Outcome):
    """The session has ended as ``ignored``; even if it had before."""

    __slots__ = ()


Started = Asked | PreviewShown | Closed | AlreadyHandled
Handled = (
    FreeChat | Asked | PreviewShown | Closed | Held | AlreadyHandled | RerunFailed | TimedOut | Superseded | Deferred
)
Confirmed = Applied | ApplyFailed | Held | TimedOut | Superseded | Deferred

_NO_SEGMENT: Final = frozenset({".", ".."})


def action_url(session: ActiveScheduleSessionSnapshot) -> str:
    """The path that a notification leads to: the session's conversation.

    Args:
        session: A session that is bound to its conversation.

    Returns:
        ``/assistant/{conversation_id}``, escaped so that the id is one segment of the path.

    Raises:
        InvalidSessionInput: The session is not bound, or its conversation's id is ``.`` or ``..``, which no escape
            keeps a browser from resolving.
    """
    conversation_id = getattr(session, "conversation_id", None)
    if not isinstance(conversation_id, str) or conversation_id in _NO_SEGMENT:
        raise InvalidSessionInput("session", "a session that is bound to a conversation")
    return f"/assistant/{quote(conversation_id, safe='')}"


# --- what a refusal comes to ------------------------------------------------------------------------------------

OUTCOME_OF_CALL: Final[Mapping[str, type[Asked] | type[PreviewShown] | type[Closed] | type[RerunFailed]]] = {
    CallName.ASK_AGAIN.value: Asked,
    CallName.PRESENT_PREVIEW.value: PreviewShown,
    CallName.CLOSE_RERUN.value: Closed,
    CallName.FAIL_RERUN.value: RerunFailed,
}
"""What was told of a rerun, by the call that recorded it."""
_BY_REASON: Final[Mapping[ConflictReason, type[Held] | type[AlreadyHandled] | type[RerunFailed]]] = {
    ConflictReason.IN_PROGRESS: Held,
    ConflictReason.APPLYING: Held,
    ConflictReason.RACED: Held,
    ConflictReason.ALREADY_ANSWERED: AlreadyHandled,
    ConflictReason.ATTEMPTS_EXHAUSTED: RerunFailed,
}


Refusal = Held | AlreadyHandled | RerunFailed | Superseded


def outcome_of(error: SessionError, *, question_id: str | None = None) -> Refusal:
    """The outcome of a claim or an ending that was refused; what is no outcome is raised again.

    Args:
        error: The refusal.
        question_id: What a message that is held names when it is delivered again.
    """
    if isinstance(error, TransitionConflict) and error.reason in _BY_REASON and error.session is not None:
        kind = _BY_REASON[error.reason]
        return Held(error.session, question_id=question_id) if kind is Held else kind(error.session)
    if isinstance(error, LeaseLost) and error.session is not None:
        return Superseded(error.session)
    raise error
