"""The server's stream of changes, read in whole batches and never resumed by the driver."""

import asyncio
from contextlib import suppress
from typing import Any, Final

import pymongo
from pymongo.errors import PyMongoError

from sessions.domain.errors import SessionRef, StoreUnavailable, WriteOutcome
from sessions.steady_clock import steady
from sessions.store.driver_errors import cause_of, following

CLOSE_WITHIN: Final = 1.0
"""Seconds that closing a stream waits for its server."""
_MOST_AT_ONCE: Final = 100
"""Changes in a batch: while it is told of, nothing else runs."""
_BETWEEN_READS: Final = 0.01
"""Seconds from one read to the next unless that was a full batch: changes in quick succession come in together."""


def stream_lost(cause: str) -> StoreUnavailable:
    """What is raised for a stream that another one can replace."""
    return StoreUnavailable(SessionRef(), outcome=WriteOutcome.NOT_WRITTEN, cause=cause)


class ChangeStream:
    """An open stream of changes; after an error it is closed, and another one is opened from the last token.

    The driver's own stream is not used: it resumes without a word, so that nobody would learn of the new one, and with
    Motor each change of a batch takes a turn in a thread.

    Args:
        cursor: The driver's, of a ``$changeStream`` whose first batch was empty.
        namespace: Database and collection, for errors.

    Attributes:
        token: Where another stream goes on; it moves without changes too.
    """

    def __init__(self, cursor: Any, *, namespace: str) -> None:
        self._cursor = cursor.batch_size(_MOST_AT_ONCE)
        # PyMongo's own, in which Motor reads too.
        self._batch = getattr(cursor, "delegate", cursor)
        self._namespace = namespace
        self._may_read_at = 0.0
        self.token: str | None = self._token_behind_batch()

    def _token_behind_batch(self) -> str | None:
        # The driver gives it by its own stream only.
        token = self._batch._post_batch_resume_token  # noqa: SLF001
        return None if token is None else str(token["_data"])

    async def next_batch(self) -> list[dict[str, Any]]:
        """The next changes in their order; none if none came in time.

        Raises:
            StoreUnavailable: The stream is lost; another one can go on from the token, if need be once a right is back.
            WatchInterrupted: No stream can go on from here.
        """
        if (pause := self._may_read_at - steady()) > 0:
            await asyncio.sleep(pause)
        began = steady()
        try:
            # One round trip; by the public methods it is not to be seen where a batch ends.
            await self._cursor._refresh()  # noqa: SLF001
        except PyMongoError as error:
            with following(self._namespace, goes_on=True):
                raise stream_lost(cause_of(error)) from error
        waiting = self._batch._data  # noqa: SLF001
        changes: list[dict[str, Any]] = list(waiting)
        waiting.clear()
        if not changes and not self._cursor.alive:
            raise stream_lost("the server has closed the stream")
        self.token = self._token_behind_batch() or self.token
        self._may_read_at = began if len(changes) == _MOST_AT_ONCE else began + _BETWEEN_READS
        return changes

    async def close(self) -> None:
        """Free the server's cursor, as far as the server answers; a waiting `next_batch` ends by it."""
        with pymongo.timeout(CLOSE_WITHIN), suppress(PyMongoError):
            await self._cursor.close()
