"""A run of ``apply`` may be killed at any moment. Nothing is lost, and the next run goes on from there."""

import asyncio
import os
import random
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import uuid4

import pytest
import pytest_asyncio
from pymongo.errors import DuplicateKeyError

from indexes import Progress, apply, check, plan
from indexes.actions import Action
from indexes.bridges import is_building
from indexes.lock import LOCKS
from indexes.server import Server
from sessions import IndexesMissing, open_repository
from sessions.mongod import find_mongod, running_mongod
from sessions.store.clients import connect, disconnect
from sessions.store.document import COLLECTION, INDEXES, ROUTING_INDEX

pytestmark = pytest.mark.race

DOOMED: Final = "doomed"
LEASE: Final = timedelta(seconds=1)
WITHIN_SECONDS: Final = 60.0
LIVE: Final = 300
ENDED: Final = 2_700
START: Final = datetime(2026, 1, 1, tzinfo=UTC)
CHANGES: Final = ["createIndexes", "dropIndexes", "collMod"]
DECLARED: Final[dict[str, Mapping[str, Any]]] = {index.document["name"]: index.document for index in INDEXES}
EXPIRES: Final = f"idx_{COLLECTION}_expires_at"
# What is put in place of a declared index.
DRIFTS: Final[dict[str, tuple[str, Mapping[str, Any]]]] = {
    "other key order": (ROUTING_INDEX, {"key": {"conversation_id": 1, "user_id": 1}}),
    "lost uniqueness": (ROUTING_INDEX, {"unique": None}),
    "a TTL": (EXPIRES, {"expireAfterSeconds": 86_400}),
    "foreign": (EXPIRES, {"name": "made_by_hand", "key": {"status": 1, "state.expires_at": 1}}),
}
MOMENTS: Final = [
    *(("other key order", number) for number in range(4)),
    *(("lost uniqueness", number) for number in range(2)),
    ("a TTL", 1),
    ("foreign", 1),
]


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def server_uri() -> AsyncIterator[str]:
    """A server of this module's own, that can be told to hold a command back."""
    if (binary := find_mongod()) is None:
        pytest.skip("no mongod on PATH, and the `server` extra has none for this platform")
    async with running_mongod(binary) as uri:
        yield uri


def _stored(number: int) -> dict[str, Any]:
    at = START + timedelta(seconds=number)
    return {
        "_id": f"session-{number}",
        "user_id": number,
        "conversation_id": f"c{number}",
        "trigger_id": f"trigger-{number}",
        "current_preview_id": None,
        "status": "waiting_user_reply" if number <= LIVE else "applied",
        "state": {},
        "revision": 1,
        "created_at": at,
        "updated_at": at,
    }


@pytest_asyncio.fixture(loop_scope="session")
async def database(server_uri: str) -> AsyncIterator[Any]:
    """A few thousand sessions, 300 of which govern a conversation."""
    client: Any = connect(server_uri)
    own = client[f"sessions_killed_{uuid4().hex[:16]}"]
    await apply(own)
    await own[COLLECTION].insert_many([_stored(number) for number in range(1, LIVE + ENDED + 1)])
    yield own
    await client.drop_database(own.name)
    await disconnect(client)


async def _make_by_hand(database: Any, kind: str) -> None:
    name, changes = DRIFTS[kind]
    wanted = {option: value for option, value in {**DECLARED[name], **changes}.items() if value is not None}
    # With a spare one meanwhile, so that a hand at work does not let a second governor in.
    spare = {**DECLARED[ROUTING_INDEX], "name": "spare", "key": {"user_id": 1, "conversation_id": -1}}
    await database.command({"createIndexes": COLLECTION, "indexes": [spare]})
    if "name" not in changes:
        await database[COLLECTION].drop_index(name)
    await database.command({"createIndexes": COLLECTION, "indexes": [wanted]})
    await database[COLLECTION].drop_index("spare")


