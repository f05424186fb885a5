"""Whether a lease still stands, told by the shared stream of changes, for whoever works under it or waits for its end.

One follower serves all of them, for as long as there is any: not one stream more for each.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Final

from sessions.backoff import Backoff
from sessions.changes.events import Event
from sessions.changes.feed import Feed, Follower
from sessions.domain.errors import StoreUnavailable, WatchInterrupted
from sessions.domain.models import ActiveScheduleSessionSnapshot
from sessions.log_events import LogEvent, log
from sessions.tasks import forget, in_background

_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 30.0


class LeaseListener:
    """Who wants to know of one lease.

    Attributes:
        woken: Set when the session may no longer be under the lease, so that it is time to look; also when the stream
            begins, since something may have happened before.
    """

    def __init__(self, session: ActiveScheduleSessionSnapshot) -> None:
        self.woken = asyncio.Event()
        self._token = session.fencing_token
        self._operation_id = None if session.lease is None else session.lease.operation_id

    def hear(self, event: Event) -> None:
        """Be woken if the lease has gone."""
        if event.document is None:
            self.woken.set()
            return
        token, lease = event.document.get("fencing_token") or 0, event.document.get("lease") or {}
        # An event from before the claim may be told after it.
        if token > self._token or (token == self._token and lease.get("operation_id") != self._operation_id):
            self.woken.set()


class _Ear(Follower):
    """One following of the feed, from its begin to its end."""

    def __init__(self, news: "LeaseNews") -> None:
        self._news = news
        self.has_ended = asyncio.Event()
        self.is_told = False

    def joined(self, token: str | None) -> None:  # noqa: ARG002 - it begins wherever the feed stands
        self._news.wake()

    def opened(self) -> None:
        self.is_told = True

    def lost(self) -> None:
        self.is_told = False

    def happened(self, events: Sequence[Event]) -> None:
        for event in events:
            self._news.hear(event)

    def ended(self, error: Exception | None) -> None:  # noqa: ARG002 - the feed has logged it
        self.is_told = False
        self.has_ended.set()


class LeaseNews:
    """What becomes of leases, by the shared feed; where there are no change streams nobody is ever woken.

    Args:
        shared: Gives the feed that all share.
        now: The repository's clock.
    """

    def __init__(self, shared: Callable[[], Feed], now: Callable[[], datetime]) -> None:
        self._shared = shared
        self._now = now
        self._listeners: dict[str, set[LeaseListener]] = {}
        self._ear: _Ear | None = None
        self._following: asyncio.Task[None] | None = None
        self._is_possible = True
        self._pauses = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        self._not_before = 0.0
        self._refused: type[Exception] | None = None

    @property
    def is_told(self) -> bool:
        """Whether a stream stands, so that there is no need to look."""
        return self._ear is not None and self._ear.is_told

    def lapses_in(self, session: ActiveScheduleSessionSnapshot) -> float:
        """Seconds after which the lease lapses unless it is renewed; no event tells of that."""
        return 0.0 if session.lease is None else (session.lease.expires_at - self._now()).total_seconds()

    @contextmanager
    def of(self, session: ActiveScheduleSessionSnapshot) -> Iterator[LeaseListener]:
        """Listen for what becomes of the lease that a session is under.

        Args:
            session: As it was when the lease was seen.
        """
        listener = LeaseListener(session)
        self._listeners.setdefault(session.session_id, set()).add(listener)
        if self.is_told:
            listener.woken.set()
        elif self._following is None and self._is_possible:
            self._following = in_background(self._follow(), "sessions: following leases")
            self._following.add_done_callback(forget)
        try:
            yield listener
        finally:
            here = self._listeners[session.session_id]
            here.discard(listener)
            if not here:
                del self._listeners[session.session_id]
            if not self._listeners and self._following is not None:
                self._following.cancel()
                self._following = None

    def wake(self) -> None:
        """Let everybody look."""
        for here in self._listeners.values():
            for listener in here:
                listener.woken.set()

    def hear(self, event: Event) -> None:
        """Wake those whom a change concerns."""
        if event.session_id is None:
            self.wake()
            return
        for listener in self._listeners.get(event.session_id, ()):
            listener.hear(event)

    async def _follow(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._not_before - loop.time())
            try:
                feed = self._shared()
            except RuntimeError:
                return  # the repository is closed
            self._ear = ear = _Ear(self)
            try:
                await feed.follow(ear)
                self._pauses.reset()
                self._refused = None
                await ear.has_ended.wait()
            except (StoreUnavailable, WatchInterrupted) as error:
                if isinstance(error, WatchInterrupted) and error.needs_replica_set:
                    self._is_possible = False
                    return
                self._warn(error)
            finally:
                feed.discard(ear)
                if self._ear is ear:
                    self._ear = None
            self._not_before = loop.time() + self._pauses.next()

    def _warn(self, error: StoreUnavailable | WatchInterrupted) -> None:
        # Each run begins to follow anew: what stands in the way is said once.
        if type(error) is not self._refused:
            self._refused = type(error)
            log(LogEvent.LEASES_NOT_FOLLOWED, error=error)
