"""A write whose answer was lost is acknowledged once a majority has it, not before."""

import asyncio
import contextlib
import shutil
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from sessions import RerunClaim, SessionRepository, open_repository
from sessions.mongod import find_mongod, scratch_folder
from sessions.store.clients import connect, default_driver, disconnect
from tests.support.fail_points import fail_point

BOUND: Final = 30.0
POLLS: Final = 40
"""Looks at a call, 10 ms apart, that must not have ended yet."""


def free_ports(number: int) -> list[int]:
    """Ports that nobody listens on."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(number)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


@asynccontextmanager
async def two_members(binary: Path) -> AsyncIterator[list[int]]:
    """A replica set of two, of which one can be primary; the ports, that one's first."""
    home = Path(tempfile.mkdtemp(prefix="sessions-two-", dir=scratch_folder()))
    ports = free_ports(2)
    processes = []
    for port in ports:
        (home / str(port)).mkdir()
        command = [
            *(str(binary), "--bind_ip", "127.0.0.1", "--port", str(port), "--dbpath", str(home / str(port))),
            *("--replSet", "two", "--logpath", str(home / f"{port}.log"), "--wiredTigerCacheSizeGB", "0.25"),
            *("--setParameter", "enableTestCommands=1", "--unixSocketPrefix", str(home)),
        ]
        processes.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL))  # noqa: S603, ASYNC220 - our own binary
    members = [
        {"_id": number, "host": f"127.0.0.1:{port}", "priority": 1 - number} for number, port in enumerate(ports)
    ]
    quick = {"electionTimeoutMillis": 1000, "heartbeatIntervalMillis": 100}
    wanted = {"_id": "two", "members": members, "settings": quick}
    first: Any = connect(f"mongodb://127.0.0.1:{ports[0]}/?directConnection=true&serverSelectionTimeoutMS=500")
    try:
        async with asyncio.timeout(BOUND):
            while True:
                with contextlib.suppress(Exception):  # not listening yet, initiated already, or not yet in sync
                    status = await first.admin.command("replSetGetStatus")
                    if [member["stateStr"] for member in status["members"]] == ["PRIMARY", "SECONDARY"]:
                        break
                with contextlib.suppress(Exception):
                    await first.admin.command("replSetInitiate", wanted)
                await asyncio.sleep(0.05)
        yield ports
    finally:
        await disconnect(first)
        for process in processes:
            process.kill()
            await asyncio.to_thread(process.wait)
        shutil.rmtree(home, ignore_errors=True)


CALLS: Final[dict[str, Callable[[SessionRepository, str], Awaitable[object]]]] = {
    "create": lambda repository, _: repository.create(1, "new", preview_id="p"),
    "claim_rerun": lambda repository, asked: repository.claim_rerun(asked, user_id=1, reply_id="m"),
    "ignore": lambda repository, asked: repository.ignore(asked, user_id=1),
}


async def test_what_only_the_primary_has_is_not_acknowledged() -> None:
    """While the other member takes nothing, no call returns whose answer was lost; when it does, all of them do."""
    binary = find_mongod()
    if binary is None:
        pytest.skip("a replica set of the test's own is needed, to hold one member back")
    async with two_members(binary) as ports, contextlib.AsyncExitStack() as stack:
        client: Any = connect(
            f"mongodb://127.0.0.1:{ports[0]}/?replicaSet=two&retryWrites=false", driver=default_driver()
        )
        stack.push_async_callback(disconnect, client)
        second: Any = connect(f"mongodb://127.0.0.1:{ports[1]}/?directConnection=true", driver=default_driver())
        stack.push_async_callback(disconnect, second)
        repository = await stack.enter_async_context(
            open_repository(client["sessions"], create_indexes=True, timeout=BOUND)
        )
        asked = [(await repository.create(1, name, pending_question="Which?")).session_id for name in CALLS]
        async with fail_point(second["sessions"], "rsSyncApplyStop"):
            # Each write is carried out, and waits for its majority when it is interrupted.
            calls = zip(CALLS.values(), asked, strict=True)
            running = [asyncio.ensure_future(call(repository, which)) for call, which in calls]
            async with asyncio.timeout(BOUND):
                collection = client["sessions"]["active_schedule_sessions"]
                while await collection.count_documents({"status": {"$ne": "waiting_user_reply"}}) < len(CALLS):  # noqa: ASYNC110 - no event
                    await asyncio.sleep(0.01)
            await interrupt_the_waiting(client)
            for _ in range(POLLS):
                await asyncio.sleep(0.01)
                assert not any(call.done() for call in running)
        async with asyncio.timeout(BOUND):
            created, claim, _ = await asyncio.gather(*running)
        assert isinstance(claim, RerunClaim)
        assert created == await repository.find_by_trigger("new", user_id=1)
        assert [len(await repository.history(which, user_id=1)) for which in asked[1:]] == [2, 2]


async def interrupt_the_waiting(client: Any) -> None:
    """Let the server give up each write that waits for its majority; its caller learns nothing of what came of it."""
    found = await client.admin.command({"currentOp": 1, "$or": [{"op": "insert"}, {"op": "command"}, {"op": "update"}]})
    for operation in found["inprog"]:
        command = operation.get("command", {})
        if {"insert", "findAndModify"} & command.keys() and operation.get("ns", "").startswith("sessions."):
            await client.admin.command({"killOp": 1, "op": operation["opid"]})
