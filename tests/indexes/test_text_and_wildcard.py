"""Text and wildcard indexes are compared as the server does, and shown by their own fields."""

from typing import Any, Final

import pytest
from bson import Decimal128, Int64
from pymongo import IndexModel
from pymongo.errors import OperationFailure

from indexes import Aspect, Standing, apply, check, plan
from sessions.store.index_definitions import compare, shown_keys, signature
from tests.support.index_command import run_command
from tests.support.made_documents import document

pytestmark = pytest.mark.needs("server")

PROJECTIONS: Final[list[dict[str, Any] | None]] = [
    None,
    {"a": 1},
    {"a": True},
    {"a": 1.0, "_id": 0},
    {"_id": False, "a": -1},
    {"a": Int64(5)},
    {"a": Decimal128("2")},
    {"a": float("nan")},
    {"a": 1, "b": 1},
    {"b": 1, "a": 1},
    {"a.b": 1},
    {"a": {"b": 1}},
    {"a": {"b": 1, "c": True}},
    {"a.c": 1, "a.b": 1},
    {"a": {"b": {"c": 1}}},
    {"a": {"b.c": 1}},
    {"a": 0},
    {"a": False, "_id": 0},
    {"a": Decimal128("0")},
    {"a": 0, "_id": 1},
    {"a": 1, "_id": 1},
    {"_id": 1},
    {"_id": 0},
    {"_id.x": 1},
    {"_id": {"x": 1}},
    {"a": {"b": 0}},
]


def wildcard(projection: dict[str, Any] | None) -> dict[str, Any]:
    """An index of all fields, under the one name."""
    return {"key": {"$**": 1}, "name": "w", **({} if projection is None else {"wildcardProjection": projection})}


async def is_taken_for_one(database: Any, definition: dict[str, Any]) -> bool:
    """Whether the server takes an index for the one of that name which the collection holds."""
    try:
        await database.command({"createIndexes": "c", "indexes": [definition]})
    except OperationFailure as error:
        if error.code not in (85, 86):
            raise
        return False
    return True


@pytest.mark.parametrize("number", range(len(PROJECTIONS)))
async def test_projections_are_equal_if_the_server_takes_them_for_one(database: Any, number: int) -> None:
    """Each spelling against each other one: the comparison and the server agree."""
    await database.command({"createIndexes": "c", "indexes": [wildcard(PROJECTIONS[number])]})
    present = (await database.command({"listIndexes": "c"}))["cursor"]["firstBatch"][-1]
    for projection in PROJECTIONS:
        other = wildcard(projection)
        is_one = await is_taken_for_one(database, other)
        assert (compare(other, present) == ()) is is_one, projection
        assert (signature(other) == signature(present)) is is_one, projection


async def test_a_projection_that_nobody_declared_is_a_difference(database: Any) -> None:
    """The index covers fewer fields than the declared one."""
    await database["things"].create_index([("$**", 1)], name="w", wildcardProjection={"a": 1})
    found = await check(database, documents=[document("things", IndexModel([("$**", 1)], name="w"))])
    (index,) = found.named(Standing.DIFFERENT)
    assert [(one.aspect, one.text) for one in index.differences] == [
        (Aspect.OTHER, "index w has another wildcardProjection")
    ]


# --- text -----------------------------------------------------------------------------------------------------

TITLE: Final = IndexModel([("title", "text")], name="by_title")
BODY: Final = IndexModel([("user", 1), ("body", "text"), ("notes", "text")], name="by_body")


async def test_of_two_declared_text_indexes_the_second_is_left(database: Any) -> None:
    """A collection holds one. The reason shows which it is, with its fields, and all else is built."""
    things = document("things", TITLE, [("a", 1)], BODY)
    planned = await plan(database, documents=[things])
    done = await apply(database, documents=[things])
    assert done.steps == planned.steps
    assert [step.index for step in done.steps] == ["by_title", "a_1"]
    assert done.refused == ()
    for found in (planned, done.plan, await plan(database, documents=[things])):
        (blocked,) = found.blocked
        assert (blocked.collection, blocked.index) == ("things", "by_body")
        assert "a collection holds one text index, and by_title (title text) is it" in blocked.reason
    assert {index.name: index.keys for index in done.plan.indexes} == {
        "by_title": (("title", "text"),),
        "a_1": (("a", 1),),
        "by_body": (("user", 1), ("body", "text"), ("notes", "text")),
    }


