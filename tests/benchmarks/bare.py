"""The bare driver: what this library has sent, sent again by the driver's own methods.

The commands are recorded, not written a second time, so that the two sides cannot come to differ.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from bson.codec_options import CodecOptions, DatetimeConversion
from pymongo import ReadPreference, ReturnDocument
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from sessions.store.document import COLLECTION
from tests.benchmarks.measuring import Call

Document = dict[str, Any]

# The driver adds these by itself: its session, its retries, and what is left of the library's time limit.
_OF_THE_DRIVER: Final = frozenset({"lsid", "$clusterTime", "txnNumber", "maxTimeMS"})
# Sent or not, it is what the server does.
_DEFAULTS: Final[Mapping[str, object]] = {"ordered": True, "upsert": False}
_UNRELATED: Final = frozenset({"hello", "ping", "endSessions", "killCursors"})
_MOMENT: Final = datetime(2026, 1, 1, tzinfo=UTC)


class Unequal(Exception):
    """The two sides that were to be compared do not do the same."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """A command and what the server answered."""

    command: Document
    answer: Document


class Recorder(CommandListener):
    """Keeps what a client sends and gets within `recording`."""

    def __init__(self) -> None:
        self._kept: list[Exchange] | None = None
        self._open: dict[int, Document] = {}

    @contextmanager
    def recording(self) -> Iterator[list[Exchange]]:
        """The exchanges of the block, in the order of their answers."""
        kept: list[Exchange] = []
        self._kept = kept
        try:
            yield kept
        finally:
            self._kept = None
            self._open = {}

    def started(self, event: CommandStartedEvent) -> None:
        """Keep the command, as it is at this moment."""
        if self._kept is not None and event.command_name not in _UNRELATED:
            self._open[event.request_id] = deepcopy(dict(event.command))

    def succeeded(self, event: CommandSucceededEvent) -> None:
        """Pair it with its answer."""
        command = self._open.pop(event.request_id, None)
        if self._kept is not None and command is not None:
            self._kept.append(Exchange(command, deepcopy(dict(event.reply))))

    def failed(self, event: CommandFailedEvent) -> None:
        """Nothing that is compared may fail: it lacks then, and that is found."""
        self._open.pop(event.request_id, None)


def plain_handle(database: Any) -> Any:
    """The collection with the codec, the read concern and the write concern that the library's own handle has."""
    codec: CodecOptions[Any] = CodecOptions(
        document_class=dict,
        tz_aware=True,
        tzinfo=UTC,
        datetime_conversion=DatetimeConversion.DATETIME_CLAMP,
        unicode_decode_error_handler="replace",
    )
    return database.get_collection(
        COLLECTION,
        codec_options=codec,
        read_preference=ReadPreference.PRIMARY,
        write_concern=WriteConcern("majority"),
        read_concern=ReadConcern("local"),
    )


def changed(value: Any, change: Callable[[object], object]) -> Any:
    """A copy of a document with each value within it changed."""
    if isinstance(value, Mapping):
        return {key: changed(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [changed(item, change) for item in value]
    return change(value)


def renamed(value: Any, names: Mapping[str, str], *, later: timedelta = timedelta(0)) -> Any:
    """A copy of a document with other ids in the place of these, and all its moments so much later."""

    def change(item: object) -> object:
        if isinstance(item, str):
            return names.get(item, item)
        return item + later if isinstance(item, datetime) else item

    return changed(value, change)


def without_moments(value: Any) -> Any:
    """A copy of a document that shows only where it has moments."""
    return changed(value, lambda item: _MOMENT if isinstance(item, datetime) else item)


def ready(command: Document, collection: Any) -> Call:
    """The command as a call of the driver's method for it."""
    return _READY[next(iter(command))](command, collection)


def _find(command: Document, collection: Any) -> Call:
    conditions, projection, limit = command["filter"], command.get("projection"), command.get("limit", 0)
    options = {name: command[name] for name in ("hint",) if name in command}
    if "batchSize" in command:
        options["batch_size"] = command["batchSize"]
    if "sort" in command:
        options["sort"] = list(command["sort"].items())
    if limit == 1:

        async def find_one() -> object:
            return await collection.find_one(conditions, projection, **options)

        return find_one
    options["limit"] = -limit if command.get("singleBatch") else limit

    async def find() -> object:
        return await collection.find(conditions, projection, **options).to_list(limit or None)

    return find


def _insert(command: Document, collection: Any) -> Call:
    (document,) = command["documents"]
    return lambda: collection.insert_one(document)


def _find_and_modify(command: Document, collection: Any) -> Call:
    conditions, update, projection = command["query"], command["update"], command.get("fields")
    returned = ReturnDocument.AFTER if command.get("new") else ReturnDocument.BEFORE
    return lambda: collection.find_one_and_update(conditions, update, projection=projection, return_document=returned)


def _update(command: Document, collection: Any) -> Call:
    (update,) = command["updates"]
    conditions, operators = update["q"], update["u"]
    options = {name: update[name] for name in ("hint",) if name in update}
    return lambda: collection.update_many(conditions, operators, **options)


_READY: Final[Mapping[str, Callable[[Document, Any], Call]]] = {
    "find": _find,
    "findAndModify": _find_and_modify,
    "insert": _insert,
    "update": _update,
}


def _essential(command: Any) -> Any:
    if isinstance(command, Mapping):
        return {
            key: _essential(item)
            for key, item in command.items()
            if key not in _OF_THE_DRIVER and not (key in _DEFAULTS and _DEFAULTS[key] == item)
        }
    return [_essential(item) for item in command] if isinstance(command, list | tuple) else command


def found_in(answer: Document) -> object:
    """The documents that an answer carries."""
    return answer["cursor"]["firstBatch"] if "cursor" in answer else answer.get("value", answer.get("n"))


def check_equal(what: str, ours: object, other: object) -> None:
    """Stop the run if the two sides differ.

    Raises:
        Unequal: They do.
    """
    if ours != other:
        raise Unequal(f"{what} differs, so its times cannot be compared:\n  {ours!r}\n  {other!r}")


def check_exchanges(what: str, ours: list[Exchange], other: list[Exchange], names: Mapping[str, str]) -> None:
    """Stop the run unless both sides sent the same and got the same, but for ids and moments.

    Raises:
        Unequal: They did not.
    """
    for part in ("command", "answer"):
        read = _essential if part == "command" else found_in
        sent = [without_moments(renamed(read(getattr(each, part)), names)) for each in ours]
        again = [without_moments(read(getattr(each, part))) for each in other]
        check_equal(f"{what}: the {part}", sent, again)


async def sent_by(recorder: Recorder, call: Callable[[], Awaitable[object]]) -> list[Exchange]:
    """What one call sends, and what it gets.

    Raises:
        Unequal: Nothing was sent.
    """
    with recorder.recording() as exchanges:
        await call()
    if not exchanges:
        raise Unequal("a call that was to be compared sent nothing that was answered")
    return exchanges
