"""The routing decision: who gets the next chat message of a conversation."""

from datetime import UTC, datetime
from typing import Final

from sessions.domain.expiry import counts_as, has_live_lease
from sessions.domain.models import ActiveScheduleSessionSnapshot, Route, RouteAction

FREE_CHAT: Final = Route(RouteAction.FREE_CHAT)
NEVER: Final = datetime.max.replace(tzinfo=UTC)


def route_of(session: ActiveScheduleSessionSnapshot | None, at: datetime) -> Route:
    """What a chat entry point does with a message, given the session that the governor index found."""
    if session is None or not counts_as(session, at).intercepts:
        return FREE_CHAT
    if has_live_lease(session, at):
        return Route(RouteAction.HOLD, session)
    return Route(RouteAction.RESUME, session)


def route_may_change(session: ActiveScheduleSessionSnapshot | None, after: datetime) -> datetime:
    """The first moment after another at which time changes the route, if nothing else does."""
    if session is None:
        return NEVER
    moments = (session.state.expires_at, None if session.lease is None else session.lease.expires_at)
    return min((moment for moment in moments if moment is not None and moment > after), default=NEVER)
