"""Every kind of collection by every command: served, or refused with its reason before anything is done."""

import re
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, ClassVar, Final

import pytest
from beanie import Document, TimeSeriesConfig
from pymongo import IndexModel

from indexes import Applied, Plan, Standing, UnfitCollection, apply, check, explain, plan
from indexes.server import Server
from sessions import IndexesMissing, open_repository
from sessions.mongod import find_mongod
from sessions.store.document import COLLECTION, INDEXES
from sessions.testing import MovedClock
from tests.support.index_command import run_command
from tests.support.made_documents import document

pytestmark = pytest.mark.needs("server")

ENGLISH: Final = {"locale": "en", "strength": 2}
BY_ID: Final = {"key": {"_id": 1}, "unique": True, "name": "by_id"}
TIMED: Final = {"timeField": "at", "metaField": "place"}
KINDS: Final[dict[str, dict[str, Any]]] = {
    "absent": {},
    "plain": {"validationLevel": "off"},
    "capped": {"capped": True, "size": 100_000},
    "clustered": {"clusteredIndex": BY_ID},
    "time series": {"timeseries": TIMED},
    "time series with a collation": {"timeseries": TIMED, "collation": ENGLISH},
    "view": {"viewOn": "source", "pipeline": []},
    "view of nothing": {"viewOn": "nothing", "pipeline": []},
    "collation": {"collation": ENGLISH},
    "capped with a collation": {"capped": True, "size": 100_000, "collation": ENGLISH},
    "clustered with a collation": {"clusteredIndex": BY_ID, "collation": ENGLISH},
}
SERVED: Final = ("absent", "plain", "capped", "clustered")
UNFIT: Final = {
    kind: next(word for word in ("time series", "view", "collation") if word in kind)
    for kind in KINDS
    if kind not in SERVED
}
"""What cannot hold sessions, with the word that the reason names."""
UNFIT_FOR_ANY: Final = {kind: word for kind, word in UNFIT.items() if word != "collation"}


class Reading(Document):
    """A document of an application."""

    at: datetime
    place: str

    class Settings:
        """What Beanie reads."""

        name = "readings"
        indexes: ClassVar = [[("place", 1), ("at", -1)], IndexModel([("place", 1)], name="unique_place", unique=True)]


class Measure(Reading):
    """The same, declared as a time series."""

    class Settings:
        """What Beanie reads."""

        name = "measures"
        timeseries = TimeSeriesConfig(time_field="at", meta_field="place")
        indexes: ClassVar = [[("place", 1), ("at", -1)]]


class Unindexed(Document):
    """A document that declares nothing, so that nothing can be wrong with its collection."""

    class Settings:
        """What Beanie reads."""

        name = "unindexed"


async def make(database: Any, collection: str, kind: str) -> None:
    """Make a collection of this kind."""
    if options := KINDS[kind]:
        await database.command({"create": collection, **options})


async def listed(database: Any) -> list[Any]:
    """Every collection with its options and its indexes, but for that of the lock."""
    found = []
    answer = await database.command({"listCollections": 1, "cursor": {"batchSize": 1000}})
    for one in answer["cursor"]["firstBatch"]:
        is_view = one["type"] == "view" or one["name"].startswith("system.")
        held = None if is_view else await database[one["name"]].index_information()
        found.append((one["name"], one["type"], one["options"], held))
    return sorted((one for one in found if one[0] != "system.views"), key=lambda one: one[0])


async def open_it(database: Any, clock: MovedClock, *, create_indexes: bool) -> None:
    """Open a repository and write a session."""
    async with open_repository(database, create_indexes=create_indexes, clock=clock) as opened:
        await opened.create(1, "trigger", conversation_id="c", pending_question="Which?")
        assert (await opened.route(1, "c")).session is not None


Command = Callable[[Any, MovedClock], Awaitable[Plan | Applied | None]]


async def _explained(database: Any) -> None:
    assert (await explain(database)).is_fine


COMMANDS: Final[dict[str, Command]] = {
    "plan": lambda database, _: plan(database),
    "plan, drop undeclared": lambda database, _: plan(database, drop_undeclared=True),
    "apply": lambda database, _: apply(database),
    "apply, drop undeclared": lambda database, _: apply(database, drop_undeclared=True),
    "check": lambda database, _: check(database),
    "explain": lambda database, _: _explained(database),
    "open": lambda database, clock: open_it(database, clock, create_indexes=False),
    "open, create": lambda database, clock: open_it(database, clock, create_indexes=True),
}


