"""What the drivers' own objects give: the collection by its read concerns, and what is special of the double."""

from collections.abc import Awaitable
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC
from typing import Any, Final

import pymongo
from bson.codec_options import CodecOptions, DatetimeConversion
from pymongo import ReadPreference
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from sessions.domain.errors import InvalidSessionInput, WatchInterrupted
from sessions.log_events import LogEvent, log
from sessions.store.change_stream import ChangeStream
from sessions.store.clients import ClientSession, Database
from sessions.store.document import COLLECTION
from sessions.store.index_listing import list_indexes
from sessions.store.reads import Lookup
from sessions.store.requests import COMMITTED, LOCAL, Commands, Methods, Requests

_PYMONGO: Final = "AsyncDatabase"
_SESSION_OF: Final = {"AsyncIOMotorDatabase": "AsyncIOMotorClientSession", _PYMONGO: "AsyncClientSession"}
_DOUBLE: Final = "AsyncMongoMockDatabase"
_MAJORITY: Final = WriteConcern("majority")
# The drivers look for a primary in steps of half a second; one that is late by so much does not answer at all.
_OVERDUE_BY: Final = 1.0
# The server, which is told the limit too, says so meanwhile.
_CANCELLED_AFTER: Final = (nullcontext(), 0.5)


def _names(of: object) -> set[str]:
    return {kind.__name__ for kind in type(of).__mro__}


class DriverHandles:
    """The collection of Motor or PyMongo Async, whatever the client's options are.

    Attributes:
        plain: UTC-aware, primary, ``w: majority``.
        is_server: Whether a server answers commands, and has a clock.
        may_be_cancelled: Whether a request may be cancelled in the driver's hands; in a thread it ends by itself.
        kind_errors: What is raised, beside the driver's own errors, when an update meets a field of another kind.
    """

    is_server = True
    may_be_cancelled = True
    kind_errors: tuple[type[Exception], ...] = ()
    plain: Any

    def __init__(self, database: Database) -> None:
        self.database: Any = database
        self._client: Any = database.client
        self._commands = Commands(COLLECTION, self._command)
        self._missing_hints: set[str] = set()
        self._topology: object = None
        self._primary: object = None
        # A moment that Python cannot hold, or a text that is no UTF-8, keeps nothing beside it from being read.
        self._codec: CodecOptions[Any] = CodecOptions(
            document_class=dict,
            tz_aware=True,
            tzinfo=UTC,
            datetime_conversion=DatetimeConversion.DATETIME_CLAMP,
            unicode_decode_error_handler="replace",
        )
        self.plain = self.database.get_collection(
            COLLECTION,
            codec_options=self._codec,
            read_preference=ReadPreference.PRIMARY,
            write_concern=_MAJORITY,
            read_concern=ReadConcern(LOCAL),
        )
        # A cursor reads on by the options of its database.
        self._streaming: Any = self.database.with_options(
            codec_options=self._codec, read_preference=ReadPreference.PRIMARY
        )

    def requests(self, session: ClientSession | None) -> Requests:
        """How requests are made, in a caller's session or in none."""
        return self._commands if session is None else Methods(self.plain, session, single_batch=True)

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

    def time_limit(self, seconds: float) -> tuple[AbstractContextManager[None], float]:
        """The driver's own limit for what is sent meanwhile, and after how many seconds more it is given up.

        A thread of Motor's can be stopped by nothing else.
        """
        return pymongo.timeout(seconds), _OVERDUE_BY

    def hint_of(self, lookup: Lookup) -> str | None:
        """The index that a lookup names."""
        return lookup.hint

    def note_hint(self, hint: str, *, serves: bool) -> None:
        """Say once that an index is hidden or absent, and again only if it has served meanwhile."""
        if serves:
            self._missing_hints.discard(hint)
        elif hint not in self._missing_hints:
            self._missing_hints.add(hint)
            log(LogEvent.INDEX_NOT_SERVING, index=hint, collection=self.plain.full_name)

    def primary(self) -> object:
        """The address of the primary that the driver knows; costs no round trip."""
        topology = self._client.topology_description
        if topology is not self._topology:  # the driver makes another one at each change
            servers = topology.server_descriptions()
            self._primary = next((address for address, server in servers.items() if server.is_writable), None)
            self._topology = topology
        return self._primary

    async def indexes(self) -> dict[str, dict[str, Any]]:
        """Each index by its name."""
        return await list_indexes(self._command, COLLECTION) or {}

    def _command(self, command: dict[str, Any]) -> Awaitable[dict[str, Any]]:
        answering: Awaitable[dict[str, Any]] = self.database.command(
            command, read_preference=ReadPreference.PRIMARY, codec_options=self._codec
        )
        return answering

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
                "readConcern": {"level": COMMITTED},
            },
            codec_options=self._codec,
            read_preference=ReadPreference.PRIMARY,
            max_await_time_ms=max(1, round(wait * 1000)),
        )
        return ChangeStream(cursor, namespace=self.plain.full_name)


class PyMongoHandles(DriverHandles):
    """The collection of PyMongo Async, whose calls are not cancelled in the driver's hands before their time is up.

    Cancelled twice in quick succession there, a call leaves the lock of the driver's pool taken for good, and every
    later call of the client waits for ever (*measured* with 4.20).
    """

    may_be_cancelled = False

    def time_limit(self, seconds: float) -> tuple[AbstractContextManager[None], float]:
        """The driver's own only while no primary is known: it then says that nothing was sent.

        It would cost a twentieth of each call (a task, two timers), and what is given up here ends by being cancelled.
        """
        return super().time_limit(seconds) if self.primary() is None else _CANCELLED_AFTER


class DoubleHandles(DriverHandles):
    """The collection of the in-memory double: no hints, no transactions, no streams, no commands."""

    is_server = False
    kind_errors = (TypeError, ValueError)

    def __init__(self, database: Database) -> None:
        self.database = database
        # The double's tzinfo is its own; its with_options would return a synchronous collection.
        codec: CodecOptions[Any] = CodecOptions(tz_aware=True)
        self.plain = self.database.get_collection(COLLECTION, codec_options=codec, write_concern=_MAJORITY)
        self._methods = Methods(self.plain, None, single_batch=False)

    def requests(self, session: ClientSession | None) -> Requests:  # noqa: ARG002 - there is never one
        """By the double's methods."""
        return self._methods

    def checked_session(self, given: Any) -> None:
        """None, or a refusal."""
        if given is not None:
            raise InvalidSessionInput("client_session", "None: the in-memory double has no transactions")

    def hint_of(self, lookup: Lookup) -> None:
        """None: the double refuses hints."""

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
