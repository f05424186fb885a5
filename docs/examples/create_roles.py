"""Make the roles that the sessions of a database need: ``python docs/examples/create_roles.py DATABASE``.

It connects by ``MONGODB_URI``, as a user who may make roles, and can be run again: what exists is made equal to its
definition. Then give them to users: ``db.createUser({user: ..., roles: ["sessionsApplication"]})``.
"""

import os
import sys
from typing import Any

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from sessions.store.rights import ROLES, role_command


def create_roles(database: Any) -> list[str]:
    """Make them; a line for each."""
    told = []
    for name, role in ROLES.items():
        exists = bool(database.command({"rolesInfo": name})["roles"])
        database.command(role_command(name, database.name, exists=exists))
        told.append(f"{name:<20} {'updated' if exists else 'created'}: {', '.join(role.actions)}")
    return told


def main() -> int:
    """Read the command line; the exit status."""
    uri = os.environ.get("MONGODB_URI")
    if uri is None or len(sys.argv) != 2:  # noqa: PLR2004 - the script and its one argument
        print("usage: MONGODB_URI=... python docs/examples/create_roles.py DATABASE", file=sys.stderr)
        return 2
    try:
        with MongoClient[dict[str, Any]](uri, serverSelectionTimeoutMS=5_000) as client:
            print(*create_roles(client[sys.argv[1]]), sep="\n")
    except PyMongoError as error:  # its text may quote the connection string
        print(f"the server did not do it: {type(error).__name__}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
