"""An index that the server refuses is named with its collection and the reason, and stops nothing else."""

from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import pytest
from pymongo import IndexModel
from pymongo.errors import OperationFailure

from indexes import BadChoice, BadDocument, Standing, Unsettled, apply, check, plan
from indexes.declared import declared_by
from indexes.refusals import foreseen
from tests.support.index_command import run_command
from tests.support.made_documents import document

pytestmark = pytest.mark.needs("server")

A: Final[dict[str, Any]] = {"key": {"a": 1}}
ANY: Final[dict[str, Any]] = {"key": {"$**": 1}}
TEXT: Final[dict[str, Any]] = {"key": {"a": "text"}}

FORESEEN: Final[dict[str, dict[str, Any]]] = {
    "sparse and partial": {**A, "sparse": True, "partialFilterExpression": {"a": 1}},
    "sparse and an empty filter": {**A, "sparse": True, "partialFilterExpression": {}},
    "TTL of two fields": {"key": {"a": 1, "b": 1}, "expireAfterSeconds": 5},
    "negative TTL": {**A, "expireAfterSeconds": -1},
    "TTL too long": {**A, "expireAfterSeconds": 2**31},
    "infinite TTL": {**A, "expireAfterSeconds": float("inf")},
    "TTL as text": {**A, "expireAfterSeconds": "5"},
    "TTL as a flag": {**A, "expireAfterSeconds": True},
    "no TTL": {**A, "expireAfterSeconds": None},
    "TTL on a wildcard": {**ANY, "expireAfterSeconds": 5},
    "unique wildcard": {**ANY, "unique": True},
    "sparse wildcard": {"key": {"s.$**": 1}, "sparse": True},
    "descending wildcard": {"key": {"$**": -1}},
    "projection without a wildcard": {**A, "wildcardProjection": {"a": 1}},
    "projection below a field": {"key": {"a.$**": 1}, "wildcardProjection": {"a": 1}},
    "unique and hashed": {"key": {"a": "hashed"}, "unique": True},
    "twice hashed": {"key": {"a": "hashed", "b": "hashed"}},
    "33 fields": {"key": {f"k{number}": 1 for number in range(33)}},
    "no direction": {"key": {"a": 0}},
    "direction is a flag": {"key": {"a": True}},
    "direction is empty": {"key": {"a": ""}},
    "collated text": {**TEXT, "collation": {"locale": "en"}},
    "collated 2d": {"key": {"a": "2d"}, "collation": {"locale": "en"}},
    "empty name": {**A, "name": ""},
    "star as a name": {**A, "name": "*"},
    "name of the ids": {**A, "name": "_id_"},
    "unique as text": {**A, "unique": "yes"},
    "sparse as null": {**A, "sparse": None},
    "hidden as text": {**A, "hidden": "x"},
    "filter is no document": {**A, "partialFilterExpression": 5},
    "malformed filter": {**A, "partialFilterExpression": {"$and": 5}},
    "malformed branches": {**A, "partialFilterExpression": {"$or": ["a"]}},
    "clustered": {**A, "clustered": True, "unique": True},
    "unique and prepareUnique": {**A, "unique": True, "prepareUnique": True},
}
TOLD_BY_THE_SERVER: Final[dict[str, dict[str, Any]]] = {
    "wildcard with another field": {"key": {"$**": 1, "b": 1}},  # a later server takes it
    "mixed projection": {**ANY, "wildcardProjection": {"a": 1, "b": 0}},
    "empty projection": {**ANY, "wildcardProjection": {}},
    "unknown kind": {"key": {"a": "foo"}},
    "illegal field": {"key": {"$a": 1}},
    "empty field": {"key": {"a..b": 1}},
    "unknown option": {**A, "foo": 1},
    "unknown locale": {**A, "collation": {"locale": "xx"}},
    "unknown collation field": {**A, "collation": {"locale": "en", "foo": 1}},
    "collation without a locale": {**A, "collation": {"strength": 1}},
    "filter with $ne": {**A, "partialFilterExpression": {"a": {"$ne": 1}}},
    "filter with a regex": {**A, "partialFilterExpression": {"a": {"$regex": "x"}}},
    "unknown operator": {**A, "partialFilterExpression": {"a": {"$foo": 1}}},
    "filter with $expr": {**A, "partialFilterExpression": {"$expr": {"$gt": ["$a", 1]}}},
    "unknown operator, unique": {**A, "unique": True, "partialFilterExpression": {"a": {"$foo": 1}}},
    "version 0": {**A, "v": 0},
    "descending ids": {"key": {"_id": -1}},
    "TTL of the ids": {"key": {"_id": -1}, "expireAfterSeconds": 5},
    "unknown language": {**TEXT, "default_language": "klingon"},
    "weight 0": {**TEXT, "weights": {"a": 0}},
    "text version": {**TEXT, "textIndexVersion": 9},
    "text with a gap": {"key": {"a": "text", "b": 1, "c": "text"}},
    "text and 2dsphere": {"key": {"a": "text", "b": "2dsphere"}},
    "2d bits": {"key": {"a": "2d"}, "bits": 99},
    "2d range": {"key": {"a": "2d"}, "min": 10, "max": 1},
    "2d second": {"key": {"b": 1, "a": "2d"}},
    "2dsphere version": {"key": {"a": "2dsphere"}, "2dsphereIndexVersion": 9},
    "unknown engine": {**A, "storageEngine": {"foo": {}}},
}
ASKED_FOR: Final = frozenset(
    {"unknown locale", "unknown collation field", "collation without a locale", "unknown operator, unique"}
)
"""Those of them that plan learns of all the same: it asks for collations in full, and for documents with equal keys."""
REFUSED: Final = {**FORESEEN, **TOLD_BY_THE_SERVER}
TAKEN: Final[dict[str, dict[str, Any]]] = {
    "sparse False and partial": {**A, "sparse": False, "partialFilterExpression": {"a": 1}},
    "longest TTL": {**A, "expireAfterSeconds": 2**31 - 1},
    "TTL with a fraction": {**A, "expireAfterSeconds": 5.5},
    "TTL between -1 and 0": {**A, "expireAfterSeconds": -0.5},
    "TTL that is no number": {**A, "expireAfterSeconds": float("nan")},
    "TTL on hashed": {"key": {"a": "hashed"}, "expireAfterSeconds": 5},
    "TTL on text": {**TEXT, "expireAfterSeconds": 5},
    "unique as a number": {**A, "unique": 0, "sparse": 2.5},
    "direction 2": {"key": {"a": 2}},
    "32 fields": {"key": {f"k{number}": 1 for number in range(32)}},
    "unique text": {**TEXT, "unique": True},
    "weight with a fraction": {**TEXT, "weights": {"a": 1.5}},
    "simple text": {**TEXT, "collation": {"locale": "simple"}},
    "empty filter": {**A, "partialFilterExpression": {}},
    "2d with numbers of other kinds": {"key": {"a": "2d"}, "bits": 26.0, "min": -90},
    "hashed ids": {"key": {"_id": "hashed"}},
    "old options": {**A, "dropDups": True, "background": True},
}


