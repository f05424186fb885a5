"""The one collection, and what one call sends to it, over whichever driver is below.

Its errors become this library's by `driver_errors`; what may pass by itself is sent again until the time is up.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import pymongo
from pymongo import IndexModel, ReturnDocument, _csot
from pymongo.errors import DuplicateKeyError, OperationFailure, PyMongoError

from sessions.backoff import Backoff
from sessions.domain.errors import SessionRef, StoreUnavailable, WriteOutcome
from sessions.steady_clock import steady
from sessions.store.change_stream import CLOSE_WITHIN, ChangeStream
from sessions.store.clients import ClientSession, Database
from sessions.store.driver_errors import (
    cause_of,
    following,
    is_bad_hint,
    known_of,
    may_pass,
    reason_of,
    update_is_refused,
)
from sessions.store.handles import DriverHandles, handles_of
from sessions.store.reads import Lookup
from sessions.store.updates import Filter, RawDocument, Stage
from sessions.store.writes import Write
from sessions.tasks import answered, or_undone_later, to_the_end

logger = logging.getLogger("sessions")
Found = TypeVar("Found")

NOBODY: Final = SessionRef()
# The drivers look for a primary in steps of this length and notice a passed deadline only after one.
_SELECTION_STEP: Final = 0.5
_FIRST_PAUSE: Final = 0.005
_LONGEST_PAUSE: Final = 0.25
_LEAST_TIME: Final = 0.001
# A driver that is late by so much does not answer at all.
_GRACE: Final = 0.5


class DuplicateKey(Exception):
    """A unique index refused a write; it never leaves the package, the repository turns it into a refusal.

    Attributes:
        fields: The index's fields, by the structured ``keyPattern``; empty if the backend gives none.
    """

    def __init__(self, fields: frozenset[str]) -> None:
        super().__init__(sorted(fields))
        self.fields = fields


def _duplicate(error: DuplicateKeyError) -> DuplicateKey:
    return DuplicateKey(frozenset((error.details or {}).get("keyPattern", ())))


class UpdateRefused(Exception):
    """A field of the stored document is of a kind that the update cannot change; it never leaves the package."""


class StoreCall:
    """All that one call sends: under one time limit, and in its caller's transaction.

    Attributes:
        in_doubt: Whether a write of this call may have happened unseen; from then on it reads what a majority has.
    """

    def __init__(
        self, handles: DriverHandles, *, ends: float, session: ClientSession | None = None, committed: bool = False
    ) -> None:
        self._handles = handles
        self._ends = ends
        self._session = session
        self._collection = handles.committed if committed else handles.plain
        self.in_doubt = False

    @property
    def is_within(self) -> bool:
        """Whether the commands join a caller's session."""
        return self._session is not None

    @property
    def is_in_transaction(self) -> bool:
        """Whether what the commands do takes effect only by the caller's commit."""
        return self._session is not None and bool(self._session.in_transaction)

    def outside(self) -> "StoreCall":
        """The same without its caller's transaction, which a duplicate key has aborted."""
        return StoreCall(self._handles, ends=self._ends) if self.is_within else self

    def _joining(self) -> dict[str, Any]:
        # In a transaction the drivers leave out write and read concern: these are the transaction's.
        return {} if self._session is None else {"session": self._session}

    async def send(
        self, operation: Callable[[], Awaitable[Found]], *, about: SessionRef = NOBODY, writes: bool = False
    ) -> Found:
        """What an operation of the driver answers, sent again while its error may pass and there is time.

        Args:
            operation: Sends it once.
            about: The session for an error.
            writes: Whether it may leave a trace without an answer.

        Raises:
            DuplicateKey: A unique index refused the write.
            UpdateRefused: A field of the document is of another kind than the update asks for.
            StoreUnavailable: There was no answer in time, or one that cannot pass.
        """
        if self.is_within:
            # The transaction's owner must see the driver's labels.
            return await self._sent_within(operation)
        pauses = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        with pymongo.timeout(max(self._ends - steady(), _LEAST_TIME)):
            while True:
                try:
                    return await self._handles.carried(operation, within=self._ends - steady() + _GRACE)
                except DuplicateKeyError as error:
                    raise _duplicate(error) from error
                except PyMongoError as error:
                    is_refused = writes and update_is_refused(error)
                    if writes and known_of(error) is WriteOutcome.UNKNOWN:
                        self.in_doubt = True
                    pause = pauses.next()
                    if not is_refused and (not may_pass(error) or steady() + pause >= self._ends):
                        raise self._unavailable(error, about) from error
                except self._handles.kind_errors:
                    is_refused = True
                if is_refused:
                    # Raised out here, since the driver's error quotes the document.
                    raise UpdateRefused
                await asyncio.sleep(pause)

    async def _sent_within(self, operation: Callable[[], Awaitable[Found]]) -> Found:
        with pymongo.timeout(max(self._ends - steady(), _LEAST_TIME)):
            try:
                return await answered(operation())
            except DuplicateKeyError as error:
                raise _duplicate(error) from error

    def _unavailable(self, error: PyMongoError, about: SessionRef) -> StoreUnavailable:
        outcome = WriteOutcome.UNKNOWN if self.in_doubt else WriteOutcome.NOT_WRITTEN
        can_pass = reason_of(error) is None
        return StoreUnavailable(about, outcome=outcome, cause=cause_of(error), may_pass=can_pass)

    async def find(self, lookup: Lookup, *, about: SessionRef = NOBODY) -> list[RawDocument]:
        """The documents of a lookup, by its hint if that index exists and is visible."""

        async def look(hint: str | None) -> list[RawDocument]:
            collection = self._handles.settled if self.in_doubt else self._collection
            cursor = collection.find(lookup.filter, lookup.projection, **self._joining())
            if lookup.sort:
                cursor = cursor.sort(list(lookup.sort))
            if hint is not None:
                cursor = cursor.hint(hint)
            found: list[RawDocument] = await self._handles.one_batch(cursor, lookup.limit).to_list(lookup.limit)
            return found

        async def look_with_fallback() -> list[RawDocument]:
            # In a transaction a refused hint would abort it, so there the planner chooses.
            hint = None if self.is_in_transaction else self._handles.hint_of(lookup)
            try:
                found = await look(hint)
            except OperationFailure as error:
                if hint is None or not is_bad_hint(error):
                    raise
                self._handles.note_hint(hint, serves=False)
                return await look(None)
            if hint is not None:
                self._handles.note_hint(hint, serves=True)
            return found

        return await self.send(look_with_fallback, about=about)

    async def find_one(self, lookup: Lookup, *, about: SessionRef = NOBODY) -> RawDocument | None:
        """The first document of a lookup, or None."""
        found = await self.find(lookup, about=about)
        return found[0] if found else None

    async def insert(self, document: RawDocument, *, about: SessionRef) -> None:
        """Store a new document, or raise `DuplicateKey`."""
        await self.send(lambda: self._collection.insert_one(document, **self._joining()), about=about, writes=True)

    async def find_one_and_update(self, write: Write, *, about: SessionRef) -> RawDocument | None:
        """Carry a guarded write out; the document after it without its history, or None if the guard fails."""

        def update() -> Awaitable[RawDocument | None]:
            guard = {**write.filter, **write.unless_done} if self.in_doubt else write.filter
            answer: Awaitable[RawDocument | None] = self._collection.find_one_and_update(
                guard, write.update, projection={"history": 0}, return_document=ReturnDocument.AFTER, **self._joining()
            )
            return answer

        return await self.send(update, about=about, writes=True)

    async def update_many(self, write: Write) -> int:
        """Carry a sweep out; how many documents it changed."""
        result = await self.send(lambda: self._collection.update_many(write.filter, write.update), writes=True)
        return int(result.modified_count)

    async def delete_many(self, conditions: Filter) -> int:
        """Delete; how many documents went."""
        result = await self.send(lambda: self._collection.delete_many(conditions), writes=True)
        return int(result.deleted_count)

    async def aggregate(self, pipeline: list[Stage]) -> list[RawDocument]:
        """All documents of an aggregation."""

        async def run() -> list[RawDocument]:
            cursor = self._collection.aggregate(pipeline)
            if isinstance(cursor, Awaitable):
                cursor = await cursor
            return [document async for document in cursor]

        return await self.send(run)


