"""What each query of the repository costs on a live database, by the server's own ``explain``."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from pymongo.errors import OperationFailure

from indexes.bridges import Present, is_building
from indexes.server import Server, in_utc
from indexes.session_collection.query_shapes import SHAPES, Sample, Shape
from indexes.session_collection.session_document import GOVERNS
from sessions.store.clients import Database
from sessions.store.document import COLLECTION
from sessions.store.driver_errors import is_bad_hint
from sessions.store.reads import Lookup

MOST_KEYS_PER_ROUTE: Final = 1.1
_COLLECTION_SCAN: Final = "COLLSCAN"
_SORT: Final = "SORT"
_BY_ID: Final = "_id_"
_BY_ID_STAGES: Final = frozenset({"IDHACK", "CLUSTERED_IXSCAN"})
_NAMES_PREVIEW: Final = "current_preview_id"
_SAMPLED: Final = ("user_id", "session_id", "conversation_id", "trigger_id", "preview_id", "updated_at")


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """What one query costs.

    Attributes:
        query: The repository's method.
        indexes: The indexes used; empty for a scan of the collection.
        keys: Index keys examined.
        documents: Documents examined.
        returned: Documents returned.
        sorts: Whether the server sorted in memory.
        problems: What is wrong, one sentence each.
    """

    query: str
    indexes: tuple[str, ...]
    keys: int
    documents: int
    returned: int
    sorts: bool
    problems: tuple[str, ...] = ()

    @property
    def keys_per_document(self) -> float:
        """Keys examined for each document returned; all of them if none was."""
        return self.keys / max(self.returned, 1)

    @property
    def documents_per_document(self) -> float:
        """Documents examined for each document returned; all of them if none was."""
        return self.documents / max(self.returned, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What every query of the repository costs."""

    database: str
    queries: tuple[Explained, ...]

    @property
    def is_fine(self) -> bool:
        """Whether no query has a problem."""
        return not any(query.problems for query in self.queries)


def _nodes(plan: object) -> Iterator[Mapping[str, Any]]:
    """Every part of a plan, however deep this server's version nests it."""
    if isinstance(plan, Mapping):
        yield plan
        for name, part in plan.items():
            if name != "rejectedPlans":
                yield from _nodes(part)
    elif isinstance(plan, list):
        for part in plan:
            yield from _nodes(part)


def _command(shape: Shape, sample: Sample, *, with_hint: bool) -> dict[str, Any]:
    asked = shape.asked(sample)
    if isinstance(asked, list):
        return {"aggregate": COLLECTION, "pipeline": asked, "cursor": {}}
    # A write finds its document as a `find` does, and a `find` needs no right to write.
    command: dict[str, Any] = {"find": COLLECTION, "filter": shape.filter_for(sample)}
    if isinstance(asked, Lookup):
        command["limit"] = asked.limit
        if asked.projection is not None:
            command["projection"] = dict(asked.projection)
        if asked.sort:
            command["sort"] = dict(asked.sort)
        if asked.hint is not None and with_hint:
            command["hint"] = asked.hint
    return command


def _index_problem(name: str, present: Present) -> str:
    held = present.get(name)
    if held is None:
        return f"its index {name} is missing"
    if is_building(held):
        return f"its index {name} is still being built"
    return f"its index {name} is hidden" if held.get("hidden") else ""


async def _told(server: Server, shape: Shape, sample: Sample) -> dict[str, Any]:
    try:
        return await server.explain(_command(shape, sample, with_hint=True), verbosity="executionStats")
    except OperationFailure as error:
        if not is_bad_hint(error):
            raise
        # The repository too then repeats the query without the hint.
        return await server.explain(_command(shape, sample, with_hint=False), verbosity="executionStats")


async def _explained(server: Server, shape: Shape, sample: Sample, present: Present) -> Explained:
    told = await _told(server, shape, sample)
    winning = [node["winningPlan"] for node in _nodes(told) if "winningPlan" in node]
    stages = [node for plan in winning for node in _nodes(plan) if "stage" in node]
    names = {str(node["stage"]).upper() for node in stages}
    statistics = next(node["executionStats"] for node in _nodes(told) if "executionStats" in node)
    indexes = dict.fromkeys(str(node["indexName"]) for node in stages if "indexName" in node)
    if _BY_ID_STAGES & names:
        indexes[_BY_ID] = None
    found = Explained(
        query=shape.name,
        indexes=tuple(indexes),
        keys=statistics["totalKeysExamined"],
        documents=statistics["totalDocsExamined"],
        returned=statistics["nReturned"],
        sorts=_SORT in names,
    )
    too_many = shape.routes and found.keys_per_document > MOST_KEYS_PER_ROUTE
    problems = (
        *(_index_problem(name, present) for name in shape.indexes),
        "it scans the collection" if _COLLECTION_SCAN in names else "",
        "it sorts in memory" if found.sorts else "",
        f"it examines {found.keys_per_document:g} keys per document, more than {MOST_KEYS_PER_ROUTE}"
        if too_many
        else "",
    )
    return replace(found, problems=tuple(problem for problem in problems if problem))


async def _sample(server: Server, at: datetime, conditions: Mapping[str, Any]) -> Sample:
    """Values of a stored session that fits the conditions, else of any session, else made-up ones."""
    sample = Sample(at=at)
    for wanted in (conditions, {}):
        command = {"find": COLLECTION, "filter": wanted, "limit": 1, "singleBatch": True}
        answer = await server.command(command, about=COLLECTION, quick=False)
        if batch := answer["cursor"]["firstBatch"]:
            stored = {**batch[0], "session_id": batch[0]["_id"], "preview_id": batch[0].get("current_preview_id")}
            known = {name: stored[name] for name in _SAMPLED if stored.get(name) is not None}
            return replace(sample, **known)
    return sample


async def explain(database: Database) -> Explanation:
    """Run every query shape that the repository uses through ``explain``; nothing is written.

    The filter of a write is explained as a ``find``, for which a user with ``read`` has the right.

    Returns:
        What each query costs, and what is wrong with it: its index missing or hidden, a scan of the collection, a
        sort in memory, more than 1.1 keys per document on a routing lookup.

    Raises:
        UnfitCollection: The collection cannot hold sessions.

    Round trips:
        One ``explain`` for each shape, a ``listIndexes``, a ``hello``, and two to four ``find`` for values to ask for.
    """
    server = Server(database)
    present = await server.indexes(COLLECTION) or {}
    at = in_utc((await server.hello())["localTime"])
    governing = await _sample(server, at, GOVERNS)
    showing = await _sample(server, at, {"current_preview_id": {"$type": "string"}})
    queries = [
        await _explained(server, shape, showing if _NAMES_PREVIEW in shape.filter_for(showing) else governing, present)
        for shape in SHAPES
    ]
    return Explanation(database=server.name, queries=tuple(queries))
