"""On three nodes, neither a primary that dies during a build nor a member that is down keeps ``apply`` from its end."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import uuid4

import pytest
import pytest_asyncio

from indexes import Progress, apply, check
from indexes.actions import Action
from indexes.bridges import is_building
from indexes.server import Server
from sessions.mongod import Member, ReplicaSet, find_mongod, running_replica_set
from sessions.store.clients import connect, disconnect
from sessions.store.document import COLLECTION, INDEXES, ROUTING_INDEX

pytestmark = pytest.mark.race

DOCUMENTS: Final = 2_000
LEASE: Final = timedelta(seconds=1)
WITHIN_SECONDS: Final = 60.0
IN_VAIN_SECONDS: Final = 5.0
START: Final = datetime(2026, 1, 1, tzinfo=UTC)
GOVERNOR: Final = next(dict(index.document) for index in INDEXES if index.document["name"] == ROUTING_INDEX)
NAMES: Final = {index.document["name"] for index in INDEXES}


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def replica_set() -> AsyncIterator[ReplicaSet]:
    """Three members of this module's own."""
    if (binary := find_mongod()) is None:
        pytest.skip("no mongod on PATH, and the `server` extra has none for this platform")
    async with running_replica_set(binary) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def database(replica_set: ReplicaSet) -> AsyncIterator[Any]:
    """Sessions that each govern a conversation, under a governor index with its keys in the other order."""
    await replica_set.until_complete()
    client: Any = connect(replica_set.uri)
    own = client[f"sessions_three_{uuid4().hex[:16]}"]
    await apply(own)
    await _drift(own)
    stored = [
        {
            "_id": f"session-{number}",
            "user_id": number,
            "conversation_id": f"c{number}",
            "trigger_id": f"trigger-{number}",
            "status": "waiting_user_reply",
            "updated_at": START + timedelta(seconds=number),
        }
        for number in range(DOCUMENTS)
    ]
    await own[COLLECTION].insert_many(stored)
    yield own
    await disconnect(client)


async def _drift(database: Any) -> None:
    turned = {**GOVERNOR, "key": {"conversation_id": 1, "user_id": 1}}
    await database[COLLECTION].drop_index(ROUTING_INDEX)
    command = {"createIndexes": COLLECTION, "indexes": [turned], "commitQuorum": "majority"}
    await database.command(command)


async def _hold_builds(member: Member) -> None:
    """Let index builds of this member begin and not go on, until it is killed."""
    client: Any = connect(f"mongodb://{member.address}/?directConnection=true")
    await client.admin.command({"configureFailPoint": "hangAfterSettingUpIndexBuild", "mode": "alwaysOn"})
    await disconnect(client)


async def _until_building(database: Any) -> None:
    async with asyncio.timeout(WITHIN_SECONDS):
        while True:
            present = await Server(database).indexes(COLLECTION) or {}
            if any(is_building(held) for held in present.values()):
                return
            await asyncio.sleep(0.02)


async def _assert_equal(database: Any) -> None:
    assert (await check(database)).is_as_declared
    assert set(await database[COLLECTION].index_information()) == {"_id_", *NAMES}
    assert await database[COLLECTION].count_documents({"status": "waiting_user_reply"}) == DOCUMENTS


async def test_the_primary_is_killed_during_a_build(replica_set: ReplicaSet, database: Any) -> None:
    """The run goes on, or ends with status 2 and one line; the next run, on the new primary, ends equal."""
    primary = await replica_set.primary()
    await _hold_builds(primary)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "indexes", "apply", "--database", database.name, "--lock-lease", "1"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "MONGODB_URI": replica_set.uri,
        },
    )
    await _until_building(database)
    await primary.kill()
    _, told = await asyncio.wait_for(process.communicate(), WITHIN_SECONDS)
    said = told.decode().strip()
    assert process.returncode in (0, 2), said
    if process.returncode == 2:
        assert said.count("\n") == 0, said
        assert "run this again" in said
    await replica_set.primary()
    done = await asyncio.wait_for(apply(database, lock_lease=LEASE), WITHIN_SECONDS)
    assert done.plan.is_as_declared
    await _assert_equal(database)
    # The member that was down has the index too once it is back.
    primary.start()
    await replica_set.until_complete()
    await _assert_equal(database)


async def test_a_member_is_down(replica_set: ReplicaSet, database: Any) -> None:
    """A majority is enough, although the server's own default waits for the member. Any run can end such a wait."""
    primary = await replica_set.primary()
    down = next(member for member in replica_set.members if member is not primary)
    await down.kill()
    done = await asyncio.wait_for(apply(database, lock_lease=LEASE), WITHIN_SECONDS)
    assert done.plan.is_as_declared
    await _assert_equal(database)

    await _drift(database)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(apply(database, lock_lease=LEASE, commit_quorum="votingMembers"), IN_VAIN_SECONDS)
    present = await Server(database).indexes(COLLECTION) or {}
    assert any(is_building(held) for held in present.values())
    # The build that waits for the member is met by a run that needs a majority only.
    seen: list[Progress] = []
    await asyncio.wait_for(apply(database, lock_lease=LEASE, tell=seen.append), WITHIN_SECONDS)
    assert any(progress.step and progress.step.action is Action.WAIT for progress in seen)
    await _assert_equal(database)
    down.start()
    await replica_set.until_complete()
