"""What a cache of routes gets of its repository."""

from datetime import datetime

from sessions.changes.feed import Feed, Follower
from sessions.changes.feeds import Feeds
from sessions.domain.errors import SessionRef
from sessions.domain.models import ActiveScheduleSessionSnapshot
from sessions.steady_clock import steady
from sessions.store import reads
from sessions.store.clock import Clock, ServerClock
from sessions.store.observed_collection import ObservedCollection, WriteObserver
from sessions.store.reading import to_snapshot
from sessions.store.requests import COMMITTED, LOCAL


class CacheListener(Follower, WriteObserver):
    """Whoever is told of all changes, and of this process's writes at once."""


class CacheUpstream:
    """Lookups, clocks, and what happens to the sessions, for one cache.

    Attributes:
        timeout: Seconds within which a lookup is to end.
        now: The repository's time, by which leases lapse and sessions expire.
        monotonic: The clock by which answers grow old.
        primary: The primary that is known now.
        confirm_primary: Returns once the primary has committed all that was ever acknowledged.
    """

    def __init__(self, collection: ObservedCollection, clock: Clock, feeds: Feeds) -> None:
        self._collection = collection
        self._feeds = feeds
        self._feed: Feed | None = None
        # With a caller's own clock the server's has to be learned too: changes carry its time.
        self._own_clock = None if isinstance(clock, ServerClock) else ServerClock(collection)
        self._server_clock = clock if isinstance(clock, ServerClock) else self._own_clock
        self.timeout = collection.timeout
        self.now = clock.reading if isinstance(clock, ServerClock) else clock.now
        self.monotonic = steady
        self.primary = collection.primary
        self.confirm_primary = collection.confirm_primary

    def as_of(self, wall_time: datetime) -> float | None:
        """When, at the latest, the server's clock showed this, by the monotonic one; None if it is not known."""
        return None if self._server_clock is None else self._server_clock.monotonic_at(wall_time)

    def look_at_clock(self) -> None:
        """Let the server's clock be measured anew if the primary has changed: `now` does not look."""
        if self._server_clock is not None:
            self._server_clock.look()

    async def governor(
        self, user_id: int, conversation_id: str, *, committed: bool
    ) -> ActiveScheduleSessionSnapshot | None:
        """Who governs, by the primary; ``committed`` by what a majority has acknowledged."""
        store = self._collection.for_one_call(level=COMMITTED if committed else LOCAL)
        raw = await store.find_one(reads.governor(user_id, conversation_id), about=SessionRef(user_id=user_id))
        return to_snapshot(raw) if raw is not None else None

    async def open(self, listener: CacheListener, *, wait: float) -> None:
        """Begin to tell the listener, which learns within ``wait`` seconds that nothing has happened."""
        self._collection.observers.add(listener)
        self._feed = self._feeds.shared()
        await self._feed.follow(listener, wait=wait)
        if self._own_clock is not None:
            await self._own_clock.start()

    async def close(self, listener: CacheListener) -> None:
        """Tell it no more."""
        self._collection.observers.discard(listener)
        if self._feed is not None:
            await self._feed.leave(listener)
        if self._own_clock is not None:
            await self._own_clock.close()
