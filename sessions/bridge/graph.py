"""What a graph is given, and what it answers; values that do not change, none does I/O.

Limits are those of `SessionRepository`'s arguments. A ``payload`` is handed through to the outcome and never stored:
the text or card for the user. A ``candidate_id`` or an ``expires_at`` that is left out keeps what is stored, unless the
moment has passed; None clears it.

No repr shows a text of the user or the payload, so that a log line of one of these tells no secret.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sessions.domain.inputs import UNSET, Unset
from sessions.domain.models import ActiveScheduleSessionSnapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One message for the graph to go on with.

    Attributes:
        session: The session as its claim left it; with a ``current_preview_id`` the user wants that one changed,
            else ``state`` says what the user was asked.
        text: What the user wrote.
        message_id: The message's own id.
        attempt: Which rerun this is since the last recorded outcome, from 1.
        replaces: Ids of the messages that this one, or one before it, replaced since the question was asked, the
            oldest first: the user wrote them before this one, and nothing came of them.
    """

    session: ActiveScheduleSessionSnapshot = field(repr=False)
    text: str = field(repr=False)
    message_id: str
    attempt: int
    replaces: tuple[str, ...] = ()

    @property
    def idempotency_key(self) -> str:
        """The same for each rerun of one message, for the graph's own side effects."""
        return f"{self.session.key_prefix}:{self.message_id}"


@dataclass(frozen=True, slots=True)
class AskUser:
    """The graph has to ask its user something before it can go on.

    Attributes:
        pending_question: What the user is asked; this or ``missing_info`` is given.
        missing_info: What the graph still needs.
        candidate_id: What the question is about.
        expires_at: When the session ends if nobody answers.
        payload: For the outcome.
    """

    pending_question: str = field(default="", repr=False)
    missing_info: Sequence[str] = field(default=(), repr=False)
    candidate_id: str | Unset | None = UNSET
    expires_at: datetime | Unset | None = UNSET
    payload: object = field(default=None, repr=False, hash=False)


@dataclass(frozen=True, slots=True)
class ShowPreview:
    """The graph has a preview that the user can confirm.

    Attributes:
        preview_id: Its id; a changed preview has a new one.
        candidate_id: What the preview is of.
        expires_at: When the session ends if nobody confirms.
        payload: For the outcome.
    """

    preview_id: str
    candidate_id: str | Unset | None = UNSET
    expires_at: datetime | Unset | None = UNSET
    payload: object = field(default=None, repr=False, hash=False)


@dataclass(frozen=True, slots=True)
class Close:
    """There is nothing to do (any more).

    Attributes:
        reason: Why, for the history.
    """

    reason: str = field(default="", repr=False)
    payload: object = field(default=None, repr=False, hash=False)


@dataclass(frozen=True, slots=True)
class Fail:
    """The graph cannot go on, and says why.

    Attributes:
        reason: Why; not blank.
    """

    reason: str = field(repr=False)
    payload: object = field(default=None, repr=False, hash=False)


class NotAnAnswer(RuntimeError):
    """The message is a side question or a change of topic: ordinary chat answers it, and the question stands.

    It is returned, or raised from wherever in the graph that is found.
    """

    def __init__(self, payload: object = None) -> None:
        super().__init__("the message is no answer")
        self._payload = payload

    @property
    def payload(self) -> object:
        """For the outcome."""
        return self._payload

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NotAnAnswer) and self._payload == other._payload

    def __hash__(self) -> int:
        return hash(NotAnAnswer)

    def __repr__(self) -> str:
        return "NotAnAnswer()"

    def __reduce__(self) -> tuple[type["NotAnAnswer"], tuple[object]]:
        return type(self), (self._payload,)


GraphResult = AskUser | ShowPreview | Close | Fail | NotAnAnswer
