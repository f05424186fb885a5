"""What an operator's lookups cost the server: each has an index, and none grows with what it does not show."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest
import pytest_asyncio
from bson import MaxKey, MinKey, ObjectId, Timestamp
from bson.datetime_ms import DatetimeMS as BsonDatetime

from sessions import SessionRepository, SessionStatus
from sessions.domain.lifecycle import ALL
from sessions.store import across_users, reads, sweeps
from sessions.store.document import COLLECTION
from sessions.store.reads import Lookup
from tests.support.explained_plans import explained, stages
from tests.support.sessions_command import Operator

START: Final = datetime(2026, 1, 1, tzinfo=UTC)
SESSIONS: Final = 10_000
FAILED: Final = frozenset({SessionStatus.FAILED})


def stored() -> Iterator[dict[str, Any]]:
    """Sessions of a hundred users, in all statuses but those under way."""
    statuses = ("ready_preview", "applied", "ignored", "expired", "failed")
    for number in range(SESSIONS):
        at = START - timedelta(seconds=number)
        yield {
            "_id": f"session-{number:05}",
            "user_id": number % 100 + 1,
            "conversation_id": f"chat-{number % 1000}",
            "trigger_id": f"trigger-{number % 500}",
            "status": statuses[number % len(statuses)],
            "state": {"expires_at": START} if number % 1000 == 0 else {},
            "revision": 1,
            "created_at": at,
            "updated_at": at,
        }


@pytest_asyncio.fixture(loop_scope="session")
async def crowded(shared: Any, sessions: SessionRepository) -> Any:
    """The database with ten thousand sessions, of which three were left behind."""
    await shared[COLLECTION].insert_many(list(stored()))
    left = {"kind": "reply", "operation_id": "o", "reply_id": "r", "expires_at": START}
    for number in range(3):
        change = {"$set": {"lease": left, "status": "rerunning"}}
        await shared[COLLECTION].update_one({"_id": f"session-{number:05}"}, change)
    return shared


HOUR_AGO: Final = START - timedelta(hours=1)
EVERY: Final = frozenset(ALL)
COSTS: Final[dict[str, tuple[Lookup, int]]] = {
    # The most documents that each may look at.
    "show": (across_users.by_id("session-00077"), 1),
    "list": (across_users.listed(EVERY, limit=100), 110),
    "list, older": (across_users.listed(EVERY, until=HOUR_AGO, limit=100), 110),
    "list, newer": (across_users.listed(EVERY, since=START - timedelta(seconds=50), limit=100), 51),
    "list, next batch": (across_users.listed(EVERY, until=HOUR_AGO, but_for=["session-03600"], limit=100), 111),
    "list, one status": (across_users.listed(FAILED, limit=100), 101),
    "list, one user": (across_users.listed(EVERY, user_id=7, limit=50), 60),
    "list, one conversation": (across_users.listed(EVERY, conversation_id="chat-7", limit=50), 10),
    "list, both": (across_users.listed(EVERY, user_id=8, conversation_id="chat-7", limit=50), 10),
    "stalled": (across_users.lapsed(START, limit=100), 3),
    "import, ids": (across_users.by_ids([f"session-{number:05}" for number in range(500)]), 500),
    "import, triggers": (across_users.by_triggers([(7, "trigger-6"), (8, "trigger-7")]), 200),
    "export, first": (across_users.everything(after=None, limit=100, with_history=False), 101),
    "export, next": (across_users.everything(after={"_id": "session-05000"}, limit=100, with_history=True), 101),
    "export, behind ids": (across_users.everything(after={"_id": "t"}, limit=100, with_history=True), 0),
}


@pytest.mark.parametrize("name", list(COSTS))
async def test_each_lookup_has_an_index(crowded: Any, name: str) -> None:
    """No scan of the collection, no sort in memory, no more documents than it shows and a few."""
    lookup, most = COSTS[name]
    found, keys, documents = await explained(crowded, lookup)
    assert found.isdisjoint({"COLLSCAN", "SORT"}), found
    assert documents <= most
    assert keys <= most + 3 * len(ALL)


async def test_each_count_has_an_index(crowded: Any) -> None:
    """What a sweep would change is counted by the index of the sweep."""
    at = START + timedelta(days=1)
    for conditions in (
        sweeps.expire(at).filter,
        reads.stalled(at, limit=1).filter,
        sweeps.ended_before(START - timedelta(seconds=SESSIONS - 10)),
    ):
        pipeline = across_users.how_many(conditions)
        command = {"aggregate": COLLECTION, "pipeline": pipeline, "cursor": {}}
        answer = await crowded.command({"explain": command, "verbosity": "queryPlanner"})
        assert "COLLSCAN" not in set(stages(answer)), answer


async def test_all_sessions_are_counted_without_a_document(crowded: Any) -> None:
    """The total of a progress bar costs keys of one index only."""
    pipeline = across_users.how_many(across_users.ANY_ID)
    command = {"aggregate": COLLECTION, "pipeline": pipeline, "cursor": {}}
    answer = await crowded.command({"explain": command, "verbosity": "executionStats"})
    told = answer.get("executionStats") or answer["stages"][0]["$cursor"]["executionStats"]
    assert told["totalKeysExamined"] <= SESSIONS + 1
    assert told["totalDocsExamined"] == 0


async def test_ids_of_every_kind_are_passed(operator: Operator, crowded: Any) -> None:
    """Documents of others may have any id: each is told once, those behind them are read, and it ends."""
    beyond = BsonDatetime(400_000_000_000_000)
    ids = [1, None, ObjectId(), True, {"a": 1}, b"x", MinKey(), Timestamp(1, 1), MaxKey(), beyond]
    await crowded[COLLECTION].insert_many([{"_id": each} for each in ids])
    told = await operator("damaged", "--json")
    assert len(told.objects) == len(ids)
    await crowded[COLLECTION].delete_many({"_id": {"$in": ids[6:9]}})
    # The date is the last one now; Python holds it cut, so that it is met twice.
    assert len((await operator("damaged", "--json")).objects) in (len(ids) - 3, len(ids) - 2)
