"""No repository without its governor index; and ``python -m indexes apply``, which puts indexes in place."""

import asyncio
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from indexes import IndexOutcome, apply
from sessions import IndexesMissing, SessionRepository, open_repository
from sessions.document import COLLECTION, INDEXES, ROUTING_INDEX
from sessions.driver import SessionCollection
from sessions.index_comparison import differences
from sessions.testing import CommandCounter, MovedClock, SessionMaker

NAMES: Final = [index.document["name"] for index in INDEXES]
KEYS: Final = [("user_id", 1), ("conversation_id", 1)]
FILTER: Final = {"status": {"$in": ["waiting_user_reply", "rerunning"]}, "conversation_id": {"$type": "string"}}
OTHER_FILTER: Final = {**FILTER, "status": {"$in": ["waiting_user_reply"]}}
OTHERS: Final[dict[str, tuple[list[tuple[str, int]], dict[str, Any], str]]] = {
    "not unique": (KEYS, {"partialFilterExpression": FILTER}, "unique False"),
    "other keys": ([("user_id", 1)], {"unique": True, "partialFilterExpression": FILTER}, "keys"),
    "keys turned round": (KEYS[::-1], {"unique": True, "partialFilterExpression": FILTER}, "keys"),
    "other filter": (KEYS, {"unique": True, "partialFilterExpression": OTHER_FILTER}, "partial filter"),
    "no filter": (KEYS, {"unique": True}, "partial filter"),
}
ROOT: Final = Path(__file__).parents[2]


async def names_in(database: Any) -> set[str]:
    """The indexes of the collection, without the one that every collection has."""
    return set(await database[COLLECTION].index_information()) - {"_id_"}


async def run_command(*arguments: str, uri: str | None = None) -> tuple[int | None, str]:
    """Run ``python -m indexes`` as its users do; its exit status and all that it printed."""
    environment = {name: value for name, value in os.environ.items() if name != "MONGODB_URI"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "indexes", *arguments),
        cwd=ROOT,
        env=environment if uri is None else {**environment, "MONGODB_URI": uri},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    printed, _ = await process.communicate()
    return process.returncode, printed.decode()


def closed_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def test_an_empty_database_is_refused(database: Any, session_clock: MovedClock) -> None:
    """Without the governor index two sessions could govern; the refusal names the command that creates it."""
    with pytest.raises(IndexesMissing, match="python -m indexes apply") as refusal:
        await open_repository(database, clock=session_clock)
    assert refusal.value.differences == (f"index {ROUTING_INDEX} is missing",)
    assert await names_in(database) == set()


@pytest.mark.needs("server")
@pytest.mark.parametrize("other", list(OTHERS))
async def test_another_governor_index_is_refused(database: Any, session_clock: MovedClock, other: str) -> None:
    """An index of the right name that does not hold the invariant is no governor index; the refusal says why."""
    keys, options, said = OTHERS[other]
    await database[COLLECTION].create_index(keys, name=ROUTING_INDEX, **options)
    with pytest.raises(IndexesMissing) as refusal:
        await open_repository(database, clock=session_clock)
    assert len(refusal.value.differences) == 1
    assert said in refusal.value.differences[0]
    assert refusal.value.http_status == 503


