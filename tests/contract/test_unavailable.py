"""A server that does not answer: every call ends in time, and says whether it may have written."""

import asyncio
import inspect
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_asyncio

from sessions import (
    ActiveScheduleSessionSnapshot,
    ApplyClaim,
    CachedRouter,
    RerunClaim,
    SessionRepository,
    StoreUnavailable,
    open_repository,
)
from sessions.domain.errors import WriteOutcome
from sessions.domain.lifecycle import LeaseKind
from sessions.mongod import find_mongod, running_mongod
from sessions.store.clients import connect, disconnect

AT: Final = datetime(2026, 1, 1, tzinfo=UTC)
TIMEOUT: Final = 0.2
BOUND: Final = 15.0
"""Generous: how long a call with that time-out can last on a busy machine; a driver by itself waits for 30 s."""
SESSION: Final = ActiveScheduleSessionSnapshot.model_validate(
    {
        "session_id": "abc",
        "user_id": 1,
        "trigger_id": "trigger",
        "status": "rerunning",
        "revision": 2,
        "created_at": AT,
        "updated_at": AT,
    }
)
CLAIM: Final = RerunClaim(
    session=SESSION,
    kind=LeaseKind.REPLY,
    token=1,
    operation_id="op",
    reply_id="reply",
    attempt=1,
    expires_at=AT + timedelta(minutes=1),
    lease=timedelta(minutes=1),
)
CONFIRMED: Final = ApplyClaim(
    session=SESSION,
    token=1,
    operation_id="op",
    attempt=1,
    expires_at=AT + timedelta(minutes=1),
    lease=timedelta(minutes=1),
)
CALLS: Final[dict[str, Callable[[SessionRepository], Awaitable[object]]]] = {
    "create": lambda repository: repository.create(1, "t", conversation_id="c", pending_question="Which?"),
    "get_or_create": lambda repository: repository.get_or_create(1, "t", preview_id="p"),
    "route": lambda repository: repository.route(1, "c"),
    "route_many": lambda repository: repository.route_many(1, ["c", "d"]),
    "get": lambda repository: repository.get("abc", user_id=1),
    "latest": lambda repository: repository.latest(1, "c"),
    "find_by_trigger": lambda repository: repository.find_by_trigger("t", user_id=1),
    "find_by_preview": lambda repository: repository.find_by_preview("p", user_id=1),
    "find_by_reply": lambda repository: repository.find_by_reply("r", user_id=1, conversation_id="c"),
    "list_sessions": lambda repository: repository.list_sessions(1),
    "history": lambda repository: repository.history("abc", user_id=1),
    "bind_conversation": lambda repository: repository.bind_conversation("abc", "c", user_id=1),
    "record_notification": lambda repository: repository.record_notification("abc", "n", user_id=1),
    "claim_rerun": lambda repository: repository.claim_rerun("abc", user_id=1, reply_id="r"),
    "claim_refinement": lambda repository: repository.claim_refinement("abc", user_id=1, preview_id="p", reply_id="r"),
    "claim_apply": lambda repository: repository.claim_apply("abc", user_id=1, preview_id="p"),
    "renew": lambda repository: repository.renew(CLAIM),
    "release": lambda repository: repository.release(CLAIM),
    "postpone": lambda repository: repository.postpone(CONFIRMED, after=timedelta(seconds=5)),
    "ask_again": lambda repository: repository.ask_again(CLAIM, pending_question="Which?"),
    "present_preview": lambda repository: repository.present_preview(CLAIM, preview_id="p"),
    "close_rerun": lambda repository: repository.close_rerun(CLAIM),
    "fail_rerun": lambda repository: repository.fail_rerun(CLAIM, reason="why"),
    "complete_apply": lambda repository: repository.complete_apply(CONFIRMED),
    "fail_apply": lambda repository: repository.fail_apply(CONFIRMED, reason="why"),
    "interrupt": lambda repository: repository.interrupt("abc", user_id=1),
    "apply": lambda repository: repository.apply("abc", user_id=1, preview_id="p"),
    "ignore": lambda repository: repository.ignore("abc", user_id=1),
    "fail": lambda repository: repository.fail("abc", user_id=1, reason="why"),
    "expire_due": lambda repository: repository.expire_due(),
    "recover_stalled": lambda repository: repository.recover_stalled(),
    "interrupted_applies": lambda repository: repository.interrupted_applies(),
    "purge": lambda repository: repository.purge(ended_before=AT),
    "count_by_status": lambda repository: repository.count_by_status(),
}
OPENINGS: Final[dict[str, dict[str, Any]]] = {
    "verifying": {"clock": lambda: AT},
    "creating indexes": {"clock": lambda: AT, "create_indexes": True, "verify_indexes": False},
    "learning the time": {"verify_indexes": False},
}


@pytest.fixture(params=["motor", "pymongo"])
def driver(request: pytest.FixtureRequest) -> str:
    """Each driver in turn."""
    name: str = request.param
    if name == "motor":
        pytest.importorskip("motor", reason="Motor is not installed here")
    return name


