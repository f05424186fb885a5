"""How the server carries a lookup out: the plan's stages, and what it looks at on the way."""

from collections.abc import Iterator, Mapping
from typing import Any

from sessions.store.document import COLLECTION
from sessions.store.reads import Lookup


def stages(plan: object) -> Iterator[str]:
    """The names of a plan's stages."""
    if isinstance(plan, Mapping):
        if isinstance(plan.get("stage"), str):
            yield plan["stage"]
        for part in plan.values():
            yield from stages(part)
    elif isinstance(plan, list):
        for part in plan:
            yield from stages(part)


async def explained(database: Any, lookup: Lookup) -> tuple[set[str], int, int]:
    """The stages of the plan, the keys and the documents that it examined, for the command that is really sent."""
    find: dict[str, Any] = {"find": COLLECTION, "filter": lookup.filter, "limit": lookup.limit, "singleBatch": True}
    if lookup.sort:
        find["sort"] = dict(lookup.sort)
    if lookup.hint is not None:
        find["hint"] = lookup.hint
    if lookup.projection is not None:
        find["projection"] = dict(lookup.projection)
    answer = await database.command({"explain": find, "verbosity": "executionStats"})
    stats = answer["executionStats"]
    return set(stages(answer["queryPlanner"]["winningPlan"])), stats["totalKeysExamined"], stats["totalDocsExamined"]
