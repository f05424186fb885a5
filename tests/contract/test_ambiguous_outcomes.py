"""A write whose answer is lost: the call finds out what came of it, and the session has changed once."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import Any, Final
from uuid import uuid4

import pytest
import pytest_asyncio
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent

from sessions import (
    ApplyClaim,
    RerunClaim,
    SessionRepository,
    SessionStatus,
    StoreUnavailable,
    TransitionConflict,
    open_repository,
)
from sessions.domain.errors import WriteOutcome
from sessions.domain.lifecycle import CALLS, CallName, LeaseKind
from sessions.store.clients import connect
from sessions.store.document import COLLECTION
from sessions.testing import Backend, MovedClock, SessionMaker, StoredDocument
from tests.support.fail_points import failing
from tests.support.ready_call import ReadyCall, ready_call

pytestmark = pytest.mark.needs("server")

BOUND: Final = 20.0
"""Generous: how long all calls of one test may take together on a busy machine."""
WRITES: Final = ("insert", "findAndModify", "update", "delete")

# What the server does with each write until every call has been sent a second time.
FAILURES: Final[dict[str, dict[str, Any]]] = {
    "written, then write concern error 64": {"writeConcernError": {"code": 64, "errmsg": "waiting timed out"}},
    "written, then write concern error 91": {"writeConcernError": {"code": 91, "errmsg": "shutting down"}},
    "connection closed before the write": {"closeConnection": True},
    "not primary": {"errorCode": 10107},
    "interrupted at shutdown": {"errorCode": 11600},
    "killed by a dropped index": {"errorCode": 175},
}
LOST_REPLY: Final = "written, then connection closed"
WAYS: Final = (*FAILURES, LOST_REPLY)
RETRIED_BY_DRIVERS: Final = ("connection closed before the write", "not primary", LOST_REPLY)


class Sent(CommandListener):
    """How often each session's write was sent, and how often each kind of write; and the explaining reads."""

    def __init__(self) -> None:
        self.times: Counter[str] = Counter()
        self.reads: list[Mapping[str, Any]] = []

    def started(self, event: CommandStartedEvent) -> None:
        """Count it."""
        command: Any = event.command
        name = event.command_name
        if name == "find":
            self.reads.append(command)
        if name == "insert":
            self.times[command["documents"][0]["_id"]] += 1
        elif name == "findAndModify":
            self.times[command["query"]["_id"]] += 1
        if name in WRITES:
            self.times[name] += 1

    def succeeded(self, event: CommandSucceededEvent) -> None:
        """Counted when it was sent."""

    def failed(self, event: CommandFailedEvent) -> None:
        """Counted when it was sent."""

    async def twice(self, *whats: str) -> None:
        """Wait until each of these was sent a second time: its first try has failed."""
        async with asyncio.timeout(BOUND):
            while not all(self.times[what] >= 2 for what in whats):  # noqa: ASYNC110 - the driver announces nothing
                await asyncio.sleep(0.005)


class Proxy:
    """Stands between driver and server; while ``loses_replies``, a write reaches the server and its answer nobody."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._tasks: set[asyncio.Task[None]] = set()
        self.loses_replies = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self._port)
            doomed = asyncio.Event()
            there = asyncio.create_task(self._forward(reader, to_server, doomed))
            back = asyncio.create_task(self._answer(from_server, writer, doomed))
            try:
                await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                there.cancel()
                back.cancel()
                await asyncio.gather(there, back, return_exceptions=True)
                to_server.close()
        writer.close()
        self._tasks.discard(task)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, doomed: asyncio.Event) -> None:
        while chunk := await reader.read(2**16):
            if self.loses_replies and any(f"{name}\0".encode() in chunk for name in WRITES):
                doomed.set()
            writer.write(chunk)
            await writer.drain()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, doomed: asyncio.Event) -> None:
        while chunk := await reader.read(2**16):
            if doomed.is_set():
                return
            writer.write(chunk)
            await writer.drain()

    async def stop(self) -> None:
        """Drop what is open."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def proxied(uri: str) -> AsyncIterator[tuple[str, Proxy]]:
    """The URI of a proxy in front of the server of this URI."""
    proxy = Proxy(int(uri.split("/")[2].split(":")[1]))
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield f"mongodb://127.0.0.1:{port}/?directConnection=true", proxy
    finally:
        server.close()
        await proxy.stop()
        await server.wait_closed()


