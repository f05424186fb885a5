"""From a graph's first result to what is stored of it, and back: whether a trigger delivered again changes nothing."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final, TypedDict

from sessions.bridge.graph import AskUser, Close, ShowPreview
from sessions.bridge.outcomes import Asked, Closed, PreviewShown
from sessions.bridge.texts import storable
from sessions.domain import inputs
from sessions.domain.errors import InvalidSessionInput
from sessions.domain.inputs import UNSET
from sessions.domain.lifecycle import SessionStatus
from sessions.domain.models import ActiveScheduleSessionSnapshot

FirstResult = AskUser | ShowPreview | Close
FirstOutcome = Asked | PreviewShown | Closed

_OUTCOMES: Final[Mapping[SessionStatus, type[Asked] | type[PreviewShown] | type[Closed]]] = {
    SessionStatus.WAITING_USER_REPLY: Asked,
    SessionStatus.READY_PREVIEW: PreviewShown,
    SessionStatus.IGNORED: Closed,
}


class CreationArguments(TypedDict, total=False):
    """Arguments of `SessionRepository.create`."""

    pending_question: str
    missing_info: Sequence[str]
    preview_id: str
    candidate_id: str | None
    expires_at: datetime | None
    ignored: bool
    reason: str


def creation_of(result: FirstResult) -> CreationArguments:
    """The arguments by which a session is created for a graph's first result."""
    given: CreationArguments
    result = storable(result)
    match result:
        case AskUser():
            given = {"pending_question": result.pending_question, "missing_info": result.missing_info}
        case ShowPreview():
            given = {"preview_id": result.preview_id}
        case Close():
            return {"ignored": True, "reason": result.reason}
        case _:
            raise InvalidSessionInput("result", "AskUser, ShowPreview or Close")
    if result.candidate_id is not UNSET:
        given["candidate_id"] = result.candidate_id
    if result.expires_at is not UNSET:
        given["expires_at"] = result.expires_at
    return given


def first_outcome(session: ActiveScheduleSessionSnapshot, payload: object) -> FirstOutcome:
    """What a creation came to."""
    return _OUTCOMES[session.status](session, payload)


def is_untouched(session: ActiveScheduleSessionSnapshot, status: SessionStatus) -> bool:
    """Whether nothing has happened to a session since it was created; binding and notifying belong to its start.

    Args:
        session: The session as stored.
        status: What its status counts as now.
    """
    if status is not session.status or session.fencing_token > 0:
        return False
    if status is SessionStatus.IGNORED:
        # Dismissed it would still hold the question's number, or the preview.
        return session.question_number == 0 and session.current_preview_id is None
    return status in _OUTCOMES


def says(result: FirstResult, session: ActiveScheduleSessionSnapshot) -> bool:
    """Whether what is stored is this result: a graph that ran a second time may have come to another."""
    match result:
        case AskUser():
            kept = storable(result)
            told = kept.pending_question, inputs.texts("missing_info", kept.missing_info)
            return told == (session.state.pending_question, session.state.missing_info)
        case ShowPreview():
            return result.preview_id == session.current_preview_id
        case Close():
            return session.status is SessionStatus.IGNORED