def model(called: str, *, key: dict[str, Any], **options: Any) -> IndexModel:
    """An index as a document declares it."""
    return IndexModel(list(key.items()), **{"name": called, **options})


async def verdict(database: Any, definition: dict[str, Any]) -> OperationFailure | None:
    """What the server itself says of an index, on a collection of its own."""
    command = {"createIndexes": f"c{uuid4().hex[:8]}", "indexes": [model("bad", **definition).document]}
    try:
        await database.command(command)
    except OperationFailure as error:
        return error
    return None


@pytest.mark.parametrize("case", list(REFUSED))
async def test_a_refused_index_is_named_and_stops_no_other(database: Any, case: str) -> None:
    """What stands before and after it, and in another collection, is built. Plan foresees what every server refuses."""
    definition = REFUSED[case]
    refusal = await verdict(database, definition)
    assert refusal is not None, "the server takes it"
    await database["things"].insert_one({"a": "private"})
    bad = model("bad", **definition)
    things = document("things", [("before", 1)], bad, [("after", 1)])
    others = document("others", [("other", 1)])
    name = bad.document["name"]
    planned = await plan(database, documents=[things, others])
    done = await apply(database, documents=[things, others])
    assert {step.index for step in done.steps} == {"before_1", "after_1", "other_1"}
    assert {"before_1", "after_1"} <= {*await database["things"].index_information()}
    (told,) = done.refused or done.plan.blocked
    assert (told.collection, told.index) == ("things", name)
    assert "\n" not in told.reason
    assert "private" not in told.reason
    assert not (await check(database, documents=[things, others])).is_as_declared
    assert [one.index for one in planned.blocked] == ([name] if case in {*FORESEEN, *ASKED_FOR} else [])
    if case in FORESEEN:
        assert planned.steps == done.steps
        assert planned.named(Standing.REFUSED)[0].name == name
        assert not done.refused
    else:
        assert f"code {refusal.code}: " in told.reason
        assert refusal.details is not None
        assert told.reason.rpartition(f"code {refusal.code}: ")[2] in " ".join(refusal.details["errmsg"].split())


