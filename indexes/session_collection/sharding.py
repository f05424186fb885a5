"""The commands that shard the session collection, and the check that no unique index stands against it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from indexes.bridges import Present
from indexes.declared import declared_by
from indexes.errors import CannotShard, NotSharded
from indexes.server import Server, is_router
from indexes.session_collection.session_document import DEFAULT_DOCUMENTS
from sessions.store.clients import Database
from sessions.store.document import COLLECTION, SHARD_KEY
from sessions.store.index_definitions import keys_of


@dataclass(frozen=True, slots=True)
class ShardingStep:
    """One command to the server, and whether it goes to the admin database."""

    command: Mapping[str, Any]
    is_admin: bool


def steps_for(database: str) -> tuple[ShardingStep, ...]:
    """The commands that shard the session collection, in their order; each may be repeated."""
    shard_key = dict(SHARD_KEY)
    index = {"key": shard_key, "name": "_".join(f"{name}_{way}" for name, way in shard_key.items())}
    return (
        ShardingStep({"enableSharding": database}, is_admin=True),
        ShardingStep({"createIndexes": COLLECTION, "indexes": [index]}, is_admin=False),
        ShardingStep({"shardCollection": f"{database}.{COLLECTION}", "key": shard_key}, is_admin=True),
    )


def unshardable(present: Present) -> list[str]:
    """The unique indexes that no shard could enforce alone, since they do not begin with the shard key's field."""
    first = next(iter(SHARD_KEY))
    return [
        name
        for name, definition in present.items()
        if (definition.get("unique") or definition.get("prepareUnique")) and keys_of(definition)[0][0] != first
    ]


async def shard(database: Database, *, carry_out: bool = False) -> tuple[ShardingStep, ...]:
    """Check that the session collection can be sharded, and with ``carry_out`` shard it.

    Args:
        carry_out: Run the commands, rather than only return them.

    Returns:
        The commands.

    Raises:
        NotSharded: The database is not reached by a router of a sharded cluster.
        CannotShard: A unique index does not begin with the shard key's field; nothing was changed.
        UnfitCollection: The collection cannot hold sessions; nothing was changed.

    Round trips:
        A ``hello`` and a ``listIndexes``, and one for each command that is run.
    """
    server = Server(database)
    if not is_router(await server.hello()):
        raise NotSharded("this server is no router of a sharded cluster: connect to a mongos, or skip this command")
    declared = next(one for one in declared_by(DEFAULT_DOCUMENTS) if one.collection == COLLECTION)
    present = await server.indexes(COLLECTION) or {}
    if broken := unshardable({**declared.indexes, **present}):
        first = next(iter(SHARD_KEY))
        raise CannotShard(
            f"a unique index of a sharded collection begins with {first}: drop or change {', '.join(broken)} first"
        )
    steps = steps_for(server.name)
    if carry_out:
        for step in steps:
            await server.command(step.command, about=COLLECTION, admin=step.is_admin, quick=False)
    return steps
