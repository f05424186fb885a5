"""Each way in which a database can differ from what is declared is named by plan and repaired by apply."""

from typing import Annotated, Any, Final

import pytest
from beanie import Document, Indexed
from bson import Decimal128
from pydantic import Field
from pymongo import IndexModel
from pymongo.errors import OperationFailure

from indexes import Applied, BadChoice, Plan, Unsettled, apply, check, plan
from indexes.actions import NEVER_SECONDS, Action
from indexes.planner import Standing
from sessions import open_repository
from sessions.store.document import COLLECTION, INDEXES, ROUTING_INDEX
from sessions.store.index_definitions import Aspect, signature
from sessions.testing import CommandCounter, MovedClock

pytestmark = pytest.mark.needs("server")

NAMES: Final = [index.document["name"] for index in INDEXES]
TRIGGER: Final = f"idx_{COLLECTION}_trigger_id"
KEYS: Final = [("user_id", 1), ("conversation_id", 1)]
FILTER: Final = {"status": {"$in": ["waiting_user_reply", "rerunning"]}, "conversation_id": {"$type": "string"}}
GOVERNS: Final[dict[str, Any]] = {"unique": True, "partialFilterExpression": FILTER}
CHANGES: Final = frozenset({"createIndexes", "collMod", "dropIndexes"})

DRIFTS: Final[dict[str, tuple[str, list[tuple[str, int]], dict[str, Any], Aspect]]] = {
    "other key order": (ROUTING_INDEX, KEYS[::-1], GOVERNS, Aspect.ORDER),
    "other keys": (TRIGGER, [("trigger_id", 1), ("user_id", 1)], {}, Aspect.KEYS),
    "reversed": (ROUTING_INDEX, [(name, -1) for name, _ in KEYS], GOVERNS, Aspect.KEYS),
    "lost uniqueness": (ROUTING_INDEX, KEYS, {"partialFilterExpression": FILTER}, Aspect.UNIQUE),
    "uniqueness that is not declared": (TRIGGER, [("trigger_id", 1)], {"unique": True}, Aspect.UNIQUE),
    "other partial filter": (
        ROUTING_INDEX,
        KEYS,
        {"unique": True, "partialFilterExpression": {"status": "rerunning"}},
        Aspect.PARTIAL_FILTER,
    ),
    "no partial filter": (ROUTING_INDEX, KEYS, {"unique": True}, Aspect.PARTIAL_FILTER),
    "hidden": (ROUTING_INDEX, KEYS, {**GOVERNS, "hidden": True}, Aspect.HIDDEN),
    "sparse": (TRIGGER, [("trigger_id", 1)], {"sparse": True}, Aspect.SPARSE),
    "collation": (TRIGGER, [("trigger_id", 1)], {"collation": {"locale": "de", "strength": 1}}, Aspect.COLLATION),
    "a TTL": (TRIGGER, [("trigger_id", 1)], {"expireAfterSeconds": 3600}, Aspect.TTL),
}


async def drift(database: Any, name: str, keys: list[tuple[str, int]], options: dict[str, Any]) -> None:
    """Put another index under a declared name, among the others as declared."""
    await apply(database)
    await database[COLLECTION].drop_index(name)
    await database[COLLECTION].create_index(keys, name=name, **options)


def states(found: Plan) -> dict[str, Standing]:
    """How each index stands."""
    return {index.name: index.standing for index in found.indexes}


async def assert_settled(database: Any, command_counter: CommandCounter) -> None:
    """All is as declared, nothing is left over, and another run changes nothing."""
    assert (await check(database)).is_as_declared
    with command_counter.counting() as counts:
        again = await apply(database)
    assert again.steps == ()
    assert not CHANGES & set(counts)
    assert not any("__bridge_" in name for name in await database[COLLECTION].index_information())


