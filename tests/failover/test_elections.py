"""Three nodes, and a primary that is killed or frozen: what is followed arrives, and nothing is answered too late."""

import asyncio
import json
import os
import socket
import sys
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from time import monotonic
from typing import Any, Final
from uuid import uuid4

import pytest
import pytest_asyncio

from sessions import (
    ActiveScheduleSessionSnapshot,
    CachedRouter,
    SessionError,
    SessionRepository,
    StoreUnavailable,
    WatchInterrupted,
    open_repository,
)
from sessions.mongod import Member, ReplicaSet, find_mongod, running_mongod, running_replica_set
from sessions.store.clients import connect, default_driver, disconnect
from sessions.store.document import COLLECTION

pytestmark = pytest.mark.race
WRITERS: Final = 20
ELECTIONS: Final = 3
PATIENCE: Final = 60.0


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def replica_set() -> AsyncIterator[ReplicaSet]:
    """Three nodes of the module's own."""
    binary = find_mongod()
    if binary is None:
        pytest.skip("servers of the test's own are needed, to kill them")
    async with running_replica_set(binary) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def database(replica_set: ReplicaSet) -> AsyncIterator[Any]:
    """An empty database on them."""
    client: Any = connect(replica_set.uri)
    yield client[f"sessions_failover_{uuid4().hex[:12]}"]
    await disconnect(client)


async def write_until(stop: asyncio.Event, repository: SessionRepository, writer: int) -> None:
    """Sessions made, claimed, answered and ended, one after the other, whatever fails in between."""
    number = 0
    while not stop.is_set():
        number += 1
        try:
            session = await repository.create(
                writer + 1, f"t{number}", conversation_id=f"c{number}", pending_question="Which?"
            )
            claim = await repository.claim_rerun(session.session_id, user_id=writer + 1, reply_id=f"r{number}")
            await repository.ask_again(claim, pending_question="And?")
            await repository.ignore(session.session_id, user_id=writer + 1)
        except SessionError:
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.02)


async def stored_revisions(database: Any) -> dict[str, int]:
    """The revision of each session, as the primary has it."""
    return {raw["_id"]: raw["revision"] async for raw in database[COLLECTION].find({}, {"revision": 1})}


async def kill_primaries(replica_set: ReplicaSet, times: int) -> None:
    """One after the other; each comes back before the next one goes."""
    for _ in range(times):
        await asyncio.sleep(0.5)
        primary = await replica_set.primary()
        await primary.kill()
        await replica_set.primary()
        await asyncio.sleep(0.5)
        primary.start()
        await replica_set.until_complete()


async def test_a_watch_misses_nothing_of_three_elections(replica_set: ReplicaSet, database: Any) -> None:
    """While twenty tasks write and three primaries are killed: each session's last revision, in rising order."""
    seen: dict[str, list[int]] = defaultdict(list)
    stop = asyncio.Event()

    async def consume(watch: Any) -> None:
        async for change in watch:
            seen[change.snapshot.session_id].append(change.snapshot.revision)

    async with (
        open_repository(database, create_indexes=True, timeout=10.0) as repository,
        repository.watch() as watch,
        asyncio.TaskGroup() as tasks,
    ):
        consuming = tasks.create_task(consume(watch))
        writers = [asyncio.create_task(write_until(stop, repository, writer)) for writer in range(WRITERS)]
        await kill_primaries(replica_set, ELECTIONS)
        stop.set()
        await asyncio.wait(writers)
        expected = await stored_revisions(database)
        async with asyncio.timeout(PATIENCE):
            while {id_: max(seen[id_], default=0) for id_ in expected} != expected:  # noqa: ASYNC110 - see above
                await asyncio.sleep(0.05)
        await watch.aclose()
        await consuming
    assert len(expected) > WRITERS
    assert all(revisions == sorted(set(revisions)) for revisions in seen.values())


async def test_those_who_come_back_miss_nothing_of_an_election(replica_set: ReplicaSet, database: Any) -> None:
    """As above, for followers that go away every few changes and come back with their token, whatever fails then."""
    seen: list[dict[str, list[int]]] = [defaultdict(list) for _ in range(5)]
    stop = asyncio.Event()

    async def consume(repository: SessionRepository, token: str, revisions: dict[str, list[int]]) -> None:
        while True:
            try:
                async with repository.watch(resume_after=token) as watch:
                    for _ in range(20):
                        change = await anext(watch)
                        token = change.token
                        revisions[change.snapshot.session_id].append(change.snapshot.revision)
            except StoreUnavailable:
                await asyncio.sleep(0.05)

    async with open_repository(database, create_indexes=True, timeout=10.0) as repository:
        async with repository.watch() as watch:
            began = watch.token
        assert began is not None
        consuming = [asyncio.create_task(consume(repository, began, revisions)) for revisions in seen]
        writers = [asyncio.create_task(write_until(stop, repository, writer)) for writer in range(WRITERS)]
        await kill_primaries(replica_set, 1)
        stop.set()
        await asyncio.wait(writers)
        expected = await stored_revisions(database)
        async with asyncio.timeout(PATIENCE):
            while any({id_: max(each[id_], default=0) for id_ in expected} != expected for each in seen):  # noqa: ASYNC110 - see above
                await asyncio.sleep(0.05)
        for task in consuming:
            task.cancel()
        await asyncio.wait(consuming)
    assert len(expected) > WRITERS
    for each in seen:
        assert all(revisions == sorted(set(revisions)) for revisions in each.values())