def told_by(found: Plan | Applied) -> Plan:
    """The plan of either."""
    return found.plan if isinstance(found, Applied) else found


@pytest.mark.parametrize("command", list(COMMANDS))
@pytest.mark.parametrize("kind", list(UNFIT))
async def test_what_cannot_hold_sessions_is_refused_by_every_command(
    database: Any, session_clock: MovedClock, kind: str, command: str
) -> None:
    """No command calls equal what another refuses; each gives the reason, and nothing is changed."""
    await make(database, COLLECTION, kind)
    before = await listed(database)
    if command.startswith(("open", "explain")):
        with pytest.raises((IndexesMissing, UnfitCollection), match=f"{COLLECTION}.*{UNFIT[kind]}") as refusal:
            await COMMANDS[command](database, session_clock)
        assert "\n" not in str(refusal.value)
        assert "python -m indexes apply" not in str(refusal.value)
        assert ("made anew" in str(refusal.value)) is (command != "explain" or UNFIT[kind] == "collation")
    else:
        found = await COMMANDS[command](database, session_clock)
        assert found is not None
        told = told_by(found)
        assert told.steps == ()
        assert not told.is_as_declared
        (blocked,) = told.blocked
        assert (blocked.collection, blocked.index) == (COLLECTION, None)
        assert UNFIT[kind] in blocked.reason
        assert {index.standing for index in told.indexes} == {Standing.REFUSED}
        assert ("made anew" in blocked.reason) is (UNFIT[kind] == "collation")
    assert await listed(database) == before


@pytest.mark.parametrize("kind", SERVED)
async def test_what_can_hold_sessions_is_served_by_every_command(
    database: Any, session_clock: MovedClock, kind: str
) -> None:
    """Apply makes all eleven, a second run changes nothing, and whatever is then asked agrees."""
    await make(database, COLLECTION, kind)
    assert not (await check(database)).is_as_declared
    assert len((await plan(database)).steps) == len(INDEXES)
    assert len((await apply(database)).steps) == len(INDEXES)
    assert (await check(database)).is_as_declared
    assert (await apply(database, drop_undeclared=True)).steps == ()
    await open_it(database, session_clock, create_indexes=False)
    assert (await explain(database)).is_fine


@pytest.mark.parametrize("kind", list(KINDS))
async def test_documents_of_an_application(database: Any, kind: str) -> None:
    """A default collation is theirs to choose, and is inherited. A view and a time series are refused."""
    await make(database, "readings", kind)
    before = await listed(database)
    first, second = [await apply(database, documents=[Reading]) for _ in range(2)]
    checked = await check(database, documents=[Reading])
    assert second.steps == ()
    if kind in UNFIT_FOR_ANY:
        assert first.steps == ()
        assert not checked.is_as_declared
        assert [one.index for one in checked.blocked] == [None]
        assert UNFIT_FOR_ANY[kind] in checked.blocked[0].reason
        assert await listed(database) == before
    else:
        assert len(first.steps) == 2
        assert checked.is_as_declared


@pytest.mark.parametrize("kind", list(KINDS))
async def test_a_time_series_that_is_declared_is_left_to_beanie(database: Any, kind: str) -> None:
    """No plain collection is made in its place, whatever stands there; what else is declared is built."""
    await make(database, "measures", kind)
    before = await listed(database)
    done = await apply(database, documents=[Measure, Reading])
    assert {step.collection for step in done.steps} == {"readings"}
    assert [one.collection for one in done.plan.blocked] == ["measures"]
    assert "time series" in done.plan.blocked[0].reason
    assert [one for one in await listed(database) if one[0] not in ("readings", "index_bootstrap_locks")] == before


@pytest.mark.parametrize("kind", list(KINDS))
async def test_where_nothing_is_declared_nothing_is_refused(database: Any, kind: str) -> None:
    """A list of all an application's documents may name one without indexes on whatever kind of collection."""
    await make(database, "unindexed", kind)
    for found in (await plan(database, documents=[Unindexed]), await check(database, documents=[Unindexed])):
        assert (found.is_as_declared, found.steps, found.blocked) == (True, (), ())


class Labelled(Document):
    """A document with indexes of which some know no collation."""

    class Settings:
        """What Beanie reads."""

        name = "labelled"
        indexes: ClassVar = [
            IndexModel([("title", 1)], name="title"),
            IndexModel([("text", "text")], name="text"),
            IndexModel([("at", "2d")], name="at", collation={"locale": "simple"}),
            IndexModel([("place", "2dsphere")], name="place"),
            IndexModel([("user", "hashed")], name="user"),
            IndexModel([("$**", 1)], name="any"),
            IndexModel([("french", 1)], name="french", collation={"locale": "fr_CA"}),
        ]