@pytest.mark.parametrize("drops", [False, True])
async def test_a_foreign_text_index_goes_before_the_declared_one_is_built(database: Any, *, drops: bool) -> None:
    """It stands in the way only as long as it may not be dropped."""
    await database["things"].create_index([("old", "text"), ("older", "text")], name="theirs")
    done = await apply(database, documents=[document("things", TITLE)], drop_undeclared=drops)
    if drops:
        assert [step.index for step in done.steps] == ["theirs", "theirs", "by_title"]
        assert done.plan.is_as_declared
    else:
        assert done.steps == ()
        (blocked,) = done.plan.blocked
        assert "theirs (old text, older text) is it" in blocked.reason


@pytest.mark.parametrize(
    ("present", "aspect", "said"),
    [
        (IndexModel([("notes", "text")], name="by_title"), Aspect.KEYS, "the keys notes text instead of title text"),
        (IndexModel([("title", "text")], name="by_title", weights={"title": 3}), Aspect.OTHER, "another weights"),
        (
            IndexModel([("title", "text")], name="by_title", default_language="german"),
            Aspect.OTHER,
            "another default_language",
        ),
    ],
)
async def test_another_text_index_under_the_declared_name(
    database: Any, present: IndexModel, aspect: Aspect, said: str
) -> None:
    """It can't be replaced by a bridge, so that it is left with a reason; the difference shows its fields."""
    await database["things"].create_indexes([present])
    done = await apply(database, documents=[document("things", TITLE)], drop_undeclared=True)
    assert done.steps == ()
    assert [one.index for one in done.plan.blocked] == ["by_title"]
    assert "by hand" in done.plan.blocked[0].reason
    (index,) = done.plan.named(Standing.DIFFERENT)
    assert [(one.aspect, one.text) for one in index.differences] == [(aspect, f"index by_title has {said}")]


async def test_the_same_text_index_under_another_name(database: Any) -> None:
    """No flag is offered that would not help."""
    await database["things"].create_index([("title", "text")], name="theirs")
    for options in ({}, {"drop_undeclared": True}):
        (blocked, *_) = (await plan(database, documents=[document("things", TITLE)], **options)).blocked
        assert "by hand at a quiet time" in blocked.reason
        assert "--drop-undeclared" not in blocked.reason


def test_the_fields_of_a_text_index_are_shown_by_their_names() -> None:
    """As declared, and as the server lists it, with fields that only its weights name."""
    listed = {
        "key": {"user": 1, "_fts": "text", "_ftsx": 1, "at": -1},
        "weights": {"body": 1, "title": 5},
    }
    declared = {"key": {"user": 1, "body": "text", "at": -1}, "weights": {"title": 5}}
    assert shown_keys(listed) == shown_keys(declared)
    assert shown_keys(listed) == [("user", 1), ("body", "text"), ("title", "text"), ("at", -1)]


MODULE: Final = """
from beanie import Document

class Note(Document):
    class Settings:
        name = "notes"
        indexes = [[("title", "text"), ("body", "text")]]
"""


async def test_the_table_shows_them_too(database: Any, mongod_uri: str, tmp_path: Any) -> None:
    """Not the server's own _fts and _ftsx."""
    (tmp_path / "noted.py").write_text(MODULE)
    named = ("--database", database.name, "--document", "noted:Note")
    for command in ("plan", "apply", "plan"):
        status, printed = await run_command(command, *named, uri=mongod_uri, path=tmp_path)
        assert "_fts" not in printed
        assert "body text, title text" in printed or command == "apply"
    assert status == 0
