"""Routes from memory, kept right by the change stream: bounded in size and in age, in this process and every other.

Claims are not decided here: whoever acts on a route that has just gone stale is refused by the database.
"""

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Any, Final, Self

from sessions import telemetry
from sessions.cache.entries import Entry, Key
from sessions.cache.listener import Listener, Lookup
from sessions.domain import inputs
from sessions.domain.errors import SessionRef, StoreUnavailable, WriteOutcome
from sessions.domain.models import ActiveScheduleSessionSnapshot, Route
from sessions.domain.routing import route_of
from sessions.repository import SessionRepository
from sessions.tasks import forget, in_background

DEFAULT_MAX_STALENESS: Final = timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class CacheStats:
    """What a cache has done since it was made.

    Attributes:
        entries: How many conversations it holds now.
        hits: Routes answered from memory.
        misses: Routes answered by a lookup, of one's own or one that was under way.
        evictions: Entries thrown out because something changed, or to make room.
        stale_refusals: Misses although there was an entry: it could not be proved young enough.
        lag: How long after it was written the last change came in, by the server's clock; None before the first.
    """

    entries: int
    hits: int
    misses: int
    evictions: int
    stale_refusals: int
    lag: timedelta | None


class CachedRouter:
    """The repository's `route`, answered from memory while nothing has changed.

    Use it by ``async with``; before and after, and while the change stream is down, it asks the database each time.

    Args:
        repository: Whose sessions; its own writes show at once, everybody else's within the stream's lag.
        max_entries: Conversations kept, 1 to 10,000,000; the one unused longest goes first.
        max_staleness: No answer from memory is older, 10 ms to one hour.

    Raises:
        InvalidSessionInput: An argument is outside its limits.
        WatchInterrupted: (Entering) the server is no replica set.
        StoreUnavailable: (Entering) no primary answered within the repository's ``timeout``.
        RuntimeError: (Entering) it is in use already, or the repository is closed.
    """

    def __init__(
        self,
        repository: SessionRepository,
        *,
        max_entries: int = 100_000,
        max_staleness: timedelta = DEFAULT_MAX_STALENESS,
    ) -> None:
        most = inputs.integer("max_entries", max_entries)
        self._max_staleness = inputs.duration("max_staleness", max_staleness).total_seconds()
        self._upstream = repository._cache_upstream()  # noqa: SLF001 - the door that it has for the cache
        self._listener = Listener(self._upstream, max_entries=most, max_staleness=self._max_staleness)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._hits = self._misses = self._stale_refusals = 0

    async def route(self, user_id: int, conversation_id: str) -> Route:
        """Say what to do with the next chat message of a user in a conversation, as the repository's `route` does.

        Args:
            user_id: 1 to 2**63 - 1.
            conversation_id: 1 to 256 characters.

        Returns:
            The route; what lapses or expires changes it at that moment.

        Raises:
            InvalidSessionInput: An argument is outside its limits; nothing was sent.
            StoreUnavailable: No primary answered within the repository's ``timeout``, or within ``max_staleness``.

        Round trips:
            None from memory, else one ``find``; those who ask for one conversation at once share it.
        """
        # Only what was checked is ever kept, so what is found needs no check; True is no key although it equals 1.
        if type(user_id) is int and type(conversation_id) is str:
            entry = self._listener.entries.get((user_id, conversation_id))
            if entry is not None:
                if self._listener.may_serve(entry):
                    self._hits += 1
                    return entry.lasting or entry.route(self._upstream.now())
                self._stale_refusals += 1
        user_id = inputs.integer("user_id", user_id)
        conversation_id = inputs.identifier("conversation_id", conversation_id)
        self._misses += 1
        session = await self._ask((user_id, conversation_id))
        return route_of(session, self._upstream.now())

    def stats(self) -> CacheStats:
        """What it has done so far."""
        entries = self._listener.entries
        return CacheStats(
            entries=len(entries),
            hits=self._hits,
            misses=self._misses,
            evictions=entries.evictions,
            stale_refusals=self._stale_refusals,
            lag=self._listener.lag,
        )

    def _observed(self) -> telemetry.Observed:
        lag = self._listener.lag
        return telemetry.Observed(self._hits, self._misses, None if lag is None else lag.total_seconds())

    async def _ask(self, key: Key) -> ActiveScheduleSessionSnapshot | None:
        while True:
            lookup = self._listener.lookups.get(key) or self._begin(key)
            # Shielded: others wait for the same lookup.
            session = await asyncio.shield(lookup.task)
            if self._upstream.monotonic() > lookup.sent + self._max_staleness:
                raise _too_late(key)
            if lookup.epoch is None or self._listener.is_current(lookup.epoch):
                return session
            # A new primary may not yet read as committed what the old one had acknowledged; uncommitted it has it all.

    def _begin(self, key: Key) -> Lookup:
        lookup = Lookup(self._listener.epoch, self._upstream.monotonic())
        self._listener.lookups[key] = lookup
        # Not cancelled with the caller who happened to begin it: others wait for it too.
        lookup.task = in_background(self._look_up(key, lookup), "sessions: route")
        self._tasks.add(lookup.task)
        lookup.task.add_done_callback(self._tasks.discard)
        lookup.task.add_done_callback(forget)  # its caller may have been cancelled
        return lookup

    async def _look_up(self, key: Key, lookup: Lookup) -> ActiveScheduleSessionSnapshot | None:
        lookups = self._listener.lookups
        try:
            async with asyncio.timeout(self._max_staleness):
                session = await self._upstream.governor(*key, committed=lookup.epoch is not None)
        except TimeoutError as error:
            raise _too_late(key) from error
        finally:
            if lookups.get(key) is lookup:
                del lookups[key]
        if lookup.epoch is not None and not lookup.is_outdated and self._listener.is_current(lookup.epoch):
            self._listener.entries.keep(key, Entry(session, lookup.sent))
        return session

    async def __aenter__(self) -> Self:
        try:
            await self._listener.enter()
        except TimeoutError as error:
            cause = "no majority confirmed the primary"
            raise StoreUnavailable(SessionRef(), outcome=WriteOutcome.NOT_WRITTEN, cause=cause) from error
        telemetry.caches.add(self._observed)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        telemetry.caches.remove(self._observed)
        await self._listener.leave()
        if self._tasks:
            await asyncio.wait(self._tasks)


def _too_late(key: Key) -> StoreUnavailable:
    about = SessionRef(user_id=key[0])
    return StoreUnavailable(about, outcome=WriteOutcome.NOT_WRITTEN, cause="no answer within max_staleness")
