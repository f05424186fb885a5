"""Many conversations, several processes, messages sent twice, late and out of order; many sessions due at once."""

import asyncio
import json
import os
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import pytest_asyncio

from sessions import RouteAction, SessionRepository, SessionStatus, Upkeep, open_repository
from sessions.domain.lifecycle import LIFECYCLE
from sessions.store.clients import connect, default_driver, disconnect
from sessions.store.document import COLLECTION

if TYPE_CHECKING:
    from sessions.store.clients import Database

pytestmark = pytest.mark.race

MARK: Final = "answer "
CONVERSATIONS: Final = 50
QUESTIONS: Final = 4
PROCESSES: Final = 2
WITHIN_SECONDS: Final = 2.0
DUE: Final = 10_000


@pytest_asyncio.fixture(loop_scope="session")
async def repository(shared: "Database") -> AsyncIterator[SessionRepository]:
    """A repository by the server's clock."""
    async with open_repository(shared) as opened:
        yield opened


async def _chat(uri: str, database: str, plan: list[dict[str, Any]]) -> list[list[str]]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(Path(__file__).with_name("chat.py")), uri, database, default_driver()),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=2**24,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    told, _ = await asyncio.wait_for(process.communicate(json.dumps(plan).encode() + b"\n"), 120)
    assert told.decode().startswith(MARK), f"the process ended with {process.returncode}"
    answers: list[list[str]] = json.loads(told.decode().removeprefix(MARK))
    return answers


async def test_fifty_conversations(repository: SessionRepository, shared: Any, mongod_uri: str) -> None:
    """Each message is run once at most and never beside another, and each learns what became of it.

    In every second conversation the messages name their question, two of them the same one; in the others nobody
    names any, and there are more messages than questions.
    """
    chance = random.Random(5)
    named: dict[str, str] = {}
    sent: defaultdict[str, list[str]] = defaultdict(list)
    for number in range(CONVERSATIONS):
        session = await repository.create(1, f"t{number}", conversation_id=f"c{number}", pending_question="Question 1?")
        questions = [*range(1, QUESTIONS + 1), chance.randint(1, QUESTIONS)] if number % 2 else [None] * 6
        for place, question in enumerate(questions):
            message_id = f"c{number}-m{place}"
            sent[f"c{number}"].append(message_id)
            if question is not None:
                named[message_id] = f"{session.key_prefix}:{question}"
    starts = time.time() + 2.0
    plans = [
        [
            {
                "conversation_id": conversation_id,
                "message_id": message_id,
                "question_id": named.get(message_id),
                "redelivered": True,
                "starts": starts + chance.uniform(0, WITHIN_SECONDS),
            }
            for conversation_id, message_ids in sent.items()
            for message_id in message_ids
        ]
        for _ in range(PROCESSES)
    ]
    answers = await asyncio.gather(*(_chat(mongod_uri, shared.name, plan) for plan in plans))

    outcomes: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for message_id, outcome in (answer for own in answers for answer in own):
        outcomes[message_id][outcome] += 1
    runs = [run async for run in shared["runs"].find()]
    assert await shared["overlaps"].count_documents({}) == 0
    assert max(Counter(run["message_id"] for run in runs).values()) == 1
    assert {run["attempt"] for run in runs} == {1}
    assert [run for run in runs if run["question_id"] != named.get(run["message_id"], run["question_id"])] == []
    for conversation_id, message_ids in sent.items():
        assert (await repository.route(1, conversation_id)).action is RouteAction.FREE_CHAT
        latest = await repository.latest(1, conversation_id)
        assert latest is not None
        assert (latest.status, latest.question_number) == (SessionStatus.READY_PREVIEW, QUESTIONS)
        recorded = set(latest.answered_reply_ids)
        assert len(latest.answered_reply_ids) == len(recorded) == QUESTIONS
        assert recorded == {run["message_id"] for run in runs if run["message_id"] in message_ids}
        for message_id in message_ids:
            told = outcomes[message_id]
            assert told.total() == PROCESSES
            if message_id in recorded:
                # One of them ran it; the other is told what came of it, as long as nothing happened since.
                assert set(told) < {"Asked", "PreviewShown", "AlreadyHandled"}, told
                assert told["AlreadyHandled"] < PROCESSES, told
            else:
                # Its question has gone: another one stands, or nobody governs any more.
                assert set(told) <= ({"StaleReply", "FreeChat"} if message_id in named else {"FreeChat"}), told
        history = await repository.history(latest.session_id, user_id=1)
        assert len(history) == 1 + 2 * QUESTIONS
        for step in history[1:]:
            assert step.from_status is not None
            assert step.to_status in LIFECYCLE[step.from_status].leads_to


async def test_three_upkeeps_at_once(repository: SessionRepository, shared: Any, mongod_uri: str) -> None:
    """Ten thousand sessions are due and three upkeeps sweep them: each is ended once, with one history entry."""
    soon = datetime.now(UTC) + timedelta(hours=1)
    session = await repository.create(1, "t", pending_question="Which day?", expires_at=soon)
    pattern = await shared[COLLECTION].find_one({"_id": session.session_id})
    pattern["state"]["expires_at"] = datetime.now(UTC) - timedelta(minutes=1)
    await shared[COLLECTION].insert_many([{**pattern, "_id": f"s{number}"} for number in range(DUE)])

    async with AsyncExitStack() as stack:
        for _ in range(3):
            client: Any = connect(mongod_uri)
            stack.push_async_callback(disconnect, client)
            own = await stack.enter_async_context(open_repository(client[shared.name]))
            await stack.enter_async_context(Upkeep(own, every=timedelta(milliseconds=200)))
        async with asyncio.timeout(60):
            while (await repository.count_by_status())[SessionStatus.EXPIRED] < DUE:  # noqa: ASYNC110 - seen in the store only
                await asyncio.sleep(0.1)
    once = {"status": "expired", "revision": 2, "history": {"$size": 2}, "history.1.call": "expire_due"}
    assert await shared[COLLECTION].count_documents(once) == DUE
    assert (await repository.get(session.session_id, user_id=1)).revision == 1
