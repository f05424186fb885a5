"""Which rights each command needs. To look, ``read`` is enough; a missing right is named with the role that has it.

The server is a standalone one with authentication, which also refuses a commitQuorum.
"""

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_asyncio
from pymongo.errors import PyMongoError

from indexes import MissingRight, Plan, Progress, apply, check, explain, plan
from sessions.mongod import find_mongod
from sessions.store.clients import connect, disconnect
from sessions.store.document import COLLECTION, INDEXES, ROUTING_INDEX

PASSWORD: Final = "pa55-never-shown"  # noqa: S105 - of a server that lives for this module
DATABASE: Final = "sessions_rights"
ROLES: Final[dict[str, list[dict[str, str]]]] = {
    "nobody": [],
    "reader": [{"role": "read", "db": DATABASE}],
    "writer": [{"role": "readWrite", "db": DATABASE}],
    "operator": [{"role": "readWrite", "db": DATABASE}, {"role": "dbAdmin", "db": DATABASE}],
    "watcher": [
        {"role": "readWrite", "db": DATABASE},
        {"role": "dbAdmin", "db": DATABASE},
        {"role": "clusterMonitor", "db": "admin"},
    ],
}
GOVERNOR: Final = next(dict(index.document) for index in INDEXES if index.document["name"] == ROUTING_INDEX)
UP_WITHIN_SECONDS: Final = 30


@dataclass(frozen=True, slots=True)
class Secured:
    """A server with authentication."""

    port: int

    def uri(self, user: str) -> str:
        """The connection string of one of the users."""
        return f"mongodb://{user}:{PASSWORD}@127.0.0.1:{self.port}/?authSource=admin"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def _make_users(port: int) -> None:
    # Until a user exists, a connection from the same machine may create the first one.
    client: Any = connect(f"mongodb://127.0.0.1:{port}/?directConnection=true&serverSelectionTimeoutMS=500")
    async with asyncio.timeout(UP_WITHIN_SECONDS):
        while True:
            try:
                await client.admin.command({"createUser": "root", "pwd": PASSWORD, "roles": ["root"]})
            except PyMongoError:
                await asyncio.sleep(0.05)
            else:
                break
    await disconnect(client)
    client = connect(Secured(port).uri("root"))
    for user, roles in ROLES.items():
        await client.admin.command({"createUser": user, "pwd": PASSWORD, "roles": roles})
    await disconnect(client)


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def secured() -> AsyncIterator[Secured]:
    """A standalone server of this module's own."""
    if (binary := find_mongod()) is None:
        pytest.skip("no mongod on PATH, and the `server` extra has none for this platform")
    port = _free_port()
    with tempfile.TemporaryDirectory(prefix="sessions-mongod-", ignore_cleanup_errors=True) as home:
        command = [
            *(str(binary), "--auth", "--bind_ip", "127.0.0.1", "--port", str(port), "--dbpath", home),
            *("--logpath", str(Path(home) / "mongod.log"), "--unixSocketPrefix", home),
            *("--wiredTigerCacheSizeGB", "0.25", "--setParameter", "enableTestCommands=1"),
        ]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)  # noqa: ASYNC220, S603 - our own binary
        try:
            await _make_users(port)
            yield Secured(port)
        finally:
            process.kill()
            await asyncio.to_thread(process.wait)


@pytest_asyncio.fixture(loop_scope="session")
async def root(secured: Secured) -> AsyncIterator[Any]:
    """The database for a user with every right, its indexes as declared, with a session in it."""
    client: Any = connect(secured.uri("root"))
    await client.drop_database(DATABASE)
    database = client[DATABASE]
    await apply(database)
    await database[COLLECTION].insert_one(
        {"_id": "a", "user_id": 1, "conversation_id": "c", "trigger_id": "t", "status": "rerunning"}
    )
    yield database
    await disconnect(client)


@pytest_asyncio.fixture(loop_scope="session")
async def users(secured: Secured, root: Any) -> AsyncIterator[dict[str, Any]]:
    """The same database for each user."""
    clients: dict[str, Any] = {user: connect(secured.uri(user)) for user in ROLES}
    yield {user: client[DATABASE] for user, client in clients.items()}
    for client in clients.values():
        await disconnect(client)


async def _replace(root: Any, **changes: Any) -> None:
    definition = {**GOVERNOR, **changes}
    await root[COLLECTION].drop_index(ROUTING_INDEX)
    wanted = {option: value for option, value in definition.items() if value is not None}
    await root.command({"createIndexes": COLLECTION, "indexes": [wanted]})


