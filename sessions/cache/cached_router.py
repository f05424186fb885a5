"""Routes from memory, kept right by the change stream: bounded in size and in age, in this process and every other.

A route is answered from memory only while it cannot be older than ``max_staleness``. What proves it is either the
stream, which has told of everything up to a moment, or the entry's own lookup. Claims are not decided here: whoever
acts on a route that has just gone stale is refused by the database.
"""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

from sessions.cache.entries import Entry, Key, OwnWrites, Routes, key_in, to_entry
from sessions.changes.feed import LONGEST_WAIT, Event, Follower, in_background
from sessions.domain import inputs
from sessions.domain.errors import SessionRef, StoreUnavailable, WatchInterrupted, WriteOutcome
from sessions.domain.expiry import route_of
from sessions.domain.models import ActiveScheduleSessionSnapshot, Route
from sessions.store.observed_collection import Doubt
from sessions.tasks import forget, stopped

if TYPE_CHECKING:
    from sessions.repository import SessionRepository

logger = logging.getLogger("sessions")

DEFAULT_MAX_STALENESS: Final = timedelta(seconds=5)
_RETRY_SECONDS: Final = 1.0
_NEVER: Final = float("-inf")


class Upstream(Protocol):
    """What the cache needs of a repository."""

    @property
    def timeout(self) -> float:
        """Seconds within which a lookup is to end."""

    def now(self) -> datetime:
        """The repository's time, by which leases lapse and sessions expire."""

    def monotonic(self) -> float:
        """The clock by which answers grow old."""

    def as_of(self, wall_time: datetime) -> float | None:
        """When, at the latest, the server's clock showed this, by the monotonic one; None where it is not known."""

    def primary(self) -> object:
        """The primary that is known now."""

    def look_at_clock(self) -> None:
        """Let the server's clock be measured anew where the primary has changed: `now` does not look."""

    async def governor(
        self, user_id: int, conversation_id: str, *, committed: bool
    ) -> ActiveScheduleSessionSnapshot | None:
        """Who governs, by the primary; ``committed`` by what a majority has acknowledged."""

    async def confirm_primary(self) -> None:
        """Return once the primary has committed all that was ever acknowledged."""

    async def open(self, cache: "CachedRouter", *, wait: float) -> None:
        """Begin to tell the cache of all changes and of this process's writes."""

    async def close(self, cache: "CachedRouter") -> None:
        """Tell it no more."""


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


class _Lookup:
    """A lookup under way, shared by all who ask for its conversation meanwhile."""

    __slots__ = ("epoch", "is_outdated", "sent", "task")

    def __init__(self, epoch: int | None, sent: float) -> None:
        # None: the stream was down, so that the answer is not kept.
        self.epoch = epoch
        self.sent = sent
        self.is_outdated = False
        self.task: asyncio.Task[ActiveScheduleSessionSnapshot | None]


