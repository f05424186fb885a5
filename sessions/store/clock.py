"""The server's clock, carried by this process's monotonic one; a worker's wall clock never enters a document."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

from sessions.backoff import Backoff
from sessions.domain.errors import StoreUnavailable
from sessions.domain.inputs import moment
from sessions.domain.limits import to_millisecond
from sessions.log_events import LogEvent, log
from sessions.steady_clock import steady
from sessions.store.collection import SessionCollection
from sessions.tasks import in_background, stopped, until_set

SAMPLES: Final = 5
RENEW_EVERY: Final = timedelta(minutes=5)
_RETRY_SECONDS: Final = 1.0
# How far two clocks may part in a second; quartz keeps within half of it.
_DRIFT: Final = 0.0002


class Clock(Protocol):
    """What a repository asks for the time."""

    def now(self) -> datetime:
        """The present moment in UTC, cut to the millisecond."""

    async def close(self) -> None:
        """Stop whatever runs in the background."""


class GivenClock:
    """The clock that the caller passed, or the system's for the double."""

    def __init__(self, read: Callable[[], datetime]) -> None:
        self._read = read

    def now(self) -> datetime:
        """The caller's moment; a naive one is refused."""
        return moment("clock", self._read())

    async def close(self) -> None:
        """Nothing runs."""


def system_time() -> datetime:
    """The wall clock of this machine."""
    return datetime.now(UTC)


class ServerClock:
    """The server's clock: of some samples the one with the shortest round trip, whose half is the known error.

    Attributes:
        error: How far off the last measurement may be.
    """

    def __init__(self, collection: SessionCollection) -> None:
        self._collection = collection
        self._server_at_zero = 0.0
        self._measured_at = 0.0
        self._primary: object = None
        self._stale = asyncio.Event()
        self._renewal: asyncio.Task[None] | None = None
        self.error = timedelta.max

    async def start(self) -> None:
        """Measure once, then keep measuring in the background, until `close`."""
        if self._renewal is not None:
            return
        await self._measure()
        self._renewal = in_background(self._renew(), "sessions: server clock")

    async def _measure(self) -> None:
        primary = self._collection.primary()
        best: tuple[float, datetime, float] | None = None
        for _ in range(SAMPLES):
            sent = steady()
            told = await self._collection.server_time()
            received = steady()
            if best is None or received - sent < best[0]:
                best = (received - sent, told, (sent + received) / 2)
        if best is not None:
            round_trip, told, between = best
            self._server_at_zero = told.timestamp() - between
            self.error = timedelta(seconds=round_trip / 2)
            self._measured_at = between
        self._primary = primary

    async def _renew(self) -> None:
        retries = Backoff(_RETRY_SECONDS)
        wait = RENEW_EVERY.total_seconds()
        while True:
            await until_set(self._stale, within=wait)
            self._stale.clear()
            try:
                await self._measure()
                wait = RENEW_EVERY.total_seconds()
            except StoreUnavailable as error:
                log(LogEvent.CLOCK_NOT_READ, error=error)
                wait = retries.next()

    def now(self) -> datetime:
        """The server's time; after a change of primary it is measured anew in the background."""
        self.look()
        return to_millisecond(self.reading())

    def look(self) -> None:
        """Measure anew in the background if the primary has changed."""
        primary = self._collection.primary()
        if primary is not None and primary != self._primary:
            self._stale.set()

    def reading(self) -> datetime:
        """The server's time, to be asked for often: uncut, and without a look at the primary."""
        return datetime.fromtimestamp(self._server_at_zero + steady(), UTC)

    def monotonic_at(self, told: datetime) -> float | None:
        """When, at the latest, the server's clock showed this, by the monotonic one; None before it was measured."""
        if self._primary is None or self._collection.primary() != self._primary:
            self._stale.set()
            return None
        age = steady() - self._measured_at
        error = self.error.total_seconds() + age * _DRIFT
        return told.timestamp() - self._server_at_zero - error

    async def close(self) -> None:
        """Stop measuring."""
        if self._renewal is not None:
            renewal, self._renewal = self._renewal, None
            await stopped([renewal])
