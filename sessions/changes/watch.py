"""The iterator behind ``SessionRepository.watch``: a bounded queue that a feed fills and a consumer empties."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Protocol, Self

from sessions.changes.catch_up import Returning
from sessions.changes.events import Event, names_change
from sessions.changes.feed import Feed
from sessions.domain.errors import WatchInterrupted
from sessions.domain.models import ActiveScheduleSessionSnapshot

MOST_PENDING: Final = 10_000
"""Sessions with a change that the consumer has not taken yet."""


@dataclass(frozen=True, slots=True)
class Change:
    """A session as a change left it; ``token`` goes on behind this change."""

    snapshot: ActiveScheduleSessionSnapshot
    token: str


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose changes are wanted; None is everyone's."""

    user_id: int | None = None
    conversation_id: str | None = None

    def holds(self, event: Event) -> bool:
        """Whether the change is one of these."""
        document = event.document
        return (
            document is not None
            and (self.user_id is None or document.get("user_id") == self.user_id)
            and (self.conversation_id is None or document.get("conversation_id") == self.conversation_id)
        )


class Feeder(Protocol):
    """What tells a queue of changes: the shared feed, or the way to it."""

    @property
    def token(self) -> str | None:
        """Where all its followers stand; None if each stands elsewhere."""

    def follow(self, follower: "Queue", /) -> Coroutine[Any, Any, None]:
        """Return when the queue will miss nothing more."""

    def discard(self, follower: "Queue", /) -> None:
        """Tell it no more."""

    def leave(self, follower: "Queue", /) -> Coroutine[Any, Any, None]:
        """As `discard`; if nobody is left, return when all has ended."""


class Queue(Returning):
    """The changes of a scope that wait for their consumer.

    Attributes:
        pending: The latest change of each session that was not taken yet.
        failure: Why nothing more comes, until the consumer was told.
    """

    def __init__(self, subscribe: Callable[[str | None], Feeder], scope: Scope, *, resume_after: str | None) -> None:
        self._subscribe = subscribe
        self._scope = scope
        # Behind what the consumer has taken, or where it began.
        self._taken = resume_after
        # Behind what was told; whatever is not behind it is passed over.
        self._told = resume_after
        # The change that was named, as long as it was not met. Others that came back may have begun before it.
        self._sought = resume_after if resume_after is not None and names_change(resume_after) else None
        self._feed: Feeder | None = None
        self._beginning = asyncio.Lock()
        self._wake = asyncio.Event()
        self._is_closed = False
        self.pending: dict[str, Change] = {}
        self.failure: Exception | None = None

    @property
    def token(self) -> str | None:
        """Where a later watch goes on."""
        if self.pending or self._feed is None:
            return self._taken
        return max((token for token in (self._told, self._feed.token) if token is not None), default=None)

    # --- the feed's side ------------------------------------------------------------------------------------------

    @property
    def position(self) -> str:
        """The token up to which it has been told everything; it has one when it comes back."""
        return self._told or ""

    def joined(self, token: str | None) -> None:
        """From here on nothing is missed."""
        if token == self._sought:
            self._sought = None
        if self._told is None:
            self._taken = self._told = token

    def moved_to(self, feed: Feed) -> None:
        """From now on this feed tells it."""
        self._feed = feed

    def happened(self, events: Sequence[Event]) -> None:
        """Keep the changes for the consumer; a later one of the same session takes its place at the end."""
        for event in events:
            if self._feed is None:
                # It has let go of it at the change before, and goes on behind that.
                return
            self._happened(event, self._feed)

    def _happened(self, event: Event, feed: Feeder) -> None:
        if event.token == self._sought:
            self._sought = None
        if self._told is not None and event.token <= self._told:
            return
        self.passed(event.token)
        if self._feed is None or not self._scope.holds(event) or not event.is_latest or event.snapshot is None:
            return
        change = Change(event.snapshot, event.token)
        self.pending.pop(change.snapshot.session_id, None)
        self.pending[change.snapshot.session_id] = change
        if len(self.pending) >= MOST_PENDING:
            # It comes back for the rest when its consumer has taken what waits.
            feed.discard(self)
            self._feed = None
        self._wake.set()

    def passed(self, token: str) -> None:
        """All changes up to here have been told."""
        if self._told is not None and token <= self._told:
            return
        if self._sought is not None and self._feed is not None:
            self._feed.discard(self)
            self.ended(WatchInterrupted("the token is not among the server's changes"))
            return
        self._told = token

    def ended(self, error: Exception | None) -> None:
        """What is pending is still handed out; then the error, or the end."""
        self._taken = self.token
        self._feed = None
        self.failure = error
        self._is_closed = True
        self._wake.set()

    # --- the consumer's side --------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Follow, unless it does or is closed."""
        async with self._beginning:
            if self._feed is not None or self._is_closed:
                return
            self._feed = feed = self._subscribe(self._told)
            try:
                await feed.follow(self)
            except BaseException:
                # It may have been handed to another one meanwhile.
                if self._feed is not None:
                    feed, self._feed = self._feed, None
                feed.discard(self)
                raise

    async def take(self) -> Change:
        """The next change."""
        while not self.pending:
            if self.failure is not None:
                failure, self.failure = self.failure, None
                raise failure
            if self._is_closed:
                raise StopAsyncIteration
            if self._feed is None:
                await self.begin()
                continue
            self._wake.clear()
            await self._wake.wait()
        change = self.pending.pop(next(iter(self.pending)))
        self._taken = change.token
        return change

    async def close(self) -> None:
        """Stop following; whoever waits finds the end."""
        self._taken = self.token
        self.pending.clear()
        self._is_closed = True
        self._wake.set()
        feed, self._feed = self._feed, None
        if feed is not None:
            await feed.leave(self)


class Watch:
    """Changes as they happen: iterate over it, and close it, best by ``async with``.

    A consumer that is slower than the changes finds those of one session merged into the latest. If more than 10,000
    sessions wait for it, it is told no more until they are taken, and then catches up with the rest.
    """

    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    @property
    def token(self) -> str | None:
        """Where a later ``watch(resume_after=...)`` goes on; it moves on without changes too, None before the start."""
        return self._queue.token

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Change:
        return await self._queue.take()

    async def __aenter__(self) -> Self:
        await self._queue.begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop following; whoever waits for a change finds the end. May be called twice."""
        await self._queue.close()
