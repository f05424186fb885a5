"""``doctor``: a line for each question, and the exit status, on databases that are in order and that are not."""

import asyncio
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_asyncio
from pymongo.errors import PyMongoError

from sessions import SessionRepository, open_repository
from sessions.cli import doctor
from sessions.domain.errors import SessionRef, StoreUnavailable, WriteOutcome
from sessions.mongod import find_mongod
from sessions.store.clients import connect, disconnect
from sessions.store.collection import SessionCollection
from sessions.store.document import COLLECTION, INDEXES, PAGE_INDEX, ROUTING_INDEX
from tests.support.secured_server import PASSWORD, running_secured
from tests.support.sessions_command import Ended, Operator, run_here

QUESTIONS: Final = ["server", "replica set", "rights", "indexes", "clock", "documents"]
DATABASE: Final = "sessions_doctor"
UP_WITHIN_SECONDS: Final = 30


def failed(told: Ended) -> dict[str, str]:
    """The questions that failed, of ``--json``, each with its text."""
    return {each["question"]: each["text"] for each in told.objects if each["verdict"] == "failed"}


async def test_a_database_in_order(operator: Operator, sessions: SessionRepository) -> None:
    """Each question has one line, and none failed; a probe need not read every document."""
    await sessions.create(1, "t", preview_id="p")
    told = await operator("doctor")
    assert told.status == 0, told.out
    lines = told.out.splitlines()
    assert [question for line, question in zip(lines, QUESTIONS, strict=True) if question in line] == QUESTIONS
    assert "MongoDB 6." in lines[0]
    assert "1 document, each can be read" in lines[5]
    told = await operator("doctor", "--json")
    assert [each["question"] for each in told.objects] == QUESTIONS
    assert [each["question"] for each in (await operator("doctor", "--json", "--quick")).objects] == QUESTIONS[:-1]


def test_no_server() -> None:
    """It is the server's line, and status 2; the password is in none."""
    uri = f"mongodb://someone:{PASSWORD}@127.0.0.1:1/x?serverSelectionTimeoutMS=300"
    told = run_here("doctor", "--uri", uri)
    assert told.status == 2
    assert told.out.startswith("failed   server  ")
    assert len(told.out.splitlines()) == 1
    assert PASSWORD not in told.out + told.err
    assert failed(run_here("doctor", "--json", "--uri", uri)).keys() == {"server"}


async def test_missing_and_hidden_indexes(operator: Operator, sessions: SessionRepository, shared: Any) -> None:
    """Both are named, with the command that puts them right."""
    await sessions.create(1, "t", preview_id="p")
    await shared[COLLECTION].drop_index(PAGE_INDEX)
    await shared.command({"collMod": COLLECTION, "index": {"name": ROUTING_INDEX, "hidden": True}})
    told = await operator("doctor", "--json")
    assert told.status == 1
    assert failed(told) == {
        "indexes": f"index {PAGE_INDEX} is missing; index {ROUTING_INDEX} is hidden: "
        "run `python -m indexes plan`, then apply"
    }
    await shared[COLLECTION].drop_indexes()
    text = failed(await operator("doctor", "--json"))["indexes"]
    assert f"; {len(INDEXES) - 3} more: " in text


async def test_damaged_documents(operator: Operator, sessions: SessionRepository, shared: Any) -> None:
    """They are counted, and the first are named."""
    made = [await sessions.create(1, f"t{number}", preview_id="secret") for number in range(5)]
    for session in made[1:]:
        await shared[COLLECTION].update_one({"_id": session.session_id}, {"$set": {"attempts": "secret"}})
    told = await operator("doctor", "--json")
    assert told.status == 1
    text = failed(told)["documents"]
    assert text.startswith("4 of 5 damaged: ")
    assert "; 1 more: see `sessions damaged`" in text
    assert "secret" not in told.out + told.err


@pytest.mark.parametrize("kind", ["view", "collation"])
async def test_a_collection_that_cannot_hold_sessions(operator: Operator, shared: Any, kind: str) -> None:
    """A view, and one with a default collation, are named as what they are."""
    await shared.drop_collection(COLLECTION)
    if kind == "view":
        await shared.create_collection(COLLECTION, viewOn="others", pipeline=[], check_exists=False)
    else:
        await shared.create_collection(COLLECTION, collation={"locale": "en"}, check_exists=False)
    told = await operator("doctor", "--json", "--quick")
    assert told.status == 1
    assert kind in failed(told)["indexes"]


