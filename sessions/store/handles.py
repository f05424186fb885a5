"""What the drivers' own objects give: the collection by its read concerns, and what is special of the double."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC
from typing import Any, Final, TypeVar

from bson.codec_options import CodecOptions, DatetimeConversion
from pymongo import ReadPreference
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from sessions.domain.errors import InvalidSessionInput, WatchInterrupted
from sessions.store.change_stream import ChangeStream
from sessions.store.clients import ClientSession, Database
from sessions.store.document import COLLECTION
from sessions.store.driver_errors import DriverFault
from sessions.store.index_listing import list_indexes
from sessions.store.reads import Lookup
from sessions.tasks import answered, forget, leave_behind

logger = logging.getLogger("sessions")
Found = TypeVar("Found")

_PYMONGO: Final = "AsyncDatabase"
_SESSION_OF: Final = {"AsyncIOMotorDatabase": "AsyncIOMotorClientSession", _PYMONGO: "AsyncClientSession"}
_DOUBLE: Final = "AsyncMongoMockDatabase"
_MAJORITY: Final = WriteConcern("majority")


def _names(of: object) -> set[str]:
    return {kind.__name__ for kind in type(of).__mro__}


class DriverHandles:
    """The collection of Motor or PyMongo Async, whatever the client's options are.

    Attributes:
        plain: UTC-aware, primary, ``w: majority``.
        settled: The same, and a read waits until a majority has what it read; read concern "majority" itself would
            read the past (*measured*).
        committed: The same, read as a majority has acknowledged it.
        is_server: Whether a server answers commands, and has a clock.
        kind_errors: What is raised, beside the driver's own errors, when an update meets a field of another kind.
    """

    is_server = True
    kind_errors: tuple[type[Exception], ...] = ()
    plain: Any
    settled: Any
    committed: Any

    def __init__(self, database: Database) -> None:
        self.database: Any = database
        self._missing_hints: set[str] = set()
        # A moment that Python cannot hold, or a text that is no UTF-8, keeps nothing beside it from being read.
        codec: CodecOptions[Any] = CodecOptions(
            document_class=dict,
            tz_aware=True,
            tzinfo=UTC,
            datetime_conversion=DatetimeConversion.DATETIME_CLAMP,
            unicode_decode_error_handler="replace",
        )
        self.plain = self.database.get_collection(
            COLLECTION,
            codec_options=codec,
            read_preference=ReadPreference.PRIMARY,
            write_concern=_MAJORITY,
            read_concern=ReadConcern("local"),
        )
        self.settled = self.plain.with_options(read_concern=ReadConcern("linearizable"))
        self.committed = self.plain.with_options(read_concern=ReadConcern("majority"))
        self._streaming: Any = self.database.with_options(codec_options=codec, read_preference=ReadPreference.PRIMARY)

    def checked_session(self, given: Any) -> ClientSession | None:
        """The session of a caller's transaction, refused if it is not one of this client's."""
        if given is None:
            return None
        wanted = next(_SESSION_OF[name] for name in _names(self.database) & _SESSION_OF.keys())
        if wanted not in _names(given) or given.client is not self.database.client or given.has_ended:
            raise InvalidSessionInput(
                "client_session", f"None, or an {wanted} of the repository's own client that has not ended"
            )
        session: ClientSession = given
        return session

    async def carried(self, operation: Callable[[], Awaitable[Found]], *, within: float) -> Found:
        """What the driver answers to one operation; given up after so many seconds, whatever the driver does.

        Raises:
            DriverFault: It did not answer, or failed in a way that is none of its errors.
        """
        try:
            async with asyncio.timeout(within):
                return await answered(operation())
        except (RuntimeError, OSError) as error:  # asyncio's TimeoutError is one of the latter
            raise DriverFault(type(error).__name__) from error

    def hint_of(self, lookup: Lookup) -> str | None:
        """The index that a lookup names."""
        return lookup.hint

    def note_hint(self, hint: str, *, serves: bool) -> None:
        """Say once that an index is hidden or absent, and again only if it has served meanwhile."""
        if serves:
            self._missing_hints.discard(hint)
        elif hint not in self._missing_hints:
            self._missing_hints.add(hint)
            logger.warning(
                "index %s of %s is hidden or absent: lookups go without it; run python -m indexes apply",
                hint,
                self.plain.full_name,
            )

    def one_batch(self, cursor: Any, limit: int) -> Any:
        """The cursor, so limited that a lookup is one round trip however many documents it finds."""
        return cursor.limit(-limit)

    def primary(self) -> object:
        """The address of the primary that the driver knows; costs no round trip."""
        servers = self.database.client.topology_description.server_descriptions()
        return next((address for address, server in servers.items() if server.is_writable), None)

    async def indexes(self) -> dict[str, dict[str, Any]]:
        """Each index by its name."""
        return await list_indexes(self._command, COLLECTION) or {}

    async def _command(self, command: dict[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = await self.database.command(command, read_preference=ReadPreference.PRIMARY)
        return answer

    async def open_stream(self, resume_after: str | None, *, wait: float) -> ChangeStream:
        """A stream of the collection's changes, from a token or from now on; it has none of them yet."""
        stage: dict[str, Any] = {"fullDocument": "updateLookup"}
        if resume_after is not None:
            # Not resumeAfter: that cannot go on behind a collection that was dropped and made again.
            stage["startAfter"] = {"_data": resume_after}
        # By the database, since Motor's collection gives no cursor before it has waited for a change.
        cursor = await self._streaming.cursor_command(
            {
                "aggregate": COLLECTION,
                "pipeline": [{"$changeStream": stage}],
                "cursor": {"batchSize": 0},
                "readConcern": {"level": "majority"},
            },
            codec_options=self._streaming.codec_options,
            read_preference=ReadPreference.PRIMARY,
            max_await_time_ms=max(1, round(wait * 1000)),
        )
        return ChangeStream(cursor, namespace=self.plain.full_name)


