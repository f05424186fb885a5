"""The indexes that a collection holds, as its server lists them."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from pymongo.errors import OperationFailure

from sessions.store.driver_errors import NO_COLLECTION


async def list_indexes(
    send: Callable[[dict[str, Any]], Awaitable[Mapping[str, Any]]], collection: str
) -> dict[str, dict[str, Any]] | None:
    """Each definition by its name; None if there is no such collection.

    The command says ``includeIndexBuildInfo``. Without it the server lists an index that it is still building like
    any other; with it such an entry has an ``indexBuildInfo`` beside its ``spec`` (*measured* on 6.0.5), of which
    ``buildUUID`` is kept.

    Args:
        send: Sends a command to the database.
        collection: The collection's name.

    Round trips:
        One ``listIndexes``.
    """
    command = {"listIndexes": collection, "includeIndexBuildInfo": True, "cursor": {"batchSize": 1000}}
    try:
        answer = await send(command)
    except OperationFailure as error:
        if error.code == NO_COLLECTION:
            return None
        raise
    found: dict[str, dict[str, Any]] = {}
    for entry in answer["cursor"]["firstBatch"]:
        spec: dict[str, Any] = entry["spec"]
        told = entry.get("indexBuildInfo", entry)  # beside the definition itself on servers before 6.0
        found[spec["name"]] = {**spec, "buildUUID": told["buildUUID"]} if "buildUUID" in told else spec
    return found