async def test_an_old_server_a_cluster_and_a_far_one(
    operator: Operator, sessions: SessionRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What this machine has no server for: an old version, a router, a strict stable API, a slow network."""

    async def answers(told: dict[str, Any], hello: dict[str, Any]) -> dict[str, dict[str, str]]:
        async def command(_database: object, sent: dict[str, Any]) -> dict[str, Any]:
            if "hello" in sent:
                return hello
            name = next(iter(sent))
            if name not in told:
                raise PyMongoError(name)
            found: dict[str, Any] = told[name]
            return found

        monkeypatch.setattr(doctor, "_command", command)
        return {each["question"]: each for each in (await operator("doctor", "--json", "--quick")).objects}

    found = await answers({"buildInfo": {"version": "5.0.9", "versionArray": [5, 0, 9, 0]}}, {"msg": "isdbgrid"})
    assert found["server"] == {
        "question": "server",
        "verdict": "failed",
        "text": "MongoDB 5.0.9: 6.0 or newer is needed",
    }
    assert found["replica set"]["text"] == "a sharded cluster"
    assert found["rights"]["verdict"] == "warning"
    assert (await answers({}, {"maxWireVersion": 17}))["server"]["verdict"] == "ok"
    assert (await answers({}, {"maxWireVersion": 13}))["server"]["verdict"] == "failed"
    monkeypatch.setattr(doctor, "_CLOCK_ERROR", timedelta(0))
    assert (await answers({}, {}))["clock"]["verdict"] == "warning"


async def test_a_server_that_goes_on_the_way(
    operator: Operator, sessions: SessionRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A question that cannot be answered has failed, and the others are asked all the same."""

    async def refuse(_: object) -> None:
        raise StoreUnavailable(SessionRef(), outcome=WriteOutcome.NOT_WRITTEN, cause="it went")

    monkeypatch.setattr(SessionCollection, "indexes", refuse)
    told = await operator("doctor", "--json")
    assert told.status == 1
    assert list(failed(told)) == ["indexes"]
    assert [each["question"] for each in told.objects] == QUESTIONS


# --- servers of their own -------------------------------------------------------------------------------------


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def secured() -> AsyncIterator[dict[str, str]]:
    """The connection string of each role, on a server with authentication."""
    if (binary := find_mongod()) is None:
        pytest.skip("no mongod on PATH, and the `server` extra has none for this platform")
    async with running_secured(binary) as server:
        client: Any = connect(server.uri("root"))
        async with open_repository(client[DATABASE], create_indexes=True):
            for user, roles in {"nobody": [], "reader": ["read"], "writer": ["readWrite"]}.items():
                granted = [{"role": role, "db": DATABASE} for role in roles]
                await client.admin.command({"createUser": user, "pwd": PASSWORD, "roles": granted})
        await disconnect(client)
        yield {user: server.uri(user) for user in ("root", "nobody", "reader", "writer", "stranger")}


RIGHTS: Final[dict[str, tuple[int, dict[str, str]]]] = {
    "root": (0, {}),
    "writer": (0, {}),
    "reader": (1, {"rights": "no insert, update, remove on "}),
    "nobody": (1, {"rights": "no find, insert, ", "indexes": "listIndexes", "documents": "the user lacks"}),
}


@pytest.mark.parametrize("user", list(RIGHTS))
async def test_rights(secured: dict[str, str], user: str) -> None:
    """What a user lacks is named with the role that has it."""
    status, wanted = RIGHTS[user]
    told = await Operator(secured[user], DATABASE)("doctor", "--json")
    assert told.status == status, told.out
    found = failed(told)
    assert found.keys() == wanted.keys()
    for question, part in wanted.items():
        assert part in found[question]
    assert PASSWORD not in told.out + told.err


@pytest.mark.parametrize("command", ["counts", "damaged", "expire"])
async def test_a_missing_right_is_a_line(secured: dict[str, str], command: str) -> None:
    """Other commands too say what is lacking, with status 2."""
    told = await Operator(secured["nobody"], DATABASE)(command)
    assert (told.status, told.out) == (2, "")
    assert "lacks" in told.err
    assert len(told.err.splitlines()) == 1


async def test_a_user_that_the_server_does_not_know(secured: dict[str, str]) -> None:
    """It is the server that refuses."""
    told = await Operator(secured["stranger"], DATABASE)("doctor", "--json")
    assert told.status == 2
    assert "refused the user or the password" in failed(told)["server"]
    assert PASSWORD not in told.out + told.err


async def _answers(uri: str) -> None:
    client: Any = connect(uri)
    try:
        async with (
            asyncio.timeout(UP_WITHIN_SECONDS),
            open_repository(client[DATABASE], create_indexes=True, timeout=30),
        ):
            pass
    finally:
        await disconnect(client)


async def test_a_standalone_server() -> None:
    """It has no change streams and no transactions: ``doctor`` says so, and ``watch`` says why it does not start."""
    if (binary := find_mongod()) is None:
        pytest.skip("no mongod on PATH, and the `server` extra has none for this platform")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="sessions-mongod-", ignore_cleanup_errors=True) as home:
        command = [
            *(str(binary), "--bind_ip", "127.0.0.1", "--port", str(port), "--dbpath", home),
            *("--logpath", str(Path(home) / "mongod.log"), "--unixSocketPrefix", home),
            *("--wiredTigerCacheSizeGB", "0.25"),
        ]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)  # noqa: ASYNC220, S603 - our own binary
        try:
            uri = f"mongodb://127.0.0.1:{port}/"
            await _answers(uri)
            told = await Operator(uri, DATABASE)("doctor", "--json")
            assert told.status == 1
            assert failed(told).keys() == {"replica set"}
            assert "--replSet" in failed(told)["replica set"]
            told = await Operator(uri, DATABASE)("watch")
            assert (told.status, told.out) == (2, "")
            assert "needs a replica set" in told.err
        finally:
            process.kill()
            await asyncio.to_thread(process.wait)