async def _command(secured: Secured, user: str, *arguments: str) -> tuple[int | None, str, str]:
    """The command line as a process: its status, and what it wrote to either stream."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "indexes", *arguments, "--database", DATABASE),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "MONGODB_URI": secured.uri(user),
        },
    )
    out, errors = await process.communicate()
    assert PASSWORD not in out.decode() + errors.decode()
    return process.returncode, out.decode(), errors.decode()


async def _listed(root: Any) -> dict[str, Any]:
    found: dict[str, Any] = await root[COLLECTION].index_information()
    return found


def _uses(found: Plan) -> set[int | None]:
    return {index.use.operations for index in found.indexes}


async def test_a_reader_looks(secured: Secured, root: Any) -> None:
    """With ``read`` alone plan, check and explain end as for any other user; only the use is unknown."""
    for command in ("plan", "check", "explain"):
        status, out, errors = await _command(secured, "reader", command, "--json")
        assert (status, errors) == (0, ""), command
        told = json.loads(out)
        if command == "plan":
            assert {index["use"] for index in told["indexes"]} == {"unknown"}
            assert all(index["size"] for index in told["indexes"])
    await _replace(root, hidden=True)
    for command in ("plan", "check", "explain"):
        status, out, errors = await _command(secured, "reader", command)
        assert (status, errors) == (1, ""), command
        assert "hidden" in out


async def test_a_reader_changes_nothing(secured: Secured, root: Any) -> None:
    """Apply ends with 2 and one line that names the action and the role. If nothing differs it needs no more rights."""
    assert (await _command(secured, "reader", "apply"))[0] == 0
    await _replace(root, key={"conversation_id": 1, "user_id": 1})
    before = await _listed(root)
    status, _, errors = await _command(secured, "reader", "apply")
    assert status == 2
    assert errors.count("\n") == 1
    assert "lacks the action" in errors
    assert "readWrite" in errors
    assert await _listed(root) == before
    assert "index_bootstrap_locks" not in await root.list_collection_names() or (
        await root["index_bootstrap_locks"].count_documents({}) == 0
    )


async def test_a_user_without_any_right(secured: Secured, root: Any) -> None:
    """Each command says what is missing, in one line."""
    for command in ("plan", "check", "explain", "apply"):
        status, out, errors = await _command(secured, "nobody", command)
        assert (status, out) == (2, ""), command
        assert errors.count("\n") == 1
        assert "lacks the action listIndexes" in errors
        assert errors.strip().endswith("grant it the role read")


async def test_a_wrong_password(secured: Secured) -> None:
    """The error says that it was refused, and shows neither the right nor the wrong password."""
    wrong = Secured(secured.port).uri("reader").replace(PASSWORD, "wr0ng-never-shown")
    client: Any = connect(wrong)
    with pytest.raises(Exception, match="refused the user or the password") as refusal:
        await check(client[DATABASE])
    await disconnect(client)
    assert "never-shown" not in str(refusal.value)


async def test_an_operator_applies(users: dict[str, Any], root: Any) -> None:
    """``readWrite`` with ``dbAdmin`` is enough for each kind of step, on a standalone server too."""
    database = users["operator"]
    for changes in (
        {"key": {"conversation_id": 1, "user_id": 1}},
        {"hidden": True},
        {"unique": None},
    ):
        await _replace(root, **changes)
        assert not (await check(database)).is_as_declared
        done = await apply(database)
        assert done.steps
        assert done.plan.is_as_declared
    await root[COLLECTION].create_index("status", name="foreign", expireAfterSeconds=3600)
    done = await apply(database, drop_undeclared=True)
    assert [str(step.action) for step in done.steps] == ["defuse TTL", "hide", "drop"]
    await root[COLLECTION].drop()
    assert len((await apply(database)).steps) == len(INDEXES)


@pytest.mark.parametrize("changes", [{"hidden": True}, {"unique": None}], ids=["hidden", "not unique"])
async def test_a_writer_builds_and_does_not_modify(
    secured: Secured, users: dict[str, Any], root: Any, changes: dict[str, Any]
) -> None:
    """Without ``dbAdmin`` indexes are built and dropped. What takes ``collMod`` is refused in a line that says so."""
    await _replace(root, key={"conversation_id": 1, "user_id": 1})
    assert (await apply(users["writer"])).plan.is_as_declared
    await _replace(root, **changes)
    before = await _listed(root)
    with pytest.raises(MissingRight) as refusal:
        await apply(users["writer"])
    assert (refusal.value.action, refusal.value.role) == ("collMod", "dbAdmin")
    assert "\n" not in str(refusal.value)
    status, _, errors = await _command(secured, "writer", "apply")
    assert status == 2
    assert errors.count("\n") == 1
    assert "collMod" in errors
    assert "dbAdmin" in errors
    assert await _listed(root) == before


async def test_a_monitor_of_the_cluster_sees_use_and_progress(users: dict[str, Any], root: Any) -> None:
    """``clusterMonitor`` shows the use of each index and the progress of a build. Without it both still work."""
    assert _uses(await plan(users["operator"])) == {None}
    assert None not in _uses(await plan(users["watcher"]))
    assert (await explain(users["reader"])).is_fine
    for user, sees in (("operator", False), ("watcher", True)):
        await _replace(root, key={"conversation_id": 1, "user_id": 1})
        seen: list[Progress] = []
        await root.client.admin.command({"configureFailPoint": "hangAfterStartingIndexBuild", "mode": "alwaysOn"})
        applying = asyncio.create_task(_applied(users[user], seen))
        try:
            async with asyncio.timeout(UP_WITHIN_SECONDS):
                while True:
                    if any(bool(progress.phase) if sees else progress.elapsed > 0 for progress in seen):
                        break
                    await asyncio.sleep(0.02)
        finally:
            await root.client.admin.command({"configureFailPoint": "hangAfterStartingIndexBuild", "mode": "off"})
            await applying
        phases = {progress.phase for progress in seen} - {""}
        totals = {progress.total for progress in seen} - {None}
        if sees:
            assert "scanning" in phases
            assert totals == {1}
        else:
            assert (phases, totals) == (set(), set())


async def _applied(database: Any, seen: list[Progress]) -> None:
    await apply(database, tell=seen.append)
