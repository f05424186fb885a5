"""Repositories of several processes whose clocks differ."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime, timedelta
from functools import partial

from sessions.repository import SessionRepository, open_repository
from sessions.store.clients import Database


@asynccontextmanager
async def repositories_apart(
    database: Database, *ahead: timedelta, clock: Callable[[], datetime], lease: timedelta = timedelta(seconds=60)
) -> AsyncIterator[tuple[SessionRepository, ...]]:
    """A repository for each of these distances, its clock so far ahead of the given one, or behind it.

    Args:
        database: With its indexes, as ``sessions_repository`` makes them.
        ahead: One for each repository; a negative one is behind.
        clock: The right time, as ``sessions_clock`` tells it.
        lease: How long a claim lasts, by the clock of the repository that claims.
    """
    async with AsyncExitStack() as stack:
        openings = [open_repository(database, clock=partial(_ahead, clock, by), lease=lease) for by in ahead]
        yield tuple([await stack.enter_async_context(opening) for opening in openings])


def _ahead(clock: Callable[[], datetime], by: timedelta) -> datetime:
    return clock() + by
