"""The indexes that a collection holds, as its server lists them."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from pymongo.errors import OperationFailure

from sessions.store.driver_errors import NO_COLLECTION, STRICT_API, is_bad_hint
from sessions.store.index_definitions import keys_of

_IS_A_VIEW: Final = 166
A_VIEW: Final = "a view"
A_TIME_SERIES: Final = "a time series"


class NoPlainCollection(Exception):
    """What has the collection's name keeps no list of indexes; it never leaves the packages.

    Attributes:
        kind: What it is: `A_VIEW` or `A_TIME_SERIES`.
    """

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


Send = Callable[[dict[str, Any]], Awaitable[Mapping[str, Any]]]
"""Sends a command to the database."""


async def list_indexes(send: Send, collection: str) -> dict[str, dict[str, Any]] | None:
    """Each definition by its name; None if there is no such collection.

    The command says ``includeIndexBuildInfo``. Without it the server lists an index that it is still building like
    any other; with it such an entry has an ``indexBuildInfo`` beside its ``spec`` (*measured* on 6.0.5), of which
    ``buildUUID`` is kept. Of a time series the same command lists nothing at all, whatever indexes it has
    (*measured*), and every other collection has at least the index of its ids.

    Args:
        send: Sends a command to the database.
        collection: The collection's name.

    Raises:
        NoPlainCollection: It is a view or a time series.

    Round trips:
        One ``listIndexes``; under the strict stable API, which does not know that option, another one and a ``find``
        for each index.
    """
    command = {"listIndexes": collection, "cursor": {"batchSize": 1000}}
    try:
        try:
            answer = await send({**command, "includeIndexBuildInfo": True})
        except OperationFailure as error:
            if error.code != STRICT_API:
                raise
            answer = await send(command)
            return {spec["name"]: await _probed(send, collection, spec) for spec in answer["cursor"]["firstBatch"]}
    except OperationFailure as error:
        if error.code == NO_COLLECTION:
            return None
        if error.code == _IS_A_VIEW:
            raise NoPlainCollection(A_VIEW) from error
        raise
    if not answer["cursor"]["firstBatch"]:
        raise NoPlainCollection(A_TIME_SERIES)
    found: dict[str, dict[str, Any]] = {}
    for entry in answer["cursor"]["firstBatch"]:
        spec: dict[str, Any] = entry["spec"]
        told = entry.get("indexBuildInfo", entry)  # beside the definition itself on servers before 6.0
        found[spec["name"]] = {**spec, "buildUUID": told["buildUUID"]} if "buildUUID" in told else spec
    return found


async def _probed(send: Send, collection: str, spec: dict[str, Any]) -> dict[str, Any]:
    """A definition; a visible index that a query may not name yet is still being built."""
    if spec.get("hidden"):
        return spec
    try:
        await send(
            {"find": collection, "hint": spec["name"], "limit": 1, "singleBatch": True, "projection": {"_id": 1}}
        )
    except OperationFailure as error:
        return {**spec, "buildUUID": None} if is_bad_hint(error) else spec
    return spec


def default_collation(present: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """By what a collection compares texts unless told otherwise, if not byte by byte.

    The index of its ids has the same, and so has the key of a clustered collection (*measured* on 6.0.5).
    """
    of_ids = [held for held in present.values() if keys_of(held) == [("_id", 1)]]
    return of_ids[0].get("collation") if of_ids else None


def why_unfit_for_sessions(present: Mapping[str, Mapping[str, Any]]) -> str | None:
    """What keeps a collection with these indexes from holding sessions; None if nothing does."""
    if default_collation(present):
        return "it has a default collation, by which ids that differ would count as equal"
    return None
