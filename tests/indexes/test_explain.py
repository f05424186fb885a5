"""The queries that the repository sends, what each costs by the server's explain, and what sharding asks of them."""

import inspect
import random
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest

from indexes import NotSharded, apply, explain, shard
from indexes.session_collection.query_shapes import SHAPES, Sample, Shape
from indexes.session_collection.sharding import steps_for, unshardable
from sessions import SessionRepository, SessionStatus, open_repository
from sessions.store import reads, sweeps, writes
from sessions.store.document import COLLECTION, INDEXES, LATEST_INDEX, ROUTING_INDEX, SHARD_KEY
from sessions.store.reads import Lookup
from sessions.store.updates import Stage
from sessions.store.writes import Write
from sessions.testing import CommandCounter, MovedClock, SessionMaker

AT: Final = datetime(2026, 1, 1, tzinfo=UTC)
MANY: Final = 100_000
NAMES: Final = [index.document["name"] for index in INDEXES]


# --- the shapes are the repository's --------------------------------------------------------------------------


def builders() -> set[Callable[..., Any]]:
    """Every public function of the three modules that builds what is sent, but for what narrows or is narrowed."""
    found: set[Callable[..., Any]] = set()
    for module in (writes, sweeps, reads):
        for name, function in inspect.getmembers(module, inspect.isfunction):
            returned = inspect.signature(function).return_annotation
            builds = returned in (Write, Lookup, list[Stage]) or name == "purge"
            if builds and function.__module__ == module.__name__ and not name.startswith("_"):
                found.add(function)
    return found - {sweeps.narrowed, sweeps.narrowed_to, writes.claim, sweeps.without_nulls, reads.but_for}


def builders_of(shape: Shape) -> set[Callable[..., Any]]:
    """Those of them that a shape calls by name."""
    names = shape.asked.__code__.co_names
    return {builder for builder in builders() if {builder.__module__.rpartition(".")[2], builder.__name__} <= {*names}}


def test_every_query_has_its_shape() -> None:
    """A query that is added to the repository and forgotten here would never be explained."""
    assert all(len(builders_of(shape)) == 1 for shape in SHAPES)
    assert builders() == {builder for shape in SHAPES for builder in builders_of(shape)}


def outline(conditions: object) -> object:
    """The fields and operators of a filter, without its values."""
    if isinstance(conditions, Mapping):
        return {name: outline(value) for name, value in conditions.items()}
    if isinstance(conditions, list) and conditions and isinstance(conditions[0], Mapping):
        return [outline(part) for part in conditions]
    return "value"


Calls = dict[str, Callable[[], Awaitable[object]]]


@pytest.mark.needs("server")
async def test_the_shapes_are_what_is_sent(
    repository: SessionRepository,
    make_session: SessionMaker,
    session_clock: MovedClock,
    command_counter: CommandCounter,
) -> None:
    """Each lookup and each write, as the server receives it, asks for the fields that its shape names."""
    session = await make_session(conversation_id="c")
    ready = await make_session(SessionStatus.READY_PREVIEW)
    assert ready.current_preview_id is not None
    claim, replaced, refined = await make_session.claim(), await make_session.claim(), await make_session.refinement()
    confirmed = await make_session.apply_claim()
    calls: Calls = {
        "route": lambda: repository.route(1, "c"),
        "route_many": lambda: repository.route_many(1, ["c"]),
        "latest": lambda: repository.latest(1, "c"),
        "get": lambda: repository.get(session.session_id, user_id=1),
        "history": lambda: repository.history(session.session_id, user_id=1),
        "find_by_trigger": lambda: repository.find_by_trigger(session.trigger_id, user_id=1),
        "find_by_preview": lambda: repository.find_by_preview("p", user_id=1),
        "find_by_reply": lambda: repository.find_by_reply("reply", user_id=1, conversation_id="c"),
        "list_sessions (first page)": lambda: repository.list_sessions(1),
        "renew": lambda: repository.renew(claim),
        "release": lambda: repository.release(claim),
        "claim_rerun": lambda: repository.claim_rerun(
            session.session_id, user_id=1, reply_id="r", question_number=session.question_number
        ),
        "claim_rerun (replaces a run)": lambda: repository.claim_rerun(
            replaced.session.session_id,
            user_id=1,
            reply_id="r",
            question_number=replaced.session.question_number,
            replaces=replaced.session.lease,
        ),
        "claim_refinement (replaces a run)": lambda: repository.claim_refinement(
            refined.session.session_id,
            user_id=1,
            preview_id=refined.session.current_preview_id or "",
            reply_id="r",
            replaces=refined.session.lease,
        ),
        "interrupt": lambda: repository.interrupt(replaced.session.session_id, user_id=1),
        "postpone": lambda: repository.postpone(confirmed, after=timedelta(seconds=5)),
        "apply": lambda: repository.apply(ready.session_id, user_id=1, preview_id=ready.current_preview_id or ""),
        "ignore, fail": lambda: repository.ignore(claim.session.session_id, user_id=1),
        "expire_due (its batch)": repository.expire_due,
        "recover_stalled (its batch)": repository.recover_stalled,
        "purge (its batch)": lambda: repository.purge(ended_before=AT),
    }
    shapes = {shape.name: shape for shape in SHAPES}
    for name, call in calls.items():
        with command_counter.counting():
            await call()
        sent = command_counter.commands[0]
        shape = shapes[name]
        asked = shape.asked(Sample(at=session_clock()))
        received = sent.get("filter", sent.get("query"))
        assert outline(received) == outline(shape.filter_for(Sample(at=session_clock()))), name
        if isinstance(asked, Lookup):
            assert sent.get("hint") == asked.hint, name
            assert dict(sent.get("sort", {})) == dict(asked.sort), name


