"""What one round trip asks for: a command of the server, or within a caller's transaction a method of the driver.

A command costs a tenth less than the driver's method for it, which makes a cursor and keeps a record for trying again
by itself; here trying again is the repository's own.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Generic, NamedTuple, NoReturn, Protocol, TypeVar

from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError, WriteConcernError, WriteError

from sessions.store.clients import ClientSession
from sessions.store.reads import WITHOUT_HISTORY, Lookup
from sessions.store.updates import Filter, RawDocument, Stage, UpdateOperators
from sessions.store.writes import Write

Found = TypeVar("Found")

LOCAL: Final = "local"
COMMITTED: Final = "majority"
SETTLED: Final = "linearizable"
"""Read concerns: what the primary has, what a majority has acknowledged of it, or what it has once a majority has it;
"majority" itself reads the past (*measured*)."""

_WRITE_CONCERN: Final = {"w": "majority"}
_DUPLICATE: Final = 11000


class Request(NamedTuple, Generic[Found]):
    """One round trip."""

    start: Callable[[float], Awaitable[Any]]
    """Sends it, for the server to end its work within so many seconds; it may be sent again."""
    read: Callable[[Any], Found]
    """What the answer says; raises what the server reports in an answer that is no error."""


class Requests(Protocol):
    """Makes the requests that there are."""

    def find(self, lookup: Lookup, *, hint: str | None, level: str) -> Request[list[RawDocument]]:
        """The documents of a lookup, by an index and a read concern."""

    def insert(self, document: RawDocument) -> Request[None]:
        """Store a new document."""

    def find_one_and_update(self, conditions: Filter, update: UpdateOperators) -> Request[RawDocument | None]:
        """Change the document that the conditions describe; the document after it, or None if there is none."""

    def update_many(self, write: Write) -> Request[int]:
        """Carry a sweep out; how many documents it changed."""

    def delete_many(self, conditions: Filter) -> Request[int]:
        """Delete; how many documents went."""

    def aggregate(self, pipeline: list[Stage]) -> Request[list[RawDocument]]:
        """The few documents of an aggregation."""


def _raise_write_error(error: Mapping[str, Any]) -> NoReturn:
    kind = DuplicateKeyError if error["code"] == _DUPLICATE else WriteError
    raise kind(error.get("errmsg", ""), error["code"], error)


def _checked(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    """The answer to a write, unless it reports a failure."""
    if errors := answer.get("writeErrors"):
        _raise_write_error(errors[-1])
    if error := answer.get("writeConcernError"):
        raise WriteConcernError(error.get("errmsg", ""), error["code"], error)
    return answer


def _batch(answer: Mapping[str, Any]) -> list[RawDocument]:
    batch: list[RawDocument] = answer["cursor"]["firstBatch"]
    return batch


def _value(answer: Mapping[str, Any]) -> RawDocument | None:
    value: RawDocument | None = _checked(answer)["value"]
    return value


def _stored(answer: Mapping[str, Any]) -> None:
    _checked(answer)


def _changed(answer: Mapping[str, Any]) -> int:
    return int(_checked(answer)["nModified"])


def _deleted(answer: Mapping[str, Any]) -> int:
    return int(_checked(answer)["n"])


class Commands:
    """Each request as one command.

    Args:
        collection: The collection's name.
        run: Sends a command to the primary, and gives its answer or raises the driver's error.
    """

    def __init__(self, collection: str, run: Callable[[dict[str, Any]], Awaitable[Any]]) -> None:
        self._collection = collection
        self._run = run

    def _request(self, command: dict[str, Any], read: Callable[[Any], Found]) -> Request[Found]:
        def start(within: float) -> Awaitable[Any]:
            return self._run({**command, "maxTimeMS": max(1, int(within * 1000))})

        return Request(start, read)

    def find(self, lookup: Lookup, *, hint: str | None, level: str) -> Request[list[RawDocument]]:
        """One batch, however many documents it holds."""
        command: dict[str, Any] = {"find": self._collection, "filter": lookup.filter}
        if lookup.projection is not None:
            command["projection"] = lookup.projection
        if lookup.sort:
            command["sort"] = dict(lookup.sort)
        if hint is not None:
            command["hint"] = hint
        # Unless told otherwise the server ends a batch, and so the whole answer, after 101 documents.
        command["limit"] = command["batchSize"] = lookup.limit
        command["singleBatch"] = True
        command["readConcern"] = {"level": level}
        return self._request(command, _batch)

    def insert(self, document: RawDocument) -> Request[None]:
        """One document."""
        command = {"insert": self._collection, "documents": [document], "writeConcern": _WRITE_CONCERN}
        return self._request(command, _stored)

    def find_one_and_update(self, conditions: Filter, update: UpdateOperators) -> Request[RawDocument | None]:
        """Without its history."""
        command = {
            "findAndModify": self._collection,
            "query": conditions,
            "update": update,
            "new": True,
            "fields": WITHOUT_HISTORY,
            "writeConcern": _WRITE_CONCERN,
        }
        return self._request(command, _value)

    def update_many(self, write: Write) -> Request[int]:
        """All that the filter describes."""
        updates = [{"q": write.filter, "u": write.update, "multi": True}]
        command = {"update": self._collection, "updates": updates, "writeConcern": _WRITE_CONCERN}
        return self._request(command, _changed)

    def delete_many(self, conditions: Filter) -> Request[int]:
        """All that the conditions describe."""
        deletes = [{"q": conditions, "limit": 0}]
        command = {"delete": self._collection, "deletes": deletes, "writeConcern": _WRITE_CONCERN}
        return self._request(command, _deleted)

    def aggregate(self, pipeline: list[Stage]) -> Request[list[RawDocument]]:
        """One batch."""
        command = {
            "aggregate": self._collection,
            "pipeline": pipeline,
            "cursor": {},
            "readConcern": {"level": LOCAL},
        }
        return self._request(command, _batch)


class Methods:
    """Each request by the driver's own method: it joins a caller's transaction, and the double knows no commands.

    Args:
        collection: The driver's.
        session: The caller's session.
        single_batch: What makes a limit the last word of a cursor; the double has no such thing.
    """

    def __init__(self, collection: Any, session: ClientSession | None, *, single_batch: bool) -> None:
        self._collection = collection
        # In a transaction the drivers leave out write and read concern: these are the transaction's.
        self._joining: dict[str, Any] = {} if session is None else {"session": session}
        self._single_batch = single_batch

    def find(self, lookup: Lookup, *, hint: str | None, level: str) -> Request[list[RawDocument]]:  # noqa: ARG002 - the transaction's
        """One batch, however many documents it holds."""

        def look(_: float) -> Awaitable[list[RawDocument]]:
            cursor = self._collection.find(lookup.filter, lookup.projection, **self._joining)
            if lookup.sort:
                cursor = cursor.sort(list(lookup.sort))
            if hint is not None:
                cursor = cursor.hint(hint)
            if self._single_batch:
                cursor = cursor.limit(-lookup.limit).batch_size(lookup.limit)
            else:
                cursor = cursor.limit(lookup.limit)
            found: Awaitable[list[RawDocument]] = cursor.to_list(lookup.limit)
            return found

        return Request(look, list)

    def insert(self, document: RawDocument) -> Request[None]:
        """One document."""
        return Request(lambda _: self._collection.insert_one(document, **self._joining), lambda _: None)

    def find_one_and_update(self, conditions: Filter, update: UpdateOperators) -> Request[RawDocument | None]:
        """Without its history."""

        def carry_out(_: float) -> Awaitable[RawDocument | None]:
            updated: Awaitable[RawDocument | None] = self._collection.find_one_and_update(
                conditions,
                update,
                projection=WITHOUT_HISTORY,
                return_document=ReturnDocument.AFTER,
                **self._joining,
            )
            return updated

        return Request(carry_out, lambda updated: updated)

    def update_many(self, write: Write) -> Request[int]:
        """All that the filter describes."""
        return Request(
            lambda _: self._collection.update_many(write.filter, write.update, **self._joining),
            lambda result: int(result.modified_count),
        )

    def delete_many(self, conditions: Filter) -> Request[int]:
        """All that the conditions describe."""
        return Request(
            lambda _: self._collection.delete_many(conditions, **self._joining),
            lambda result: int(result.deleted_count),
        )

    def aggregate(self, pipeline: list[Stage]) -> Request[list[RawDocument]]:
        """All documents; of the double only, since no aggregation joins a transaction."""
        return Request(lambda _: self._collection.aggregate(pipeline).to_list(None), list)