class CachedRouter(Follower):
    """The repository's `route`, answered from memory where nothing has changed.

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
        repository: "SessionRepository",
        *,
        max_entries: int = 100_000,
        max_staleness: timedelta = DEFAULT_MAX_STALENESS,
    ) -> None:
        self._routes = Routes(inputs.integer("max_entries", max_entries))
        self._own_writes = OwnWrites()
        self._max_staleness = inputs.duration("max_staleness", max_staleness).total_seconds()
        self._upstream: Upstream = repository._cache_upstream()  # noqa: SLF001 - the door that it has for the cache
        self._lookups: dict[Key, _Lookup] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._is_entered = False
        self._confirming: asyncio.Task[None] | None = None
        self._returning: asyncio.Task[None] | None = None
        # Down from the start; `_epoch` counts the streams, so that nothing of one outlives it.
        self._epoch = 0
        self._is_up = False
        self._went_up_or_closed = asyncio.Event()
        self._was_closed = False
        self._primary: object = None
        self._opened_at = _NEVER
        self._fresh_until = _NEVER
        self._hits = self._misses = self._stale_refusals = 0
        self._lag: timedelta | None = None

    # --- routing --------------------------------------------------------------------------------------------------

    async def route(self, user_id: int, conversation_id: str) -> Route:
        """Say what to do with the next chat message of a user in a conversation, as the repository's `route` does.

        Args:
            user_id: 1 to 2**63 - 1.
            conversation_id: 1 to 128 characters.

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
            entry = self._routes.get((user_id, conversation_id))
            if entry is not None:
                if self._may_serve(entry):
                    self._hits += 1
                    return entry.lasting or route_of(entry.session, self._upstream.now())
                self._stale_refusals += 1
        user_id = inputs.integer("user_id", user_id)
        conversation_id = inputs.identifier("conversation_id", conversation_id)
        self._misses += 1
        session = await self._ask((user_id, conversation_id))
        return route_of(session, self._upstream.now())

    def stats(self) -> CacheStats:
        """What it has done so far."""
        return CacheStats(
            entries=len(self._routes),
            hits=self._hits,
            misses=self._misses,
            evictions=self._routes.evictions,
            stale_refusals=self._stale_refusals,
            lag=self._lag,
        )

    def _may_serve(self, entry: Entry) -> bool:
        now = self._upstream.monotonic()
        return self._is_up and (now < self._fresh_until or now < entry.sent + self._max_staleness)

    async def _ask(self, key: Key) -> ActiveScheduleSessionSnapshot | None:
        while True:
            lookup = self._lookups.get(key) or self._begin(key)
            # Shielded: others wait for the same lookup.
            session = await asyncio.shield(lookup.task)
            if self._upstream.monotonic() > lookup.sent + self._max_staleness:
                raise _too_late(key)
            if lookup.epoch is None or self._is_current(lookup.epoch):
                return session
            # A new primary may not yet read as committed what the old one had acknowledged; uncommitted it has it all.

    def _is_current(self, epoch: int) -> bool:
        return self._is_up and epoch == self._epoch and self._upstream.primary() == self._primary

    def _begin(self, key: Key) -> _Lookup:
        epoch = self._epoch if self._is_current(self._epoch) else None
        lookup = _Lookup(epoch, self._upstream.monotonic())
        self._lookups[key] = lookup
        # Not cancelled with the caller who happened to begin it: others wait for it too.
        lookup.task = in_background(self._look_up(key, lookup), "sessions: route")
        self._tasks.add(lookup.task)
        lookup.task.add_done_callback(self._looked_up)
        return lookup

    def _looked_up(self, task: "asyncio.Task[ActiveScheduleSessionSnapshot | None]") -> None:
        self._tasks.discard(task)
        # Whoever waited for it may have been cancelled.
        forget(task)

    async def _look_up(self, key: Key, lookup: _Lookup) -> ActiveScheduleSessionSnapshot | None:
        try:
            async with asyncio.timeout(self._max_staleness):
                session = await self._upstream.governor(*key, committed=lookup.epoch is not None)
        except TimeoutError as error:
            raise _too_late(key) from error
        finally:
            if self._lookups.get(key) is lookup:
                del self._lookups[key]
        if lookup.epoch is not None and not lookup.is_outdated and self._is_current(lookup.epoch):
            self._routes.keep(key, to_entry(session, sent=lookup.sent, at=self._upstream.now()))
        return session

    # --- what changed ---------------------------------------------------------------------------------------------

    def _evict(self, key: Key) -> None:
        self._routes.drop(key)
        if (lookup := self._lookups.pop(key, None)) is not None:
            lookup.is_outdated = True

    def _outdate_lookups(self, user_id: int | None = None) -> None:
        for key in [key for key in self._lookups if user_id in (None, key[0])]:
            self._lookups.pop(key).is_outdated = True

    def _empty(self) -> None:
        self._routes.clear()
        self._outdate_lookups()
        self._own_writes.clear()

    def _shows(self, key: Key, document: Mapping[str, Any], revision: int) -> bool:
        """Whether the entry shows that revision of the session, or a later one."""
        entry = self._routes.get(key)
        found = entry.session if entry is not None else None
        if found is None or found.revision < revision:
            return False
        # A session that was purged and made again has its id and counts its revisions anew.
        return found.session_id == document["_id"] and found.created_at == document.get("created_at")

    def wrote(self, document: Mapping[str, Any]) -> None:
        """A write of this process was acknowledged: what it changed is looked up anew, at once."""
        session_id, revision = document["_id"], document["revision"]
        self._own_writes.note(session_id, revision)
        if document["conversation_id"] is None:
            return
        key = (document["user_id"], document["conversation_id"])
        if not self._shows(key, document, revision):
            self._evict(key)

    def may_have_written(self, doubt: Doubt) -> None:
        """Evict all that the write may have changed; what it changes later, the stream tells."""
        for session_id in doubt.session_ids:
            if (key := self._routes.key_of(session_id)) is not None:
                self._evict(key)
        if doubt.user_id is None:
            self._outdate_lookups()
        elif doubt.conversation_id is not None:
            self._evict((doubt.user_id, doubt.conversation_id))
        else:
            for key in [key for key in self._routes if key[0] == doubt.user_id]:
                self._evict(key)
            self._outdate_lookups(doubt.user_id)

    def happened(self, event: Event) -> None:
        """Evict what the change concerns; its time says how far the stream has come."""
        self._note_progress(event)
        if event.session_id is None:
            self._empty()
            return
        if self._own_writes.covers(event.session_id, event.kind, event.revision):
            return
        known = self._routes.key_of(event.session_id)
        key = None if event.document is None else key_in(event.document)
        if event.document is None or key is None:
            # Gone already, or no session of ours: a lookup under way may have found what it was before.
            self._outdate_lookups()
        else:
            is_update = event.kind == "update" and event.revision is not None
            if is_update and self._shows(key, event.document, event.revision or 0):
                return
            self._evict(key)
        if known is not None:
            self._evict(known)

    # --- how far the stream has come ------------------------------------------------------------------------------

    def _note_progress(self, event: Event) -> None:
        written = self._upstream.as_of(event.wall_time) if event.wall_time is not None else None
        if written is None:
            return
        now = self._upstream.monotonic()
        self._lag = timedelta(seconds=max(0.0, now - written))
        # What was written before the stream was opened may carry another primary's time.
        if written > self._opened_at:
            self._fresh_until = max(self._fresh_until, min(written, now) + self._max_staleness)

    def quiet(self, since: float) -> None:
        """Everything that was committed by then has been told."""
        self._fresh_until = max(self._fresh_until, since + self._max_staleness)

    def _go_down(self) -> None:
        self._epoch += 1
        self._is_up = False
        self._went_up_or_closed.clear()
        self._fresh_until = _NEVER
        self._empty()
        if self._confirming is not None:
            self._confirming.cancel()

    def opened(self) -> None:
        """Begin anew, empty, once the primary is confirmed."""
        self._go_down()
        self._opened_at = self._upstream.monotonic()
        self._primary = self._upstream.primary()
        self._upstream.look_at_clock()
        self._confirming = in_background(self._confirm(self._epoch), "sessions: confirming the primary")

    async def _confirm(self, epoch: int) -> None:
        while epoch == self._epoch:
            try:
                await self._upstream.confirm_primary()
            except StoreUnavailable as error:
                logger.warning("the cache of routes stays empty: %s", error)
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            if epoch == self._epoch:
                self._is_up = True
                self._went_up_or_closed.set()
            return

    def lost(self) -> None:
        """Nothing is served or kept until a stream stands again."""
        self._go_down()

    def ended(self, error: Exception | None) -> None:
        """Nothing is served or kept; where the stream could not go on, another one is begun."""
        self._go_down()
        if error is None:
            self._was_closed = True
            self._went_up_or_closed.set()
        elif self._is_entered:
            self._returning = in_background(self._return(), "sessions: returning to the change stream")

    async def _return(self) -> None:
        while True:
            await asyncio.sleep(_RETRY_SECONDS)
            try:
                await self._upstream.open(self, wait=self._wait)
            except (StoreUnavailable, WatchInterrupted) as error:
                logger.warning("the cache of routes stays empty: %s", error)
            else:
                return

    # --- entering and leaving -------------------------------------------------------------------------------------

    @property
    def _wait(self) -> float:
        # An idle stream proves itself often enough to stay fresh from one proof to the next.
        return min(LONGEST_WAIT, self._max_staleness / 4)

    async def __aenter__(self) -> Self:
        if self._is_entered:
            message = "this CachedRouter is in use: make one for each `async with`"
            raise RuntimeError(message)
        self._is_entered = True
        try:
            await self._upstream.open(self, wait=self._wait)
            async with asyncio.timeout(self._upstream.timeout):
                await self._went_up_or_closed.wait()
            if self._was_closed:
                # A closed repository opens nothing more, and says so.
                await self._upstream.open(self, wait=self._wait)
        except TimeoutError as error:
            await self._leave()
            cause = "no majority confirmed the primary"
            raise StoreUnavailable(SessionRef(), outcome=WriteOutcome.NOT_WRITTEN, cause=cause) from error
        except BaseException:
            await self._leave()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._leave()

    async def _leave(self) -> None:
        self._is_entered = False
        self._go_down()
        if self._returning is not None:
            await stopped([self._returning])
        await self._upstream.close(self)
        if self._tasks:
            await asyncio.wait(self._tasks)


def _too_late(key: Key) -> StoreUnavailable:
    about = SessionRef(user_id=key[0])
    return StoreUnavailable(about, outcome=WriteOutcome.NOT_WRITTEN, cause="no answer within max_staleness")
