"""A message that comes while the graph is at work on another one."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from enum import StrEnum
from typing import Final

from sessions.changes.lease_news import LeaseNews
from sessions.domain.errors import InvalidSessionInput
from sessions.domain.models import ActiveScheduleSessionSnapshot
from sessions.tasks import until_set

_LOOK_EVERY: Final = 0.5
_LAPSED: Final = 0.01


class WhileRunning(StrEnum):
    """What a message does while the graph is at work on another one."""

    HOLD = "hold"
    """It is held: not consumed, to be delivered again."""
    REPLACE = "replace"
    """It takes the run over: the graph is stopped, and begins anew with this message."""


def checked_while_running(value: object) -> WhileRunning:
    """One of the two."""
    if not isinstance(value, str) or value not in list(WhileRunning):
        raise InvalidSessionInput("while_running", "WhileRunning.HOLD or WhileRunning.REPLACE")
    return WhileRunning(value)


async def until_free(
    session: ActiveScheduleSessionSnapshot,
    look: Callable[[], Awaitable[ActiveScheduleSessionSnapshot | None]],
    *,
    news: LeaseNews,
    within: timedelta,
) -> None:
    """Wait until nobody works any more; told by the stream of changes, else it looks each half second.

    Args:
        session: As it was found, under a live lease.
        look: Reads who works now; None if nobody does.
        news: What becomes of leases.
        within: How long to wait at most; it ends with a look.
    """
    loop = asyncio.get_running_loop()
    ends = loop.time() + within.total_seconds()
    held: ActiveScheduleSessionSnapshot | None = session
    while held is not None and loop.time() < ends:
        with news.of(held) as listener:
            operation_id = _operation_of(held)
            while held is not None and _operation_of(held) == operation_id and (left := ends - loop.time()) > 0:
                pause = min(left, max(news.lapses_in(held), 0) + _LAPSED)
                await until_set(listener.woken, within=pause if news.is_told else min(pause, _LOOK_EVERY))
                listener.woken.clear()
                held = await look()


def _operation_of(session: ActiveScheduleSessionSnapshot) -> str | None:
    return None if session.lease is None else session.lease.operation_id