@pytest.mark.parametrize("kind", ["plain", "collation", "clustered with a collation"])
async def test_which_kinds_of_index_a_default_collation_leaves(database: Any, kind: str) -> None:
    """A text index that does not say so itself is refused beforehand, as the server would; the rest is built."""
    await make(database, "labelled", kind)
    planned = await plan(database, documents=[Labelled])
    refused = [] if kind == "plain" else ["text"]
    assert [one.index for one in planned.blocked] == refused
    assert all("collation={'locale': 'simple'}" in one.reason for one in planned.blocked)
    done = await apply(database, documents=[Labelled])
    assert done.steps == planned.steps
    assert len(done.steps) == 7 - len(refused)
    assert done.refused == ()
    assert [index.name for index in done.plan.named(Standing.REFUSED)] == refused


async def test_an_index_named_as_the_clustered_one_is_left_alone(database: Any) -> None:
    """The server can't drop the key of a clustered collection, so that a bridge would be built for nothing."""
    await database.command({"create": "readings", "clusteredIndex": {**BY_ID, "name": "unique_place"}})
    done = await apply(database, documents=[Reading])
    assert [step.index for step in done.steps] == ["place_1_at_-1"]
    assert [one.index for one in done.plan.blocked] == ["unique_place"]
    assert "give the index another one" in done.plan.blocked[0].reason


@pytest.mark.parametrize("name", [".readings", "system.readings", "n" * 300])
async def test_a_name_that_no_collection_has_is_refused(database: Any, name: str) -> None:
    """The reason names it, and the documents beside it are served."""
    done = await apply(database, documents=[document(name, [("place", 1)]), Reading])
    assert {step.collection for step in done.steps} == {"readings"}
    told = {one.collection for one in (*done.refused, *done.plan.blocked)}
    assert told == {name}


# --- a step without effect ------------------------------------------------------------------------------------


async def test_a_build_without_effect_is_an_error(database: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that reports success and holds no index is not asked for ever; what else there is is done."""
    built: list[str] = []
    change = Server.change

    async def pretend(self: Server, command: dict[str, Any], **options: Any) -> dict[str, Any]:
        if command.get("createIndexes") == "readings":
            built.append(command["indexes"][0]["name"])
            return {"ok": 1.0}
        return await change(self, command, **options)

    monkeypatch.setattr(Server, "change", pretend)
    done = await apply(database, documents=[Reading, Labelled])
    assert sorted(set(built)) == ["place_1_at_-1", "unique_place"]
    assert len(built) <= 6
    assert [(one.collection, one.index) for one in done.refused] == [
        ("readings", "unique_place"),
        ("readings", "place_1_at_-1"),
    ]
    assert all("had no effect" in one.reason for one in done.refused)
    assert not done.plan.is_as_declared
    assert len([step for step in done.steps if step.collection == "labelled"]) == 7


async def test_an_index_that_the_server_keeps_otherwise_is_built_once(
    database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would be dropped and built again at each look, for ever."""
    indexes = Server.indexes

    async def otherwise(self: Server, collection: str) -> dict[str, dict[str, Any]] | None:
        found = await indexes(self, collection)
        return found and {
            name: {**one, "sparse": True} if name == "unique_place" else one for name, one in found.items()
        }

    monkeypatch.setattr(Server, "indexes", otherwise)
    done = await apply(database, documents=[Reading])
    assert [step.index for step in done.steps] == ["unique_place", "place_1_at_-1"]
    assert [one.index for one in done.refused] == ["unique_place"]
    assert "sparse" in done.refused[0].reason


# --- the command line -----------------------------------------------------------------------------------------


@pytest.mark.skipif(find_mongod() is None, reason="no mongod")
@pytest.mark.parametrize("kind", ["time series", "view", "collation"])
async def test_the_command_says_so_in_a_line(database: Any, mongod_uri: str, kind: str) -> None:
    """Each command ends with status 1 and names collection and reason, without a traceback."""
    await make(database, COLLECTION, kind)
    for command in ("plan", "apply", "check", "explain"):
        status, printed = await run_command(command, "--database", database.name, uri=mongod_uri)
        assert status == 1, printed
        (line,) = [line for line in printed.splitlines() if re.search(rf"\b{UNFIT[kind]}\b", line)]
        assert COLLECTION in line
        assert "Traceback" not in printed