class Held:
    """Which session governed one conversation, until when at the latest."""

    def __init__(self) -> None:
        self._replaced_at: dict[str | None, float] = {}
        self.present: str | None = None

    def sent(self, key: str | None) -> None:
        """A write is on its way: from now on it may have been carried out."""
        self._replaced_at.pop(key, None)

    def acknowledged(self, key: str | None) -> None:
        """A write has returned: what stood before it stands no more."""
        self._replaced_at[self.present] = monotonic()
        self._replaced_at.pop(key, None)
        self.present = key

    def age(self, key: str | None) -> float:
        """For how long it has not governed any more."""
        return monotonic() - self._replaced_at.get(key, monotonic())


def key_of(session: ActiveScheduleSessionSnapshot | None) -> str | None:
    """A session at a revision; nobody is None."""
    return None if session is None else f"{session.session_id}:{session.revision}"


async def govern_until(stop: asyncio.Event, repository: SessionRepository, held: Held) -> None:
    """Govern one conversation and free it again; what failed is done again under its operation id."""

    async def until_done(call: Any) -> ActiveScheduleSessionSnapshot:
        while True:
            try:
                done: ActiveScheduleSessionSnapshot = await call()
            except StoreUnavailable:
                await asyncio.sleep(0.1)
            else:
                return done

    for number in range(10**6):
        if stop.is_set():
            return
        trigger, made, ended = f"t{number}", uuid4().hex, uuid4().hex
        session = await until_done(
            lambda trigger=trigger, made=made: repository.create(
                1, trigger, conversation_id="c", pending_question="Which?", operation_id=made
            )
        )
        held.acknowledged(key_of(session))
        await asyncio.sleep(0.05)
        held.sent(None)
        await until_done(
            lambda session=session, ended=ended: repository.ignore(session.session_id, user_id=1, operation_id=ended)
        )
        held.acknowledged(None)
        await asyncio.sleep(0.05)


async def test_no_route_is_too_old_through_elections(replica_set: ReplicaSet, database: Any) -> None:
    """A primary is killed, another one frozen: what another client has changed is never late."""
    bound = timedelta(seconds=2)
    stop, held = asyncio.Event(), Held()
    oldest, answers = 0.0, 0
    writing_client: Any = connect(replica_set.uri)
    async with (
        open_repository(database, create_indexes=True) as repository,
        open_repository(writing_client[database.name]) as elsewhere,
        CachedRouter(repository, max_staleness=bound) as router,
    ):
        writing = asyncio.create_task(govern_until(stop, elsewhere, held))
        disturbing = asyncio.create_task(disturb(replica_set))
        while not disturbing.done():
            try:
                route = await router.route(1, "c")
            except StoreUnavailable:
                await asyncio.sleep(0.05)
                continue
            oldest, answers = max(oldest, held.age(key_of(route.session))), answers + 1
            await asyncio.sleep(0.005)
        await disturbing
        stop.set()
        await writing
        async with asyncio.timeout(PATIENCE):
            await until_served_from_memory(router)
        stats = router.stats()
    await disconnect(writing_client)
    assert oldest <= bound.total_seconds(), stats
    assert answers > 100
    assert stats.hits > 100


async def until_served_from_memory(router: CachedRouter) -> None:
    """Wait until the cache holds again that nobody governs."""
    while True:
        with suppress(StoreUnavailable):  # a stream that is not fresh yet
            if (await router.route(1, "c")).session is None and router.stats().entries:
                return
        await asyncio.sleep(0.05)


async def disturb(replica_set: ReplicaSet) -> None:
    """Kill a primary, then freeze one."""
    await kill_primaries(replica_set, 1)
    frozen: Member = await replica_set.primary()
    frozen.freeze()
    await asyncio.sleep(4)
    frozen.thaw()
    await replica_set.until_complete()


