"""People write several messages in a row, held or each in the place of the last, while workers are killed."""

import asyncio
import itertools
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from sessions import RouteAction, SessionRepository, SessionStatus, WhileRunning, open_repository
from sessions.domain.lifecycle import LIFECYCLE
from sessions.store.clients import default_driver

if TYPE_CHECKING:
    from sessions.store.clients import Database

pytestmark = pytest.mark.race

MARK: Final = "answer "
WORKER: Final = Path(__file__).with_name("bursts_worker.py")
CONVERSATIONS: Final = 20
WORKERS: Final = 4
LONGEST_BURST: Final = 5
LEASE: Final = 2.0
HELD_AT_MOST: Final = LEASE + 1.0
KILL_EVERY: Final = 1.0
HOW: Final = ((WhileRunning.HOLD, 0.0), (WhileRunning.HOLD, 1.0), (WhileRunning.REPLACE, 0.0))
RECORDED: Final = frozenset({"Asked", "PreviewShown"})
LAST_WORDS: Final = RECORDED | {"AlreadyHandled", "FreeChat", "StaleReply"}


class Killed(Exception):
    """The worker died with the delivery."""


class Worker:
    """A process, and what it is asked."""

    def __init__(self, *arguments: str) -> None:
        self._arguments = arguments
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._asked: dict[int, asyncio.Future[dict[str, Any]]] | None = None

    async def start(self) -> None:
        """Start it; what is written before it listens waits in its input."""
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(WORKER), *self._arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        self._asked = {}
        self._reading = asyncio.create_task(self._read(self._process, self._asked))

    async def _read(
        self, process: asyncio.subprocess.Process, asked: dict[int, "asyncio.Future[dict[str, Any]]"]
    ) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            told = json.loads(line.decode().removeprefix(MARK))
            asked.pop(told["number"]).set_result(told)
        self._asked = None
        for answer in asked.values():
            answer.set_exception(Killed)

    async def deliver(self, number: int, delivery: dict[str, Any]) -> dict[str, Any]:
        """What came of a delivery."""
        if self._process is None or self._process.stdin is None or self._asked is None:
            await asyncio.sleep(0.05)
            raise Killed
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        with suppress(ConnectionError):  # then it is told below
            self._process.stdin.write(json.dumps({"number": number, **delivery}).encode() + b"\n")
            await self._process.stdin.drain()
        return await answer

    async def kill(self) -> None:
        """End it at once."""
        if self._process is not None and self._reading is not None:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
            await self._reading


@dataclass(slots=True)
class Message:
    """One message, and what its sender saw of it."""

    message_id: str
    seen: str
    """The question that stood when its burst began."""
    named: str | None
    """The question that its sender names, or that `Held` has named for it."""
    how: tuple[WhileRunning, float]
    outcomes: list[str] = field(default_factory=list)
    held: dict[str, list[float]] = field(default_factory=dict)


@asynccontextmanager
async def running(*arguments: str) -> AsyncIterator[list[Worker]]:
    """The workers, one after the other of them killed and started again."""
    workers = [Worker(*arguments) for _ in range(WORKERS)]
    chance = random.Random(13)

    async def harass() -> None:
        while True:
            await asyncio.sleep(KILL_EVERY)
            worker = chance.choice(workers)
            await worker.kill()
            await worker.start()

    for worker in workers:
        await worker.start()
    harassing = asyncio.create_task(harass())
    try:
        yield workers
    finally:
        harassing.cancel()
        with suppress(asyncio.CancelledError):
            await harassing
        for worker in workers:
            await worker.kill()