class Run:
    """``python -m indexes apply`` as a process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def kill(self) -> None:
        """End it as a crash would; it may have ended by itself."""
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGKILL)
        await self.process.wait()


@asynccontextmanager
async def _running(uri: str, database: Any) -> AsyncIterator[Run]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "indexes", "apply", "--database", database.name, "--drop-undeclared"),
        *("--lock-lease", str(int(LEASE.total_seconds()))),
        stdout=asyncio.subprocess.DEVNULL,
        # The process finds the modules that this one finds, whether the library is installed or not.
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "MONGODB_URI": f"{uri}&appName={DOOMED}",
        },
    )
    run = Run(process)
    try:
        yield run
    finally:
        await run.kill()


class Failpoint:
    """A place at which the server holds an operation."""

    def __init__(self, database: Any, name: str) -> None:
        self._database = database
        self._name = name
        self._times = 0

    async def set(self, mode: object, **values: Any) -> None:
        """Switch it."""
        command = {"configureFailPoint": self._name, "mode": mode, "data": values}
        told = await self._database.client.admin.command(command)
        self._times = told["count"]

    async def reached(self) -> None:
        """Wait until an operation is held there."""
        times, most = self._times + 1, int(WITHIN_SECONDS * 1000)
        await self._database.client.admin.command(
            {"waitForFailPoint": self._name, "timesEntered": times, "maxTimeMS": most}
        )


@asynccontextmanager
async def _failpoint(database: Any, name: str, *, skip: int = 0, **values: Any) -> AsyncIterator[Failpoint]:
    """Within the block, hold the server at a place of its own from the time after the first ``skip`` on."""
    point = Failpoint(database, name)
    await point.set({"skip": skip}, **values)
    try:
        yield point
    finally:
        await point.set("off")


async def _doomed_changes(database: Any) -> list[int]:
    """The numbers of the operations by which a doomed run changes something now."""
    pipeline = [
        {"$currentOp": {"allUsers": True}},
        {"$match": {"appName": DOOMED, "$or": [{f"command.{name}": {"$exists": True}} for name in CHANGES]}},
    ]
    answer = await database.client.admin.command({"aggregate": 1, "pipeline": pipeline, "cursor": {}})
    return [int(operation["opid"]) for operation in answer["cursor"]["firstBatch"]]


async def _until_building(database: Any, process: asyncio.subprocess.Process, *, is_target: bool) -> None:
    """Wait until the server builds the bridge, or the target, for the doomed run."""
    async with asyncio.timeout(WITHIN_SECONDS):
        while True:
            present = await Server(database).indexes(COLLECTION) or {}
            if any(is_building(held) and (name == ROUTING_INDEX) is is_target for name, held in present.items()):
                return
            assert process.returncode is None
            await asyncio.sleep(0.02)


async def _assert_one_governs(database: Any) -> None:
    """A second governor is refused, whichever index does it."""
    second = {**_stored(1), "_id": "second"}
    with pytest.raises(DuplicateKeyError):
        await database[COLLECTION].insert_one(second)


async def _assert_routed(database: Any) -> None:
    """A route is answered by an index, whichever one it is."""
    governing = {"user_id": 7, "conversation_id": "c7", "status": {"$in": ["waiting_user_reply", "rerunning"]}}
    command = {"explain": {"find": COLLECTION, "filter": governing, "limit": 1}, "verbosity": "executionStats"}
    told = (await database.command(command))["executionStats"]
    assert told["nReturned"] == 1
    assert told["totalKeysExamined"] <= 2


async def _assert_recovers(database: Any, steps: list[Progress] | None = None) -> None:
    """The next run ends with all as declared, nothing left over and nothing lost."""
    seen: list[Progress] = [] if steps is None else steps
    done = await asyncio.wait_for(
        apply(database, lock_lease=LEASE, drop_undeclared=True, tell=seen.append), WITHIN_SECONDS
    )
    assert done.plan.is_as_declared
    assert (await check(database)).is_as_declared
    assert set(await database[COLLECTION].index_information()) == {"_id_", *DECLARED}
    assert await database[COLLECTION].count_documents({}) == LIVE + ENDED
    assert await database[COLLECTION].count_documents({"status": "waiting_user_reply"}) == LIVE
    await _assert_one_governs(database)


@pytest.mark.parametrize(("kind", "number"), MOMENTS)
async def test_killed_right_before_a_change(server_uri: str, database: Any, kind: str, number: int) -> None:
    """A run may die between any two changes. Routes keep their index, and uniqueness holds until the next run."""
    await _make_by_hand(database, kind)
    held = {"failCommands": CHANGES, "appName": DOOMED, "blockConnection": True, "blockTimeMS": 60_000}
    async with (
        _failpoint(database, "failCommand", skip=number, **held) as point,
        _running(server_uri, database) as run,
    ):
        await point.reached()
        await run.kill()
        (operation,) = await _doomed_changes(database)
        await database.client.admin.command({"killOp": 1, "op": operation})
    assert (await plan(database, drop_undeclared=True)).steps
    await _assert_routed(database)
    if kind != "lost uniqueness":
        await _assert_one_governs(database)
    await _assert_recovers(database)


async def test_a_drop_does_not_come_after_its_run(server_uri: str, database: Any) -> None:
    """A drop that a killed run sent, and that had to wait, is not done after the next run has begun.

    By then the finished governor index has the name that was to be dropped.
    """
    await _make_by_hand(database, "other key order")
    held: dict[str, Any] = {
        "failCommands": ["dropIndexes"],
        "appName": DOOMED,
        "blockConnection": True,
        "blockTimeMS": 4_000,
    }
    async with _failpoint(database, "failCommand", **held) as point, _running(server_uri, database) as run:
        await point.reached()
        await run.kill()
        await _assert_recovers(database)
        async with asyncio.timeout(WITHIN_SECONDS):
            while True:
                if not await _doomed_changes(database):
                    break
                await asyncio.sleep(0.02)
    assert (await check(database)).is_as_declared
    await _assert_one_governs(database)


@pytest.mark.parametrize("is_target", [False, True], ids=["bridge", "target"])
async def test_killed_in_the_middle_of_a_build(server_uri: str, database: Any, *, is_target: bool) -> None:
    """The server goes on with the build; the next run waits for it rather than beginning another."""
    await _make_by_hand(database, "other key order")
    steps: list[Progress] = []
    async with _failpoint(database, "hangAfterSettingUpIndexBuild", skip=int(is_target)):
        async with _running(server_uri, database) as run:
            await _until_building(database, run.process, is_target=is_target)
            await run.kill()
        with pytest.raises(IndexesMissing, match="is still being built" if is_target else "has the keys"):
            await open_repository(database)
        await _assert_routed(database)
        await _assert_one_governs(database)
        recovering = asyncio.create_task(_assert_recovers(database, steps))
        while not any(progress.step and progress.step.action is Action.WAIT for progress in steps):
            assert not recovering.done()
            await asyncio.sleep(0.02)
    await recovering
    assert steps[-1].step is not None
    assert steps[-1].step.action is Action.DROP_BRIDGE


async def _until_locked(database: Any, process: asyncio.subprocess.Process) -> None:
    while process.returncode is None:
        if await database[LOCKS].count_documents({}):
            return
        await asyncio.sleep(0.002)


async def test_killed_at_random_moments(server_uri: str, database: Any) -> None:
    """However often it is killed, a second governor never gets in, and the next run ends with all as declared."""
    chance = random.Random(27)
    ended = asyncio.Event()

    async def rival() -> None:
        while not ended.is_set():
            await _assert_one_governs(database)

    async with asyncio.TaskGroup() as group:
        group.create_task(rival())
        for kind in ("other key order", "a TTL") * 2:
            await _make_by_hand(database, kind)
            async with _running(server_uri, database) as run:
                await _until_locked(database, run.process)
                await asyncio.sleep(chance.uniform(0, 0.15))
                await run.kill()
            await _assert_recovers(database)
        ended.set()


async def test_a_drop_that_has_to_wait_is_sent_again(database: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction may keep a drop waiting for longer than the lock's lease; the run goes on as soon as it ends."""
    await _make_by_hand(database, "other key order")
    send = Server.command
    drops = 0
    async with await _awaited(database.client.start_session()) as session:

        async def command(server: Server, given: Mapping[str, Any], **options: Any) -> dict[str, Any]:
            nonlocal drops
            if "dropIndexes" in given:
                drops += 1
                if drops == 1:
                    await _awaited(session.start_transaction())
                    await database[COLLECTION].update_one(
                        {"_id": "session-1"}, {"$set": {"revision": 2}}, session=session
                    )
                elif drops == 2:
                    await session.commit_transaction()
            return await send(server, given, **options)

        monkeypatch.setattr(Server, "command", command)
        await _assert_recovers(database)
    assert drops == 3


async def _awaited(answer: Any) -> Any:
    """What a call gives, whether or not this driver has to be waited for."""
    return await answer if isinstance(answer, Awaitable) else answer
