"""Those who come back: told by one stream for all of them what they missed, then handed to the shared feed.

They take turns. Those who come back together make a round, and a round whose turn it is begins at the oldest token in
it; each of its followers passes over what is not behind its own. No round keeps the stream for long while others wait,
so that one who was away for a moment is not held up by one with hours to catch up with. Nobody waits for a follower
that does not read: it leaves when it is full, and comes back like all others.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from operator import methodcaller
from typing import Final
from weakref import WeakSet

from sessions.changes.events import ends_with, to_event
from sessions.changes.feed import Feed, Follower, Retries, tell_each
from sessions.changes.streams import Batch, Reading, Source
from sessions.domain.errors import SessionRef, StoreUnavailable, WatchInterrupted, WriteOutcome
from sessions.failures import reason_of, traces_of
from sessions.log_events import LogEvent, log
from sessions.steady_clock import steady
from sessions.tasks import in_background, stopped, to_the_end

_WAIT: Final = 0.05
"""Seconds that a read waits before it says that there is nothing more."""
_TURN: Final = 0.25


class Returning(Follower):
    """A follower that knows where it stands."""

    @property
    def position(self) -> str:
        """The token up to which it has been told everything."""
        raise NotImplementedError

    def passed(self, token: str) -> None:
        """It has been told all changes up to this token."""

    def moved_to(self, feed: Feed) -> None:
        """From now on this feed tells it."""


class CatchUp:
    """One stream for any number of followers that each go on from a token of their own.

    Args:
        source: Where the streams come from.
        front: The shared feed, or a new one if that has ended.
        patience: Seconds that the server has for an answer.
    """

    token: None = None
    """Each follower knows itself where it stands."""

    def __init__(self, source: Source, front: Callable[[], Feed], *, patience: float) -> None:
        self._source = source
        self._front = front
        self._patience = patience
        # Keeps the shared feed open for those who are on their way to it.
        self._place = Follower()
        self._newcomers: dict[Returning, asyncio.Future[None]] = {}
        self._rounds: deque[WeakSet[Returning]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._is_closed = False

    # --- followers ------------------------------------------------------------------------------------------------

    async def follow(self, follower: Returning) -> None:
        """Return when the follower will be told of all changes behind its position.

        Raises:
            StoreUnavailable: The server did not look at its token in time.
            WatchInterrupted: It is no token, or there is nothing to follow on this server.
        """
        admitted = self._newcomers[follower] = asyncio.get_running_loop().create_future()
        if self._task is None or self._task.done():
            self._task = in_background(self._run(), "sessions: catching up with the change stream")
        try:
            async with asyncio.timeout(self._patience):
                await admitted
        except TimeoutError as error:
            self.discard(follower)
            cause = "the server has not looked at the token in time"
            raise StoreUnavailable(SessionRef(), outcome=WriteOutcome.NOT_WRITTEN, cause=cause) from error
        except BaseException:
            self.discard(follower)
            raise

    def discard(self, follower: Returning) -> None:
        """Tell a follower no more; without any the stream is closed soon."""
        self._newcomers.pop(follower, None)
        for each in self._rounds:
            each.discard(follower)

    async def leave(self, follower: Returning) -> None:
        """As `discard`."""
        self.discard(follower)

    async def close(self) -> None:
        """End it and tell its followers."""
        self._is_closed = True
        if self._task is not None:
            self._task.cancel()
            await stopped([self._task])
        # Whoever waits to be let in finds the end too, not an error.
        self._rounds.appendleft(WeakSet())
        self._let_in(list(self._newcomers))
        self._end(None)

    # --- the task -------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        front: Feed | None = None
        retries = Retries()
        try:
            while not self._is_closed and (self._newcomers or any(self._rounds)):
                try:
                    front = self._front()
                    await front.follow(self._place)
                    await self._take_turns(front)
                    retries.reset()
                except StoreUnavailable as error:
                    self._refuse(list(self._newcomers), error)
                    if any(self._rounds):
                        await retries.pause(error)
        except Exception as error:  # noqa: BLE001 - it is told to all who wait
            if not isinstance(error, WatchInterrupted):
                log(LogEvent.CATCHING_UP_FAILED, reason=reason_of("it", error), traces=traces_of(error))
            self._refuse(list(self._newcomers), error)
            self._end(error)
        finally:
            if front is not None:
                front.discard(self._place)

    def _end(self, error: Exception | None) -> None:
        for followers in self._rounds:
            tell_each(followers, methodcaller("ended", error))
        self._rounds.clear()

    def _refuse(self, newcomers: list[Returning], error: Exception) -> None:
        for follower in newcomers:
            admitted = self._newcomers.pop(follower)
            if not admitted.done():  # it may have given up
                admitted.set_exception(error)

    def _let_in(self, newcomers: list[Returning]) -> None:
        for follower in newcomers:
            admitted = self._newcomers.pop(follower)
            if not admitted.done():
                admitted.set_result(None)
                self._rounds[0].add(follower)

    async def _take_turns(self, front: Feed) -> None:
        """One turn for those who have just come back, and one for the round that waits longest."""
        if self._newcomers:
            await self._admit()
            await self._take_turn(front)
        await self._take_turn(front)

    async def _take_turn(self, front: Feed) -> None:
        while self._rounds and not self._rounds[0]:
            self._rounds.popleft()
        if self._rounds:
            await self._tell_what_was_missed(self._rounds[0], front)
            self._rounds.rotate(-1)

    async def _admit(self) -> None:
        """Let the server look at each token, and make a round of those who have one that it takes."""
        self._rounds.appendleft(WeakSet())
        for token in sorted({follower.position for follower in self._newcomers}):
            refusal: WatchInterrupted | None = None
            try:
                await self._source.check_token(token)
            except WatchInterrupted as error:
                refusal = error
            those = [follower for follower in self._newcomers if follower.position == token]
            if refusal is None:
                self._let_in(those)
            else:
                self._refuse(those, refusal)

    async def _tell_what_was_missed(self, followers: "WeakSet[Returning]", front: Feed) -> None:
        token = min(follower.position for follower in followers)
        turn_ends = steady() + _TURN
        reading: Reading | None = None
        is_over = False

        def ends_here() -> bool:
            return not followers or front.has_ended or self._handed_over(followers, token, front)

        def take(batch: Batch) -> bool:
            nonlocal token, is_over
            events = [to_event(change) for change in batch.changes]
            if events:
                tell_each(followers, methodcaller("happened", events))
            token = batch.token or token
            others_wait = bool(self._newcomers) or len(self._rounds) > 1
            is_over = ends_with(events) or ends_here() or (others_wait and steady() > turn_ends)
            return bool(events) and not is_over

        try:
            reading = await Reading.open(self._source, token, wait=_WAIT, patience=self._patience)
            tell_each(followers, methodcaller("joined", token))
            token = reading.token or token
            is_over = ends_here()
            reads = 0
            while not is_over:
                if reads == 1:
                    # A feed that has just begun stands ahead of the last write (*measured*); after another one, of any
                    # kind, this stream passes it. An idle server makes one every ten seconds only.
                    with suppress(StoreUnavailable):
                        await self._source.confirm_primary()
                # Up to where nothing more comes.
                await reading.read(take)
                reads += 1
        except WatchInterrupted as error:
            # It is this token's, not that of those who stand behind it.
            for follower in [each for each in followers if each.position <= token]:
                followers.discard(follower)
                follower.ended(error)
        finally:
            tell_each(followers, methodcaller("passed", token))
            if reading is not None:
                await to_the_end(reading.let_go())

    def _handed_over(self, followers: "WeakSet[Returning]", token: str, front: Feed) -> bool:
        """Hand the followers to the shared feed if that will tell all that is behind this token."""
        if front.token is None or front.token > token:
            return False
        tell_each(followers, methodcaller("passed", token))
        for follower in list(followers):
            followers.discard(follower)
            follower.moved_to(front)
            front.adopt(follower)
        return True