class Sender:
    """Delivers the messages of a conversation until each has got its last word."""

    def __init__(self, conversation_id: str, workers: list[Worker], chance: random.Random) -> None:
        self._conversation_id = conversation_id
        self._workers = workers
        self._chance = chance
        self._numbers = itertools.count()
        self.bursts: list[list[Message]] = []

    async def burst(self, seen: str) -> None:
        """Write a burst to the question that is seen now; the next message comes before the last one is answered."""
        number = len(self.bursts)
        burst: list[Message] = []
        self.bursts.append(burst)
        async with asyncio.TaskGroup() as tasks:
            for place in range(self._chance.randint(1, LONGEST_BURST)):
                name = f"{self._conversation_id}-{number}-{place}"
                message = Message(name, seen, self._chance.choice((seen, None)), self._chance.choice(HOW))
                burst.append(message)
                tasks.create_task(self._until_done(message, burst))
                await asyncio.sleep(self._chance.uniform(0, 0.1))

    async def _until_done(self, message: Message, burst: list[Message]) -> None:
        redelivered = False
        while not message.outcomes or message.outcomes[-1] not in LAST_WORDS:
            while_running, wait = message.how
            if redelivered and message is not burst[-1]:
                while_running = WhileRunning.HOLD  # only its sender's newest message takes another one's place
            worker = self._chance.choice(self._workers)
            try:
                told = await worker.deliver(
                    next(self._numbers) * 1_000 + int(self._conversation_id[1:]),
                    {
                        "conversation_id": self._conversation_id,
                        "message_id": message.message_id,
                        "question_id": message.named,
                        "redelivered": redelivered,
                        "while_running": while_running,
                        "wait": wait,
                    },
                )
            except Killed:
                told = {"outcome": "Killed", "question_id": message.seen}
            redelivered = True
            message.named = told.get("question_id") or message.named
            message.outcomes.append(told["outcome"])
            if told["outcome"] == "Held":
                now = time.monotonic()
                message.held.setdefault(told["held_by"] or "", [now, now])[1] = now
                await asyncio.sleep(self._chance.uniform(0.05, 0.15))


async def _conversation(repository: SessionRepository, sender: Sender, session_id: str) -> None:
    while True:
        session = await repository.get(session_id, user_id=1)
        if session.status not in (SessionStatus.WAITING_USER_REPLY, SessionStatus.RERUNNING):
            return
        await sender.burst(session.question_id)
        history = await repository.history(session_id, user_id=1)
        for step in history[1:]:
            assert step.from_status is not None
            assert step.to_status in LIFECYCLE[step.from_status].leads_to


async def test_bursts(shared: Any, mongod_uri: str) -> None:
    """Each message is recorded once at most, none answers a later question, and the last one gets its answer."""
    database: Database = shared
    arguments = (mongod_uri, shared.name, default_driver(), str(LEASE))
    opening = open_repository(database, create_indexes=True, lease=timedelta(seconds=LEASE), timeout=30)
    async with opening as repository, running(*arguments) as workers:
        sessions, senders = {}, {}
        for number in range(CONVERSATIONS):
            name = f"c{number}"
            sessions[name] = await repository.create(1, name, conversation_id=name, pending_question="Question 1?")
            senders[name] = Sender(name, workers, random.Random(number))
        async with asyncio.timeout(240), asyncio.TaskGroup() as tasks:
            for name, sender in senders.items():
                tasks.create_task(_conversation(repository, sender, sessions[name].session_id))

        runs = [run async for run in shared["runs"].find()]
        kinds: Counter[str] = Counter()
        for name, sender in senders.items():
            assert (await repository.route(1, name)).action is RouteAction.FREE_CHAT
            session = await repository.get(sessions[name].session_id, user_id=1)
            answered = session.answered_reply_ids
            assert len(answered) == len(set(answered)) == session.question_number
            assert not set(answered) & set(session.replaced_reply_ids)
            messages = {message.message_id: message for burst in sender.bursts for message in burst}
            for message_id in answered:
                # Whatever was run for a message answered the question that stood when it was written.
                asked = {run["question_id"] for run in runs if run["message_id"] == message_id}
                assert asked == {messages[message_id].named or next(iter(asked))}
            for message in messages.values():
                kinds.update(message.outcomes)
                told = RECORDED & set(message.outcomes)
                assert not told or message.message_id in answered
                assert max((last - first for first, last in message.held.values()), default=0) <= HELD_AT_MOST
            for burst in sender.bursts:
                last = burst[-1]
                had_its_say = last.message_id in answered or {"StaleReply", "FreeChat"} & set(last.outcomes)
                # Several processes may take an older message in hand later, and then that one is the newest to them.
                assert had_its_say or last.message_id in session.replaced_reply_ids, last
    assert kinds["Held"] > CONVERSATIONS
    assert kinds["Superseded"] > WORKERS
    assert kinds["Killed"] > WORKERS
    print(dict(kinds))  # noqa: T201 - read with -s
