"""Two runs of ``apply`` at once, as when two deployments start together, never lose the uniqueness."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from itertools import count
from typing import Any, Final
from uuid import uuid4

import pytest
import pytest_asyncio

from indexes import Applied, apply, check
from indexes.server import Server
from sessions import ActiveScheduleSessionSnapshot, ConversationBusy, SessionRepository, open_repository
from sessions.store.clients import connect, disconnect
from sessions.store.document import COLLECTION, INDEXES, ROUTING_INDEX

pytestmark = pytest.mark.race

LANES: Final = 5
ROUNDS_EACH: Final = 15
PAUSE_SECONDS: Final = 0.005
SLOW_SECONDS: Final = 0.05
SLOW_SHARE: Final = 0.2
PATIENCE_SECONDS: Final = 30.0
"""Five databases at work on one server, on a machine that may be busy with more."""
KEYS: Final = {"user_id": 1, "conversation_id": 1}
STATUSES: Final = {"$in": ["waiting_user_reply", "rerunning"]}
FILTER: Final = {"status": STATUSES, "conversation_id": {"$type": "string"}}
GOVERNS: Final[dict[str, Any]] = {"key": KEYS, "unique": True, "partialFilterExpression": FILTER}
# Each keeps two sessions from governing one conversation, so that only `apply` can let a second one in.
DRIFTS: Final[tuple[dict[str, Any], ...]] = (
    {"key": {"conversation_id": 1, "user_id": 1}},
    {"key": {"user_id": -1, "conversation_id": -1}},
    {"partialFilterExpression": {"status": STATUSES, "conversation_id": {"$gte": ""}}},
    {"collation": {"locale": "en"}},
    {"hidden": True},
)
GOVERNORS: Final[list[dict[str, Any]]] = [
    {"$match": {"status": STATUSES}},
    {"$group": {"_id": {"user": "$user_id", "conversation": "$conversation_id"}, "governors": {"$sum": 1}}},
    {"$match": {"governors": {"$gt": 1}}},
]


@pytest_asyncio.fixture(loop_scope="session")
async def databases(mongod_uri: str) -> AsyncIterator[list[Any]]:
    """Databases on the real server with their indexes, through the default driver."""
    client: Any = connect(mongod_uri)
    own = [client[f"sessions_two_{uuid4().hex[:16]}"] for _ in range(LANES)]
    for database in own:
        await apply(database)
    yield own
    for database in own:
        await client.drop_database(database.name)
    await disconnect(client)


class Rivals:
    """Two tasks that want to govern one conversation, again and again."""

    def __init__(self, repository: SessionRepository) -> None:
        self._repository = repository
        self._numbers = count(1)
        self.seen: Counter[tuple[int, int]] = Counter()

    async def _create(self, number: int, side: int) -> ActiveScheduleSessionSnapshot | ConversationBusy:
        try:
            return await self._repository.create(
                1, f"trigger-{number}-{side}", conversation_id=f"c{number % 7}", pending_question="Which?"
            )
        except ConversationBusy as refusal:
            return refusal

    async def run(self, ended: asyncio.Event) -> None:
        """Create two at the same moment, count which won, and end them; one more round follows ``ended``."""
        goes_on = True
        while goes_on:
            goes_on = not ended.is_set()
            await asyncio.sleep(PAUSE_SECONDS)
            number = next(self._numbers)
            answers = await asyncio.gather(*(self._create(number, side) for side in range(2)))
            won = [answer for answer in answers if not isinstance(answer, ConversationBusy)]
            self.seen[len(won), len(answers) - len(won)] += 1
            for session in won:
                await self._repository.ignore(session.session_id, user_id=1)


async def _both(database: Any, ended: asyncio.Event) -> tuple[Applied, Applied]:
    try:
        return await asyncio.gather(apply(database), apply(database))
    finally:
        ended.set()


async def _lane(database: Any) -> Rivals:
    async with open_repository(database, timeout=PATIENCE_SECONDS) as repository:
        rivals = Rivals(repository)
        for number in range(ROUNDS_EACH):
            drift = {**GOVERNS, **DRIFTS[number % len(DRIFTS)], "name": ROUTING_INDEX}
            await database[COLLECTION].drop_index(ROUTING_INDEX)
            await database.command({"createIndexes": COLLECTION, "indexes": [drift]})
            ended = asyncio.Event()
            runs, _ = await asyncio.gather(_both(database, ended), rivals.run(ended))
            assert set(rivals.seen) == {(1, 1)}, f"round {number}, {drift}"
            assert any(run.steps for run in runs), f"round {number}"
            settled = await check(database)
            assert settled.is_as_declared, f"round {number}"
            assert len(settled.indexes) == len(INDEXES), f"round {number}: {[index.name for index in settled.indexes]}"
            assert await _aggregated(database) == [], f"round {number}"
    return rivals


async def _aggregated(database: Any) -> list[dict[str, Any]]:
    answer = await database.command({"aggregate": COLLECTION, "pipeline": GOVERNORS, "cursor": {}})
    found: list[dict[str, Any]] = answer["cursor"]["firstBatch"]
    return found


@pytest.fixture
def slow_drops(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let some drops reach the server late, as over a bad network.

    Without the lock a second governor then comes within the first rounds; without the delay 200 rounds showed none.
    """
    chance = random.Random(4)
    send = Server.command

    async def late(server: Server, command: Mapping[str, Any], **options: Any) -> dict[str, Any]:
        if "dropIndexes" in command and chance.random() < SLOW_SHARE:
            await asyncio.sleep(SLOW_SECONDS)
        return await send(server, command, **options)

    monkeypatch.setattr(Server, "command", late)
    monkeypatch.setattr("indexes.server.QUICK_SECONDS", PATIENCE_SECONDS)


@pytest.mark.usefixtures("slow_drops")
async def test_two_at_once_never_let_a_second_governor_in(databases: list[Any]) -> None:
    """In each of 200 rounds one of two rivals governs, whatever the two runs do; at its end all is as declared."""
    lanes = await asyncio.gather(*(_lane(database) for database in databases))
    assert sum(rivals.seen.total() for rivals in lanes) > LANES * ROUNDS_EACH
