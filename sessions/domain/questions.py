"""Which question a reply names, and which one stands."""

from sessions.domain import inputs
from sessions.domain.errors import InvalidSessionInput, SessionRef, StaleReply
from sessions.domain.lifecycle import LeaseKind, SessionStatus
from sessions.domain.models import ActiveScheduleSessionSnapshot

Question = tuple[str, int]


def question_named(question_id: object) -> Question | None:
    """The session and the number that a ``question_id`` names."""
    if question_id is None:
        return None
    wanted = InvalidSessionInput("question_id", "None, or the `question_id` of a session: <session_id>:<number>")
    if not isinstance(question_id, str):
        raise wanted
    session_id, _, number = question_id.rpartition(":")
    try:
        named = inputs.identifier("session_id", session_id), inputs.integer("question_number", int(number))
    except ValueError as error:
        raise wanted from error
    if f"{named[0]}:{named[1]}" != question_id:
        raise wanted
    return named


def question_standing(session: ActiveScheduleSessionSnapshot) -> Question | None:
    """The question that a governing session asks; none while a preview is being changed."""
    if session.lease is not None and session.lease.kind is not LeaseKind.REPLY:
        return None
    return session.session_id, session.question_number


def stale_reply(session: ActiveScheduleSessionSnapshot, status: SessionStatus, standing: Question | None) -> StaleReply:
    """The refusal of a reply that names a question of this session which is not the one that stands.

    Args:
        session: The session as stored.
        status: What its status counts as now.
        standing: The question that stands in the conversation.
    """
    about = SessionRef(
        session_id=session.session_id,
        user_id=session.user_id,
        status=status,
        revision=session.revision,
        session=session,
    )
    return StaleReply(about, current_question_number=standing[1] if standing is not None else None)
