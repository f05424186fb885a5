"""No repository without its governor index."""

from typing import Any, Final

import pytest

from indexes import apply
from sessions import IndexesMissing, SessionRepository, open_repository
from sessions.store.collection import SessionCollection
from sessions.store.document import COLLECTION, INDEXES, ROUTING_INDEX
from sessions.store.index_definitions import differences
from sessions.testing import MovedClock

NAMES: Final = [index.document["name"] for index in INDEXES]
KEYS: Final = [("user_id", 1), ("conversation_id", 1)]
FILTER: Final = {"status": {"$in": ["waiting_user_reply", "rerunning"]}, "conversation_id": {"$type": "string"}}
OTHER_FILTER: Final = {**FILTER, "status": {"$in": ["waiting_user_reply"]}}
OTHERS: Final[dict[str, tuple[list[tuple[str, int]], dict[str, Any], str]]] = {
    "not unique": (KEYS, {"partialFilterExpression": FILTER}, "unique False"),
    "other keys": ([("user_id", 1)], {"unique": True, "partialFilterExpression": FILTER}, "keys"),
    "keys turned round": (KEYS[::-1], {"unique": True, "partialFilterExpression": FILTER}, "keys"),
    "other filter": (KEYS, {"unique": True, "partialFilterExpression": OTHER_FILTER}, "partial filter"),
    "no filter": (KEYS, {"unique": True}, "partial filter"),
}


async def names_in(database: Any) -> set[str]:
    """The indexes of the collection, without the one that every collection has."""
    return set(await database[COLLECTION].index_information()) - {"_id_"}


async def test_an_empty_database_is_refused(database: Any, session_clock: MovedClock) -> None:
    """Without the governor index two sessions could govern; the refusal names the command that creates it."""
    with pytest.raises(IndexesMissing, match="python -m indexes apply") as refusal:
        await open_repository(database, clock=session_clock)
    assert refusal.value.differences == (f"index {ROUTING_INDEX} is missing",)
    assert await names_in(database) == set()


@pytest.mark.needs("server")
@pytest.mark.parametrize("other", list(OTHERS))
async def test_another_governor_index_is_refused(database: Any, session_clock: MovedClock, other: str) -> None:
    """An index of the right name that does not hold the invariant is no governor index; the refusal says why."""
    keys, options, said = OTHERS[other]
    await database[COLLECTION].create_index(keys, name=ROUTING_INDEX, **options)
    with pytest.raises(IndexesMissing) as refusal:
        await open_repository(database, clock=session_clock)
    assert len(refusal.value.differences) == 1
    assert said in refusal.value.differences[0]
    assert refusal.value.http_status == 503


async def test_an_index_that_is_still_being_built_is_refused(
    database: Any, session_clock: MovedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plain listing shows an unfinished index like any other; it does not enforce anything yet."""
    declared = next(dict(index.document) for index in INDEXES if index.document["name"] == ROUTING_INDEX)
    unfinished = {**declared, "buildUUID": "of a build under way"}
    assert differences(declared, unfinished) == (f"index {ROUTING_INDEX} is still being built",)

    async def listed(_: SessionCollection) -> dict[str, Any]:
        return {ROUTING_INDEX: unfinished}

    monkeypatch.setattr(SessionCollection, "indexes", listed)
    with pytest.raises(IndexesMissing, match="still being built"):
        await open_repository(database, clock=session_clock)


async def test_a_caller_may_answer_for_the_indexes(database: Any, session_clock: MovedClock) -> None:
    """``verify_indexes=False`` opens whatever is there, and creates nothing."""
    async with open_repository(database, verify_indexes=False, clock=session_clock) as opened:
        assert isinstance(opened, SessionRepository)
    assert await names_in(database) == set()


@pytest.mark.needs("server")
async def test_a_hidden_governor_index_is_accepted(database: Any, session_clock: MovedClock) -> None:
    """A hidden index still enforces that one session governs."""
    await apply(database)
    await database.command({"collMod": COLLECTION, "index": {"name": ROUTING_INDEX, "hidden": True}})
    async with open_repository(database, clock=session_clock) as opened:
        await opened.create(1, "first", conversation_id="c", pending_question="Which?")


async def test_opening_with_create_indexes_makes_them_all(database: Any, session_clock: MovedClock) -> None:
    """Tests and demos get every declared index and no other, and opening again changes nothing."""
    for _ in range(2):
        async with open_repository(database, create_indexes=True, clock=session_clock):
            assert await names_in(database) == set(NAMES)


async def test_opening_to_create_refuses_what_cannot_be_unique(database: Any, session_clock: MovedClock) -> None:
    """Two stored governors of one conversation are told as such, not as a driver's error."""
    await database[COLLECTION].insert_many(
        [{"_id": each, "user_id": 1, "conversation_id": "c", "status": "rerunning"} for each in "ab"]
    )
    with pytest.raises(IndexesMissing, match="violate"):
        await open_repository(database, create_indexes=True, clock=session_clock)