@pytest.mark.parametrize("case", list(TAKEN))
async def test_what_the_server_takes_is_built_and_then_equal(database: Any, case: str) -> None:
    """Nothing is refused beforehand that could be built, and what the server makes of odd values is no difference."""
    assert await verdict(database, TAKEN[case]) is None
    things = document("things", model("odd", **TAKEN[case]))
    done = await apply(database, documents=[things])
    assert [step.index for step in done.steps] == ["odd"]
    assert done.plan.is_as_declared
    assert (await apply(database, documents=[things])).steps == ()


def test_the_cases_that_are_foreseen_are_those() -> None:
    """A rule that a case does not need would go untested."""
    assert {case for case, definition in REFUSED.items() if foreseen({"name": "bad", **definition})} == {*FORESEEN}
    assert not any(foreseen({"name": "odd", **definition}) for definition in TAKEN.values())


# --- over documents -------------------------------------------------------------------------------------------

SECRET: Final = "never-shown"  # noqa: S105 - no password, but somebody's data
OVER_DOCUMENTS: Final[dict[str, tuple[dict[str, Any], dict[str, Any]]]] = {
    "place": ({"a": {"type": SECRET, "coordinates": [1]}}, {"key": {"a": "2dsphere"}}),
    "2d place": ({"a": [999, 1], "b": SECRET}, {"key": {"a": "2d"}}),
    "language": ({"a": "x", "language": SECRET}, TEXT),
    "hashed array": ({"a": [SECRET]}, {"key": {"a": "hashed"}}),
    "parallel arrays": ({"a": [SECRET], "b": [SECRET]}, {"key": {"a": 1, "b": 1}}),
    "number as a field": ({"a": [{"0": SECRET}, 1]}, {"key": {"a.0": 1}}),
}


@pytest.mark.parametrize("case", list(OVER_DOCUMENTS))
async def test_what_stored_documents_do_not_allow_is_told_by_its_code_alone(database: Any, case: str) -> None:
    """The server's text quotes the document that it stumbled over."""
    stored, definition = OVER_DOCUMENTS[case]
    await database["things"].insert_one(stored)
    done = await apply(database, documents=[document("things", model("bad", **definition), [("after", 1)])])
    assert [step.index for step in done.steps] == ["after_1"]
    (told,) = done.refused
    assert (told.collection, told.index) == ("things", "bad")
    assert "stored documents do not allow it, code " in told.reason
    assert SECRET not in str(done)


async def test_a_refused_change_in_place_is_named(database: Any) -> None:
    """A TTL can't be set on a capped collection. The reason is the server's, and the index stays."""
    await database.create_collection("things", capped=True, size=100_000)
    await database["things"].create_index([("a", 1)], name="bad")
    things = document("things", model("bad", **A, expireAfterSeconds=5), [("after", 1)])
    done = await apply(database, documents=[things])
    assert [step.index for step in done.steps] == ["after_1"]
    (told,) = done.refused
    assert told.reason.startswith("set TTL: the server refuses it, code 72: TTL indexes are not supported for capped")


async def test_what_may_do_the_work_of_a_refused_index_is_not_dropped(database: Any) -> None:
    """An operator may have built it in its place; what has nothing to do with it is dropped as asked."""
    for name in ("mobile", "unrelated"):
        await database["things"].create_index([(name, 1)], name=name)
    refused = model("bad", key={"mobile": 1, "b": 1}, sparse=True, partialFilterExpression={"b": 1})
    done = await apply(database, documents=[document("things", refused)], drop_undeclared=True)
    assert {*await database["things"].index_information()} == {"_id_", "mobile"}
    assert {one.index for one in done.plan.blocked} == {"bad", "mobile"}


