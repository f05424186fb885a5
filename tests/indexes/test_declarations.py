"""Which indexes documents declare: as Beanie builds them, and what of other documents the tool leaves alone."""

from itertools import product
from typing import Annotated, Any, ClassVar, Final

import pytest
from beanie import Document, Indexed, init_beanie
from beanie.odm.fields import IndexModelField
from pymongo import IndexModel

from indexes import BadDocument, apply, check, plan
from indexes.declared import declared_by
from sessions.testing import Backend
from tests.support.made_documents import document

ENTRIES: Final[dict[str, Any]] = {
    "email": [("email", 1)],
    "unique email": IndexModel([("email", 1)], unique=True),
    "email down": [("email", -1)],
    "hashed email": [("email", "hashed")],
    "email under a name": IndexModel([("email", 1)], name="mail"),
    "email and city": [("email", 1), ("city", 1)],
    "city and email": [("city", -1), ("email", 1)],
    "city": "city",
    "dotted": "address.city",
}
PAIRS: Final = [*product(ENTRIES, ENTRIES)]


def by_beanie(*levels: list[Any]) -> dict[str, IndexModel]:
    """What Beanie makes of a class's entries and those of its parents, the eldest first."""
    merged: list[Any] = []
    for level in levels:
        fields = [IndexModelField(entry if isinstance(entry, IndexModel) else IndexModel(entry)) for entry in level]
        merged = IndexModelField.merge_indexes(merged, fields)
    return {field.name: field.index for field in merged}


def ours(declared: type[Document]) -> dict[str, Any]:
    """What the tool takes a class to declare."""
    (found,) = declared_by([declared])
    return dict(found.indexes)


@pytest.mark.parametrize(("parent", "child"), PAIRS)
def test_a_childs_index_stands_for_its_parents(parent: str, child: str) -> None:
    """With ``merge_indexes``, as in Beanie, on the same fields in whatever order, direction or kind."""
    of_parent, of_child = [ENTRIES[parent], [("kept", 1)]], [ENTRIES[child]]
    made = document("accounts", *of_child, of=document("bases", *of_parent), merge_indexes=True)
    expected = by_beanie(of_parent, of_child)
    assert ours(made) == {name: index.document for name, index in expected.items()}
    alone = document("accounts", *of_child, of=document("bases", *of_parent))
    assert set(ours(alone)) == set(by_beanie(of_child))


def test_the_youngest_class_has_the_last_word() -> None:
    """Over three classes, of which the middle one declares nothing of the field."""
    eldest = document("bases", "email", "city")
    middle = document("middles", "kept", of=eldest, merge_indexes=True)
    youngest = document("accounts", ENTRIES["unique email"], of=middle, merge_indexes=True)
    assert {name: bool(one.get("unique")) for name, one in ours(youngest).items()} == {
        "city_1": False,
        "kept_1": False,
        "email_1": True,
    }


@pytest.mark.needs("server")
@pytest.mark.needs("beanie")
@pytest.mark.parametrize(("parent", "child"), [PAIRS[1], ("email", "email down"), ("email and city", "city and email")])
async def test_what_beanie_has_built_is_as_declared(database: Any, parent: str, child: str) -> None:
    """An application that let Beanie build its indexes can go over to this tool, and nothing is built anew."""
    base = document("bases", ENTRIES[parent], [("kept", 1)])
    made = document("accounts", ENTRIES[child], of=base, merge_indexes=True)
    await init_beanie(database, document_models=[made])
    assert (await check(database, documents=[made])).is_as_declared
    assert (await apply(database, documents=[made], drop_undeclared=True)).steps == ()


class Marked(Document):
    """A document with marks at its fields."""

    up: Annotated[str, Indexed(unique=True)]
    down: Annotated[str, Indexed()]
    hashed: Annotated[str, Indexed(unique=True)]
    other: Annotated[str, Indexed()]

    class Settings:
        """What Beanie reads."""

        name = "marked"
        indexes: ClassVar = [
            IndexModel([("up", 1)], name="up"),
            [("down", -1)],
            [("hashed", "hashed")],
            [("other", 1), ("up", 1)],
        ]


def test_an_entry_in_settings_stands_for_the_mark_at_its_field() -> None:
    """In either direction. A hashed index keeps no uniqueness, so that it replaces none."""
    assert set(ours(Marked)) == {"up", "down_-1", "hashed_hashed", "hashed_1", "other_1", "other_1_up_1"}


def test_two_entries_of_one_class_both_count() -> None:
    """The governor index is one of such a pair; Beanie would keep the last one only."""
    partial = IndexModel([("email", 1)], name="some", partialFilterExpression={"email": {"$type": "string"}})
    assert set(ours(document("accounts", "email", partial))) == {"email_1", "some"}


def test_one_name_for_two_indexes_of_a_collection() -> None:
    """The refusal names the collection, since several may be given."""
    one, other = document("accounts", "email"), document("accounts", ENTRIES["unique email"])
    with pytest.raises(BadDocument, match="two different indexes of accounts are declared under the name email_1"):
        declared_by([document("others", "email"), one, other])


# --- documents of the same collection -------------------------------------------------------------------------


def siblings(kind: str) -> tuple[type[Document], type[Document]]:
    """Two documents of the collection ``animals``, of which each declares an index of its own."""
    if kind == "one name":
        return document("animals", "claws", name="Cat"), document("animals", "bark", name="Dog")
    root = document("animals", is_root=True, name="Animal")
    return (
        document("ignored", "claws", of=root, name="Cat", is_root=False),
        document("ignored", "bark", of=root, name="Dog", is_root=False),
    )


@pytest.mark.needs("server")
@pytest.mark.parametrize("options", [{"drop_undeclared": True}, {"hide_only": True}], ids=["drop", "hide"])
@pytest.mark.parametrize("kind", ["one name", "one root"])
async def test_what_another_document_of_the_collection_declares_is_not_dropped(
    database: Any, backend: Backend, kind: str, options: dict[str, Any]
) -> None:
    """It is named with its document; what no document declares goes, and with both given all is as declared."""
    cat, dog = siblings(kind)
    await apply(database, documents=[cat, dog])
    await database["animals"].create_index([("wings", 1)], name="wings")
    planned = await plan(database, documents=[cat], **options)
    done = await apply(database, documents=[cat], **options)
    assert {step.index for step in done.steps} == {"wings"}
    for found in (planned, done.plan):
        (blocked,) = found.blocked
        assert (blocked.collection, blocked.index) == ("animals", "bark_1")
        assert blocked.reason == "Dog declares it for the same collection: name that document too"
    held = await database["animals"].index_information()
    assert {"claws_1", "bark_1"} <= {*held}
    assert not held["bark_1"].get("hidden")
    assert (await plan(database, documents=[cat])).blocked == ()
    assert (await check(database, documents=[cat, dog])).is_as_declared


@pytest.mark.needs("server")
async def test_the_same_index_of_a_sibling_is_not_replaced(database: Any) -> None:
    """The server takes it under one name only; the other document is named instead of a flag that would not help."""
    cat = document("animals", IndexModel([("legs", 1)], name="of_cats"), name="Cat")
    dog = document("animals", IndexModel([("legs", 1)], name="of_dogs", expireAfterSeconds=3600), name="Dog")
    await apply(database, documents=[dog])
    before = await database["animals"].index_information()
    done = await apply(database, documents=[cat], drop_undeclared=True)
    assert done.steps == ()
    assert {one.index for one in done.plan.blocked} == {"of_cats", "of_dogs"}
    assert all("Dog declares it" in one.reason for one in done.plan.blocked)
    assert await database["animals"].index_information() == before