async def test_from_nothing_to_all_ten(
    database: Any, command_counter: CommandCounter, session_clock: MovedClock
) -> None:
    """Plan lists eleven missing, apply builds each in a command of its own, check passes, a second run is silent."""
    before = await plan(database)
    assert list(states(before)) == NAMES
    assert set(states(before).values()) == {Standing.MISSING}
    assert len(before.steps) == len(INDEXES)
    assert not before.is_as_declared
    with command_counter.counting() as counts:
        done = await apply(database)
    assert counts["createIndexes"] == len(INDEXES)
    assert [step.index for step in done.steps] == [step.index for step in before.steps]
    after = await plan(database)
    assert after.steps == ()
    assert set(states(after).values()) == {Standing.EQUAL}
    await assert_settled(database, command_counter)
    async with open_repository(database, clock=session_clock):
        pass


async def test_plan_and_check_only_read(database: Any, command_counter: CommandCounter) -> None:
    """They send only commands that read, and no collection is made."""
    with command_counter.counting() as counts:
        await plan(database)
        await check(database)
    assert set(counts) <= {"listIndexes", "aggregate", "explain"}
    assert await database.list_collection_names() == []


@pytest.mark.parametrize("kind", list(DRIFTS))
async def test_a_drift_is_named_and_repaired(database: Any, command_counter: CommandCounter, kind: str) -> None:
    """Plan says which index differs in what. Apply takes the planned steps and no others, and then all is equal."""
    name, keys, options, aspect = DRIFTS[kind]
    await drift(database, name, keys, options)
    before = await plan(database)
    assert states(before) == {each: Standing.DIFFERENT if each == name else Standing.EQUAL for each in NAMES}
    (index,) = before.named(Standing.DIFFERENT)
    assert [difference.aspect for difference in index.differences] == [aspect]
    assert not (await check(database)).is_as_declared
    done = await apply(database)
    assert done.steps == before.steps
    await assert_settled(database, command_counter)


async def test_a_filter_written_otherwise_is_equal(database: Any) -> None:
    """Like the server, plan does not mind the order, a type given by number, or a written-out $and."""
    await apply(database)
    await database[COLLECTION].drop_index(ROUTING_INDEX)
    same = {"$and": [{"conversation_id": {"$type": 2}}, {"status": {"$in": ["rerunning", "waiting_user_reply"]}}]}
    await database[COLLECTION].create_index(KEYS, name=ROUTING_INDEX, unique=True, partialFilterExpression=same)
    assert (await plan(database)).steps == ()


A: Final = {"s": "a"}
B: Final = {"s": "b"}
T: Final = {"t": 1}
SPELLINGS: Final[list[tuple[dict[str, Any], dict[str, Any]]]] = [
    ({"s": {"$in": ["a", "b"]}}, {"$or": [B, A]}),
    ({"s": {"$in": ["a", "b"]}, "t": 1}, {"$or": [A, B], "t": 1}),
    ({"s": {"$in": ["a", {"x": 1}]}}, {"$or": [A, {"s": {"x": 1}}]}),
    (A, {"$or": [A]}),
    ({"s": "a", "t": 1}, {"$or": [{"s": "a", "t": 1}]}),
    ({"$or": [A, B, T]}, {"$or": [{"$or": [A, B]}, T]}),
    ({"s": {"$exists": True}}, {"s": {"$exists": 1}}),
    ({"s": {"$gte": 1}}, {"s": {"$gte": Decimal128("1.0")}}),
    ({"s": 1.5}, {"s": Decimal128("1.5")}),
    (A, {"$or": [A, A]}),
    ({"$or": [A, T]}, {"$or": [A, T, A]}),
    ({"s": 0.1}, {"s": Decimal128("0.1")}),
    ({"s": 1}, {"s": True}),
    ({"$or": [A, B], "t": 1}, {"$or": [{"s": "a", "t": 1}, {"s": "b", "t": 1}]}),
]


@pytest.mark.parametrize("number", range(len(SPELLINGS)))
async def test_filters_are_equal_if_the_server_takes_them_for_one(database: Any, number: int) -> None:
    """The server refuses one definition under two names (error 85), so two that it takes for one must be equal here."""
    one, other = ({"key": {"a": 1}, "partialFilterExpression": spelt} for spelt in SPELLINGS[number])
    await database.command({"createIndexes": "c", "indexes": [{**one, "name": "one"}]})
    refusal: OperationFailure | None = None
    try:
        await database.command({"createIndexes": "c", "indexes": [{**other, "name": "other"}]})
    except OperationFailure as error:
        refusal = error
    assert refusal is None or refusal.code == 85
    assert (signature(one) == signature(other)) is (refusal is not None)


