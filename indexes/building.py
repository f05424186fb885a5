"""Creating what is missing of the declared indexes, one at a time; run again, it goes on where it stopped."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from pymongo import IndexModel

from sessions.document import INDEXES
from sessions.driver import DuplicateKey, SessionCollection
from sessions.errors import StoreUnavailable
from sessions.index_comparison import differences

if TYPE_CHECKING:
    from sessions.driver import Database

_REACH_SECONDS: Final = 5.0
_BUILD_SECONDS: Final = 3_600.0  # a build scans the collection; its server ends it with the connection's time-out
_CONFLICTS: Final = {
    85: "the server holds the same index under another name, or this name with other options",
    86: "the server holds another index of this name",
}


class IndexOutcome(StrEnum):
    """What became of one declared index."""

    CREATED = "created"
    PRESENT = "present"
    DIFFERS = "differs"


@dataclass(frozen=True, slots=True)
class IndexReport:
    """One declared index, and what became of it; ``differences`` says in sentences what keeps it from being right."""

    name: str
    outcome: IndexOutcome
    differences: tuple[str, ...] = ()


async def apply(database: "Database", *, tell: Callable[[IndexReport], None] | None = None) -> tuple[IndexReport, ...]:
    """Create each declared index that the database lacks; never drop or change one.

    Args:
        database: A database of Motor, PyMongo Async or mongomock-motor.
        tell: Called with each report as soon as it is known, since a build on a large collection takes its time.

    Returns:
        A report for each declared index, in the order of their declaration. One that is there with another
        definition, that the server takes for a conflict, or that stored sessions violate ``differs``.

    Raises:
        StoreUnavailable: The server did not answer; what was created before stays.

    Round trips:
        One ``listIndexes``, and a ``createIndexes`` for each index that is missing.
    """
    # Two handles: a server that is not there is told within seconds, a build may take an hour.
    present = await SessionCollection(database, timeout=_REACH_SECONDS).indexes()
    building = SessionCollection(database, timeout=_BUILD_SECONDS)
    reports = []
    for index in INDEXES:
        name: str = index.document["name"]
        if name in present:
            found = differences(index.document, present[name])
            report = IndexReport(name, IndexOutcome.DIFFERS if found else IndexOutcome.PRESENT, found)
        else:
            report = await _create(building, index)
        if tell is not None:
            tell(report)
        reports.append(report)
    return tuple(reports)


async def _create(collection: SessionCollection, index: IndexModel) -> IndexReport:
    name: str = index.document["name"]
    try:
        await collection.create_index(index)
    except DuplicateKey:
        fields = ", ".join(index.document["key"])
        found = f"index {name} cannot be built: stored sessions share the same {fields}; end all but one of them"
    except StoreUnavailable as error:
        code: Any = getattr(error.__cause__, "code", None)
        if code not in _CONFLICTS:
            raise
        found = f"index {name} cannot be built: {_CONFLICTS[code]} (code {code})"
    else:
        return IndexReport(name, IndexOutcome.CREATED)
    return IndexReport(name, IndexOutcome.DIFFERS, (found,))
