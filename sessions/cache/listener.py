"""What a cache of routes is told: by the stream of changes, and by this process's own writes.

An entry is served only while it cannot be older than ``max_staleness``. What proves that is either the stream, which
has told of everything up to a moment, or the entry's own lookup.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

from sessions.backoff import Backoff
from sessions.cache.entries import Entries, Entry, Key, OwnWrites, key_in
from sessions.changes.events import Event
from sessions.changes.feed import LONGEST_WAIT
from sessions.changes.upstream import CacheListener, CacheUpstream
from sessions.domain.errors import StoreUnavailable, WatchInterrupted
from sessions.domain.models import ActiveScheduleSessionSnapshot
from sessions.log_events import LogEvent, log
from sessions.store.observed_collection import Doubt
from sessions.tasks import in_background, stopped

_RETRY_SECONDS: Final = 1.0
_NEVER: Final = float("-inf")


@dataclass(slots=True, eq=False)
class Lookup:
    """A lookup under way, shared by all who ask for its conversation meanwhile.

    Attributes:
        epoch: The stream under which it began; None while there is none, so that its answer is not kept.
        sent: When it left, by the monotonic clock.
        is_outdated: Whether something changed meanwhile.
        task: Gives its answer.
    """

    epoch: int | None
    sent: float
    is_outdated: bool = False
    task: "asyncio.Task[ActiveScheduleSessionSnapshot | None]" = field(init=False)


class Listener(CacheListener):
    """The entries of one cache, and how far what it was told of reaches.

    Attributes:
        entries: What the cache holds.
        lookups: What is being looked up.
        lag: How long after it was written the last change came in; None before the first.
    """

    def __init__(self, upstream: CacheUpstream, *, max_entries: int, max_staleness: float) -> None:
        self._upstream = upstream
        self._max_staleness = max_staleness
        self._own_writes = OwnWrites()
        self._is_entered = False
        self._confirming: asyncio.Task[None] | None = None
        self._returning: asyncio.Task[None] | None = None
        # Down from the start; the epoch counts the streams, so that nothing of one outlives it.
        self._epoch = 0
        self._is_up = False
        self._went_up_or_closed = asyncio.Event()
        self._was_closed = False
        self._primary: object = None
        self._opened_at = _NEVER
        self._fresh_until = _NEVER
        self.entries = Entries(max_entries)
        self.lookups: dict[Key, Lookup] = {}
        self.lag: timedelta | None = None

    # --- what may be served, and kept -----------------------------------------------------------------------------

    def may_serve(self, entry: Entry) -> bool:
        """Whether an entry is proved young enough."""
        now = self._upstream.monotonic()
        return self._is_up and (now < self._fresh_until or now < entry.sent + self._max_staleness)

    @property
    def epoch(self) -> int | None:
        """The stream under which a lookup begins; None if its answer could not be kept."""
        return self._epoch if self.is_current(self._epoch) else None

    def is_current(self, epoch: int) -> bool:
        """Whether that stream still stands, on the primary that is known now."""
        return self._is_up and epoch == self._epoch and self._upstream.primary() == self._primary

    # --- what changed ---------------------------------------------------------------------------------------------

    def _evict(self, key: Key) -> None:
        self.entries.drop(key)
        if (lookup := self.lookups.pop(key, None)) is not None:
            lookup.is_outdated = True

    def _outdate_lookups(self, user_id: int | None = None) -> None:
        for key in [key for key in self.lookups if user_id in (None, key[0])]:
            self.lookups.pop(key).is_outdated = True

    def _empty(self) -> None:
        self.entries.clear()
        self._outdate_lookups()
        self._own_writes.clear()

    def _shows(self, key: Key, document: Mapping[str, Any], revision: int) -> bool:
        """Whether the entry shows that revision of the session, or a later one."""
        entry = self.entries.get(key)
        found = entry.session if entry is not None else None
        if found is None or found.revision < revision:
            return False
        # A session that was purged and made again has its id and counts its revisions anew.
        return found.session_id == document["_id"] and found.created_at == document.get("created_at")

    def wrote(self, document: Mapping[str, Any]) -> None:
        """A write of this process was acknowledged: what it changed is looked up anew, at once."""
        session_id, revision = document["_id"], document["revision"]
        if not isinstance(revision, int):
            # Another writer's, and damaged: nothing is expected of it, and nothing kept.
            self.may_have_written(Doubt([session_id]))
            return
        self._own_writes.note(session_id, revision)
        if document.get("conversation_id") is None:
            return
        if (key := key_in(document)) is None:
            self.may_have_written(Doubt([session_id]))
        elif not self._shows(key, document, revision):
            self._evict(key)

    def may_have_written(self, doubt: Doubt) -> None:
        """Evict all that the write may have changed; what it changes later, the stream tells."""
        for session_id in doubt.session_ids:
            if (key := self.entries.key_of(session_id)) is not None:
                self._evict(key)
        if doubt.user_id is None:
            self._outdate_lookups()
        elif doubt.conversation_id is not None:
            self._evict((doubt.user_id, doubt.conversation_id))
        else:
            for key in [key for key in self.entries if key[0] == doubt.user_id]:
                self._evict(key)
            self._outdate_lookups(doubt.user_id)

    def happened(self, events: Sequence[Event]) -> None:
        """Evict what the changes concern; the time of the last one says how far the stream has come."""
        for event in events:
            self._happened(event)
        self._note_progress(events[-1])

    def _happened(self, event: Event) -> None:
        if event.session_id is None:
            self._empty()
            return
        if self._own_writes.covers(event.session_id, event.kind, event.revision):
            return
        known = self.entries.key_of(event.session_id)
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
        self.lag = timedelta(seconds=max(0.0, now - written))
        # What was written before the stream was opened may carry another primary's time.
        if written > self._opened_at:
            self._fresh_until = max(self._fresh_until, min(written, now) + self._max_staleness)

    def quiet(self, since: float) -> None:
        """Everything that was committed by then has been told."""
        self._fresh_until = max(self._fresh_until, since + self._max_staleness)

    def lost(self) -> None:
        """Nothing is served or kept until a stream stands again."""
        self._epoch += 1
        self._is_up = False
        self._went_up_or_closed.clear()
        self._fresh_until = _NEVER
        self._empty()
        if self._confirming is not None:
            self._confirming.cancel()

    def opened(self) -> None:
        """Begin anew, empty, once the primary is confirmed."""
        self.lost()
        self._opened_at = self._upstream.monotonic()
        self._primary = self._upstream.primary()
        self._upstream.look_at_clock()
        self._confirming = in_background(self._confirm(self._epoch), "sessions: confirming the primary")

    async def _confirm(self, epoch: int) -> None:
        retries = Backoff(_RETRY_SECONDS)
        while epoch == self._epoch:
            try:
                await self._upstream.confirm_primary()
            except StoreUnavailable as error:
                log(LogEvent.CACHE_STAYS_EMPTY, error=error)
                await asyncio.sleep(retries.next())
                continue
            if epoch == self._epoch:
                self._is_up = True
                self._went_up_or_closed.set()
            return

    def ended(self, error: Exception | None) -> None:
        """Nothing is served or kept; if the stream could not go on, another one is begun."""
        self.lost()
        if error is None:
            self._was_closed = True
            self._went_up_or_closed.set()
        elif self._is_entered:
            self._returning = in_background(self._return(), "sessions: returning to the change stream")

    async def _return(self) -> None:
        retries = Backoff(_RETRY_SECONDS)
        while True:
            await asyncio.sleep(retries.next())
            try:
                await self._open()
            except (StoreUnavailable, WatchInterrupted) as error:
                log(LogEvent.CACHE_STAYS_EMPTY, error=error)
            else:
                return

    # --- entering and leaving -------------------------------------------------------------------------------------

    async def _open(self) -> None:
        # An idle stream proves itself often enough to stay fresh from one proof to the next.
        await self._upstream.open(self, wait=min(LONGEST_WAIT, self._max_staleness / 4))

    async def enter(self) -> None:
        """Return once entries are served and kept.

        Raises:
            TimeoutError: No majority confirmed the primary in time.
            RuntimeError: It is in use already, or the repository is closed.
        """
        if self._is_entered:
            message = "this CachedRouter is in use: make one for each `async with`"
            raise RuntimeError(message)
        self._is_entered = True
        try:
            await self._open()
            async with asyncio.timeout(self._upstream.timeout):
                await self._went_up_or_closed.wait()
            if self._was_closed:
                # A closed repository opens nothing more, and says so.
                await self._open()
        except BaseException:
            await self.leave()
            raise

    async def leave(self) -> None:
        """Be told no more, and serve nothing."""
        self._is_entered = False
        self.lost()
        if self._returning is not None:
            await stopped([self._returning])
        await self._upstream.close(self)
