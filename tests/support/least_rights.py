"""A server for the whole suite on which the library has the rights of `ROLES` only, by authentication and TLS.

`pytest --least-rights` runs on it.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from sessions.store.document import COLLECTION
from sessions.store.rights import ROLES
from tests.support.connected import connected
from tests.support.secured_server import PASSWORD, running_secured

USER: Final = "suite"
# What tests do on the side, and no session call does: they make and drop collections, look at plans, fail commands.
AROUND: Final = ("createCollection", "createIndex", "dropIndex", "dropCollection", "collMod")
OF_OTHERS: Final = (
    # The applications of the examples and pages.
    *("conversations", "drafts", "lessons", "messages", "notifications", "previews", "said", "schedule", "sent"),
    *("checkpoints", "checkpoint_writes"),  # LangGraph's
    *("done", "effects", "overlaps", "running", "runs"),  # what the workers of a race write down
    *("index_bootstrap_locks", "others"),
)
ON_OTHERS: Final = ("find", "insert", "update", "remove", "listIndexes", *AROUND)
OF_THE_DATABASE: Final = ("dropDatabase",)
OF_THE_SERVER: Final = ("inprog", "killop")
_OPERATOR: Final = "SESSIONS_TESTS_OPERATOR"
"""In the environment of this process: who may do everything, while its other users may not."""


@asynccontextmanager
async def operating(database: Any) -> AsyncIterator[Any]:
    """The database ``admin`` of the server, for what no role can be given: to set fail points."""
    if (uri := os.environ.get(_OPERATOR)) is None:
        yield database.client.admin
        return
    async with connected(uri) as client:
        yield client.admin


@asynccontextmanager
async def running_with_least_rights(binary: Path) -> AsyncIterator[str]:
    """Run it; gives the URI of a user who may do what the roles say, and what the tests need around it."""
    on_sessions = sorted({action for role in ROLES.values() for action in role.actions} | {*AROUND})
    privileges: list[dict[str, Any]] = [
        {"resource": {"db": "", "collection": COLLECTION}, "actions": on_sessions},
        *({"resource": {"db": "", "collection": name}, "actions": list(ON_OTHERS)} for name in OF_OTHERS),
        {"resource": {"db": "", "collection": ""}, "actions": list(OF_THE_DATABASE)},
        {"resource": {"cluster": True}, "actions": list(OF_THE_SERVER)},
    ]
    async with running_secured(binary, tls=True) as running:
        async with connected(running.uri("root")) as client:
            await client.admin.command({"createRole": USER, "privileges": privileges, "roles": []})
            await client.admin.command({"createUser": USER, "pwd": PASSWORD, "roles": [USER]})
        os.environ[_OPERATOR] = running.uri("root")
        try:
            yield running.uri(USER)
        finally:
            del os.environ[_OPERATOR]
