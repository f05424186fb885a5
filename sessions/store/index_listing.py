"""The indexes that a collection holds, as its server lists them."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from pymongo.errors import OperationFailure

from sessions.store.driver_errors import NO_COLLECTION, STRICT_API, is_bad_hint

Send = Callable[[dict[str, Any]], Awaitable[Mapping[str, Any]]]
"""Sends a command to the database."""


async def list_indexes(send: Send, collection: str) -> dict[str, dict[str, Any]] | None:
    """Each definition by its name; None if there is no such collection.

    The command says ``includeIndexBuildInfo``. Without it the server lists an index that it is still building like
    any other; with it such an entry has an ``indexBuildInfo`` beside its ``spec`` (*measured* on 6.0.5), of which
    ``buildUUID`` is kept.

    Args:
        send: Sends a command to the database.
        collection: The collection's name.

    Round trips:
        One ``listIndexes``; under the strict stable API, which does not know that option, another one and a ``find``
        for each index.
    """
    command = {"listIndexes": collection, "cursor": {"batchSize": 1000}}
    try:
        answer = await send({**command, "includeIndexBuildInfo": True})
    except OperationFailure as error:
        if error.code == STRICT_API:
            return await _listed_by_strict_api(send, collection, command)
        if error.code == NO_COLLECTION:
            return None
        raise
    found: dict[str, dict[str, Any]] = {}
    for entry in answer["cursor"]["firstBatch"]:
        spec: dict[str, Any] = entry["spec"]
        told = entry.get("indexBuildInfo", entry)  # beside the definition itself on servers before 6.0
        found[spec["name"]] = {**spec, "buildUUID": told["buildUUID"]} if "buildUUID" in told else spec
    return found


async def _listed_by_strict_api(
    send: Send, collection: str, command: dict[str, Any]
) -> dict[str, dict[str, Any]] | None:
    try:
        answer = await send(command)
    except OperationFailure as error:
        if error.code == NO_COLLECTION:
            return None
        raise
    specs: list[dict[str, Any]] = answer["cursor"]["firstBatch"]
    return {
        spec["name"]: {**spec, "buildUUID": None} if await _is_building(send, collection, spec) else spec
        for spec in specs
    }


async def _is_building(send: Send, collection: str, spec: Mapping[str, Any]) -> bool:
    """A visible index that a query may not name yet is still being built."""
    if spec.get("hidden"):
        return False
    probe = {"find": collection, "hint": spec["name"], "limit": 1, "singleBatch": True, "projection": {"_id": 1}}
    try:
        await send(probe)
    except OperationFailure as error:
        return is_bad_hint(error)
    return False
