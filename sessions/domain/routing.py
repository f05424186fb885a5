"""The routing decision: who gets the next chat message of a conversation."""

from datetime import datetime

from sessions.domain.expiry import counts_as, has_live_lease
from sessions.domain.models import ActiveScheduleSessionSnapshot, Route, RouteAction


def route_of(session: ActiveScheduleSessionSnapshot | None, at: datetime) -> Route:
    """What a chat entry point does with a message, given the session that the governor index found."""
    if session is None or not counts_as(session, at).intercepts:
        return Route(RouteAction.FREE_CHAT)
    if has_live_lease(session, at):
        return Route(RouteAction.HOLD, session)
    return Route(RouteAction.RESUME, session)