async def test_a_frozen_server_makes_no_old_answers() -> None:
    """While the only server stands still for ten seconds, what is in memory is served for the bound, and no longer."""
    binary = find_mongod()
    if binary is None:
        pytest.skip("a server of the test's own is needed, to freeze it")
    bound = timedelta(seconds=2)
    async with running_replica_set(binary, members=1) as alone:
        client: Any = connect(alone.uri)
        async with (
            open_repository(client["frozen"], create_indexes=True, timeout=1.0) as repository,
            CachedRouter(repository, max_staleness=bound) as router,
        ):
            session = await repository.create(1, "t", conversation_id="c", pending_question="Which?")
            await router.route(1, "c")
            alone.members[0].freeze()
            frozen_at = monotonic()
            last_answer = refused = 0.0
            while monotonic() < frozen_at + 10:
                try:
                    assert (await router.route(1, "c")).session == session
                    last_answer = monotonic()
                except StoreUnavailable:
                    refused += 1
                await asyncio.sleep(0.01)
            alone.members[0].thaw()
            assert frozen_at < last_answer <= frozen_at + bound.total_seconds()
            assert refused
            async with asyncio.timeout(PATIENCE):
                while not router.stats().entries:
                    with suppress(StoreUnavailable):
                        await router.route(1, "c")
                    await asyncio.sleep(0.05)
            assert (await router.route(1, "c")).session == session
        await disconnect(client)


async def test_a_standalone_server_says_what_is_needed(tmp_path: Path) -> None:
    """A server that is no replica set has no change streams: a watch and a cache end with the one clear error."""
    binary = find_mongod()
    if binary is None:
        pytest.skip("a server of the test's own is needed, without a replica set")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    server = await asyncio.create_subprocess_exec(
        *(str(binary), "--bind_ip", "127.0.0.1", "--port", port, "--dbpath", str(tmp_path)),
        *("--unixSocketPrefix", str(tmp_path), "--wiredTigerCacheSizeGB", "0.5"),
        stdout=asyncio.subprocess.DEVNULL,
    )
    client: Any = connect(f"mongodb://127.0.0.1:{port}/")
    try:
        async with open_repository(client["alone"], create_indexes=True, timeout=20.0) as repository:
            with pytest.raises(WatchInterrupted, match="replica set") as interruption:
                await anext(repository.watch())
            assert interruption.value.needs_replica_set
            with pytest.raises(WatchInterrupted, match="replica set"):
                await CachedRouter(repository).__aenter__()
    finally:
        await disconnect(client)
        server.kill()
        await server.wait()


async def test_a_killed_consumer_goes_on_from_its_token(tmp_path: Path) -> None:
    """Killed again and again in mid-work, and begun again where it was: no session's latest state is missed."""
    binary = find_mongod()
    if binary is None:
        pytest.skip("a server is needed that other processes reach")
    notes, stop = tmp_path / "notes", asyncio.Event()
    async with running_mongod(binary) as uri:
        client: Any = connect(uri)
        database = client["restarts"]
        async with open_repository(database, create_indexes=True) as repository:
            writers = [asyncio.create_task(write_until(stop, repository, writer)) for writer in range(5)]
            for kill in (True, True, True, False):
                arguments = (
                    str(Path(__file__).with_name("consumer.py")),
                    uri,
                    database.name,
                    default_driver(),
                    str(notes),
                )
                environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
                consumer = await asyncio.create_subprocess_exec(sys.executable, *arguments, env=environment)
                begun = await until_noted(notes, 0)
                await until_noted(notes, begun + 50)
                if not kill:
                    stop.set()
                    await asyncio.wait(writers)
                    await until_seen(notes, await stored_revisions(database))
                consumer.kill()
                await consumer.wait()
        await disconnect(client)
    noted = noted_revisions(notes)
    assert all(revisions == sorted(set(revisions)) for revisions in noted.values())


def noted_revisions(notes: Path) -> dict[str, list[int]]:
    """What the consumers have noted, in order; the last line may be cut off by a kill."""
    seen: dict[str, list[int]] = defaultdict(list)
    for line in notes.read_text().split("\n")[:-1] if notes.exists() else ():
        noted = json.loads(line)
        seen[noted["session_id"]].append(noted["revision"])
    return seen


async def until_noted(notes: Path, number: int) -> int:
    """Wait for so many notes; how many there are."""
    async with asyncio.timeout(PATIENCE):
        while (found := sum(map(len, noted_revisions(notes).values()))) < number:  # noqa: ASYNC110 - another process announces nothing
            await asyncio.sleep(0.05)
    return found


async def until_seen(notes: Path, expected: dict[str, int]) -> None:
    """Wait until each session that was made while somebody consumed has been noted at its latest revision."""
    async with asyncio.timeout(PATIENCE):
        while True:
            noted = noted_revisions(notes)
            if noted and all(noted[session_id][-1] == expected[session_id] for session_id in noted):
                return
            await asyncio.sleep(0.05)
