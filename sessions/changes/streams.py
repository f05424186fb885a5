"""Open streams of changes: read one answer after the other, and given up if their server is not to be believed."""

import asyncio
from collections.abc import Awaitable, Coroutine, Mapping
from typing import Any, Final, Protocol

from sessions.domain.errors import SessionRef, StoreUnavailable, WriteOutcome
from sessions.steady_clock import steady
from sessions.tasks import forget

_PRIMARY_LOOK: Final = 0.25
_READ_ENDS_WITHIN: Final = 1.0


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

    def check_token(self, token: str) -> Coroutine[Any, Any, None]:
        """Return if the server takes it for a token of its own; none of the changes behind it is read."""

    def confirm_primary(self) -> Coroutine[Any, Any, None]:
        """Return once a majority has confirmed the primary; it writes something for that, of no collection."""

    def primary(self) -> object:
        """The primary that is known now; None if there is none."""


class Reading:
    """A stream while one task reads it."""

    def __init__(self, stream: Stream, source: Source, *, primary: object, overdue: float) -> None:
        self._stream = stream
        self._source = source
        self._primary = primary
        self._overdue = overdue
        self._read: asyncio.Task[dict[str, Any] | None] | None = None

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

    async def next(self) -> Mapping[str, Any] | None:
        """The next change; None if none came in time.

        Raises:
            StoreUnavailable: The stream is lost, the primary changed meanwhile, or the answer is overdue.
            WatchInterrupted: Nothing goes on from here.
        """
        self._read = asyncio.create_task(self._stream.try_next(), name="sessions: reading the change stream")
        overdue = steady() + self._overdue
        while True:
            await asyncio.wait({self._read}, timeout=_PRIMARY_LOOK)
            # An old primary goes on answering, that nothing has happened.
            if self._source.primary() != self._primary:
                raise _lost("the primary changed")
            if self._read.done():
                return self._read.result()
            if steady() > overdue:
                raise _lost("the server does not answer")

    async def let_go(self) -> None:
        """Close the stream; it ends within two seconds.

        It is not used any more, so that what a cancelled read has received is read again by the next one.
        """
        await self._stream.close()
        if self._read is not None:
            self._read.cancel()
            await asyncio.wait({self._read}, timeout=_READ_ENDS_WITHIN)
            forget(self._read)


def _lost(cause: str) -> StoreUnavailable:
    return StoreUnavailable(SessionRef(), outcome=WriteOutcome.NOT_WRITTEN, cause=cause)
