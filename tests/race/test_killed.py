"""SIGKILL at every line of `handle` and `confirm`: the next message is answered, the write-back has one effect."""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import pytest_asyncio

from sessions import (
    ActiveScheduleSessionSnapshot,
    AlreadyHandled,
    Applied,
    ApplyClaim,
    Asked,
    AskUser,
    Held,
    SessionBridge,
    SessionRepository,
    SessionStatus,
    Turn,
    open_repository,
)
from sessions.domain.lifecycle import LIFECYCLE
from sessions.store.clients import default_driver

if TYPE_CHECKING:
    from sessions.store.clients import Database

pytestmark = pytest.mark.race

MARK: Final = "answer "
LEASE_SECONDS: Final = 1.0
WITHIN_SECONDS: Final = LEASE_SECONDS + 1.0
AT_ONCE: Final = 8
RENEWING: Final = ["_keep", "_renew_once"]


@dataclass(frozen=True, slots=True)
class Prepared:
    """The process from which each victim is forked."""

    process: asyncio.subprocess.Process

    async def plays(self, plays: list[dict[str, Any]]) -> list[list[Any]]:
        """Where each was killed ("" for one that came to its end), when, and after how many lines."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(plays).encode() + b"\n")
        await self.process.stdin.drain()
        line = (await asyncio.wait_for(self.process.stdout.readline(), 60)).decode()
        assert line.startswith(MARK), f"the prepared process ended with {self.process.returncode}"
        answers: list[list[Any]] = json.loads(line.removeprefix(MARK))
        assert None not in answers
        return answers


@asynccontextmanager
async def prepared(uri: str, database: str) -> AsyncIterator[Prepared]:
    """A process that has imported everything and connected to nothing."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(Path(__file__).with_name("killed.py")), uri, database, default_driver()),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    try:
        yield Prepared(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await asyncio.wait_for(process.wait(), 10)


@pytest_asyncio.fixture(loop_scope="session")
async def repository(shared: "Database") -> AsyncIterator[SessionRepository]:
    """A repository by the server's clock."""
    async with open_repository(shared) as opened:
        yield opened


async def not_held(call: Callable[[], Awaitable[object]], since: float) -> object:
    """The first outcome that is not `Held`; no call that begins later than the lease and a second is."""
    began = time.time()
    while isinstance(outcome := await call(), Held):
        assert began - since < WITHIN_SECONDS, "held for too long"
        await asyncio.sleep(0.05)
        began = time.time()
    return outcome


async def assert_legal(repository: SessionRepository, session_id: str) -> ActiveScheduleSessionSnapshot:
    """Nothing works on the session any more, and each step of its history is the lifecycle's."""
    session = await repository.get(session_id, user_id=1)
    assert session.status is not SessionStatus.RERUNNING
    assert session.lease is None
    for step in await repository.history(session_id, user_id=1):
        assert step.from_status is None or step.to_status in LIFECYCLE[step.from_status].leads_to
    return session


Verify = Callable[[dict[str, Any], float], Coroutine[Any, Any, None]]


async def kill_everywhere(
    victims: Prepared, make: Callable[[int], Awaitable[dict[str, Any]]], verify: Verify, **more: Any
) -> list[str]:
    """Play, killed at the first line, then at the second, until a play comes to its end; where each was killed."""
    places: list[str] = []
    checks: list[asyncio.Task[None]] = []
    while not places or places[-1]:
        stops = range(len(places) + 1, len(places) + 1 + AT_ONCE)
        plays = [{**await make(stop), "stop": stop, **more} for stop in stops]
        for play, (where, when, _) in zip(plays, await victims.plays(plays), strict=True):
            places.append(where)
            checks.append(asyncio.create_task(verify(play, when)))
    await asyncio.gather(*checks)
    return [place for place in places if place]


@pytest.mark.parametrize(("slow", "only"), [(0, []), (0.4, RENEWING)], ids=["each line", "each line of a renewal"])
async def test_killed_while_handling(
    repository: SessionRepository, shared: Any, mongod_uri: str, slow: float, only: list[str]
) -> None:
    """The next message is answered within the lease and a second; the first one's outcome is recorded once at most."""

    async def make(stop: int) -> dict[str, Any]:
        session = await repository.create(1, f"t{stop}", conversation_id=f"c{stop}", pending_question="Which day?")
        return {"call": "handle", "c": f"c{stop}", "session_id": session.session_id}

    async def graph(turn: Turn) -> AskUser:
        return AskUser(f"{turn.text}?")

    bridge = SessionBridge(repository, graph)

    async def verify(play: dict[str, Any], killed_at: float) -> None:
        async def next_message() -> object:
            return await bridge.handle(1, play["c"], "Friday", message_id="m2")

        async def first_again() -> object:
            return await bridge.handle(1, play["c"], "Tuesday", message_id="m1", redelivered=True)

        assert isinstance(await not_held(next_message, killed_at), Asked)
        before = await repository.get(play["session_id"], user_id=1)
        again = await first_again()
        assert isinstance(again, AlreadyHandled if "m1" in before.answered_reply_ids else Asked)
        session = await assert_legal(repository, play["session_id"])
        assert sorted(session.answered_reply_ids) == ["m1", "m2"]
        assert session.question_number == 3

    async with prepared(mongod_uri, shared.name) as victims:
        places = await kill_everywhere(victims, make, verify, slow=slow, only=only)
    functions = {place.split()[1] for place in places}
    assert functions >= ({*RENEWING} if only else {"handle", "rerun_for", "run", "graph", "_record_answer", "renewed"})
    if not only:
        # Killed before anything was claimed, under the claim, and after the outcome was recorded.
        runs = {(run["conversation_id"], run["message_id"]) async for run in shared["runs"].find()}
        assert 0 < len(runs) < len(places)


async def test_killed_while_confirming(repository: SessionRepository, shared: Any, mongod_uri: str) -> None:
    """The next confirmation ends the session applied within the lease and a second; the write-back has one effect."""

    async def make(stop: int) -> dict[str, Any]:
        session = await repository.create(1, f"t{stop}", conversation_id=f"c{stop}", preview_id="preview-1")
        return {"call": "confirm", "c": f"c{stop}", "session_id": session.session_id}

    async def no_graph(turn: Turn) -> AskUser:
        raise AssertionError(turn)

    async def write_back(claim: ApplyClaim) -> None:
        await shared["effects"].update_one({"_id": claim.idempotency_key}, {"$inc": {"tries": 1}}, upsert=True)

    bridge = SessionBridge(repository, no_graph, write_back=write_back)

    async def verify(play: dict[str, Any], killed_at: float) -> None:
        async def confirm() -> object:
            return await bridge.confirm(1, play["session_id"], preview_id="preview-1")

        assert isinstance(await not_held(confirm, killed_at), Applied)
        session = await assert_legal(repository, play["session_id"])
        assert session.status is SessionStatus.APPLIED
        assert await shared["effects"].count_documents({"_id": f"{session.key_prefix}:preview-1"}) == 1

    async with prepared(mongod_uri, shared.name) as victims:
        places = await kill_everywhere(victims, make, verify, slow=0, only=[])
    assert {place.split()[1] for place in places} >= {"confirm", "write_back_for", "run", "write_back", "_record"}
    tries = [effect["tries"] async for effect in shared["effects"].find()]
    assert set(tries) == {1, 2}
