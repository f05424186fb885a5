"""What a database holds, compared with what is declared, and the steps between the two. It only reads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from pymongo.errors import OperationFailure

from indexes.actions import NOTHING_FOREIGN, Blocked, Choices, Step
from indexes.bridges import Present, is_building, target_of_bridge
from indexes.conflicts import Conflict, find_conflicts
from indexes.declared import Declared, declared_by
from indexes.errors import MissingRight, UnfitCollection
from indexes.refusals import reason_of, takes_no_collation
from indexes.server import Server
from indexes.session_collection.session_document import DEFAULT_DOCUMENTS
from indexes.steps import all_steps, blocked_in, to_be_unique, undeclared_in
from sessions.store.clients import Database
from sessions.store.index_definitions import Aspect, Difference, compare, shown_keys
from sessions.store.index_listing import default_collation

if TYPE_CHECKING:
    from beanie import Document

_TAKES_NO_COLLATION: Final = (
    "the collection has a default collation, and text and 2d indexes take none: declare it with "
    "collation={'locale': 'simple'}"
)


class Standing(StrEnum):
    """How an index compares with what is declared."""

    MISSING = "missing"
    EQUAL = "equal"
    DIFFERENT = "different"
    BUILDING = "building"
    REFUSED = "refused"
    UNDECLARED = "undeclared"
    BRIDGE = "bridge"


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """What the server knows of an index's use; None if it does not tell, or the user may not ask."""

    size: int | None = None
    operations: int | None = None
    since: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexStanding:
    """One index, declared or present.

    Attributes:
        collection: The collection that holds it, or should.
        name: Its name.
        keys: Its fields and directions, as declared, or as present if nobody declared it. Those of a text index stand
            in alphabetical order.
        standing: How it compares with what is declared.
        differences: In what it differs.
        use: Its size in bytes and its use since the server started.
        is_declared: Whether a document declares it.
    """

    collection: str
    name: str
    keys: tuple[tuple[str, object], ...]
    standing: Standing
    differences: tuple[Difference, ...] = ()
    use: Use = Use()
    is_declared: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What differs, what would be done about it, and what stands in the way.

    Attributes:
        database: The database's name.
        indexes: Every index, declared or present.
        steps: What `apply` would do, in this order.
        conflicts: Documents that violate a unique index to be built; `apply` then refuses.
        blocked: Indexes that `apply` leaves as they are, each with the reason.
    """

    database: str
    indexes: tuple[IndexStanding, ...]
    steps: tuple[Step, ...]
    conflicts: tuple[Conflict, ...] = ()
    blocked: tuple[Blocked, ...] = ()

    @property
    def is_as_declared(self) -> bool:
        """Whether everything declared is present, finished, equal and visible."""
        return all(index.standing is Standing.EQUAL for index in self.indexes if index.is_declared)

    def named(self, standing: Standing) -> tuple[IndexStanding, ...]:
        """The indexes of this standing."""
        return tuple(index for index in self.indexes if index.standing is standing)


@dataclass(frozen=True, slots=True)
class CollectionState:
    """One collection: what is declared for it, with the server's defaults, and what it was read to hold."""

    declared: Declared
    present: Present


async def _expanded(server: Server, declared: Declared, present: Present) -> Declared:
    """What is declared, with each collation as the server would list it. An index inherits its collection's."""
    inherited = default_collation(present)
    for name, definition in declared.indexes.items():
        collation = definition.get("collation", inherited)
        if name in declared.refused or not collation or collation.get("locale") == "simple":
            continue
        if takes_no_collation(definition):
            declared = declared.without(name, _TAKES_NO_COLLATION)
            continue
        try:
            expanded = dict(await server.expanded_collation(declared.collection, collation))
        except OperationFailure as error:
            declared = declared.without(name, reason_of(error))
            continue
        expanded.pop("version", None)
        declared = replace(declared, indexes={**declared.indexes, name: {**definition, "collation": expanded}})
    return declared


async def look(server: Server, declared: Declared) -> CollectionState:
    """Read what one collection holds: one ``listIndexes``, and an ``explain`` for each collation."""
    if declared.unfit:
        return CollectionState(declared, {})
    try:
        present = await server.indexes(declared.collection) or {}
    except UnfitCollection as error:
        return CollectionState(replace(declared, unfit=error.reason), {})
    return CollectionState(await _expanded(server, declared, present), present)


async def _uses(server: Server, collection: str) -> dict[str, Use]:
    sizes: dict[str, int] = {}
    counted: dict[str, dict[str, Any]] = {}
    try:
        for shard in await server.aggregate(collection, [{"$collStats": {"storageStats": {}}}]):
            for name, size in shard.get("storageStats", {}).get("indexSizes", {}).items():
                sizes[name] = sizes.get(name, 0) + size
        for entry in await server.aggregate(collection, [{"$indexStats": {}}]):
            before = counted.get(entry["name"], {"operations": 0, "since": entry["accesses"]["since"]})
            counted[entry["name"]] = {
                "operations": before["operations"] + entry["accesses"]["ops"],
                "since": min(before["since"], entry["accesses"]["since"]),
            }
    except (MissingRight, OperationFailure):
        counted = {}  # optional: without the role `clusterMonitor` it is not known
    return {name: Use(size=sizes.get(name), **counted.get(name, {})) for name in {*sizes, *counted}}


