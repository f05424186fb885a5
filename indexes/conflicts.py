"""The stored documents that violate a unique index to be built: their number, and the ids of the first ten."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from indexes.server import Server
from sessions.store.index_definitions import keys_of

MOST_NAMED: Final = 10
_EMPTY: Final = "__is_empty_"


@dataclass(frozen=True, slots=True)
class Conflict:
    """Documents that no unique index can hold together.

    Attributes:
        collection: The documents' collection.
        index: The index that cannot be built.
        documents: How many documents share their key with another.
        groups: How many keys are shared.
        first_ids: The ids of the first ten documents, those of one key side by side.
    """

    collection: str
    index: str
    documents: int
    groups: int
    first_ids: tuple[object, ...]


def _paths(field: str) -> list[str]:
    parts = field.split(".")
    return [".".join(parts[: count + 1]) for count in range(len(parts))]


def pipeline_for(definition: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The aggregation that finds documents with equal keys, by the server's rules for unique indexes.

    An absent field counts as null. A sparse index skips documents that have none of its fields. An array counts by
    each of its elements, an empty one as a value of its own, and a document may hold the same element twice.
    """
    fields = [name for name, _ in keys_of(definition)]
    conditions: list[Mapping[str, Any]] = []
    if chosen := definition.get("partialFilterExpression"):
        conditions.append(chosen)
    if definition.get("sparse"):
        conditions.append({"$or": [{field: {"$exists": True}} for field in fields]})
    key: dict[str, Any] = {}
    for number, field in enumerate(fields):
        key[str(number)] = {"$ifNull": [f"${field}", None]}
        key[f"{number} is empty"] = f"${_EMPTY}{number}"
    return [
        {"$match": {"$and": conditions} if conditions else {}},
        *_unwound(fields),
        {"$group": {"_id": {"key": key, "document": "$_id"}}},
        {"$group": {"_id": "$_id.key", "documents": {"$sum": 1}, "ids": {"$minN": _first("$_id.document")}}},
        {"$match": {"documents": {"$gt": 1}}},
        {"$sort": {"_id": 1}},
        {
            "$group": {
                "_id": None,
                "documents": {"$sum": "$documents"},
                "groups": {"$sum": 1},
                "ids": {"$firstN": _first("$ids")},
            }
        },
    ]


def _unwound(fields: Sequence[str]) -> Iterator[dict[str, Any]]:
    for path in dict.fromkeys(path for field in fields for path in _paths(field)):
        if path in fields:
            # Noted beforehand, since unwinding removes an empty array. Further up the path one counts as absent.
            yield {"$set": {f"{_EMPTY}{fields.index(path)}": {"$eq": [f"${path}", []]}}}
        yield {"$unwind": {"path": f"${path}", "preserveNullAndEmptyArrays": True}}


def _first(value: str) -> dict[str, Any]:
    return {"n": MOST_NAMED, "input": value}


async def find_conflicts(server: Server, collection: str, definitions: Iterable[Mapping[str, Any]]) -> list[Conflict]:
    """What keeps unique indexes from being built; one conflict at most for each of them."""
    looked = [await _conflict_of(server, collection, definition) for definition in definitions]
    return [conflict for conflict in looked if conflict is not None]


async def _conflict_of(server: Server, collection: str, definition: Mapping[str, Any]) -> Conflict | None:
    options = {"collation": definition["collation"]} if definition.get("collation") else {}
    found = await server.aggregate(collection, pipeline_for(definition), quick=False, allowDiskUse=True, **options)
    if not found:
        return None
    told = found[0]
    named = tuple(one for group in told["ids"] for one in group)[:MOST_NAMED]
    return Conflict(collection, definition["name"], told["documents"], told["groups"], named)
