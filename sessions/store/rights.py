"""The rights that each part of the library needs, as data: what a database user is given, and no more."""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from sessions.store.document import COLLECTION


class Role(NamedTuple):
    """What a user may do with the session collection, and what needs it."""

    actions: tuple[str, ...]
    needed_by: str


ROLES: Final[Mapping[str, Role]] = {
    "sessionsApplication": Role(
        ("find", "insert", "update", "listIndexes", "changeStream"),
        "`open_repository`, repository and bridge but for `purge`, `watch`, `CachedRouter`, `Upkeep`",
    ),
    "sessionsPurge": Role(("find", "remove"), "`purge`"),
    "sessionsReader": Role(("find", "listIndexes"), "looking at sessions, and no more"),
}


def role_command(name: str, database: str, *, exists: bool) -> dict[str, Any]:
    """The command that makes a role in a database, or makes an existing one equal to its definition.

    Args:
        name: One of `ROLES`.
        database: Where the sessions are.
        exists: Whether there is a role of that name.
    """
    privilege = {"resource": {"db": database, "collection": COLLECTION}, "actions": list(ROLES[name].actions)}
    return {"updateRole" if exists else "createRole": name, "privileges": [privilege], "roles": []}
