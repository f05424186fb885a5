"""Stored documents that violate a unique index are counted and named, and nothing is built over them.

Of the sessions that govern one conversation the older ones can be superseded.
"""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, Final

import pytest
from beanie import Document
from pymongo import IndexModel

from indexes import IndexToolError, MissingRight, Resolution, Unreachable, apply, check, plan
from indexes.session_collection import superseding
from sessions import SessionRepository, SessionStatus, open_repository
from sessions.domain.lifecycle import LIFECYCLE
from sessions.domain.models import Transition
from sessions.store.document import COLLECTION, INDEXES, ROUTING_INDEX
from sessions.testing import MovedClock
from tests.support.fail_points import failing

pytestmark = pytest.mark.needs("server")

KEYS: Final = [("user_id", 1), ("conversation_id", 1)]
FILTER: Final = next(
    index.document["partialFilterExpression"] for index in INDEXES if index.document["name"] == ROUTING_INDEX
)


async def without_uniqueness(database: Any, clock: Any, *, keeps_index: bool) -> SessionRepository:
    """A repository on a database whose governor index was lost, or lost its uniqueness."""
    await apply(database)
    await database[COLLECTION].drop_index(ROUTING_INDEX)
    if keeps_index:
        await database[COLLECTION].create_index(KEYS, name=ROUTING_INDEX, partialFilterExpression=FILTER)
    return await open_repository(database, verify_indexes=False, clock=clock)


async def rivals(repository: SessionRepository, clock: MovedClock, conversation: str, many: int) -> list[str]:
    """The ids of sessions that all govern one conversation, the oldest first."""
    made = []
    for number in range(many):
        clock.advance(seconds=1)
        session = await repository.create(
            1, f"{conversation}-{number}", conversation_id=conversation, pending_question="Which?"
        )
        made.append(session.session_id)
    return made


def is_legal(history: list[Transition]) -> bool:
    """Whether each step is one that the lifecycle allows."""
    return all(after.to_status in LIFECYCLE[before.to_status].leads_to for before, after in pairwise(history))


@pytest.fixture
def near_clock() -> MovedClock:
    """A clock near the server's, by which the older sessions are superseded."""
    return MovedClock(datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1))


@pytest.mark.parametrize("keeps_index", [True, False])
async def test_conflicts_are_listed_and_nothing_is_changed(
    database: Any, near_clock: MovedClock, *, keeps_index: bool
) -> None:
    """Plan and apply count the documents and name the first ten; not one index or document is touched."""
    repository = await without_uniqueness(database, near_clock, keeps_index=keeps_index)
    made = await rivals(repository, near_clock, "c", 12) + await rivals(repository, near_clock, "d", 2)
    await rivals(repository, near_clock, "alone", 1)
    await database[COLLECTION].drop_index(f"idx_{COLLECTION}_trigger_id")
    indexes = await database[COLLECTION].index_information()
    documents = await database[COLLECTION].find().to_list(None)
    (planned,) = (await plan(database)).conflicts
    done = await apply(database)
    assert done.conflicts == (planned,)
    assert (planned.index, planned.documents, planned.groups) == (ROUTING_INDEX, 14, 2)
    assert len(planned.first_ids) == 10
    assert set(planned.first_ids) <= set(made)
    assert done.steps == ()
    assert await database[COLLECTION].index_information() == indexes
    assert await database[COLLECTION].find().to_list(None) == documents


@pytest.mark.parametrize("keeps_index", [True, False])
async def test_the_older_governors_are_superseded(database: Any, near_clock: MovedClock, *, keeps_index: bool) -> None:
    """The newest of each conversation stays, the others end ignored with the reason in a legal history."""
    repository = await without_uniqueness(database, near_clock, keeps_index=keeps_index)
    *older, newest = await rivals(repository, near_clock, "c", 3)
    await repository.claim_rerun(older[0], user_id=1, reply_id="r", lease=timedelta(days=1))
    (alone,) = await rivals(repository, near_clock, "alone", 1)
    done = await apply(database, resolve=Resolution.SUPERSEDE_OLDER)
    assert set(done.superseded) == set(older)
    assert done.conflicts == ()
    assert (await check(database)).is_as_declared
    for session_id in older:
        assert (await repository.get(session_id, user_id=1)).status is SessionStatus.IGNORED
        history = await repository.history(session_id, user_id=1)
        assert newest in history[-1].reason
        assert is_legal(history)
    for session_id in (newest, alone):
        assert (await repository.get(session_id, user_id=1)).status is SessionStatus.WAITING_USER_REPLY
    assert (await repository.route(1, "c")).session == await repository.get(newest, user_id=1)


FAILURES: Final[dict[str, tuple[dict[str, Any], type[IndexToolError]]]] = {
    "no right to write": ({"errorCode": 13}, MissingRight),
    "no primary": ({"errorCode": 189}, Unreachable),
    "lost connection": ({"closeConnection": True}, Unreachable),
}


