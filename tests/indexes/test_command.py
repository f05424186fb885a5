"""``python -m indexes`` as its users run it: what it prints, how it ends, and what it never shows."""

import asyncio
import json
import os
import pty
import signal
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import pytest
import pytest_asyncio

from indexes.lock import LOCKS
from sessions.store.clients import connect, disconnect
from sessions.store.document import COLLECTION, INDEXES, ROUTING_INDEX
from tests.support.held_builds import builds_held, under_way
from tests.support.index_command import ROOT, run_command

NAMES: Final = [index.document["name"] for index in INDEXES]
KEYS: Final = [("user_id", 1), ("conversation_id", 1)]
FILTER: Final = next(
    index.document["partialFilterExpression"] for index in INDEXES if index.document["name"] == ROUTING_INDEX
)


@pytest_asyncio.fixture(loop_scope="session")
async def database(mongod_uri: str) -> AsyncIterator[Any]:
    """An empty database; the command brings its own driver, so that one backend is enough."""
    client: Any = connect(mongod_uri)
    name = f"sessions_test_{uuid4().hex[:16]}"
    yield client[name]
    await client.drop_database(name)
    await disconnect(client)


def closed_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def test_the_commands_of_a_deployment(database: Any, mongod_uri: str) -> None:
    """Plan shows eleven missing (1), check fails (1), apply builds (0), then all three say that nothing is left (0)."""
    named = ("--database", database.name)
    status, printed = await run_command("plan", *named, uri=mongod_uri)
    assert (status, printed.count(" missing ")) == (1, 11), printed
    assert "11 missing." in printed
    status, printed = await run_command("check", *named, uri=mongod_uri)
    assert status == 1, printed
    assert "0 of 11" in printed
    status, printed = await run_command("apply", *named, uri=mongod_uri)
    assert status == 0, printed
    assert [line.split()[1] for line in printed.splitlines() if line.startswith("built")] == [
        ROUTING_INDEX,
        *(name for name in NAMES if name != ROUTING_INDEX),
    ]
    status, printed = await run_command("check", "--uri", mongod_uri, *named)
    assert status == 0, printed
    assert "All 11 declared indexes" in printed
    for command in ("plan", "apply"):
        status, printed = await run_command(command, *named, uri=mongod_uri)
        assert status == 0, printed
        assert "No change" in printed
    status, printed = await run_command("explain", *named, uri=mongod_uri)
    assert status == 0, printed
    assert ROUTING_INDEX in printed


async def test_each_command_speaks_json(database: Any, mongod_uri: str) -> None:
    """Standard output is one document that a program can read."""
    await database[COLLECTION].create_index([("theirs", 1)], name="theirs")
    named = ("--database", database.name, "--json")
    status, printed = await run_command("plan", *named, uri=mongod_uri)
    told = json.loads(printed)
    assert status == 1
    assert [step["action"] for step in told["steps"]] == ["build"] * 11
    states = {index["name"]: index["state"] for index in told["indexes"]}
    assert states == {**dict.fromkeys(NAMES, "missing"), "theirs": "undeclared"}
    (foreign,) = [index for index in told["indexes"] if not index["declared"]]
    assert foreign["use"] == 0
    assert foreign["since"].endswith("+00:00")
    assert foreign["size"] > 0
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "indexes", "apply", *named, "--uri", mongod_uri),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, steps = await process.communicate()
    assert process.returncode == 0
    assert len(json.loads(out)["done"]) == 11
    assert steps.decode().count("built ") == 11
    for command in ("check", "explain"):
        status, printed = await run_command(command, *named, uri=mongod_uri)
        assert status == 0
        assert json.loads(printed)["database"] == database.name


async def test_a_drift_is_told_and_repaired(database: Any, mongod_uri: str) -> None:
    """The table says in what an index differs, and the steps say how it is replaced. Explain fails on a hidden one."""
    named = ("--database", database.name)
    await run_command("apply", *named, uri=mongod_uri)
    await database.command({"collMod": COLLECTION, "index": {"name": ROUTING_INDEX, "hidden": True}})
    await database[COLLECTION].drop_index(NAMES[4])
    await database[COLLECTION].create_index([("trigger_id", -1)], name=NAMES[4], sparse=True)
    status, printed = await run_command("plan", *named, uri=mongod_uri)
    assert status == 1
    assert "is hidden" in printed
    assert "has sparse True" in printed
    assert "build bridge" in printed
    status, printed = await run_command("explain", *named, uri=mongod_uri)
    assert status == 1
    assert f"route: its index {ROUTING_INDEX} is hidden" in printed
    status, printed = await run_command("apply", *named, uri=mongod_uri)
    assert status == 0, printed
    assert "dropped bridge" in printed
    assert (await run_command("check", *named, uri=mongod_uri))[0] == 0


