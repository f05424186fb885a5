"""One stream of changes for any number of followers: opened, read, and opened again from where it was left.

A task of its own reads it, so that no consumer's cancellation ever meets a waiting read: the change that such a read
has just received would be lost.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from operator import methodcaller
from typing import Final, TypeVar
from weakref import WeakSet

from sessions.backoff import Backoff
from sessions.changes.events import Event, ends_with, to_event
from sessions.changes.streams import Batch, Reading, Source
from sessions.domain.errors import StoreUnavailable, WatchInterrupted
from sessions.failures import reason_of, traces_of
from sessions.log_events import LogEvent, log
from sessions.tasks import in_background, stopped, to_the_end

LONGEST_WAIT: Final = 1.0
"""Seconds that a read waits for a change, unless a follower wants to know sooner that there is none."""
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 1.0


class Follower:
    """Who is told; each method returns at once."""

    def joined(self, token: str | None) -> None:
        """All changes behind this token will be told."""

    def opened(self) -> None:
        """A stream stands, for the first time or anew."""

    def lost(self) -> None:
        """No stream stands, until `opened`."""

    def happened(self, events: Sequence[Event]) -> None:
        """The next changes, at least one, in their order."""

    def quiet(self, since: float) -> None:
        """All that was committed before this moment of the monotonic clock has been told."""

    def ended(self, error: Exception | None) -> None:
        """Nothing more will be told; without an error because the feed was closed."""


AnyFollower = TypeVar("AnyFollower", bound=Follower)


def tell_each(followers: WeakSet[AnyFollower], notice: Callable[[AnyFollower], None]) -> None:
    """Give all of them a notice; one that fails is ended alone, and told no more."""
    # A function of its own: in a task's frame the last follower would be held while it waits.
    for follower in list(followers):
        try:
            notice(follower)
        except Exception as error:  # noqa: BLE001 - one follower's failure is not the others'
            followers.discard(follower)
            _fail(follower, error)


def _fail(follower: Follower, error: Exception) -> None:
    log(LogEvent.FOLLOWER_FAILED, reason=reason_of("it", error), traces=traces_of(error))
    with suppress(Exception):
        follower.ended(error)


class Retries:
    """The pauses between two tries for a stream; what stands in its way is logged once, not at each try."""

    def __init__(self) -> None:
        self._pauses = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        self._said: bool | None = None  # of what was logged, whether it may pass by itself

    async def pause(self, error: StoreUnavailable) -> None:
        """Wait before the next try."""
        # Not by its text: one missing right has two, of a read that is under way and of the next opening.
        if error.may_pass is not self._said:
            self._said = error.may_pass
            log(LogEvent.STREAM_LOST, error=error)
        await asyncio.sleep(self._pauses.next())

    def reset(self) -> None:
        """It goes well again."""
        self._pauses.reset()
        self._said = None


class Feed:
    """A stream, and a task that reads it for as long as somebody follows.

    Attributes:
        token: Where the followers stand; it moves without changes too.
        has_ended: Nobody can follow it any more.
    """

    def __init__(self, source: Source, *, patience: float, before: "Feed | None" = None) -> None:
        self._source = source
        self._patience = patience
        self._before = before
        self._wait = LONGEST_WAIT
        self._followers: WeakSet[Follower] = WeakSet()
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._is_open = False
        self._retries = Retries()
        self._closings: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None
        self.token: str | None = None
        self.has_ended = False

    # --- followers ------------------------------------------------------------------------------------------------

    async def follow(self, follower: Follower, *, wait: float = LONGEST_WAIT) -> None:
        """Be told of all changes from now on.

        Raises:
            StoreUnavailable: The first stream could not be opened.
            WatchInterrupted: There can be none at all.
        """
        # Where the open stream waits longer than that, it is opened again.
        self._wait = min(wait, self._wait)
        if self._task is None:
            self._task = in_background(self._run(), "sessions: change stream")
            self._task.add_done_callback(self._settle)
        self.adopt(follower)
        try:
            await asyncio.shield(self._ready)
        except BaseException:
            self.discard(follower)
            raise

    def adopt(self, follower: Follower) -> None:
        """Tell a follower of all changes behind the token."""
        self._followers.add(follower)
        if self._ready.done():
            follower.joined(self.token)
            if self._is_open:
                follower.opened()

    def discard(self, follower: Follower) -> None:
        """Tell a follower no more; without any the feed ends."""
        self._followers.discard(follower)
        if not self._followers:
            self._end()

    async def leave(self, follower: Follower) -> None:
        """As `discard`; if the feed ends by it, return when it has."""
        self.discard(follower)
        if self.has_ended:
            await self._ended()

    async def close(self) -> None:
        """End the feed and tell its followers."""
        self._end()
        await self._ended()

    def _end(self) -> None:
        if not self.has_ended:
            self.has_ended = True
            if self._task is not None:
                self._task.cancel()

    async def _ended(self) -> None:
        if self._task is not None:
            await stopped([self._task])

    # --- the task -------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            before, self._before = self._before, None
            if before is not None:
                # Its stream is closed first: there are never more of them than feeds.
                await before._ended()  # noqa: SLF001 - another feed's
            await self._keep_open()
        finally:
            self.has_ended = True
            await self._all_closed()

    async def _all_closed(self) -> None:
        if self._closings:
            await to_the_end(asyncio.wait(self._closings))

    def _settle(self, task: "asyncio.Task[None]") -> None:
        failure = None if task.cancelled() else task.exception()
        if failure is not None and not isinstance(failure, StoreUnavailable | WatchInterrupted):
            log(LogEvent.STREAM_FAILED, reason=reason_of("reading the stream", failure), traces=traces_of(failure))
        error = failure if isinstance(failure, Exception) else None
        if error is not None and not self._ready.done():
            # Those who wait for the first stream get the error from `follow`.
            self._ready.set_exception(error)
            self._ready.exception()
            return
        if isinstance(error, WatchInterrupted):
            log(LogEvent.STREAM_ENDED, error=error)
        self._tell(lambda follower: follower.ended(error))
        if not self._ready.done():
            self._ready.set_result(None)

    def _tell(self, notice: Callable[[Follower], None]) -> None:
        tell_each(self._followers, notice)

    async def _keep_open(self) -> None:
        while self._followers:
            try:
                wait = self._wait
                reading = await Reading.open(self._source, self.token, wait=wait, patience=self._patience)
                await self._read(reading, wait)
            except StoreUnavailable as error:
                if not self._ready.done():
                    raise
                await self._retries.pause(error)
            else:
                await self._all_closed()

    async def _read(self, reading: Reading, wait: float) -> None:
        self._opened(reading.token)

        def goes_on() -> bool:
            return bool(self._followers) and wait <= self._wait

        def take(batch: Batch) -> bool:
            self._retries.reset()
            events = [to_event(change) for change in batch.changes]
            self._tell(methodcaller("happened", events) if events else methodcaller("quiet", batch.asked))
            self.token = batch.token or self.token
            return goes_on() and not ends_with(events)

        try:
            if goes_on():
                await reading.read(take)
        finally:
            self._is_open = False
            self._tell(methodcaller("lost"))
            # In the background: after a lost stream the next one does not wait for a server that may be frozen.
            closing = in_background(reading.let_go(), "sessions: closing a change stream")
            self._closings.add(closing)
            closing.add_done_callback(self._closings.discard)

    def _opened(self, token: str | None) -> None:
        self._is_open = True
        self.token = self.token or token
        if not self._ready.done():
            self._tell(methodcaller("joined", self.token))
            self._ready.set_result(None)
        self._tell(methodcaller("opened"))
