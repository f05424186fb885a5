"""Open streams of changes: read one answer after the other, and given up if their server is not to be believed."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

from sessions.steady_clock import steady
from sessions.store.change_stream import stream_lost
from sessions.tasks import forget, leave_behind

_PRIMARY_LOOK: Final = 0.25
_READ_ENDS_WITHIN: Final = 1.0

Changes: TypeAlias = list[dict[str, Any]]


class Batch(NamedTuple):
    """What one read has brought."""

    changes: Changes
    """In their order; none if none came in time."""
    token: str | None
    """Where another stream goes on."""
    asked: float
    """When the read began, by the monotonic clock."""


Take: TypeAlias = Callable[[Batch], bool]
"""Gets each batch, and says whether to read on."""


class Stream(Protocol):
    """An open stream."""

    @property
    def token(self) -> str | None:
        """Where another one goes on."""

    def next_batch(self) -> Coroutine[Any, Any, Changes]:
        """The next changes in their order; none if none came in time."""

    def close(self) -> Awaitable[None]:
        """Free what the server holds for it, as far as it answers soon."""


class Source(Protocol):
    """Where streams come from."""

    def changes(self, resume_after: str | None, *, wait: float) -> Coroutine[Any, Any, Stream]:
        """Open one, from a token or from now on."""

    def check_token(self, token: str) -> Coroutine[Any, Any, None]:
        """Return if the server takes it for a token of its own; none of the changes behind it is read."""

    def confirm_primary(self) -> Coroutine[Any, Any, None]:
        """Return once a majority has confirmed the primary; it writes something for that, of no collection."""

    def primary(self) -> object:
        """The primary that is known now; None if there is none."""


class Reading:
    """A stream while one task reads it.

    That task is another one than that of whoever reads on: it is not cancelled with it while a read is in the driver's
    hands, and between two batches no turn of the event loop is lost.
    """

    def __init__(self, stream: Stream, source: Source, *, primary: object, overdue: float) -> None:
        self._stream = stream
        self._source = source
        self._primary = primary
        self._overdue = overdue
        self._asked = 0.0
        self._task: asyncio.Task[None] | None = None
        self._is_left = False

    @classmethod
    async def open(cls, source: Source, token: str | None, *, wait: float, patience: float) -> "Reading":
        """Open a stream whose reads wait so long for a change, and whose answers may be so much later.

        Raises:
            StoreUnavailable: The server does not answer; it may later.
            WatchInterrupted: There is no stream from there, or none at all.
        """
        primary = source.primary()
        stream = await source.changes(token, wait=wait)
        return cls(stream, source, primary=primary or source.primary(), overdue=wait + patience)

    @property
    def token(self) -> str | None:
        """Where another one goes on."""
        return self._stream.token

    async def read(self, take: Take) -> None:
        """Read one batch after the other for as long as ``take`` says so.

        Raises:
            StoreUnavailable: The stream is lost, the primary changed meanwhile, or the answer is overdue.
            WatchInterrupted: Nothing goes on from here.
        """
        self._is_left = False
        self._asked = steady()
        task = self._task = asyncio.create_task(self._read(take), name="sessions: reading the change stream")
        try:
            while not task.done():
                await asyncio.wait({task}, timeout=_PRIMARY_LOOK)
                self._check_primary()
                if not task.done() and steady() > self._asked + self._overdue:
                    raise stream_lost("the server does not answer")
            task.result()
        finally:
            self._is_left = True

    async def _read(self, take: Take) -> None:
        goes_on = True
        while goes_on:
            self._asked = steady()
            changes = await self._stream.next_batch()
            self._check_primary()
            goes_on = not self._is_left and take(Batch(changes, self._stream.token, self._asked))
            del changes  # they may be large, and the next read waits

    def _check_primary(self) -> None:
        # An old one goes on answering, that nothing has happened.
        if self._source.primary() != self._primary:
            raise stream_lost("the primary changed")

    async def let_go(self) -> None:
        """Close the stream; it ends within two seconds.

        It is not used any more, so that what a cancelled read has received is read again by the next one.
        """
        await self._stream.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=_READ_ENDS_WITHIN)
            if self._task.done():
                forget(self._task)
            else:
                leave_behind(self._task)
