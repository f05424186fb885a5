"""Following changes: one stream that all share, and one of his own for each who goes on from a token."""

from datetime import datetime
from functools import cached_property
from time import monotonic
from typing import TYPE_CHECKING

from sessions.changes.feed import Feed
from sessions.changes.watch import Scope, Watch
from sessions.domain import inputs
from sessions.domain.errors import SessionRef
from sessions.domain.models import ActiveScheduleSessionSnapshot, to_snapshot
from sessions.repository.engine import Engine
from sessions.store import reads
from sessions.store.clock import Clock, ServerClock
from sessions.store.observed_collection import ObservedCollection

if TYPE_CHECKING:
    from sessions.cache.cached_router import CachedRouter


class Streams:
    """The feeds of one repository."""

    def __init__(self, collection: ObservedCollection) -> None:
        self._collection = collection
        self._shared: Feed | None = None
        self._feeds: set[Feed] = set()
        self._is_closed = False

    def shared(self) -> Feed:
        """The feed of all who begin now."""
        if self._shared is None or self._shared.has_ended:
            self._shared = self._made(None, is_shared=True)
        return self._shared

    def subscribe(self, resume_after: str | None) -> Feed:
        """A feed of one's own where a token is given, else the shared one."""
        return self.shared() if resume_after is None else self._made(resume_after, is_shared=False)

    def _made(self, resume_after: str | None, *, is_shared: bool) -> Feed:
        if self._is_closed:
            message = "the repository is closed: open another one to follow changes"
            raise RuntimeError(message)
        feed = Feed(self._collection, patience=self._collection.timeout, resume_after=resume_after, is_shared=is_shared)
        self._feeds = {known for known in self._feeds if not known.has_ended} | {feed}
        return feed

    async def close(self) -> None:
        """End all feeds."""
        self._is_closed = True
        for feed in list(self._feeds):
            await feed.close()


class CacheUpstream:
    """What a `CachedRouter` gets of its repository."""

    def __init__(self, collection: ObservedCollection, clock: Clock, streams: Streams) -> None:
        self._collection = collection
        self._committed = collection.committed()
        self._streams = streams
        self._feed: Feed | None = None
        # With a clock of the caller's the server's has to be learned too: changes carry its time.
        self._own_clock = None if isinstance(clock, ServerClock) else ServerClock(collection)
        self._server_clock = clock if isinstance(clock, ServerClock) else self._own_clock
        self.timeout = collection.timeout
        self.now = clock.reading if isinstance(clock, ServerClock) else clock.now
        self.monotonic = monotonic
        self.primary = collection.primary
        self.confirm_primary = collection.confirm_primary

    def as_of(self, wall_time: datetime) -> float | None:
        """When, at the latest, the server's clock showed this, by the monotonic one; None where it is not known."""
        return None if self._server_clock is None else self._server_clock.monotonic_at(wall_time)

    def look_at_clock(self) -> None:
        """Let the server's clock be measured anew where the primary has changed: `now` does not look."""
        if self._server_clock is not None:
            self._server_clock.look()

    async def governor(
        self, user_id: int, conversation_id: str, *, committed: bool
    ) -> ActiveScheduleSessionSnapshot | None:
        """Who governs, by the primary; ``committed`` by what a majority has acknowledged."""
        collection = self._committed if committed else self._collection
        raw = await collection.find_one(reads.governor(user_id, conversation_id), about=SessionRef(user_id=user_id))
        return to_snapshot(raw) if raw is not None else None

    async def open(self, cache: "CachedRouter", *, wait: float) -> None:
        """Begin to tell the cache of all changes and of this process's writes."""
        self._collection.observers.add(cache)
        self._feed = self._streams.shared()
        await self._feed.follow(cache, wait=wait)
        if self._own_clock is not None:
            await self._own_clock.start()

    async def close(self, cache: "CachedRouter") -> None:
        """Tell it no more."""
        self._collection.observers.discard(cache)
        if self._feed is not None:
            await self._feed.leave(cache)
        if self._own_clock is not None:
            await self._own_clock.close()


class Following(Engine):
    """The call that tells of changes instead of making them."""

    _collection: ObservedCollection

    @cached_property
    def _streams(self) -> Streams:
        return Streams(self._collection)

    def watch(
        self,
        *,
        user_id: int | None = None,
        conversation_id: str | None = None,
        resume_after: str | None = None,
    ) -> Watch:
        """Follow the changes of one user's sessions, of one conversation's, or of all, whoever makes them.

        It begins when it is entered (``async with``) or first awaited, and survives a lost connection and an election.
        Each change comes with the session as it left it; the revisions of one session strictly increase, across a
        restart from a token too. The latest state is never missed; states in between may be merged, and purging is
        not reported. All who give no token share one stream; one who does has a stream of his own.

        Args:
            user_id: Only this user's sessions, 1 to 2**63 - 1.
            conversation_id: Only sessions bound to this conversation, 1 to 128 characters.
            resume_after: The ``token`` of a change, or of the iterator, that an earlier watch gave.

        Returns:
            An async iterator of `Change` that is an async context manager too, with ``token`` and ``aclose``.

        Raises:
            InvalidSessionInput: An argument is outside its limits; nothing was sent.
            WatchInterrupted: (Iterating) the server no longer has the changes since the token, or is no replica set.
            StoreUnavailable: (Iterating) no primary answered within the repository's ``timeout`` at the start.

        Round trips:
            None by itself; the stream asks the server once a second, and learns of a change at once.
        """
        scope = Scope(
            user_id=inputs.optional_integer("user_id", user_id),
            conversation_id=inputs.optional_identifier("conversation_id", conversation_id),
        )
        return Watch(self._streams.subscribe, scope, resume_after=inputs.optional_token("resume_after", resume_after))

    def _cache_upstream(self) -> CacheUpstream:
        return CacheUpstream(self._collection, self._clock, self._streams)

    async def _close_streams(self) -> None:
        await self._streams.close()
