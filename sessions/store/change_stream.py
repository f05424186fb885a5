"""The driver's stream of changes, without its own way of resuming."""

from contextlib import suppress
from typing import Any, Final, NoReturn

import pymongo
from pymongo.errors import PyMongoError

from sessions.domain.errors import SessionRef, StoreUnavailable, WriteOutcome
from sessions.store.driver_errors import cause_of, following

CLOSE_WITHIN: Final = 1.0
"""Seconds that closing a stream waits for its server."""


class _StreamLost(PyMongoError):
    """The driver would have opened another stream by itself."""


def _refuse_to_resume() -> NoReturn:
    raise _StreamLost


class ChangeStream:
    """An open stream of changes; after an error it is closed, and another one is opened from the last token.

    Args:
        stream: The driver's.
        namespace: Database and collection, for errors.
    """

    def __init__(self, stream: Any, *, namespace: str) -> None:
        self._stream = stream
        self._namespace = namespace
        # Both drivers resume a stream without a word, Motor (whose own stream is `delegate`) even one that is being
        # closed in another thread; nobody would learn of the new one, and the server would keep its cursor.
        getattr(stream, "delegate", stream)._resume = _refuse_to_resume  # noqa: SLF001 - there is no option for it

    @property
    def token(self) -> str | None:
        """Where another stream goes on; it moves without changes too."""
        token = self._stream.resume_token
        return None if token is None else str(token["_data"])

    async def try_next(self) -> dict[str, Any] | None:
        """The next change, or None if none came in time.

        Raises:
            StoreUnavailable: The stream is lost; another one can go on from the token, if need be once a right is back.
            WatchInterrupted: No stream can go on from here.
        """
        with following(self._namespace, goes_on=True):
            try:
                change: dict[str, Any] | None = await self._stream.try_next()
            except PyMongoError as error:
                lost = error.__context__ if isinstance(error, _StreamLost) else error
                known = lost if isinstance(lost, PyMongoError) else error
                raise StoreUnavailable(SessionRef(), outcome=WriteOutcome.NOT_WRITTEN, cause=cause_of(known)) from known
        return change

    async def close(self) -> None:
        """Free the server's cursor, as far as the server answers; a waiting `try_next` ends by it."""
        with pymongo.timeout(CLOSE_WITHIN), suppress(PyMongoError):
            await self._stream.close()
