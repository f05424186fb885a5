"""The one module that knows which driver is below: Motor, PyMongo Async, or the in-memory double.

Driver errors become this library's by a table; what error 175 killed is sent again until the time is up.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from importlib.metadata import version
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, TypeVar

import pymongo
from bson.codec_options import CodecOptions
from pymongo import IndexModel, ReadPreference, ReturnDocument
from pymongo.errors import (
    ConfigurationError,
    ConnectionFailure,
    DuplicateKeyError,
    InvalidOperation,
    NotPrimaryError,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WaitQueueTimeoutError,
    WriteConcernError,
)
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from sessions.document import COLLECTION
from sessions.errors import InvalidSessionInput, SessionRef, StoreUnavailable, WriteOutcome
from sessions.index_comparison import as_listed
from sessions.queries import Query, Write
from sessions.reads import Lookup

if TYPE_CHECKING:
    from motor.motor_asyncio import AsyncIOMotorClient, AsyncIOMotorDatabase
    from pymongo.asynchronous.database import AsyncDatabase
    from pymongo.asynchronous.mongo_client import AsyncMongoClient

    Database = AsyncIOMotorDatabase[dict[str, Any]] | AsyncDatabase[dict[str, Any]]
    Client = AsyncIOMotorClient[dict[str, Any]] | AsyncMongoClient[dict[str, Any]]

logger = logging.getLogger("sessions")
Found = TypeVar("Found")

NOBODY: Final = SessionRef()
_QUERY_KILLED: Final = 175  # an index was dropped under the running query
_BAD_HINT: Final = (2, "hint provided does not correspond")
_NO_COLLECTION: Final = 26
# The drivers look for a primary in steps of this length and notice a passed deadline only after one.
_SELECTION_STEP: Final = 0.5
_FIRST_PAUSE: Final = 0.005
_LONGEST_PAUSE: Final = 0.25

_NEVER_SENT: Final = (
    ServerSelectionTimeoutError,
    WaitQueueTimeoutError,
    ConfigurationError,
    InvalidOperation,
)
# Most specific first: the first kind that fits says what is known of a write that met the error.
_OUTCOMES: Final[tuple[tuple[type[PyMongoError] | tuple[type[PyMongoError], ...], WriteOutcome], ...]] = (
    (_NEVER_SENT, WriteOutcome.NOT_WRITTEN),
    (NotPrimaryError, WriteOutcome.UNKNOWN),
    (ConnectionFailure, WriteOutcome.UNKNOWN),
    (WriteConcernError, WriteOutcome.UNKNOWN),
    (OperationFailure, WriteOutcome.NOT_WRITTEN),
    (PyMongoError, WriteOutcome.UNKNOWN),
)


class DuplicateKey(Exception):
    """A unique index refused a write; it never leaves the package, the repository turns it into a refusal.

    Attributes:
        fields: The index's fields, by the structured ``keyPattern``; empty where the backend gives none.
    """

    def __init__(self, fields: frozenset[str]) -> None:
        super().__init__(sorted(fields))
        self.fields = fields


def _unavailable(error: PyMongoError, about: SessionRef, *, writes: bool) -> StoreUnavailable:
    known = next(outcome for kinds, outcome in _OUTCOMES if isinstance(error, kinds))
    if error.timeout and not isinstance(error, _NEVER_SENT):
        known = WriteOutcome.UNKNOWN
    code = getattr(error, "code", None)
    cause = type(error).__name__ if code is None else f"{type(error).__name__}, code {code}"
    return StoreUnavailable(about, outcome=known if writes else WriteOutcome.NOT_WRITTEN, cause=cause)


DEFAULT_DRIVER: Final = "motor" if version("beanie").startswith("1.") else "pymongo"
"""The driver that the installed Beanie line works with: Beanie 2 refuses a Motor client."""


def connect(uri: str, *, driver: str = DEFAULT_DRIVER, listeners: Sequence[Any] = ()) -> "Client":
    """A client of ``motor`` or ``pymongo``."""
    if driver == "motor":
        from motor.motor_asyncio import AsyncIOMotorClient  # noqa: PLC0415 - Motor is an extra

        return AsyncIOMotorClient(uri, event_listeners=list(listeners))
    from pymongo import AsyncMongoClient  # noqa: PLC0415 - only where it is chosen

    return AsyncMongoClient(uri, event_listeners=list(listeners))


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


def _names(database: object) -> set[str]:
    return {kind.__name__ for kind in type(database).__mro__}


class SessionCollection:
    """A collection handle of its own: UTC-aware, primary, ``w: majority``, whatever the client's options are."""

    def __init__(self, database: "Database", *, timeout: float) -> None:
        names = _names(database)
        self.is_double = "AsyncMongoMockDatabase" in names
        if not self.is_double and not names & {"AsyncIOMotorDatabase", "AsyncDatabase"}:
            raise InvalidSessionInput("database", "a database of Motor, PyMongo Async or mongomock-motor")
        self._database: Any = database
        self._timeout = max(timeout - _SELECTION_STEP, timeout / 2)
        write_concern = WriteConcern("majority")
        if self.is_double:
            # The double's tzinfo is its own; its with_options would return a synchronous collection.
            codec: CodecOptions[Any] = CodecOptions(tz_aware=True)
            self._collection: Any = self._database.get_collection(
                COLLECTION, codec_options=codec, write_concern=write_concern
            )
        else:
            codec = CodecOptions(document_class=dict, tz_aware=True, tzinfo=UTC)
            self._collection = self._database.get_collection(
                COLLECTION,
                codec_options=codec,
                read_preference=ReadPreference.PRIMARY,
                write_concern=write_concern,
                read_concern=ReadConcern("local"),
            )

    def deadline(self) -> AbstractContextManager[None]:
        """One time limit for all that is sent within the block."""
        return pymongo.timeout(self._timeout)

    async def _send(
        self, operation: Callable[[], Awaitable[Found]], *, about: SessionRef = NOBODY, writes: bool = False
    ) -> Found:
        ends = monotonic() + self._timeout
        pause = _FIRST_PAUSE
        with self.deadline():
            while True:
                try:
                    return await operation()
                except DuplicateKeyError as error:
                    raise DuplicateKey(frozenset((error.details or {}).get("keyPattern", ()))) from error
                except OperationFailure as error:
                    if error.code == _QUERY_KILLED and monotonic() + pause < ends:
                        await asyncio.sleep(pause)
                        pause = min(pause * 2, _LONGEST_PAUSE)
                        continue
                    raise _unavailable(error, about, writes=writes) from error
                except PyMongoError as error:
                    raise _unavailable(error, about, writes=writes) from error

    async def find(self, lookup: Lookup, *, about: SessionRef = NOBODY) -> list[Query]:
        """The documents of a lookup, by its hint where the index is there and visible."""

        async def look(hint: str | None) -> list[Query]:
            cursor = self._collection.find(lookup.filter, lookup.projection)
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
            hint = None if self.is_double else lookup.hint
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
        await self._send(lambda: self._collection.insert_one(document), about=about, writes=True)

    async def find_one_and_update(self, write: Write, *, about: SessionRef) -> Query | None:
        """Carry a guarded write out; the document after it without its history, or None where the guard fails."""

        def update() -> Awaitable[Query | None]:
            answer: Awaitable[Query | None] = self._collection.find_one_and_update(
                write.filter, write.update, projection={"history": 0}, return_document=ReturnDocument.AFTER
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

    async def indexes(self) -> dict[str, Mapping[str, Any]]:
        """Each index by its name; one that is still being built carries its ``buildUUID``."""
        if self.is_double:
            listed = await self._collection.index_information()
            return {name: {**spec, "name": name, "key": dict(spec["key"])} for name, spec in listed.items()}

        async def read() -> list[Query]:
            command = {"listIndexes": COLLECTION, "includeIndexBuildInfo": True, "cursor": {"batchSize": 1000}}
            try:
                answer = await self._database.command(command, read_preference=ReadPreference.PRIMARY)
            except OperationFailure as error:
                if error.code == _NO_COLLECTION:
                    return []
                raise
            return list(answer["cursor"]["firstBatch"])

        return {listed["name"]: listed for listed in map(as_listed, await self._send(read))}

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
        servers = self._database.client.topology_description.server_descriptions()
        return next((address for address, server in servers.items() if server.is_writable), None)
