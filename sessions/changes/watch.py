"""The iterator behind ``SessionRepository.watch``: a bounded queue that a feed fills and a consumer empties."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from sessions.changes.feed import Event, Feed, Follower
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


class Queue(Follower):
    """The changes of a scope that wait for their consumer.

    Attributes:
        pending: The latest change of each session that was not taken yet.
        failure: Why nothing more comes, until the consumer was told.
    """

    def __init__(self, subscribe: Callable[[str | None], Feed], scope: Scope, *, resume_after: str | None) -> None:
        self._subscribe = subscribe
        self._scope = scope
        # Behind what the consumer has taken, or where it began.
        self._taken = resume_after
        self._feed: Feed | None = None
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
        return self._feed.token or self._taken

    # --- the feed's side ------------------------------------------------------------------------------------------

    def joined(self, token: str | None) -> None:
        """From here on nothing is missed."""
        self._taken = self._taken or token

    def happened(self, event: Event) -> None:
        """Keep the change for the consumer; a later one of the same session takes its place at the end."""
        if not self._scope.holds(event) or not event.is_latest or event.snapshot is None:
            return
        change = Change(event.snapshot, event.token)
        self.pending.pop(change.snapshot.session_id, None)
        self.pending[change.snapshot.session_id] = change
        if self._feed is not None and self._feed.is_shared and len(self.pending) > MOST_PENDING:
            # Too far behind: it reads again from its token, by a feed of its own.
            self._feed.discard(self)
            self._feed = None
            self.pending.clear()
        self._wake.set()

    @property
    def is_full(self) -> bool:
        """Whether a feed of its own should read no further."""
        return len(self.pending) >= MOST_PENDING

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
            self._feed = feed = self._subscribe(self._taken)
            try:
                await feed.follow(self)
            except BaseException:
                self._feed = None
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
        if self._feed is not None:
            self._feed.make_room()
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
    sessions wait for it, it lets go of them and reads them again from its token, at its own pace.
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
