"""Several processes want the same thing at the same moment: one gets it, the others learn why not."""

import asyncio
import json
import os
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import pytest_asyncio

from sessions import ConversationBusy, RouteAction, SessionRepository, SessionStatus, open_repository
from sessions.domain.models import derive_session_id
from sessions.store.clients import default_driver
from sessions.store.document import COLLECTION
from sessions.testing import MovedClock

if TYPE_CHECKING:
    from sessions.store.clients import Database

pytestmark = pytest.mark.race

ROUNDS: Final = 50
WORKERS: Final = 4
CLAIMS_EACH: Final = 50
AHEAD_SECONDS: Final = 0.02
ANSWER_WITHIN_SECONDS: Final = 60.0
MARK: Final = "answer "
START: Final = datetime(2026, 1, 1, tzinfo=UTC)

RoundCalls = list[list[tuple[str, dict[str, Any]]]]


@dataclass(frozen=True, slots=True)
class Workers:
    """Processes that stay up over all rounds, so that a round is a race and not a start-up."""

    processes: list[asyncio.subprocess.Process]

    async def race(self, calls: RoundCalls, *, clock: datetime | None = None) -> list[list[dict[str, Any]]]:
        """Let each worker make its calls at one moment; each worker's answers, in the order of its calls."""
        starts = time.time() + AHEAD_SECONDS
        for process, own in zip(self.processes, calls, strict=False):
            assert process.stdin is not None
            order = {"starts": starts, "clock": clock and clock.isoformat(), "calls": own}
            process.stdin.write(json.dumps(order).encode() + b"\n")
            await process.stdin.drain()
        answering = self.processes[: len(calls)]
        return await asyncio.gather(*(self._answer(process) for process in answering))

    async def _answer(self, process: asyncio.subprocess.Process) -> list[dict[str, Any]]:
        assert process.stdout is not None
        line = (await asyncio.wait_for(process.stdout.readline(), ANSWER_WITHIN_SECONDS)).decode()
        assert line.startswith(MARK), f"the worker ended with {process.returncode}"
        answers: list[dict[str, Any]] = json.loads(line.removeprefix(MARK))
        return answers


@asynccontextmanager
async def _running(uri: str, database: str, *, number: int) -> AsyncIterator[Workers]:
    # The workers find what this process finds, whether the library is installed or not.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    processes = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, str(Path(__file__).with_name("worker.py")), uri, database, default_driver()),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=2**20,
            env=environment,
        )
        for _ in range(number)
    ]
    try:
        yield Workers(processes)
    finally:
        for process in processes:
            if process.stdin is not None:
                process.stdin.close()
        for process in processes:
            try:
                await asyncio.wait_for(process.wait(), 10)
            except TimeoutError:
                process.kill()
                await process.wait()


@pytest_asyncio.fixture(loop_scope="session")
async def contended(shared: "Database") -> AsyncIterator[SessionRepository]:
    """A repository by the server's clock."""
    async with open_repository(shared, timeout=30.0) as opened:
        yield opened


async def test_one_of_two_hundred_claims_wins(
    contended: SessionRepository, shared: "Database", mongod_uri: str
) -> None:
    """Two hundred claims from four processes: one rerun each round; every loser learns that it is in progress."""
    async with _running(mongod_uri, shared.name, number=WORKERS) as workers:
        for number in range(ROUNDS):
            session = await contended.create(1, f"t{number}", conversation_id=f"c{number}", pending_question="Which?")
            calls: RoundCalls = [
                [
                    (
                        "claim_rerun",
                        {
                            "session_id": session.session_id,
                            "user_id": 1,
                            "reply_id": f"reply-{worker}-{copy}",
                            "operation_id": f"operation-{worker}-{copy}",
                        },
                    )
                    for copy in range(CLAIMS_EACH)
                ]
                for worker in range(WORKERS)
            ]
            answers = [
                (f"operation-{worker}-{copy}", answer)
                for worker, own in enumerate(await workers.race(calls))
                for copy, answer in enumerate(own)
            ]
            seen = Counter(
                (answer["error"], answer.get("reason"), answer["status"], answer["revision"]) for _, answer in answers
            )
            losers = WORKERS * CLAIMS_EACH - 1
            assert seen == {
                (None, None, "rerunning", 2): 1,
                ("TransitionConflict", "in_progress", "rerunning", 2): losers,
            }, f"round {number}"
            winner = next(operation_id for operation_id, answer in answers if answer["error"] is None)
            history = await contended.history(session.session_id, user_id=1)
            assert [entry.to_status for entry in history] == ["waiting_user_reply", "rerunning"]
            assert history[-1].operation_id == winner
            stored = await contended.get(session.session_id, user_id=1)
            assert (stored.revision, stored.fencing_token, stored.attempts) == (2, 1, 1)
            assert stored.lease is not None
            assert stored.lease.operation_id == winner