async def test_what_is_unsettled_stops_no_other(database: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server takes a present index for the declared one in another spelling. The error comes when all is done."""
    monkeypatch.setattr("indexes.applier._POLL_SECONDS", 0.001)
    one, other = ({"$or": [{"s": "a"}, {"s": "b"}, {"t": 1}]}, {"$or": [{"s": {"$in": ["a", "b"]}}, {"t": 1}]})
    await database["things"].create_index([("a", 1)], name="theirs", partialFilterExpression=other)
    things = document("things", model("ours", **A, partialFilterExpression=one), [("after", 1)])
    with pytest.raises(Unsettled, match=r"theirs for the same index in another spelling .*ours of things"):
        await apply(database, documents=[things, document("others", [("b", 1)])], drop_undeclared=True)
    assert {*await database["things"].index_information()} == {"_id_", "theirs", "after_1"}
    assert "b_1" in await database["others"].index_information()


@pytest.mark.parametrize("quorum", ["nowhere", 9])
async def test_a_quorum_that_nobody_can_meet_is_a_wrong_argument(database: Any, quorum: str | int) -> None:
    """It would be refused of each index alike."""
    with pytest.raises(BadChoice, match=f"commit quorum {quorum!r}"):
        await apply(database, documents=[document("things", [("a", 1)])], commit_quorum=quorum)


# --- as many as a collection holds ----------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "most"), [({}, 63), ({"clusteredIndex": {"key": {"_id": 1}, "unique": True}}, 64)])
async def test_plan_foresees_that_a_collection_is_full(database: Any, options: dict[str, Any], most: int) -> None:
    """A clustered collection holds one more beside its key. What finds no room is named, as is a bridge's target."""
    await database.command({"create": "things", **options})
    many = document("things", *([(f"f{number}", 1)] for number in range(70)))
    planned = await plan(database, documents=[many])
    done = await apply(database, documents=[many])
    assert done.refused == ()
    assert done.steps == planned.steps
    assert len(done.steps) == most
    assert [one.index for one in planned.blocked] == [f"f{number}_1" for number in range(most, 70)]
    assert "64 indexes" in planned.blocked[0].reason


async def test_a_bridge_that_finds_no_room_is_foreseen(database: Any) -> None:
    """Its target is named, and nothing is changed. Where others may be dropped, they make room first."""
    many = [{"key": {f"f{number}": 1}, "name": f"f{number}"} for number in range(63)]
    await database.command({"createIndexes": "things", "indexes": many})
    changed = document("things", model("f0", key={"f0": 1}, sparse=True))
    for found in (await plan(database, documents=[changed]), (await apply(database, documents=[changed])).plan):
        assert found.steps == ()
        (blocked,) = found.blocked
        assert (blocked.index, "bridge" in blocked.reason) == ("f0", True)
    done = await apply(database, documents=[changed], drop_undeclared=True)
    assert done.refused == ()
    assert done.plan.is_as_declared
    assert {*await database["things"].index_information()} == {"_id_", "f0"}


# --- what BSON can't encode -----------------------------------------------------------------------------------

UNSENDABLE: Final[dict[str, Any]] = {
    "object": object(),
    "set": {1},
    "Decimal": Decimal(1),
    "date": date(2026, 1, 1),
    "complex": 1j,
    "integer too large": 2**64,
    "half an emoji": "\ud83d",
    "null in a name": {"a\0": 1},
    "UUID": uuid4(),
    "class": Path,
}


@pytest.mark.parametrize("option", ["partialFilterExpression", "unique", "expireAfterSeconds", "default_language"])
@pytest.mark.parametrize("case", list(UNSENDABLE))
def test_a_value_that_cannot_be_sent_is_refused_by_name(case: str, option: str) -> None:
    """Else the driver's error would end the run in a traceback."""
    value = {"a": UNSENDABLE[case]} if option == "partialFilterExpression" else UNSENDABLE[case]
    with pytest.raises(BadDocument, match="Made: index 'bad' of things has a value that BSON cannot encode") as refusal:
        declared_by([document("things", model("bad", **A, **{option: value}))])
    str(refusal.value).encode()
    assert "\n" not in str(refusal.value)


# --- the command line -----------------------------------------------------------------------------------------

MODULE: Final = """
from decimal import Decimal
from beanie import Document
from pymongo import IndexModel

class Phone(Document):
    class Settings:
        name = "phones"
        indexes = [
            IndexModel([("mobile", 1)], sparse=True, partialFilterExpression={"a": 1}),
            IndexModel([("wrong", 1)], foo=1),
            IndexModel([("later", 1)]),
        ]

class Price(Document):
    class Settings:
        name = "prices"
        indexes = [IndexModel([("amount", 1)], partialFilterExpression={"amount": {"$gt": Decimal(1)}})]
"""


async def test_the_command_names_each_refusal(database: Any, mongod_uri: str, tmp_path: Path) -> None:
    """Status 1 with collection, index and reason; 2 in one line for what can't be sent; never a traceback."""
    (tmp_path / "refused_by_the_server.py").write_text(MODULE)
    named = ("--database", database.name, "--document", "refused_by_the_server:Phone")
    for command in ("plan", "apply", "check", "apply"):
        status, printed = await run_command(command, *named, uri=mongod_uri, path=tmp_path)
        assert status == 1, printed
        lines = printed.splitlines()
        assert any("mobile_1 of phones" in line and "sparse" in line for line in lines), printed
        told = [line for line in lines if line.startswith("refused: wrong_1 of phones: ")]
        assert ["code 197" in line for line in told] == [True] * (command == "apply"), printed
        assert "Traceback" not in printed
    assert "later_1" in await database["phones"].index_information()
    status, printed = await run_command(
        "plan", *named[:3], "refused_by_the_server:Price", uri=mongod_uri, path=tmp_path
    )
    assert status == 2, printed
    assert len(printed.splitlines()) == 1
    assert "amount_1" in printed
    assert "prices" in printed