@pytest_asyncio.fixture(loop_scope="session")
async def dead_database(driver: str) -> AsyncIterator[Any]:
    """A database behind a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    client: Any = connect(f"mongodb://127.0.0.1:{port}/", driver=driver)
    yield client["nowhere"]
    async with asyncio.timeout(BOUND):
        await disconnect(client)


def test_every_public_call_is_tried_here() -> None:
    """A new method that this file forgets could hang on a dead server unnoticed."""
    public = {
        name
        for name, method in inspect.getmembers(SessionRepository, inspect.iscoroutinefunction)
        if not name.startswith("_")
    }
    assert public - {"close"} == set(CALLS)


@pytest.mark.parametrize("name", list(CALLS))
async def test_a_call_on_a_dead_server_ends_in_time(dead_database: Any, name: str) -> None:
    """It raises ``StoreUnavailable`` within the repository's ``timeout``, and knows that nothing was written."""
    options: dict[str, Any] = {"verify_indexes": False, "timeout": TIMEOUT, "clock": lambda: AT}
    async with asyncio.timeout(BOUND), open_repository(dead_database, **options) as repository:
        with pytest.raises(StoreUnavailable, match="try again later") as refusal:
            await CALLS[name](repository)
    assert refusal.value.outcome is WriteOutcome.NOT_WRITTEN
    assert refusal.value.http_status == 503


FOLLOWING: Final[dict[str, Callable[[SessionRepository], Awaitable[object]]]] = {
    "watch": lambda repository: anext(repository.watch()),
    "watch from a token": lambda repository: anext(repository.watch(resume_after="82")),
    "enter a cache": lambda repository: CachedRouter(repository).__aenter__(),
    "route without entering": lambda repository: CachedRouter(repository).route(1, "c"),
}


@pytest.mark.parametrize("way", list(FOLLOWING))
async def test_following_on_a_dead_server_ends_in_time(dead_database: Any, way: str) -> None:
    """A watch and a cache that cannot begin say so; nothing goes on trying behind their caller's back."""
    options: dict[str, Any] = {"verify_indexes": False, "timeout": TIMEOUT, "clock": lambda: AT}
    tasks = asyncio.all_tasks()
    async with asyncio.timeout(BOUND), open_repository(dead_database, **options) as repository:
        with pytest.raises(StoreUnavailable, match="try again later"):
            await FOLLOWING[way](repository)
        if left := {task for task in asyncio.all_tasks() - tasks if task.get_name().startswith("sessions: ")}:
            # The try under way has its own deadline, which may end a moment after the caller's; no other follows it.
            _, pending = await asyncio.wait(left, timeout=BOUND / 2)
            assert not pending


@pytest.mark.parametrize("way", list(OPENINGS))
async def test_opening_on_a_dead_server_ends_in_time(dead_database: Any, way: str) -> None:
    """A start-up that needs the server is told so; it neither hangs nor opens blind."""
    async with asyncio.timeout(BOUND):
        with pytest.raises(StoreUnavailable):
            await open_repository(dead_database, timeout=TIMEOUT, **OPENINGS[way])


def pid_of_the_server_at(port: int) -> int | None:
    """The process that was started with ``--port`` and this port, where the system lists processes as files."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().split(b"\0")
        except OSError:
            continue  # it ended meanwhile
        if b"--port" in words and words[words.index(b"--port") + 1] == str(port).encode():
            return int(entry.parent.name)
    return None


def is_frozen(pid: int) -> bool:
    """Whether each thread of the process stands still; the signal reaches them one by one."""
    threads = [stat.read_text() for stat in Path(f"/proc/{pid}/task").glob("*/stat")]
    return all(text.rsplit(")", 1)[1].split()[0] in "Tt" for text in threads)


async def until_frozen(pid: int) -> None:
    """Wait for `is_frozen`."""
    async with asyncio.timeout(BOUND):
        while not is_frozen(pid):  # noqa: ASYNC110 - another process announces nothing
            await asyncio.sleep(0.01)


async def test_a_server_that_hangs_is_not_waited_for(driver: str) -> None:
    """A frozen server answers no read and no write: both end in time; the write says that it may have happened."""
    binary = find_mongod()
    if binary is None:
        pytest.skip("a server of the test's own is needed, to freeze it")
    async with running_mongod(binary) as uri:
        pid = pid_of_the_server_at(int(uri.split(":")[2].split("/")[0]))
        if pid is None:
            pytest.skip("this system does not list processes under /proc")
        client: Any = connect(uri, driver=driver)
        try:
            async with open_repository(
                client["frozen"], create_indexes=True, timeout=3.0, clock=lambda: AT
            ) as repository:
                session = await repository.create(1, "t", conversation_id="c", pending_question="Which?")
                os.kill(pid, signal.SIGSTOP)
                try:
                    await until_frozen(pid)
                    async with asyncio.timeout(BOUND):
                        with pytest.raises(StoreUnavailable) as read:
                            await repository.route(1, "c")
                    async with asyncio.timeout(BOUND):
                        with pytest.raises(StoreUnavailable) as written:
                            await repository.ignore(session.session_id, user_id=1)
                finally:
                    os.kill(pid, signal.SIGCONT)
                assert read.value.outcome is WriteOutcome.NOT_WRITTEN
                assert written.value.outcome in WriteOutcome
        finally:
            await disconnect(client)
