"""One ``apply`` at a time on a database, by a lock document whose lease is renewed.

The lease is judged by the server's own clock, so that two machines need not agree on the time.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from time import monotonic
from typing import Any, Final
from uuid import uuid4

from pymongo.errors import OperationFailure

from indexes.codes import Code
from indexes.errors import IndexToolError, LockHeld, MissingRight, Unreachable
from indexes.server import Server
from sessions.tasks import until_set

logger = logging.getLogger("indexes")

LOCKS: Final = "index_bootstrap_locks"
"""The collection of the lock document, in the database that it locks."""
DEFAULT_LEASE: Final = timedelta(seconds=15)
DEFAULT_WAIT: Final = timedelta(minutes=10)

_KEY: Final = "apply"
_FIRST_PAUSE: Final = 0.02
_LONGEST_PAUSE: Final = 0.5


class Lock:
    """The right to change a database's indexes, while its lease is renewed."""

    def __init__(self, server: Server, *, lease: timedelta) -> None:
        self._server = server
        self._lease = lease
        self._holder = uuid4().hex
        self._renewed_at = monotonic()

    @property
    def left(self) -> timedelta:
        """How long the lock is certainly ours. Nothing that could harm the next run may begin later."""
        return self._lease - timedelta(seconds=monotonic() - self._renewed_at)

    def _until(self) -> dict[str, Any]:
        # For a pipeline: an update by operators can't refer to the server's clock.
        until = {"$add": ["$$NOW", int(self._lease.total_seconds() * 1000)]}
        return {"holder": self._holder, "expires_at": until}

    async def _update(self, conditions: dict[str, Any], *, changes: dict[str, Any], upsert: bool) -> bool:
        command = {
            "findAndModify": LOCKS,
            "query": {"_id": _KEY, **conditions},
            "update": [{"$set": changes}],
            "upsert": upsert,
            "new": True,
        }
        asked_at = monotonic()
        answer = await self._server.change(command, about=LOCKS)
        if answer.get("value") is None:
            return False
        self._renewed_at = asked_at
        return True

    async def _take(self) -> bool:
        if await self._update({"$expr": {"$lte": ["$expires_at", "$$NOW"]}}, changes=self._until(), upsert=False):
            return True
        try:
            # If another run holds the lock, the upsert is refused for that document's _id. The upsert can't check the
            # lease itself, since the server refuses $expr in one.
            return await self._update({"holder": self._holder}, changes=self._until(), upsert=True)
        except OperationFailure as error:
            if error.code != Code.DUPLICATE_KEY:
                raise
            return False

    async def acquire(self, *, wait: timedelta, on_wait: Callable[[], None]) -> None:
        """Take the lock, or wait for it.

        Raises:
            LockHeld: It was not free within ``wait``.
        """
        ends = monotonic() + wait.total_seconds()
        pause = _FIRST_PAUSE
        while not await self._take():
            if monotonic() + pause > ends:
                raise LockHeld("another apply is at work on this database: run this again when it has ended")
            on_wait()
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def confirm(self) -> None:
        """Renew the lease, and so learn whether the lock is still ours.

        Raises:
            LockHeld: The lease lapsed and another run took the lock.
        """
        if not await self._update({"holder": self._holder}, changes=self._until(), upsert=False):
            raise LockHeld("another apply took the lock over while this one stood still: run this again")

    async def keep(self, stopped: asyncio.Event) -> None:
        """Renew the lease until ``stopped`` is set, or the lock is lost. The run learns of that at its next `confirm`.

        It is not stopped by cancelling, since a driver can turn a cancellation in mid-command into a connection error.
        """
        every = self._lease.total_seconds() / 3
        while True:
            await until_set(stopped, within=every)
            if stopped.is_set():
                return
            try:
                await self.confirm()
            except LockHeld:
                return
            except Unreachable as error:
                # The step under way has the same trouble, and before the next one the lock is confirmed.
                logger.warning("the lock could not be renewed (%s)", error)

    async def give_back(self) -> None:
        """Let the next run begin at once. Without this the lease lapses by itself."""
        command = {
            "delete": LOCKS,
            "deletes": [{"q": {"_id": _KEY, "holder": self._holder}, "limit": 1}],
        }
        with contextlib.suppress(Unreachable, MissingRight, OperationFailure):
            await self._server.change(command, about=LOCKS)


@contextlib.asynccontextmanager
async def locked(
    server: Server, *, lease: timedelta, wait: timedelta, on_wait: Callable[[], None]
) -> AsyncIterator[Lock]:
    """Hold the lock within the block, renewing it in the background; waits for it as `Lock.acquire` does."""
    lock = Lock(server, lease=lease)
    await lock.acquire(wait=wait, on_wait=on_wait)
    stopped = asyncio.Event()
    renewal = asyncio.create_task(lock.keep(stopped), name="indexes: lock")
    try:
        yield lock
    finally:
        stopped.set()
        with contextlib.suppress(IndexToolError, OperationFailure):
            await renewal
        await asyncio.shield(lock.give_back())