class Spelt(Document):
    """A document with a filter that the server takes for the one of another index."""

    class Settings:
        """What Beanie reads."""

        name = "spelt"
        indexes = (IndexModel([("a", 1)], name="ours", partialFilterExpression={"$or": [A, B, T]}),)


async def test_a_spelling_that_is_not_known_is_told_by_what_stands_in_the_way(database: Any) -> None:
    """Nobody else changes the indexes, so the message names the one that the server takes for the same."""
    same = {"$or": [{"s": {"$in": ["a", "b"]}}, T]}
    await database["spelt"].create_index([("a", 1)], name="theirs", partialFilterExpression=same)
    with pytest.raises(Unsettled, match=r"takes theirs for the same index"):
        await apply(database, documents=[Spelt])


async def test_lost_uniqueness_is_given_back_in_place(database: Any, command_counter: CommandCounter) -> None:
    """No index is built or dropped for it. Two commands set prepareUnique and then unique."""
    await drift(database, ROUTING_INDEX, KEYS, {"partialFilterExpression": FILTER})
    with command_counter.counting() as counts:
        await apply(database)
    assert counts["collMod"] == 2
    assert not counts["createIndexes"]
    assert not counts["dropIndexes"]


async def test_prepare_unique_left_by_a_killed_run_is_recognised(
    database: Any, command_counter: CommandCounter
) -> None:
    """The next run continues one that died between the two commands."""
    await drift(database, ROUTING_INDEX, KEYS, {"partialFilterExpression": FILTER})
    await database.command({"collMod": COLLECTION, "index": {"name": ROUTING_INDEX, "prepareUnique": True}})
    before = await plan(database)
    aspects = [difference.aspect for difference in before.named(Standing.DIFFERENT)[0].differences]
    assert aspects == [Aspect.UNIQUE, Aspect.PREPARE_UNIQUE]
    await apply(database)
    await assert_settled(database, command_counter)


# --- what nobody declared -------------------------------------------------------------------------------------


async def test_a_foreign_index_is_listed_and_left(database: Any) -> None:
    """Plan shows its size and use, apply does not touch it, and check does not mind it."""
    await apply(database)
    await database[COLLECTION].create_index([("theirs", 1)], name="theirs")
    found = await plan(database)
    (foreign,) = found.named(Standing.UNDECLARED)
    assert foreign.name == "theirs"
    assert foreign.use.size is not None
    assert foreign.use.operations == 0
    assert foreign.use.since is not None
    assert found.steps == ()
    assert (await apply(database)).steps == ()
    assert (await check(database)).is_as_declared
    assert "theirs" in await database[COLLECTION].index_information()


async def test_a_foreign_index_is_hidden_then_dropped_on_demand(database: Any) -> None:
    """Its TTL is defused and it is hidden, and hide-only stops there; the other flag then drops it."""
    await apply(database)
    await database[COLLECTION].create_index([("theirs", 1)], name="theirs", expireAfterSeconds=5)
    hidden = await apply(database, hide_only=True)
    assert [step.action for step in hidden.steps] == [Action.DEFUSE_TTL, Action.HIDE]
    held = (await database[COLLECTION].index_information())["theirs"]
    assert (held["hidden"], held["expireAfterSeconds"]) == (True, NEVER_SECONDS)
    dropped = await apply(database, drop_undeclared=True)
    assert [step.action for step in dropped.steps] == [Action.DROP]
    assert "theirs" not in await database[COLLECTION].index_information()