# --- what they cost on a live database ------------------------------------------------------------------------


def stored_session(number: int, chance: random.Random) -> dict[str, Any]:
    """A session document in some state; each hundredth is live."""
    user, live = number % 2_000 + 1, number % 100 == 0
    at = AT + timedelta(seconds=chance.randrange(10_000_000))
    document: dict[str, Any] = {
        "_id": f"{number:032x}",
        "user_id": user,
        "conversation_id": f"c{number if live else number % 500}",
        "trigger_id": f"t{number}",
        "current_preview_id": None if live else f"p{number}",
        "status": "waiting_user_reply" if live else chance.choice(["applied", "ignored", "expired", "failed"]),
        "state": {"expires_at": at} if number % 3 == 0 else {},
        "question_number": 1,
        "fencing_token": 0,
        "attempts": 0,
        "answered_reply_ids": [],
        "revision": 1,
        "history": [{"to_status": "waiting_user_reply", "at": at, "reason": "", "operation_id": "o", "call": "create"}],
        "created_at": at,
        "updated_at": at,
    }
    if number % 1_000 == 0:
        lease = {"kind": "reply", "operation_id": "o", "reply_id": "r", "expires_at": at}
        document |= {"status": "rerunning", "lease": lease}
    return document


@pytest.mark.needs("server")
async def test_explain_passes_on_many_sessions_and_fails_on_a_hidden_index(database: Any) -> None:
    """On 100,000 sessions an index serves every query, without a sort. Each query of a hidden index names it."""
    chance = random.Random(1)
    for start in range(0, MANY, 20_000):
        await database[COLLECTION].insert_many(
            [stored_session(number, chance) for number in range(start, start + 20_000)], ordered=False
        )
    await apply(database)
    told = await explain(database)
    assert told.is_fine, [query for query in told.queries if query.problems]
    assert [query.query for query in told.queries] == [shape.name for shape in SHAPES]
    assert all(query.indexes for query in told.queries)
    routes = {shape.name for shape in SHAPES if shape.routes}
    assert {query.keys for query in told.queries if query.query in routes} == {1}
    assert {query.returned for query in told.queries if query.query in routes} == {1}
    for hidden, asks in (
        (ROUTING_INDEX, "route"),
        (LATEST_INDEX, "latest"),
        (f"idx_{COLLECTION}_trigger_id", "trigger"),
    ):
        await database.command({"collMod": COLLECTION, "index": {"name": hidden, "hidden": True}})
        told = await explain(database)
        assert not told.is_fine
        failing = [query for query in told.queries if query.problems]
        assert any(asks in query.query for query in failing)
        assert all(hidden in query.problems[0] for query in failing)
        await database.command({"collMod": COLLECTION, "index": {"name": hidden, "hidden": False}})


@pytest.mark.needs("server")
async def test_explain_on_an_empty_database_names_what_is_missing(database: Any, session_clock: MovedClock) -> None:
    """With nothing stored and nothing indexed, explain itself works, and names the queries that lack an index."""
    told = await explain(database)
    assert not told.is_fine
    async with open_repository(database, create_indexes=True, clock=session_clock):
        assert (await explain(database)).is_fine


@pytest.mark.needs("server")
async def test_a_collection_scan_is_told(database: Any) -> None:
    """If no index is left the queries scan the collection, and explain says so."""
    await database[COLLECTION].insert_one(stored_session(100, random.Random(1)))
    told = {query.query: query.problems for query in (await explain(database)).queries}
    assert "it scans the collection" in told["route"]
    assert "it sorts in memory" in told["latest"]


# --- past one machine -----------------------------------------------------------------------------------------


def shards_of(shape: Shape) -> list[dict[str, Any]]:
    """What it asks of the shard key, in each of its alternatives if it is made of nothing else."""
    conditions = shape.filter_for(Sample(at=AT, user_id=77))
    alternatives = conditions["$or"] if set(conditions) == {"$or"} else [conditions]
    return [{field: each.get(field) for field in SHARD_KEY} for each in alternatives]


@pytest.mark.parametrize("name", [shape.name for shape in SHAPES if shape.by_user])
def test_each_call_of_a_users_request_names_the_shard_key(name: str) -> None:
    """It reaches one shard, since its filter names the user by equality."""
    asked = shards_of(next(shape for shape in SHAPES if shape.name == name))
    assert all(each == {"user_id": 77} for each in asked)


def test_only_upkeep_asks_for_more_than_one_user() -> None:
    """A query that goes to all shards is sent by workers, in bounded batches."""
    scattering = [shape for shape in SHAPES if {"user_id": None} in shards_of(shape)]
    assert scattering
    assert not any(shape.by_user for shape in scattering)


def test_each_declared_unique_index_begins_with_the_shard_key() -> None:
    """A unique index that did not would be refused by a sharded collection."""
    assert unshardable({index.document["name"]: index.document for index in INDEXES}) == []
    assert unshardable({"odd": {"key": {"conversation_id": 1, "user_id": 1}, "unique": True}}) == ["odd"]
    assert unshardable({"plain": {"key": {"conversation_id": 1}}}) == []


def test_the_commands_of_sharding() -> None:
    """The shard key's index first, then the collection, hashed by user."""
    commands = [step.command for step in steps_for("assistant")]
    assert commands[0] == {"enableSharding": "assistant"}
    assert commands[-1] == {"shardCollection": f"assistant.{COLLECTION}", "key": {"user_id": "hashed"}}


@pytest.mark.needs("server")
async def test_an_unsharded_server_is_told_as_such(database: Any) -> None:
    """The refusal says so, and nothing is changed."""
    with pytest.raises(NotSharded, match="mongos"):
        await shard(database, carry_out=True)
    assert await database.list_collection_names() == []