@pytest.mark.parametrize("command", ["update", "findAndModify"])
@pytest.mark.parametrize("kind", list(FAILURES))
async def test_a_store_that_fails_meanwhile_is_told_as_everywhere(
    database: Any, near_clock: MovedClock, monkeypatch: pytest.MonkeyPatch, kind: str, command: str
) -> None:
    """It is an error of the tool, with its next step; no other kind reaches the caller or the command line."""
    monkeypatch.setattr(superseding, "_SECONDS", 3.0)
    repository = await without_uniqueness(database, near_clock, keeps_index=False)
    await rivals(repository, near_clock, "c", 2)
    failure, expected = FAILURES[kind]
    where = {"namespace": f"{database.name}.{COLLECTION}"}
    async with failing(database, command, **failure, **where):
        with pytest.raises(expected):
            await apply(database, resolve="supersede-older")
    assert len((await apply(database, resolve="supersede-older")).superseded) == 1


async def test_an_expired_session_is_no_rival(database: Any, near_clock: MovedClock) -> None:
    """An expired session governs nothing, so it ends as expired, and the older one that governs stays."""
    repository = await without_uniqueness(database, near_clock, keeps_index=False)
    (governs,) = await rivals(repository, near_clock, "c", 1)
    near_clock.advance(seconds=1)
    soon = near_clock() + timedelta(seconds=1)
    expired = await repository.create(1, "x", conversation_id="c", pending_question="Which?", expires_at=soon)
    near_clock.advance(seconds=2)
    done = await apply(database, resolve="supersede-older")
    assert done.superseded == ()
    assert (await repository.get(governs, user_id=1)).status is SessionStatus.WAITING_USER_REPLY
    assert (await repository.get(expired.session_id, user_id=1)).status is SessionStatus.EXPIRED
    assert (await check(database)).is_as_declared


async def test_prepare_unique_is_taken_back(database: Any, near_clock: MovedClock) -> None:
    """If documents violate it, the index is left as it was, and the application's writes go on."""
    repository = await without_uniqueness(database, near_clock, keeps_index=True)
    await rivals(repository, near_clock, "c", 2)
    await database.command({"collMod": COLLECTION, "index": {"name": ROUTING_INDEX, "prepareUnique": True}})
    done = await apply(database)
    assert len(done.conflicts) == 1


class Seat(Document):
    """A document whose unique index meets arrays, absent fields and a collation."""

    class Settings:
        """What Beanie reads."""

        name = "seats"
        indexes = (
            IndexModel([("labels", 1)], name="labels", unique=True, sparse=True),
            IndexModel([("at.row", 1), ("at.number", 1)], name="place", unique=True),
            IndexModel(
                [("guest", 1)], name="guest", unique=True, sparse=True, collation={"locale": "en", "strength": 2}
            ),
        )


STORED: Final[dict[str, tuple[list[dict[str, Any]], dict[str, int]]]] = {
    "nothing shared": ([{"labels": ["a", "a"], "at": {"row": 1}}, {"labels": ["b"], "at": {"row": 2}}], {}),
    "an array's element": (
        [{"labels": ["a", "b"], "at": {"row": 1}}, {"labels": "b", "at": {"row": 2}}],
        {"labels": 2},
    ),
    "absent is null": ([{"at": {"row": 1, "number": None}}, {"at": {"row": 1}}], {"place": 2}),
    "an empty array is no null": (
        [
            {"labels": [], "at": {"row": 1, "number": []}},
            {"labels": None, "at": {"row": 1, "number": None}},
            {"labels": [[]], "at": {"row": 2}},
        ],
        {},
    ),
    "both empty": (
        [{"labels": [], "at": {"row": 1, "number": []}}, {"labels": [], "at": {"row": 1, "number": []}}],
        {"labels": 2, "place": 2},
    ),
    "both absent": ([{}, {}, {}], {"place": 3}),
    "by collation": ([{"guest": "Ann", "at": {"row": 1}}, {"guest": "ann", "at": {"row": 2}}], {"guest": 2}),
}


@pytest.mark.parametrize("case", list(STORED))
async def test_conflicts_are_those_that_the_server_would_find(database: Any, case: str) -> None:
    """Arrays, absent fields, sparse indexes and collations count as they do in the server's own build."""
    documents, expected = STORED[case]
    await database["seats"].insert_many([dict(document) for document in documents])
    found = await plan(database, documents=[Seat])
    assert {conflict.index: conflict.documents for conflict in found.conflicts} == expected
    done = await apply(database, documents=[Seat], resolve="supersede-older")
    assert {conflict.index: conflict.documents for conflict in done.conflicts} == expected
    if not expected:
        assert (await check(database, documents=[Seat])).is_as_declared
    else:
        assert done.steps == ()