Failing = Callable[..., AbstractAsyncContextManager[None]]


class Doubt:
    """A repository whose server can be made to leave its writes in doubt."""

    def __init__(self, repositories: list[SessionRepository], sent: Sent, failing: Failing) -> None:
        self.repositories = repositories
        self.repository = repositories[0]
        self.sent = sent
        self.failing = failing


OpenDoubt = Callable[..., AbstractAsyncContextManager[Doubt]]


@pytest_asyncio.fixture(loop_scope="session")
async def in_doubt(database: Any, mongod_uri: str, backend: Backend, session_clock: MovedClock) -> OpenDoubt:
    """Opens a `Doubt` on the test's database, by a client of its own that only the failures are meant for."""

    @asynccontextmanager
    async def opened(*, retry_writes: bool = False, within: float = 15.0, clients: int = 1) -> AsyncIterator[Doubt]:
        name = f"doubt-{uuid4().hex[:8]}"
        sent = Sent()
        # Not the test's own client: Motor's threads may all be waiting for what it is to switch off.
        operator: Any = connect(mongod_uri, driver="pymongo")
        async with proxied(mongod_uri) as (uri, proxy), operator:
            options = f"&retryWrites={str(retry_writes).lower()}&retryReads=false&appName={name}"
            # A primary that only pretends to go announces no return: it has to be asked.
            options += "&heartbeatFrequencyMS=500"

            @asynccontextmanager
            async def going_wrong(
                way: str, commands: tuple[str, ...] = WRITES, mode: str | dict[str, int] = "alwaysOn"
            ) -> AsyncIterator[None]:
                if way == LOST_REPLY:
                    proxy.loses_replies = True
                    try:
                        yield
                    finally:
                        proxy.loses_replies = False
                    return
                async with failing(
                    operator[database.name], *commands, mode=mode, appName=name, **FAILURES.get(way, {})
                ):
                    yield

            async with AsyncExitStack() as stack:

                async def connected() -> SessionRepository:
                    client: Any = connect(uri + options, driver=backend.name, listeners=[sent])
                    # Motor's close waits for the server's answer, which comes through the proxy of this very loop.
                    close = partial(asyncio.to_thread, client.close) if backend.name == "motor" else client.close
                    stack.push_async_callback(close)
                    # Opened now, so that a test waits for no first connection.
                    await client.admin.command("ping")
                    return await open_repository(
                        client[database.name],
                        verify_indexes=False,
                        clock=session_clock,
                        timeout=within,
                        max_attempts=2,
                    )

                yield Doubt([await connected() for _ in range(clients)], sent, going_wrong)

    return opened


async def while_failing(doubt: Doubt, way: str, calls: Sequence[Awaitable[Any]], *whats: str) -> list[Any]:
    """Make the calls at once; the failures end when each has been sent a second time."""
    doubt.sent.times.clear()
    async with asyncio.timeout(BOUND):
        async with doubt.failing(way):
            running = [asyncio.ensure_future(call) for call in calls]
            await doubt.sent.twice(*whats)
        return await asyncio.gather(*running)


CASES: Final = [
    *((CallName(name), None) for name in ("create", "get_or_create")),
    *((name, None) for name, rule in CALLS.items() if not rule.held),
    *((name, kind) for name, rule in CALLS.items() for kind in LeaseKind if kind in rule.held),
]
LEAVES_NO_ENTRY: Final = {
    CallName.BIND_CONVERSATION,
    CallName.RECORD_NOTIFICATION,
    CallName.CLAIM_APPLY,
    CallName.RENEW,
    CallName.POSTPONE,
}