_ASKED: Final[tuple[dict[str, Any], ...]] = ({"pending_question": "This?"}, {"missing_info": ["that"]})


def _creations(number: int) -> RoundCalls:
    return [
        [("create", {"user_id": 1, "trigger_id": f"t{number}-{side}", "conversation_id": f"c{number}", **asked})]
        for side, asked in enumerate(_ASKED)
    ]


async def _assert_one_governs(
    repository: SessionRepository, database: "Database", number: int, answers: list[dict[str, Any]]
) -> None:
    won = [side for side, answer in enumerate(answers) if answer["error"] is None]
    assert len(won) == 1, answers
    winner, loser = answers[won[0]], answers[1 - won[0]]
    assert loser["error"] == ConversationBusy.__name__
    assert loser["governing_session_id"] == winner["session_id"]
    assert loser["session_id"] == derive_session_id(1, f"t{number}-{1 - won[0]}")
    route = await repository.route(1, f"c{number}")
    assert route.action is RouteAction.RESUME
    assert route.session is not None
    assert route.session.session_id == winner["session_id"]
    collection: Any = database[COLLECTION]
    assert await collection.count_documents({"_id": loser["session_id"]}) == 0


async def test_one_of_two_processes_creates_the_governor(
    contended: SessionRepository, shared: "Database", mongod_uri: str
) -> None:
    """Two sessions made at once for one conversation: one governs, the other is told by whom and stores nothing."""
    async with _running(mongod_uri, shared.name, number=2) as workers:
        for number in range(ROUNDS):
            answers = [answer for own in await workers.race(_creations(number)) for answer in own]
            await _assert_one_governs(contended, shared, number, answers)


async def test_an_expired_session_stands_in_nobodys_way(shared: "Database", mongod_uri: str) -> None:
    """With an expired session that nobody swept in the way still exactly one governs; the old one ends `expired`."""
    clock = MovedClock(START)
    async with (
        open_repository(shared, timeout=30.0, clock=clock) as repository,
        _running(mongod_uri, shared.name, number=2) as workers,
    ):
        for number in range(ROUNDS):
            ends = clock() + timedelta(seconds=1)
            old = await repository.create(
                1, f"old{number}", conversation_id=f"c{number}", pending_question="Still there?", expires_at=ends
            )
            clock.at = ends
            answers = [answer for own in await workers.race(_creations(number), clock=ends) for answer in own]
            await _assert_one_governs(repository, shared, number, answers)
            swept = await repository.get(old.session_id, user_id=1)
            assert (swept.status, swept.revision) == (SessionStatus.EXPIRED, 2)
            history = await repository.history(old.session_id, user_id=1)
            assert [entry.to_status for entry in history] == ["waiting_user_reply", "expired"]


async def test_one_of_two_tasks_creates_the_governor(contended: SessionRepository, shared: "Database") -> None:
    """Two tasks of one process are refused by the same rule as two processes."""
    for number in range(ROUNDS):
        made = await asyncio.gather(
            *(
                contended.create(1, f"t{number}-{side}", conversation_id=f"c{number}", pending_question="Which?")
                for side in range(2)
            ),
            return_exceptions=True,
        )
        refused = [answer for answer in made if isinstance(answer, ConversationBusy)]
        created = [answer for answer in made if not isinstance(answer, BaseException)]
        assert (len(created), len(refused)) == (1, 1), made
        assert refused[0].governing_session_id == created[0].session_id
        assert (await contended.route(1, f"c{number}")).session == created[0]