class SessionCollection:
    """A collection handle of its own: UTC-aware, primary, ``w: majority``, whatever the client's options are.

    Attributes:
        timeout: Seconds within which a call is to end.
        is_server: Whether a server is below, rather than the in-memory double.
    """

    def __init__(self, database: Database, *, timeout: float) -> None:
        self._handles = handles_of(database)
        self.is_server = self._handles.is_server
        self.timeout = max(timeout - _SELECTION_STEP, timeout / 2)

    def for_one_call(self, client_session: ClientSession | None = None, *, committed: bool = False) -> StoreCall:
        """What one call sends by.

        Args:
            client_session: The caller's transaction.
            committed: Read what a majority has acknowledged.
        """
        session = self._handles.checked_session(client_session)
        return StoreCall(self._handles, ends=self._ends(), session=session, committed=committed)

    def _ends(self) -> float:
        # The driver alone knows the caller's `pymongo.timeout`, and has no public name for what is left of it.
        left = _csot.remaining()
        return steady() + (self.timeout if left is None else min(self.timeout, max(left, _LEAST_TIME)))

    async def indexes(self) -> dict[str, dict[str, Any]]:
        """Each index by its name; one that is still being built carries its ``buildUUID``."""
        return await self.for_one_call().send(self._handles.indexes)

    async def create_index(self, index: IndexModel) -> None:
        """Create one index; several in one command lose their partial filters on the double."""
        options = dict(index.document)
        keys = list(dict(options.pop("key")).items())
        await self.for_one_call().send(lambda: self._handles.plain.create_index(keys, **options), writes=True)

    async def server_time(self) -> datetime:
        """What the server's clock says now."""
        answer = await self.for_one_call().send(lambda: self._handles.database.client.admin.command("hello"))
        told: datetime = answer["localTime"]
        return told if told.tzinfo else told.replace(tzinfo=UTC)

    def primary(self) -> object:
        """The address of the primary that the driver knows; costs no round trip."""
        return self._handles.primary()

    async def confirm_primary(self) -> None:
        """Return once a majority has confirmed the primary, and all that was ever acknowledged is committed on it."""
        await self.for_one_call().send(lambda: self._handles.settled.find_one({"_id": ""}, {"_id": 1}))

    async def changes(self, resume_after: str | None, *, wait: float) -> ChangeStream:
        """Open a stream of changes, from a token or from now on; its reads wait so many seconds for a change.

        If the caller is cancelled meanwhile, a stream that was opened all the same is closed: the server would keep
        its cursor.
        """
        return await self._opened(lambda: self._handles.open_stream(resume_after, wait=wait), resume_after)

    async def check_token(self, token: str) -> None:
        """Return if the server takes it for a token of this collection; it reads none of the changes behind it."""
        stream = await self._opened(lambda: self._handles.open_stream(token, wait=0), token)
        await to_the_end(stream.close())

    async def _opened(self, opens: Callable[[], Awaitable[ChangeStream]], token: str | None) -> ChangeStream:
        with following(self._handles.plain.full_name, goes_on=token is not None):
            opening = self.for_one_call().send(opens)
            return await or_undone_later(opening, undo=ChangeStream.close, within=CLOSE_WITHIN)