def entries_expected(ready: ReadyCall) -> int:
    """How many entries of the history a call makes that is carried out once."""
    if ready.name is CallName.RELEASE and isinstance(ready.arguments["claim"], ApplyClaim):
        return 0
    return 0 if ready.name in LEAVES_NO_ENTRY else 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "retry_writes"), [*((way, False) for way in WAYS), *((way, True) for way in RETRIED_BY_DRIVERS)]
)
async def test_each_write_is_carried_out_once(
    in_doubt: OpenDoubt,
    make_session: SessionMaker,
    session_clock: MovedClock,
    stored: StoredDocument,
    backend: Backend,
    way: str,
    *,
    retry_writes: bool,
) -> None:
    """Every call that writes returns as if nothing had happened: one revision, one entry, the answer of that write."""
    made = [(name, await ready_call(make_session, name, kind=kind)) for name, kind in CASES]
    before = [await stored(ready.session_id) for _, ready in made]
    session_clock.advance(seconds=1)
    answers: list[Any] = []
    # Motor's driver tries again within one of its few threads, and would keep the others' calls from ever starting.
    at_once = 5 if retry_writes and backend.name == "motor" else 10
    # A client each, so that none waits for the others' pool to recover.
    async with in_doubt(retry_writes=retry_writes, clients=at_once) as doubt:
        for start in range(0, len(made), at_once):
            some = [ready for _, ready in made[start : start + at_once]]
            calls = [ready(repository) for ready, repository in zip(some, doubt.repositories, strict=False)]
            answers += await while_failing(doubt, way, calls, *(ready.session_id for ready in some))
        for (name, ready), earlier, answer in zip(made, before, answers, strict=True):
            document = await stored(ready.session_id)
            assert document is not None, name
            told = answer[0] if isinstance(answer, tuple) else answer
            session = getattr(told, "session", told)
            assert session == await doubt.repository.get(ready.session_id, user_id=1), name
            assert document["revision"] == (earlier["revision"] if earlier else 0) + 1, name
            entries = len(document["history"]) - (len(earlier["history"]) if earlier else 0)
            assert entries == entries_expected(ready), name
            if isinstance(told, RerunClaim | ApplyClaim):
                assert (told.token, told.attempt) == (1, 1), name
            if name is CallName.GET_OR_CREATE:
                assert answer[1] is True


@pytest.mark.parametrize("way", ["written, then write concern error 64", "not primary", LOST_REPLY])
async def test_a_sweep_is_carried_out_once(
    in_doubt: OpenDoubt,
    make_session: SessionMaker,
    session_clock: MovedClock,
    stored: StoredDocument,
    way: str,
) -> None:
    """What is due is ended, given back and deleted, each once, whatever became of the first answer."""
    due = [
        await make_session(expires_at=session_clock() + timedelta(seconds=1)),
        await make_session(SessionStatus.READY_PREVIEW, expires_at=session_clock() + timedelta(seconds=1)),
    ]
    stalled = [(await make_session.claim()).session, (await make_session.refinement()).session]
    session_clock.advance(minutes=2)
    async with in_doubt() as doubt:
        await while_failing(doubt, way, [doubt.repository.expire_due()], "update")
        await while_failing(doubt, way, [doubt.repository.recover_stalled()], "update")
        for session in (*due, *stalled):
            document = await stored(session.session_id)
            assert document is not None
            assert document["revision"] == session.revision + 1
            swept = [entry["call"] for entry in document["history"]][-1]
            assert swept == ("expire_due" if session in due else "recover_stalled")
        session_clock.advance(minutes=2)
        ended_before = session_clock()
        await while_failing(doubt, way, [doubt.repository.purge(ended_before=ended_before)], "delete")
        assert [await stored(session.session_id) for session in due] == [None, None]
        assert await doubt.repository.purge(ended_before=ended_before) == 0


@pytest.mark.parametrize("way", [next(iter(FAILURES)), LOST_REPLY])
async def test_one_of_many_wins_in_doubt(
    in_doubt: OpenDoubt, make_session: SessionMaker, repository: SessionRepository, way: str
) -> None:
    """Ten claims whose answers are all in doubt: one is won and told so, nine learn that it is in progress."""
    session = await make_session()
    async with in_doubt() as doubt:

        async def claim(number: int) -> RerunClaim | TransitionConflict:
            try:
                return await doubt.repository.claim_rerun(session.session_id, user_id=1, reply_id=f"m{number}")
            except TransitionConflict as refusal:
                return refusal

        answers = await while_failing(doubt, way, [claim(number) for number in range(10)], session.session_id)
    (won,) = [answer for answer in answers if isinstance(answer, RerunClaim)]
    assert {answer.reason for answer in answers if isinstance(answer, TransitionConflict)} == {"in_progress"}
    now = await repository.get(session.session_id, user_id=1)
    assert now == won.session
    assert (now.revision, now.fencing_token, now.attempts) == (session.revision + 1, 1, 1)