@pytest.mark.parametrize("limit", ["timeoutMS=500", "socketTimeoutMS=500"])
async def test_a_limit_in_the_connection_string_does_not_limit_a_build(
    database: Any, mongod_uri: str, limit: str
) -> None:
    """With the limit the server would abort the build at each run, so that it would never end."""
    uri = f"{mongod_uri}&{limit}"
    async with builds_held(database):
        applying = asyncio.create_task(run_command("apply", "--database", database.name, uri=uri))
        await asyncio.sleep(3)
        assert not applying.done(), applying.result()
    status, printed = await applying
    assert status == 0, printed
    assert "waited" not in printed


@pytest.mark.parametrize("signalled", [signal.SIGTERM, signal.SIGINT])
async def test_a_run_that_is_stopped_ends_at_once(database: Any, mongod_uri: str, signalled: signal.Signals) -> None:
    """It gives the lock back and says that it stopped, although the server goes on with its build."""
    async with builds_held(database):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "indexes", "apply", "--database", database.name, "--uri", mongod_uri),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        await under_way(database)
        process.send_signal(signalled)
        async with asyncio.timeout(30):
            printed, _ = await process.communicate()
        assert await database[LOCKS].find_one() is None
    assert process.returncode == 130, printed
    assert printed.decode().splitlines() == ["python -m indexes: stopped; what was done stays, run it again to go on"]


async def test_conflicts_are_status_three(database: Any, mongod_uri: str) -> None:
    """Plan and apply list them and end with 3; with the flag apply resolves them and ends with 0."""
    base = {"user_id": 1, "conversation_id": "c", "status": "waiting_user_reply", "state": {}, "revision": 1}
    rivals = [{"_id": each, **base, "history": [], "created_at": number} for number, each in enumerate("ab")]
    await database[COLLECTION].insert_many(rivals)
    named = ("--database", database.name)
    for command in ("plan", "apply"):
        status, printed = await run_command(command, *named, uri=mongod_uri)
        assert status == 3, printed
        assert "2 documents" in printed
        assert printed.splitlines().count("    a") == 1
    assert set(await database[COLLECTION].index_information()) == {"_id_"}
    status, printed = await run_command("apply", *named, "--resolve", "supersede-older", uri=mongod_uri)
    assert status == 0, printed
    assert "1 older sessions were superseded" in printed
    assert (await database[COLLECTION].find_one({"_id": "a"}))["status"] == "ignored"


async def test_documents_of_others_by_their_path(database: Any, mongod_uri: str) -> None:
    """``--document`` names any Beanie document, also several."""
    status, printed = await run_command(
        *("apply", "--database", database.name, "--document", "sessions:ActiveScheduleSession"), uri=mongod_uri
    )
    assert status == 0, printed
    status, printed = await run_command(
        "check", "--database", database.name, "--document", "sessions:Nobody", uri=mongod_uri
    )
    assert status == 2
    assert "no Beanie document" in printed


async def test_an_unsharded_server_is_status_two(database: Any, mongod_uri: str) -> None:
    """The error names what to connect to instead."""
    status, printed = await run_command("shard", "--database", database.name, uri=mongod_uri)
    assert status == 2
    assert "mongos" in printed


def read_all(terminal: int) -> str:
    """What is printed on a terminal until its other side is closed."""
    printed = b""
    with suppress(OSError):  # how a closed terminal ends
        while part := os.read(terminal, 4096):
            printed += part
    os.close(terminal)
    return printed.decode()


async def test_on_a_terminal(database: Any, mongod_uri: str) -> None:
    """Colours and a bar do not change the status."""
    ours, theirs = pty.openpty()
    reading = asyncio.create_task(asyncio.to_thread(read_all, ours))
    try:
        status, _ = await run_command("apply", "--database", database.name, uri=mongod_uri, stdout=theirs)
    finally:
        os.close(theirs)
    printed = await reading
    assert status == 0
    assert "\x1b[" in printed
    assert "all is as declared" in printed