async def test_an_index_that_is_still_being_built_is_refused(
    database: Any, session_clock: MovedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plain listing shows an unfinished index like any other; it does not enforce anything yet."""
    declared = next(dict(index.document) for index in INDEXES if index.document["name"] == ROUTING_INDEX)
    unfinished = {**declared, "buildUUID": "of a build under way"}
    assert differences(declared, unfinished) == (f"index {ROUTING_INDEX} is still being built",)

    async def listed(_: SessionCollection) -> dict[str, Any]:
        return {ROUTING_INDEX: unfinished}

    monkeypatch.setattr(SessionCollection, "indexes", listed)
    with pytest.raises(IndexesMissing, match="still being built"):
        await open_repository(database, clock=session_clock)


async def test_a_caller_may_answer_for_the_indexes(database: Any, session_clock: MovedClock) -> None:
    """``verify_indexes=False`` opens whatever is there, and creates nothing."""
    async with open_repository(database, verify_indexes=False, clock=session_clock) as opened:
        assert isinstance(opened, SessionRepository)
    assert await names_in(database) == set()


@pytest.mark.needs("server")
async def test_a_hidden_governor_index_is_accepted(database: Any, session_clock: MovedClock) -> None:
    """A hidden index still enforces that one session governs."""
    await apply(database)
    await database.command({"collMod": COLLECTION, "index": {"name": ROUTING_INDEX, "hidden": True}})
    async with open_repository(database, clock=session_clock) as opened:
        await opened.create(1, "first", conversation_id="c", pending_question="Which?")


async def test_opening_with_create_indexes_makes_the_nine(database: Any, session_clock: MovedClock) -> None:
    """Tests and demos get every declared index and no other, and opening again changes nothing."""
    for _ in range(2):
        async with open_repository(database, create_indexes=True, clock=session_clock):
            assert await names_in(database) == set(NAMES)


async def test_opening_to_create_refuses_what_cannot_be_unique(database: Any, session_clock: MovedClock) -> None:
    """Two stored governors of one conversation are told as such, not as a driver's error."""
    await database[COLLECTION].insert_many(
        [{"_id": each, "user_id": 1, "conversation_id": "c", "status": "rerunning"} for each in "ab"]
    )
    with pytest.raises(IndexesMissing, match="violate"):
        await open_repository(database, create_indexes=True, clock=session_clock)


@pytest.mark.needs("server")
async def test_apply_creates_what_is_missing_and_only_that(database: Any, command_counter: CommandCounter) -> None:
    """Nine on an empty database, each in a command of its own; none the second time; the one that went the third."""
    with command_counter.counting() as counts:
        reports = await apply(database)
    assert [report.name for report in reports] == NAMES
    assert {report.outcome for report in reports} == {IndexOutcome.CREATED}
    assert counts == {"listIndexes": 1, "createIndexes": 9}
    assert await names_in(database) == set(NAMES)

    with command_counter.counting() as counts:
        reports = await apply(database)
    assert {report.outcome for report in reports} == {IndexOutcome.PRESENT}
    assert counts == {"listIndexes": 1}

    await database[COLLECTION].drop_index(NAMES[4])
    reports = await apply(database)
    assert [report.name for report in reports if report.outcome is IndexOutcome.CREATED] == [NAMES[4]]


async def test_apply_works_on_the_double_too(database: Any, session_clock: MovedClock) -> None:
    """An application's tests may put the indexes in place as its operators do."""
    await apply(database)
    assert {report.outcome for report in await apply(database)} == {IndexOutcome.PRESENT}
    async with open_repository(database, clock=session_clock):
        assert await names_in(database) == set(NAMES)


@pytest.mark.needs("server")
async def test_apply_leaves_what_differs_alone(database: Any) -> None:
    """An operator's index is never dropped or changed; the others are created all the same."""
    await database[COLLECTION].create_index(KEYS, name=ROUTING_INDEX, partialFilterExpression=FILTER)
    before = (await database[COLLECTION].index_information())[ROUTING_INDEX]
    reports = {report.name: report for report in await apply(database)}
    assert reports.pop(ROUTING_INDEX).outcome is IndexOutcome.DIFFERS
    assert {report.outcome for report in reports.values()} == {IndexOutcome.CREATED}
    assert (await database[COLLECTION].index_information())[ROUTING_INDEX] == before


@pytest.mark.needs("server")
async def test_apply_names_the_index_that_the_server_takes_for_a_conflict(database: Any) -> None:
    """The same index under a name of the operator's stands in the way of ours; the rest is created."""
    await database[COLLECTION].create_index(KEYS, name="an_operators_own")
    told: list[str] = []
    reports = {report.name: report for report in await apply(database, tell=lambda report: told.append(report.name))}
    (said,) = reports[NAMES[0]].differences
    assert NAMES[0] in said
    assert "under another name" in said
    assert [report.name for report in reports.values() if report.outcome is IndexOutcome.CREATED] == NAMES[1:]
    assert told == NAMES
    assert "an_operators_own" in await names_in(database)


@pytest.mark.needs("server")
async def test_apply_needs_no_pause_in_the_work(
    database: Any, repository: SessionRepository, make_session: SessionMaker
) -> None:
    """Applied beside a repository that serves, it changes no session."""
    session = await make_session(conversation_id="c")
    await apply(database)
    assert (await repository.route(1, "c")).session == session


@pytest.mark.needs("server")
async def test_the_command_creates_and_then_finds(database: Any, mongod_uri: str) -> None:
    """A line for each index and status 0, by ``--uri`` or by MONGODB_URI."""
    status, printed = await run_command("apply", "--database", database.name, uri=mongod_uri)
    assert status == 0, printed
    assert printed.splitlines() == [f"created  {name}" for name in NAMES]
    status, printed = await run_command("apply", "--uri", mongod_uri, "--database", database.name)
    assert status == 0, printed
    assert printed.splitlines() == [f"present  {name}" for name in NAMES]


@pytest.mark.needs("server")
async def test_the_command_tells_what_differs(database: Any, mongod_uri: str) -> None:
    """Status 1 says that not all nine are as declared; the line says which is not, and why."""
    await database[COLLECTION].create_index(KEYS, name=ROUTING_INDEX, partialFilterExpression=FILTER)
    status, printed = await run_command("apply", "--database", database.name, uri=mongod_uri)
    assert status == 1, printed
    (line,) = [line for line in printed.splitlines() if line.startswith("differs")]
    assert ROUTING_INDEX in line
    assert "unique False" in line
    assert "left alone" in printed


@pytest.mark.needs("server")
async def test_the_command_tells_what_stored_sessions_violate(database: Any, mongod_uri: str) -> None:
    """Two governors of one conversation keep the unique index from being built: a clear line, no traceback."""
    await database[COLLECTION].insert_many(
        [{"_id": each, "user_id": 1, "conversation_id": "c", "status": "rerunning"} for each in "ab"]
    )
    status, printed = await run_command("apply", "--database", database.name, uri=mongod_uri)
    assert status == 1, printed
    assert f"{ROUTING_INDEX} cannot be built: stored sessions share the same user_id, conversation_id" in printed
    assert "Traceback" not in printed
    assert await names_in(database) == set(NAMES) - {ROUTING_INDEX}


PASSWORD: Final = "hunter2-never-shown"  # noqa: S105 - nobody's
WRONG: Final[dict[str, Sequence[str]]] = {
    "no command": (),
    "unknown command": (f"mongodb://someone:{PASSWORD}@127.0.0.1/x",),
    "no server named": ("apply", "--database", "x"),
    "no database named": ("apply", "--uri", f"mongodb://someone:{PASSWORD}@127.0.0.1:1/"),
    "impossible database": ("apply", "--uri", f"mongodb://someone:{PASSWORD}@127.0.0.1:1/x", "--database", "a b"),
    "URI in the wrong place": ("apply", f"mongodb://someone:{PASSWORD} x@127.0.0.1/x"),
    "unescaped password": ("apply", "--uri", f"mongodb://someone:a@{PASSWORD}@127.0.0.1/x"),
    "port is none": ("apply", "--uri", f"mongodb://someone:a@127.0.0.1:{PASSWORD}/x"),
    "unreachable": ("apply", "--uri", f"mongodb://someone:{PASSWORD}@127.0.0.1:{{closed}}/x"),
}


@pytest.mark.parametrize("wrong", list(WRONG))
async def test_the_command_used_wrongly(wrong: str) -> None:
    """Wrong usage and an unreachable server are status 2, in a line without traceback, URI or password."""
    port = str(closed_port())
    async with asyncio.timeout(20):
        status, printed = await run_command(*(part.replace("{closed}", port) for part in WRONG[wrong]))
    assert status == 2, printed
    assert printed.strip()
    assert PASSWORD not in printed
    assert "127.0.0.1" not in printed
    assert "Traceback" not in printed