async def test_exhausted_attempts_are_told_in_doubt(
    in_doubt: OpenDoubt, make_session: SessionMaker, session_clock: MovedClock, repository: SessionRepository
) -> None:
    """The write that ends an exhausted session may be in doubt too: the refusal stays, the end is written once."""
    session = await make_session()
    for _ in range(2):
        await repository.claim_rerun(session.session_id, user_id=1, reply_id="m")
        session_clock.advance(minutes=2)
    async with in_doubt() as doubt, asyncio.timeout(BOUND):
        # The claim's own write finds the session exhausted; the one that ends it fails.
        async with doubt.failing("written, then write concern error 64", mode={"skip": 1}):
            claiming = asyncio.ensure_future(doubt.repository.claim_rerun(session.session_id, user_id=1, reply_id="m"))
            while doubt.sent.times[session.session_id] < 3:  # noqa: ASYNC110 - the driver announces nothing
                await asyncio.sleep(0.005)
        with pytest.raises(TransitionConflict) as refusal:
            await claiming
    assert refusal.value.reason == "attempts_exhausted"
    steps = [entry.to_status for entry in await repository.history(session.session_id, user_id=1)]
    assert steps.count(SessionStatus.FAILED) == 1


async def test_when_time_is_up_the_caller_knows_that_nothing_is_known(
    in_doubt: OpenDoubt, make_session: SessionMaker, repository: SessionRepository
) -> None:
    """The error says ``unknown``; the same call again, with the same id, finds what the first has done."""
    session = await make_session()
    async with in_doubt(within=0.6) as doubt:
        async with doubt.failing("written, then write concern error 64"):
            with pytest.raises(StoreUnavailable, match="same operation_id") as refusal:
                await doubt.repository.ignore(session.session_id, user_id=1, operation_id="op")
        assert refusal.value.outcome is WriteOutcome.UNKNOWN
        ended = await doubt.repository.ignore(session.session_id, user_id=1, operation_id="op")
    assert (ended.status, ended.revision) == (SessionStatus.IGNORED, session.revision + 1)
    assert len(await repository.history(session.session_id, user_id=1)) == 2


async def test_a_definite_refusal_of_the_server_is_not_repeated(
    in_doubt: OpenDoubt, make_session: SessionMaker, repository: SessionRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that nothing mends is told at once, and that nothing was written."""
    monkeypatch.setitem(FAILURES, "not authorized", {"errorCode": 13})
    session = await make_session()
    async with in_doubt() as doubt:
        doubt.sent.times.clear()
        async with doubt.failing("not authorized"):
            with pytest.raises(StoreUnavailable, match="code 13") as refusal:
                await doubt.repository.ignore(session.session_id, user_id=1)
        assert doubt.sent.times[session.session_id] == 1
    assert refusal.value.outcome is WriteOutcome.NOT_WRITTEN
    assert await repository.get(session.session_id, user_id=1) == session


@pytest.mark.parametrize("way", ["connection closed before the write", "not primary"])
async def test_a_lookup_is_sent_again(in_doubt: OpenDoubt, make_session: SessionMaker, way: str) -> None:
    """A chat message is routed although the connection broke under the lookup, the driver's own retries off."""
    session = await make_session(conversation_id="c")
    async with in_doubt() as doubt:
        doubt.sent.reads.clear()
        async with asyncio.timeout(BOUND):
            async with doubt.failing(way, ("find",)):
                routing = asyncio.ensure_future(doubt.repository.route(1, "c"))
                while len(doubt.sent.reads) < 2:  # noqa: ASYNC110 - the driver announces nothing
                    await asyncio.sleep(0.005)
            assert (await routing).session == session


async def test_what_explains_a_write_in_doubt_is_read_from_a_majority(
    in_doubt: OpenDoubt, make_session: SessionMaker
) -> None:
    """After a clear refusal any read of the primary will do; in doubt it waits until a majority has what it read."""
    session, ended = await make_session(), await make_session(SessionStatus.APPLIED)
    async with in_doubt() as doubt:
        doubt.sent.reads.clear()
        with pytest.raises(Exception, match="ignore starts from"):
            await doubt.repository.ignore(ended.session_id, user_id=1)
        way = "written, then write concern error 64"
        await while_failing(doubt, way, [doubt.repository.ignore(session.session_id, user_id=1)], session.session_id)
        clear, doubtful = doubt.sent.reads
    assert clear.get("readConcern", {}) in ({}, {"level": "local"})
    assert doubtful["readConcern"] == {"level": "linearizable"}
    assert clear["find"] == doubtful["find"] == COLLECTION