async def test_the_declared_index_under_an_operators_name(database: Any, command_counter: CommandCounter) -> None:
    """The server takes a definition under one name only. Plan reports it, and with the flag apply replaces it."""
    await apply(database)
    await database[COLLECTION].drop_index(ROUTING_INDEX)
    await database[COLLECTION].create_index(KEYS, name="theirs", **GOVERNS)
    told = await apply(database)
    assert told.steps == ()
    assert [blocked.index for blocked in told.plan.blocked] == [ROUTING_INDEX]
    await apply(database, drop_undeclared=True)
    assert "theirs" not in await database[COLLECTION].index_information()
    await assert_settled(database, command_counter)


# --- documents of others --------------------------------------------------------------------------------------


class Lesson(Document):
    """A document of an application, with each way to declare an index."""

    teacher: Annotated[str, Indexed(unique=True)]
    room: Indexed(str)  # type: ignore[valid-type]  # Beanie's own form: a class made on the spot
    starts_at: int = 0
    notes: str = ""
    place: dict[str, Any] = Field(default_factory=dict)

    class Settings:
        """What Beanie reads."""

        name = "lessons"
        indexes = (
            "starts_at",
            [("room", 1), ("starts_at", -1)],
            IndexModel([("notes", "text")], name="by_notes"),
            IndexModel([("place", "2dsphere")], name="by_place"),
            IndexModel([("created", 1)], name="gone_soon", expireAfterSeconds=60),
            IndexModel([("teacher", "hashed")], name="by_teacher"),
            IndexModel([("room", 1)], name="by_room_loosely", collation={"locale": "fr_CA", "strength": 2}),
        )


async def test_documents_of_an_application(database: Any, command_counter: CommandCounter) -> None:
    """Each way to declare an index counts; text, geo, TTL, hashed and collated indexes are equal once built.

    As in Beanie, the index at the field ``room`` is replaced by the one with the same keys in Settings.
    """
    done = await apply(database, documents=[Lesson])
    assert len(done.steps) == 8
    assert set(await database["lessons"].index_information()) == {
        *("_id_", "teacher_1", "starts_at_1", "room_1_starts_at_-1", "by_notes", "by_place", "gone_soon"),
        *("by_teacher", "by_room_loosely"),
    }
    assert (await check(database, documents=[Lesson])).is_as_declared
    with command_counter.counting() as counts:
        assert (await apply(database, documents=[Lesson])).steps == ()
    assert not CHANGES & set(counts)


@pytest.mark.parametrize(("present", "steps"), [(10, [Action.SET_TTL]), (None, [Action.SET_TTL])])
async def test_a_ttl_changed_or_lost(database: Any, present: int | None, steps: list[Action]) -> None:
    """The declared TTL is set in place, even on an index that had none."""
    await apply(database, documents=[Lesson])
    await database["lessons"].drop_index("gone_soon")
    options = {} if present is None else {"expireAfterSeconds": present}
    await database["lessons"].create_index([("created", 1)], name="gone_soon", **options)
    done = await apply(database, documents=[Lesson])
    assert [step.action for step in done.steps] == steps
    assert (await database["lessons"].index_information())["gone_soon"]["expireAfterSeconds"] == 60


async def test_a_changed_text_index_is_left_with_a_reason(database: Any) -> None:
    """It can't be reversed, and the rest is done all the same."""
    await database["lessons"].create_index([("notes", "text"), ("room", 1)], name="by_notes")
    done = await apply(database, documents=[Lesson])
    assert len(done.steps) == 7
    assert [blocked.index for blocked in done.plan.blocked] == ["by_notes"]


# --- arguments ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [{"resolve": "everything"}, {"commit_quorum": 0}, {"commit_quorum": ""}])
async def test_a_wrong_argument_changes_nothing(database: Any, wrong: dict[str, Any]) -> None:
    """The error names the argument, and nothing is built."""
    with pytest.raises(BadChoice, match=next(iter(wrong))):
        await apply(database, **wrong)
    assert await database.list_collection_names() == []


async def test_progress_is_told_for_each_step(database: Any) -> None:
    """A caller from Python sees each step begin and end."""
    told: list[tuple[str, bool]] = []
    done: Applied = await apply(
        database, tell=lambda progress: told.append((progress.step.index if progress.step else "", progress.ended))
    )
    assert [index for index, ended in told if ended] == [step.index for step in done.steps]
