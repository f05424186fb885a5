"""One stream of changes for any number of followers: opened, read, and opened again from where it was left.

A task of its own reads it, so that no consumer's cancellation ever meets a waiting read: the change that such a read
has just received would be lost.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from operator import methodcaller
from typing import Any, Final, Protocol
from weakref import WeakSet

from sessions.backoff import Backoff
from sessions.domain.errors import SessionRef, StoreUnavailable, WatchInterrupted, WriteOutcome
from sessions.domain.models import ActiveScheduleSessionSnapshot
from sessions.steady_clock import steady
from sessions.store.reading import readable
from sessions.tasks import forget, in_background, stopped, to_the_end, until_set

logger = logging.getLogger("sessions")

LONGEST_WAIT: Final = 1.0
"""Seconds that a read waits for a change, unless a follower wants to know sooner that there is none."""
_PRIMARY_LOOK: Final = 0.25
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 1.0
_READ_ENDS_WITHIN: Final = 1.0
_FOR_ALL: Final = frozenset({"drop", "rename", "dropDatabase", "invalidate"})


@dataclass(frozen=True)
class Event:
    """One change, as the stream tells it."""

    kind: str
    token: str
    wall_time: datetime | None
    """The primary's clock when it was written."""
    session_id: str | None
    """None if the collection as a whole is concerned: it was dropped or renamed."""
    revision: int | None
    """What the change made of the session's revision."""
    document: Mapping[str, Any] | None
    """The session when the event was looked up, which may be later than the change; None if it is gone."""

    @property
    def is_latest(self) -> bool:
        """Whether the document is the one that this change made; else a later event tells of it."""
        return (
            self.document is not None and self.revision is not None and self.document.get("revision") == self.revision
        )

    @cached_property
    def snapshot(self) -> ActiveScheduleSessionSnapshot | None:
        """The document as a value, made once for all who want it; None for what no repository has written."""
        if self.document is None:
            return None
        return next(readable([dict(self.document)]), None)


def to_event(change: Mapping[str, Any]) -> Event:
    """A change as the server's stream gives it."""
    kind = str(change["operationType"])
    document = change.get("fullDocument")
    told = change.get("updateDescription", {}).get("updatedFields", {}) if kind == "update" else document or {}
    revision = told.get("revision")
    return Event(
        kind=kind,
        token=str(change["_id"]["_data"]),
        wall_time=change.get("wallTime"),
        session_id=None if kind in _FOR_ALL else str(change["documentKey"]["_id"]),
        # Anybody may write into the collection; what no repository has written has no revision.
        revision=revision if isinstance(revision, int) and not isinstance(revision, bool) else None,
        document=document,
    )


class Stream(Protocol):
    """An open stream."""

    @property
    def token(self) -> str | None:
        """Where another one goes on."""

    def try_next(self) -> Coroutine[Any, Any, dict[str, Any] | None]:
        """The next change; None if none came in time."""

    def close(self) -> Awaitable[None]:
        """Free what the server holds for it, as far as it answers soon."""


class Source(Protocol):
    """Where streams come from."""

    def changes(self, resume_after: str | None, *, wait: float) -> Coroutine[Any, Any, Stream]:
        """Open one, from a token or from now on."""

    def primary(self) -> object:
        """The primary that is known now; None if there is none."""


class Follower:
    """Who is told; each method returns at once."""

    def joined(self, token: str | None) -> None:
        """All changes behind this token will be told."""

    def opened(self) -> None:
        """A stream stands, for the first time or anew."""

    def lost(self) -> None:
        """No stream stands, until `opened`."""

    def happened(self, event: Event) -> None:
        """The next change."""

    def quiet(self, since: float) -> None:
        """All that was committed before this moment of the monotonic clock has been told."""

    def ended(self, error: Exception | None) -> None:
        """Nothing more will be told; without an error because the feed was closed."""

    @property
    def is_full(self) -> bool:
        """Whether a feed of its own should wait for it."""
        return False