def _standings(found: CollectionState, uses: Mapping[str, Use]) -> list[IndexStanding]:
    collection = found.declared.collection
    standings = []
    for name, target in found.declared.indexes.items():
        is_refused = found.declared.unfit is not None or name in found.declared.refused
        differences = () if is_refused else compare(target, found.present.get(name))
        aspects = {difference.aspect for difference in differences}
        standing = Standing.DIFFERENT if differences else Standing.EQUAL
        if is_refused:
            standing = Standing.REFUSED
        elif Aspect.MISSING in aspects:
            standing = Standing.MISSING
        elif Aspect.BUILDING in aspects:
            standing = Standing.BUILDING
        standings.append(
            IndexStanding(
                collection=collection,
                name=name,
                keys=tuple(shown_keys(target)),
                standing=standing,
                differences=differences,
                use=uses.get(name, Use()),
            )
        )
    foreign = undeclared_in(found.declared, found.present)
    for name, held in found.present.items():
        is_bridge = target_of_bridge(name, held) in found.declared.indexes
        if is_bridge or name in foreign:
            standing = Standing.BUILDING if is_building(held) else Standing.UNDECLARED
            standings.append(
                IndexStanding(
                    collection=collection,
                    name=name,
                    keys=tuple(shown_keys(held)),
                    standing=Standing.BRIDGE if is_bridge and standing is Standing.UNDECLARED else standing,
                    use=uses.get(name, Use()),
                    is_declared=False,
                )
            )
    return standings


async def _searched(server: Server, found: CollectionState, choices: Choices) -> tuple[CollectionState, list[Conflict]]:
    """Look for documents that violate a unique index to be built; one whose filter the server refuses is refused."""
    declared, conflicts = found.declared, []
    ours, _ = all_steps(declared, found.present, choices)
    for target in to_be_unique(declared, found.present, ours):
        try:
            conflicts += await find_conflicts(server, declared.collection, [target])
        except OperationFailure as error:
            declared = declared.without(target["name"], reason_of(error))
    return CollectionState(declared, found.present), conflicts


async def plan_on(
    server: Server,
    declared: Sequence[Declared],
    choices: Choices,
    *,
    with_use: bool = True,
    with_conflicts: bool = True,
) -> Plan:
    """The plan for some collections, on which `plan`, `check` and `apply` agree."""
    indexes: list[IndexStanding] = []
    steps: list[Step] = []
    conflicts: list[Conflict] = []
    blocked: list[Blocked] = []
    for one in declared:
        found = await look(server, one)
        uses = await _uses(server, one.collection) if with_use and found.present else {}
        if with_conflicts and found.present:
            found, shared = await _searched(server, found, choices)
            conflicts += shared
        indexes += _standings(found, uses)
        ours, after = all_steps(found.declared, found.present, choices)
        steps += ours
        blocked += blocked_in(found.declared, after, choices)
    return Plan(
        database=server.name,
        indexes=tuple(indexes),
        steps=tuple(steps),
        conflicts=tuple(conflicts),
        blocked=tuple(blocked),
    )


async def plan(
    database: Database,
    *,
    documents: "Sequence[type[Document]]" = DEFAULT_DOCUMENTS,
    drop_undeclared: bool = False,
    hide_only: bool = False,
) -> Plan:
    """Compare what some documents declare with what a database holds; it only reads.

    Args:
        drop_undeclared: Plan to hide and then drop what nobody declared.
        hide_only: Plan to hide it, and stop there.

    Returns:
        The plan. `apply` with the same arguments would take its steps.

    Round trips:
        For each collection a ``listIndexes``, two ``aggregate`` for size and use, and an ``explain`` for each
        collation. For each unique index to be built an ``aggregate`` over the documents that it would hold.
    """
    choices = Choices(drop_undeclared=drop_undeclared, hide_only=hide_only)
    return await plan_on(Server(database), declared_by(documents), choices)


async def check(database: Database, *, documents: "Sequence[type[Document]]" = DEFAULT_DOCUMENTS) -> Plan:
    """Ask whether a database holds what some documents declare; ``.is_as_declared`` is the answer.

    Returns:
        The plan without sizes, use and conflicts, so that a health probe can afford it.

    Round trips:
        One ``listIndexes`` for each collection, and an ``explain`` for each collation.
    """
    server = Server(database)
    return await plan_on(server, declared_by(documents), NOTHING_FOREIGN, with_use=False, with_conflicts=False)