BROKEN: Final = {
    "import_raises": ("raise KeyError('NOT_SET')", "KeyError: 'NOT_SET'"),
    "import_exits": ("raise SystemExit(0)", "SystemExit: 0"),
    "no_python": ("def (:", "SyntaxError"),
    "several_lines": (r"raise ValueError('one\ntwo')", "ValueError: one two"),
}


@pytest.mark.parametrize("module", list(BROKEN))
async def test_a_document_whose_module_fails(tmp_path: Path, module: str) -> None:
    """Its error is shown in one line, and no health probe takes it for a success."""
    source, expected = BROKEN[module]
    (tmp_path / f"{module}.py").write_text(source)
    status, printed = await run_command(
        *("check", "--uri", "mongodb://localhost/x", "--document", f"{module}:Any"), path=tmp_path
    )
    assert status == 2, printed
    assert len(printed.strip().splitlines()) == 1
    assert expected in printed


async def test_no_server_is_named() -> None:
    """The advice is shown whole, although it comes near to what is hidden as a URI."""
    status, printed = await run_command("plan", "--database", "x")
    assert status == 2
    assert printed.strip() == "python -m indexes: say which server: --uri, or the variable MONGODB_URI"


async def test_names_are_printed_as_they_are(database: Any, mongod_uri: str) -> None:
    """Anybody may name indexes and fields, so a name is neither markup nor an emoji's code."""
    await database[COLLECTION].create_index([("user:key:1", 1)], name="oops[/x] [red]:key:")
    for command in ("plan", "apply"):
        status, printed = await run_command(command, "--database", database.name, "--hide-only", uri=mongod_uri)
        assert status in (0, 1), printed
        assert "oops[/x] [red]:key:" in printed
        assert "user:key:1" in printed or command == "apply"


PASSWORD: Final = "hunter2-never-shown"  # noqa: S105 - of no server
WRONG: Final[dict[str, Sequence[str]]] = {
    "no command": (),
    "unknown command": (f"mongodb://someone:{PASSWORD}@127.0.0.1/x",),
    "no server named": ("apply", "--database", "x"),
    "no database named": ("apply", "--uri", f"mongodb://someone:{PASSWORD}@127.0.0.1:1/"),
    "impossible database": ("apply", "--uri", f"mongodb://someone:{PASSWORD}@127.0.0.1:1/x", "--database", "a b"),
    "URI in the wrong place": ("apply", f"mongodb://someone:{PASSWORD} x@127.0.0.1/x"),
    "unescaped password": ("apply", "--uri", f"mongodb://someone:a@{PASSWORD}@127.0.0.1/x"),
    "port is none": ("apply", "--uri", f"mongodb://someone:a@127.0.0.1:{PASSWORD}/x"),
    "unknown resolution": ("apply", "--resolve", "all"),
    "unknown document": ("plan", "--document", "nowhere.at.all:Nobody", "--uri", "mongodb://localhost/x"),
    "relative document": ("plan", "--document", ".app:Nobody", "--uri", "mongodb://localhost/x"),
    "no TLS authority": (
        *("apply", "--database", "x", "--uri"),
        f"mongodb://someone:{PASSWORD}@127.0.0.1:1/?tls=true&tlsCAFile=/nowhere/{PASSWORD}.pem",
    ),
    "no TLS certificate": (
        *("apply", "--database", "x", "--uri"),
        f"mongodb://someone:{PASSWORD}@127.0.0.1:1/?tls=true&tlsCertificateKeyFile={__file__}",
    ),
    "unreachable": ("apply", "--uri", f"mongodb://someone:{PASSWORD}@127.0.0.1:{{closed}}/x"),
}


@pytest.mark.parametrize("wrong", list(WRONG))
async def test_the_command_used_wrongly(wrong: str) -> None:
    """Wrong usage and an unreachable server are status 2, in a line without traceback, URI or password."""
    port = str(closed_port())
    async with asyncio.timeout(30):
        status, printed = await run_command(*(part.replace("{closed}", port) for part in WRONG[wrong]))
    assert status == 2, printed
    assert len(printed.strip().splitlines()) == 1
    assert PASSWORD not in printed
    assert "127.0.0.1" not in printed
    assert "Traceback" not in printed