class Feed:
    """A stream, and a task that reads it for as long as somebody follows.

    Attributes:
        token: Where the followers stand; it moves without changes too.
        has_ended: Nobody can follow it any more.
        is_shared: Several may follow, so that it waits for none of them.
    """

    def __init__(
        self, source: Source, *, patience: float, resume_after: str | None = None, is_shared: bool = False
    ) -> None:
        self._source = source
        self._patience = patience
        self._wait = LONGEST_WAIT
        self._followers: WeakSet[Follower] = WeakSet()
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._room = asyncio.Event()
        self._is_open = False
        self._pauses = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        self._closings: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None
        self.token = resume_after
        self.has_ended = False
        self.is_shared = is_shared

    # --- followers ------------------------------------------------------------------------------------------------

    async def follow(self, follower: Follower, *, wait: float = LONGEST_WAIT) -> None:
        """Be told of all changes from now on, or from the token that the feed was made with.

        Raises:
            StoreUnavailable: The first stream could not be opened.
            WatchInterrupted: There can be none from there, or none at all.
        """
        self._followers.add(follower)
        # Where the open stream waits longer than that, it is opened again.
        self._wait = min(wait, self._wait)
        if self._task is None:
            self._task = in_background(self._run(), "sessions: change stream")
            self._task.add_done_callback(self._settle)
        if self._ready.done():
            follower.joined(self.token)
            if self._is_open:
                follower.opened()
        try:
            await asyncio.shield(self._ready)
        except BaseException:
            self.discard(follower)
            raise

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

    def make_room(self) -> None:
        """A full follower has taken something."""
        self._room.set()

    # --- the task -------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            await self._keep_open()
        finally:
            self.has_ended = True
            if self._closings:
                await to_the_end(asyncio.wait(self._closings))

    def _settle(self, task: "asyncio.Task[None]") -> None:
        failure = None if task.cancelled() else task.exception()
        if failure is not None and not isinstance(failure, StoreUnavailable | WatchInterrupted):
            logger.error("following changes failed", exc_info=failure)
        error = failure if isinstance(failure, Exception) else None
        if error is not None and not self._ready.done():
            # Those who wait for the first stream get the error from `follow`.
            self._ready.set_exception(error)
            self._ready.exception()
            return
        self._tell(lambda follower: follower.ended(error))
        if not self._ready.done():
            self._ready.set_result(None)

    def _tell(self, notice: Callable[[Follower], None]) -> None:
        # A method of its own: in the task's frame the last follower would be held while it waits.
        for follower in list(self._followers):
            try:
                notice(follower)
            except Exception as error:  # noqa: BLE001 - one follower's failure is not the others'
                self._fail(follower, error)

    def _fail(self, follower: Follower, error: Exception) -> None:
        # Not the error's text, which may quote a document.
        logger.error("a follower of changes failed and is told no more (%s)", type(error).__name__)
        self.discard(follower)
        with suppress(Exception):
            follower.ended(error)

    async def _keep_open(self) -> None:
        while self._followers:
            try:
                wait, primary = self._wait, self._source.primary()
                stream = await self._source.changes(self.token, wait=wait)
                await self._read(stream, wait, primary or self._source.primary())
            except StoreUnavailable as error:
                if not self._ready.done():
                    raise
                logger.warning("the change stream is lost and will be opened again: %s", error)
                await asyncio.sleep(self._pauses.next())

    async def _read(self, stream: Stream, wait: float, primary: object) -> None:
        reading: asyncio.Task[dict[str, Any] | None] | None = None
        self._opened(stream)
        try:
            while self._followers and wait <= self._wait:
                await self._until_room()
                started = steady()
                reading = asyncio.create_task(stream.try_next(), name="sessions: reading the change stream")
                await self._answered(reading, primary)
                change = reading.result()
                self.token = stream.token or self.token
                self._pauses.reset()
                if change is None:
                    self._tell(methodcaller("quiet", started))
                    continue
                event = to_event(change)
                self._tell(methodcaller("happened", event))
                if event.kind == "invalidate":
                    return
        finally:
            self._is_open = False
            self._tell(methodcaller("lost"))
            closing = in_background(_let_go(stream, reading), "sessions: closing a change stream")
            self._closings.add(closing)
            closing.add_done_callback(self._closings.discard)

    def _opened(self, stream: Stream) -> None:
        self._is_open = True
        self.token = self.token or stream.token
        if not self._ready.done():
            self._tell(methodcaller("joined", self.token))
            self._ready.set_result(None)
        self._tell(methodcaller("opened"))

    async def _until_room(self) -> None:
        while not self.is_shared and any(follower.is_full for follower in self._followers):
            self._room.clear()
            # Not for ever: a follower that was forgotten takes nothing more, and then there is none.
            await until_set(self._room, within=LONGEST_WAIT)

    async def _answered(self, reading: "asyncio.Task[dict[str, Any] | None]", primary: object) -> None:
        """Wait for a read; give it up if the primary changes meanwhile, or if the answer is overdue."""
        overdue = steady() + self._wait + self._patience
        while True:
            await asyncio.wait({reading}, timeout=_PRIMARY_LOOK)
            # An old primary goes on answering, that nothing has happened.
            if self._source.primary() != primary:
                raise _lost("the primary changed")
            if reading.done():
                return
            if steady() > overdue:
                raise _lost("the server does not answer")


def _lost(cause: str) -> StoreUnavailable:
    return StoreUnavailable(SessionRef(), outcome=WriteOutcome.NOT_WRITTEN, cause=cause)


async def _let_go(stream: Stream, reading: "asyncio.Task[dict[str, Any] | None] | None") -> None:
    # The stream is not used any more, so that what a cancelled read has received is read again by the next one.
    await stream.close()
    if reading is not None:
        reading.cancel()
        await asyncio.wait({reading}, timeout=_READ_ENDS_WITHIN)
        forget(reading)


class Feeds:
    """The feeds of one repository: one that all share who begin now, and one more for each who goes on from a token."""

    def __init__(self, source: Source, *, patience: float) -> None:
        self._source = source
        self._patience = patience
        self._shared: Feed | None = None
        self._feeds: set[Feed] = set()
        self._is_closed = False

    def shared(self) -> Feed:
        """The feed of all who begin now."""
        if self._shared is None or self._shared.has_ended:
            self._shared = self._made(None, is_shared=True)
        return self._shared

    def subscribe(self, resume_after: str | None) -> Feed:
        """A feed of one's own if a token is given, else the shared one."""
        return self.shared() if resume_after is None else self._made(resume_after, is_shared=False)

    def _made(self, resume_after: str | None, *, is_shared: bool) -> Feed:
        if self._is_closed:
            message = "the repository is closed: open another one to follow changes"
            raise RuntimeError(message)
        feed = Feed(self._source, patience=self._patience, resume_after=resume_after, is_shared=is_shared)
        self._feeds = {known for known in self._feeds if not known.has_ended} | {feed}
        return feed

    async def close(self) -> None:
        """End all feeds."""
        self._is_closed = True
        for feed in list(self._feeds):
            await feed.close()