class PyMongoHandles(DriverHandles):
    """The collection of PyMongo Async, whose calls are never cancelled while they are in the driver's hands.

    Cancelled twice in quick succession there, a call leaves the lock of the driver's pool taken for good, and every
    later call of the client waits for ever (*measured* with 4.20).
    """

    async def carried(self, operation: Callable[[], Awaitable[Found]], *, within: float) -> Found:
        """As `DriverHandles.carried`; a caller that is cancelled leaves at once, and the call ends by itself."""
        task = asyncio.ensure_future(operation())
        try:
            await asyncio.wait({task}, timeout=within)
            if task.done():
                return task.result()
        except (RuntimeError, OSError) as error:
            raise DriverFault(type(error).__name__) from error
        finally:
            if not task.done():
                task.add_done_callback(forget)
                leave_behind(task)
        raise DriverFault("no answer")


class DoubleHandles(DriverHandles):
    """The collection of the in-memory double: no hints, no transactions, no streams, no commands."""

    is_server = False
    kind_errors = (TypeError, ValueError)

    def __init__(self, database: Database) -> None:
        self.database = database
        # The double's tzinfo is its own; its with_options would return a synchronous collection.
        codec: CodecOptions[Any] = CodecOptions(tz_aware=True)
        self.plain = self.database.get_collection(COLLECTION, codec_options=codec, write_concern=_MAJORITY)
        self.settled = self.committed = self.plain

    def checked_session(self, given: Any) -> None:
        """None, or a refusal."""
        if given is not None:
            raise InvalidSessionInput("client_session", "None: the in-memory double has no transactions")

    async def carried(self, operation: Callable[[], Awaitable[Found]], *, within: float) -> Found:
        """What the driver answers to one operation; given up after so many seconds, whatever the driver does.

        Raises:
            DriverFault: It did not answer, or failed in a way that is none of its errors.
        """
        try:
            async with asyncio.timeout(within):
                return await answered(operation())
        except (RuntimeError, OSError) as error:  # asyncio's TimeoutError is one of the latter
            raise DriverFault(type(error).__name__) from error

    def hint_of(self, lookup: Lookup) -> None:
        """None: the double refuses hints."""

    def one_batch(self, cursor: Any, limit: int) -> Any:
        """The cursor, limited."""
        return cursor.limit(limit)

    def primary(self) -> object:
        """There is none."""
        return None

    async def indexes(self) -> dict[str, dict[str, Any]]:
        """Each index by its name."""
        listed = await self.plain.index_information()
        return {name: {**spec, "name": name, "key": dict(spec["key"])} for name, spec in listed.items()}

    async def open_stream(self, resume_after: str | None, *, wait: float) -> ChangeStream:  # noqa: ARG002 - none serves
        """Refused."""
        raise WatchInterrupted("the in-memory double has no change streams", needs_replica_set=True)


def handles_of(database: Database) -> DriverHandles:
    """The handles of a database.

    Raises:
        InvalidSessionInput: It is no database of a driver that is known here.
    """
    names = _names(database)
    if _DOUBLE in names:
        return DoubleHandles(database)
    if not names & _SESSION_OF.keys():
        raise InvalidSessionInput("database", "a database of Motor, PyMongo Async or mongomock-motor")
    return PyMongoHandles(database) if _PYMONGO in names else DriverHandles(database)
