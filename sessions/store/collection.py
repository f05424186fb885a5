"""The one collection over whichever driver is below: Motor, PyMongo Async, or the in-memory double.

Its errors become this library's by `driver_errors`; what may pass by itself is sent again until the time is up.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from copy import copy
from datetime import UTC, datetime
from importlib.metadata import version
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, TypeVar

import pymongo
from bson.codec_options import CodecOptions
from pymongo import IndexModel, ReadPreference, ReturnDocument
from pymongo.errors import (
    DuplicateKeyError,
    OperationFailure,
    PyMongoError,
)
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from sessions.domain.errors import InvalidSessionInput, SessionRef, StoreUnavailable, WatchInterrupted, WriteOutcome
from sessions.store.change_stream import CLOSE_WITHIN, ChangeStream
from sessions.store.document import COLLECTION
from sessions.store.driver_errors import cause_of, interrupting, known_of, may_pass
from sessions.store.index_definitions import as_listed
from sessions.store.reads import Lookup
from sessions.store.updates import Query
from sessions.store.writes import Write
from sessions.tasks import answered, or_undone_later

if TYPE_CHECKING:
    from motor.motor_asyncio import AsyncIOMotorClient, AsyncIOMotorClientSession, AsyncIOMotorDatabase
    from pymongo.asynchronous.client_session import AsyncClientSession
    from pymongo.asynchronous.database import AsyncDatabase
    from pymongo.asynchronous.mongo_client import AsyncMongoClient

    Database = AsyncIOMotorDatabase[dict[str, Any]] | AsyncDatabase[dict[str, Any]]
    Client = AsyncIOMotorClient[dict[str, Any]] | AsyncMongoClient[dict[str, Any]]
    ClientSession = AsyncIOMotorClientSession | AsyncClientSession

logger = logging.getLogger("sessions")
Found = TypeVar("Found")

NOBODY: Final = SessionRef()
_BAD_HINT: Final = (2, "hint provided does not correspond")
_NO_COLLECTION: Final = 26
# The drivers look for a primary in steps of this length and notice a passed deadline only after one.
_SELECTION_STEP: Final = 0.5
_FIRST_PAUSE: Final = 0.005
_LONGEST_PAUSE: Final = 0.25
_LEAST_TIME: Final = 0.001


class DuplicateKey(Exception):
    """A unique index refused a write; it never leaves the package, the repository turns it into a refusal.

    Attributes:
        fields: The index's fields, by the structured ``keyPattern``; empty where the backend gives none.
    """

    def __init__(self, fields: frozenset[str]) -> None:
        super().__init__(sorted(fields))
        self.fields = fields


DEFAULT_DRIVER: Final = "motor" if version("beanie").startswith("1.") else "pymongo"
"""The driver that the installed Beanie line works with: Beanie 2 refuses a Motor client."""


def connect(uri: str, *, driver: str = DEFAULT_DRIVER, listeners: Sequence[Any] = (), **options: Any) -> "Client":
    """A client of ``motor`` or ``pymongo``; ``options`` stand above those of the URI."""
    if driver == "motor":
        from motor.motor_asyncio import AsyncIOMotorClient  # noqa: PLC0415 - Motor is an extra

        return AsyncIOMotorClient(uri, event_listeners=list(listeners), **options)
    from pymongo import AsyncMongoClient  # noqa: PLC0415 - only where it is chosen

    return AsyncMongoClient(uri, event_listeners=list(listeners), **options)


def connect_double() -> "Client":
    """The in-memory double; no atomicity, no indexes and no speed can be proved on it."""
    from mongomock_motor import AsyncMongoMockClient  # noqa: PLC0415 - the double is for tests and demos only

    double: Client = AsyncMongoMockClient()
    return double


async def disconnect(client: "Client") -> None:
    """Close a client of either driver."""
    closing: object = client.close()
    if isinstance(closing, Awaitable):
        await closing


_SESSION_OF: Final = {"AsyncIOMotorDatabase": "AsyncIOMotorClientSession", "AsyncDatabase": "AsyncClientSession"}


def _names(of: object) -> set[str]:
    return {kind.__name__ for kind in type(of).__mro__}


class SessionCollection:
    """A collection handle of its own: UTC-aware, primary, ``w: majority``, whatever the client's options are.

    Attributes:
        is_double: Whether it is the in-memory double's.
        is_unclear: Whether a write of this one call may have happened unseen.
    """

    def __init__(self, database: "Database", *, timeout: float) -> None:
        names = _names(database)
        self.is_double = "AsyncMongoMockDatabase" in names
        if not self.is_double and not names & _SESSION_OF.keys():
            raise InvalidSessionInput("database", "a database of Motor, PyMongo Async or mongomock-motor")
        self._database: Any = database
        self._session: ClientSession | None = None
        self._ends: float | None = None
        self.is_unclear = False
        self._timeout = max(timeout - _SELECTION_STEP, timeout / 2)
        write_concern = WriteConcern("majority")
        if self.is_double:
            # The double's tzinfo is its own; its with_options would return a synchronous collection.
            codec: CodecOptions[Any] = CodecOptions(tz_aware=True)
            self._collection: Any = self._database.get_collection(
                COLLECTION, codec_options=codec, write_concern=write_concern
            )
            self._settled = self._collection
        else:
            codec = CodecOptions(document_class=dict, tz_aware=True, tzinfo=UTC)
            self._collection = self._database.get_collection(
                COLLECTION,
                codec_options=codec,
                read_preference=ReadPreference.PRIMARY,
                write_concern=write_concern,
                read_concern=ReadConcern("local"),
            )
            # Waits until a majority has what it read; "majority" itself would read the past (tried on a server).
            self._settled = self._collection.with_options(read_concern=ReadConcern("linearizable"))

    def for_one_call(self, client_session: "ClientSession | None" = None) -> "SessionCollection":
        """The same collection for all that one call sends: under one time limit, and in its caller's transaction.

        Once a write of the call may have happened unseen, it reads what a majority has.
        """
        one = copy(self)
        one._session = None if client_session is None else self._checked_session(client_session)  # noqa: SLF001 - a copy of ours
        one._ends = monotonic() + self._timeout  # noqa: SLF001 - the same
        return one

    @property
    def is_in_transaction(self) -> bool:
        """Whether what the commands do takes effect only by the caller's commit."""
        return self._session is not None and bool(self._session.in_transaction)

    def outside(self) -> "SessionCollection":
        """The same without its caller's transaction, which a duplicate key has aborted."""
        if self._session is None:
            return self
        left = copy(self)
        left._session = None  # noqa: SLF001 - a copy of ours
        return left

    def _checked_session(self, given: Any) -> "ClientSession":
        if self.is_double:
            raise InvalidSessionInput("client_session", "None: the in-memory double has no transactions")
        wanted = next(_SESSION_OF[name] for name in _names(self._database) & _SESSION_OF.keys())
        if wanted not in _names(given) or given.client is not self._database.client or given.has_ended:
            raise InvalidSessionInput(
                "client_session", f"None, or an {wanted} of the repository's own client that has not ended"
            )
        session: ClientSession = given
        return session

    @property
    def is_within(self) -> bool:
        """Whether the commands join a caller's session."""
        return self._session is not None

    def _joining(self) -> dict[str, Any]:
        # In a transaction the drivers leave out write and read concern: these are the transaction's.
        return {} if self._session is None else {"session": self._session}

    @property
    def timeout(self) -> float:
        """Seconds within which a call is to end."""
        return self._timeout

    async def _send(
        self, operation: Callable[[], Awaitable[Found]], *, about: SessionRef = NOBODY, writes: bool = False
    ) -> Found:
        if self._ends is None:
            return await self.for_one_call()._send(operation, about=about, writes=writes)  # noqa: SLF001 - a copy of ours
        ends = self._ends
        pause = _FIRST_PAUSE
        with pymongo.timeout(max(ends - monotonic(), _LEAST_TIME)):
            while True:
                try:
                    return await answered(operation())
                except DuplicateKeyError as error:
                    raise DuplicateKey(frozenset((error.details or {}).get("keyPattern", ()))) from error
                except PyMongoError as error:
                    if self._session is not None:
                        # The transaction's owner must see the driver's labels.
                        raise
                    if writes and known_of(error) is WriteOutcome.UNKNOWN:
                        self.is_unclear = True
                    if not may_pass(error) or monotonic() + pause >= ends:
                        raise self._unavailable(error, about) from error
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)

    def _unavailable(self, error: PyMongoError, about: SessionRef) -> StoreUnavailable:
        outcome = WriteOutcome.UNKNOWN if self.is_unclear else WriteOutcome.NOT_WRITTEN
        return StoreUnavailable(about, outcome=outcome, cause=cause_of(error))

    async def find(self, lookup: Lookup, *, about: SessionRef = NOBODY) -> list[Query]:
        """The documents of a lookup, by its hint where the index is there and visible."""

        async def look(hint: str | None) -> list[Query]:
            collection = self._settled if self.is_unclear else self._collection
            cursor = collection.find(lookup.filter, lookup.projection, **self._joining())
            if lookup.sort:
                cursor = cursor.sort(list(lookup.sort))
            if hint is not None:
                cursor = cursor.hint(hint)
            # One batch: a lookup is one round trip however many documents it finds.
            found: list[Query] = await cursor.limit(-lookup.limit if not self.is_double else lookup.limit).to_list(
                lookup.limit
            )
            return found

        async def look_with_fallback() -> list[Query]:
            # In a transaction a refused hint would abort it, so there the planner chooses.
            hint = None if self.is_double or self.is_in_transaction else lookup.hint
            try:
                return await look(hint)
            except OperationFailure as error:
                code, said = _BAD_HINT
                if hint is None or error.code != code or said not in str(error):
                    raise
                logger.warning("index %s is hidden or absent: looked up without it; run python -m indexes apply", hint)
                return await look(None)

        return await self._send(look_with_fallback, about=about)

    async def find_one(self, lookup: Lookup, *, about: SessionRef = NOBODY) -> Query | None:
        """The first document of a lookup, or None."""
        found = await self.find(lookup, about=about)
        return found[0] if found else None

    async def insert(self, document: Query, *, about: SessionRef) -> None:
        """Store a new document, or raise `DuplicateKey`."""
        await self._send(lambda: self._collection.insert_one(document, **self._joining()), about=about, writes=True)

    async def find_one_and_update(self, write: Write, *, about: SessionRef) -> Query | None:
        """Carry a guarded write out; the document after it without its history, or None where the guard fails."""

        def update() -> Awaitable[Query | None]:
            guard = {**write.filter, **write.unless_done} if self.is_unclear else write.filter
            answer: Awaitable[Query | None] = self._collection.find_one_and_update(
                guard,
                write.update,
                projection={"history": 0},
                return_document=ReturnDocument.AFTER,
                **self._joining(),
            )
            return answer

        return await self._send(update, about=about, writes=True)

    async def update_many(self, write: Write) -> int:
        """Carry a sweep out; how many documents it changed."""
        result = await self._send(lambda: self._collection.update_many(write.filter, write.update), writes=True)
        return int(result.modified_count)

    async def delete_many(self, conditions: Query) -> int:
        """Delete; how many documents went."""
        result = await self._send(lambda: self._collection.delete_many(conditions), writes=True)
        return int(result.deleted_count)

    async def aggregate(self, pipeline: list[Query]) -> list[Query]:
        """All documents of an aggregation."""

        async def run() -> list[Query]:
            cursor = self._collection.aggregate(pipeline)
            if isinstance(cursor, Awaitable):
                cursor = await cursor
            return [document async for document in cursor]

        return await self._send(run)

    async def indexes(self) -> dict[str, dict[str, Any]]:
        """Each index by its name; one that is still being built carries its ``buildUUID``."""
        if self.is_double:
            listed = await self._collection.index_information()
            return {name: {**spec, "name": name, "key": dict(spec["key"])} for name, spec in listed.items()}

        async def read() -> dict[str, dict[str, Any]]:
            command = {"listIndexes": COLLECTION, "includeIndexBuildInfo": True, "cursor": {"batchSize": 1000}}
            try:
                answer = await self._database.command(command, read_preference=ReadPreference.PRIMARY)
            except OperationFailure as error:
                if error.code == _NO_COLLECTION:
                    return {}
                raise
            return as_listed(answer)

        return await self._send(read)

    async def create_index(self, index: IndexModel) -> None:
        """Create one index; several in one command lose their partial filters on the double."""
        options = dict(index.document)
        keys = list(dict(options.pop("key")).items())
        await self._send(lambda: self._collection.create_index(keys, **options), writes=True)

    async def server_time(self) -> datetime:
        """What the server's clock says now."""
        answer = await self._send(lambda: self._database.client.admin.command("hello"))
        told: datetime = answer["localTime"]
        return told if told.tzinfo else told.replace(tzinfo=UTC)

    def primary(self) -> object:
        """The address of the primary that the driver knows; costs no round trip."""
        if self.is_double:
            return None
        servers = self._database.client.topology_description.server_descriptions()
        return next((address for address, server in servers.items() if server.is_writable), None)

    async def changes(self, resume_after: str | None, *, wait: float) -> ChangeStream:
        """Open a stream of changes, from a token or from now on; its `try_next` waits so many seconds for a change.

        Where the caller is cancelled meanwhile, a stream that was opened all the same is closed: the server would
        keep its cursor.
        """
        if self.is_double:
            raise WatchInterrupted("the in-memory double has no change streams", needs_replica_set=True)

        collection = self._read_at("majority")

        async def open_stream() -> ChangeStream:
            opening = collection.watch(
                full_document="updateLookup",
                # Not resume_after: that cannot go on behind a collection that was dropped and made again.
                start_after=None if resume_after is None else {"_data": resume_after},
                max_await_time_ms=max(1, round(wait * 1000)),
            )
            stream = await opening if isinstance(opening, Awaitable) else opening
            return ChangeStream(await stream.__aenter__())

        with interrupting():
            return await or_undone_later(self._send(open_stream), undo=ChangeStream.close, within=CLOSE_WITHIN)

    def committed(self) -> "SessionCollection":
        """The same collection, read as a majority has acknowledged it."""
        handle = copy(self)
        handle._collection = self._read_at("majority")  # noqa: SLF001 - a copy of ours
        return handle

    async def confirm_primary(self) -> None:
        """Return once a majority has confirmed the primary, and all that was ever acknowledged is committed on it."""
        collection = self._read_at("linearizable")
        await self._send(lambda: collection.find_one({"_id": ""}, {"_id": 1}))

    def _read_at(self, level: str) -> Any:
        return self._collection.with_options(read_concern=ReadConcern(level))
