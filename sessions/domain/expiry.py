"""What time does to a session: the rules by which something lapsed counts as swept, in one place."""

from datetime import datetime

from sessions.domain.lifecycle import LEASES, LeaseKind, SessionStatus
from sessions.domain.models import ActiveScheduleSessionSnapshot, Question


def has_live_lease(session: ActiveScheduleSessionSnapshot, at: datetime) -> bool:
    """Whether somebody works on it undisturbed."""
    return session.lease is not None and session.lease.is_live(at)


def has_lapsed_lease(session: ActiveScheduleSessionSnapshot, kind: LeaseKind, at: datetime) -> bool:
    """Whether a lease of this kind was left behind."""
    return session.lease is not None and session.lease.kind is kind and not session.lease.is_live(at)


def has_expired(session: ActiveScheduleSessionSnapshot, at: datetime) -> bool:
    """Whether a session that nobody ended is past its ``expires_at`` with nobody at work on it.

    A confirmation is carried out: under an ``apply`` lease, live or lapsed, nothing expires.
    """
    ends = session.state.expires_at
    if ends is None or ends > at or session.status.is_final:
        return False
    return session.lease is None or not (session.lease.kind is LeaseKind.APPLY or session.lease.is_live(at))


def counts_as(session: ActiveScheduleSessionSnapshot, at: datetime) -> SessionStatus:
    """The status as if all that has lapsed had been swept; a lapsed reply stays ``rerunning``, to be taken over."""
    if has_expired(session, at):
        return SessionStatus.EXPIRED
    if has_lapsed_lease(session, LeaseKind.REFINEMENT, at):
        return LEASES[LeaseKind.REFINEMENT].given_back_to
    return session.status


def question_standing(session: ActiveScheduleSessionSnapshot, status: SessionStatus) -> Question | None:
    """The question that a reply can answer: while the session waits, and while a reply to it is being worked on.

    Args:
        session: The session as stored.
        status: What its status counts as now.
    """
    is_reply = session.lease is not None and session.lease.kind is LeaseKind.REPLY
    stands = status is SessionStatus.WAITING_USER_REPLY or (status is SessionStatus.RERUNNING and is_reply)
    return session.question if stands else None
