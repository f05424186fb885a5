"""The steps from what a collection holds to what is declared; each moment between two of them is judged."""

import random
from collections.abc import Mapping
from typing import Any, Final

import pytest
from beanie import Document

from indexes.actions import NEVER_SECONDS, Action, Choices
from indexes.bridges import bridge_of, is_enforced, is_served, target_of_bridge
from indexes.declared import Declared, declared_by
from indexes.errors import BadDocument
from indexes.steps import all_steps, blocked_in, imagined, next_step, to_be_unique, undeclared_in
from sessions.store.beanie_document import ActiveScheduleSession
from sessions.store.document import COLLECTION, INDEXES, ROUTING_INDEX
from sessions.store.index_definitions import compare, signature, ttl_of

ID: Final[dict[str, Any]] = {"_id_": {"v": 2, "key": {"_id": 1}, "name": "_id_"}}
SESSIONS: Final = Declared(COLLECTION, {index.document["name"]: index.document for index in INDEXES})
GOVERNOR: Final = SESSIONS.indexes[ROUTING_INDEX]
FOREIGN: Final = Choices(drop_undeclared=True)
NOTHING: Final = Choices()


def one(**definition: Any) -> Declared:
    """A collection that should hold one index, ``n``."""
    return Declared("c", {"n": {"name": "n", **definition}})


def held(*definitions: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """What a collection holds, beside the index of its ids."""
    return {**ID, **{definition["name"]: definition for definition in definitions}}


def actions(declared: Declared, present: Mapping[str, Any], choices: Choices = NOTHING) -> list[tuple[str, str]]:
    """The steps by name; a bridge's digest is left out."""
    steps, _ = all_steps(declared, present, choices)
    return [(step.action.value, step.index.partition("__bridge_")[0]) for step in steps]


@pytest.mark.parametrize("wrong", [ActiveScheduleSession, [int], [Document], None])
def test_what_is_no_list_of_documents_is_refused(wrong: Any) -> None:
    """A caller who forgot the brackets gets an error that says so, not one from the inside of this package."""
    with pytest.raises(BadDocument, match="list of subclasses"):
        declared_by(wrong)


def test_an_empty_collection_gets_each_index_once() -> None:
    """Eleven are missing: eleven builds, the unique one first, and nothing else."""
    steps, after = all_steps(SESSIONS, {}, NOTHING)
    assert [step.action for step in steps] == [Action.BUILD] * len(INDEXES)
    assert steps[0].index == ROUTING_INDEX
    assert {step.index for step in steps} == set(SESSIONS.indexes)
    assert next_step(SESSIONS, after, NOTHING) is None


def test_what_is_equal_needs_nothing() -> None:
    """A run over a database that is as declared takes no step."""
    assert all_steps(SESSIONS, held(*SESSIONS.indexes.values()), FOREIGN)[0] == ()


@pytest.mark.parametrize(
    "change",
    [
        {"key": {"b": 1, "a": 1}},
        {"key": {"a": 1}},
        {"key": {"a": 1, "b": -1}},
        {"sparse": True},
        {"collation": {"locale": "de"}},
        {"partialFilterExpression": {"a": 1}},
    ],
)
def test_a_changed_index_goes_by_a_bridge(change: dict[str, Any]) -> None:
    """No index goes before its successor serves, so the steps are bridge, drop, target, drop bridge."""
    declared = one(key={"a": 1, "b": 1})
    present = held({**declared.indexes["n"], **change})
    assert actions(declared, present) == [("build bridge", "n"), ("drop", "n"), ("build", "n"), ("drop bridge", "n")]


def test_an_index_that_is_its_own_bridge_is_turned_round_twice() -> None:
    """If the target's reverse has the target's name, the target's own definition serves meanwhile."""
    declared = one(key={"a": 1, "b": 1}, unique=True)
    present = held({**declared.indexes["n"], "key": {"a": -1, "b": -1}})
    assert actions(declared, present) == [
        ("build bridge", "n"),
        ("drop", "n"),
        ("build bridge", "n"),
        ("drop", "n"),
        ("build", "n"),
        ("drop bridge", "n"),
    ]


@pytest.mark.parametrize(
    ("declared", "change", "expected"),
    [
        (one(key={"a": 1}), {"hidden": True}, [("unhide", "n")]),
        (one(key={"a": 1}, hidden=True), {"hidden": False}, [("hide", "n")]),
        (one(key={"a": 1}, expireAfterSeconds=60), {"expireAfterSeconds": 61}, [("set TTL", "n")]),
        (one(key={"a": 1}, unique=True), {"unique": False}, [("make unique", "n")]),
        (one(key={"a": 1}, unique=True), {"unique": False, "prepareUnique": True}, [("make unique", "n")]),
        (one(key={"a": 1}), {"prepareUnique": True}, [("cancel prepareUnique", "n")]),
        (one(key={"a": 1}, unique=True), {"unique": False, "hidden": True}, [("unhide", "n"), ("make unique", "n")]),
    ],
)
def test_what_can_be_changed_in_place_is(
    declared: Declared, change: dict[str, Any], expected: list[tuple[str, str]]
) -> None:
    """Visibility, a TTL's length and lost uniqueness need no new index."""
    assert actions(declared, held({**declared.indexes["n"], **change})) == expected


def test_a_missing_ttl_is_added_in_place() -> None:
    """The server takes a TTL for an index that had none."""
    declared = one(key={"a": 1}, expireAfterSeconds=60)
    assert actions(declared, held({"name": "n", "key": {"a": 1}})) == [("set TTL", "n")]


def test_a_ttl_that_is_not_declared_is_defused_first() -> None:
    """It can't be removed in place, and would delete live documents while its successor is built."""
    declared = one(key={"a": 1})
    steps, after = all_steps(declared, held({"name": "n", "key": {"a": 1}, "expireAfterSeconds": 5}), NOTHING)
    assert [step.action for step in steps] == [
        Action.DEFUSE_TTL,
        Action.BUILD_BRIDGE,
        Action.DROP,
        Action.BUILD,
        Action.DROP_BRIDGE,
    ]
    assert ttl_of(after["n"]) is None


def test_a_ttl_on_another_field_is_defused_before_it_is_replaced() -> None:
    """A TTL on the wrong field would delete documents until its successor is built."""
    declared = one(key={"a": 1}, expireAfterSeconds=60)
    assert actions(declared, held({"name": "n", "key": {"b": 1}, "expireAfterSeconds": 5}))[0] == ("defuse TTL", "n")


COVERS_OTHERS: Final[dict[str, dict[str, Any]]] = {
    "keys": {"key": {"b": 1}},
    "direction": {"key": {"a": -1}},
    "no filter": {"partialFilterExpression": None},
    "filter": {"partialFilterExpression": {"status": "live"}},
    "sparse": {"sparse": True},
    "collation": {"collation": {"locale": "de"}},
}


@pytest.mark.parametrize("seconds", [5, 60, 86400])
@pytest.mark.parametrize("differs", list(COVERS_OTHERS))
def test_a_declared_ttl_is_never_set_on_an_index_of_other_documents(differs: str, seconds: int) -> None:
    """Even the declared TTL would delete other documents than those meant, so it is defused before anything else."""
    declared = one(key={"a": 1}, expireAfterSeconds=60, partialFilterExpression={"status": "ended"})
    options = {**declared.indexes["n"], **COVERS_OTHERS[differs], "expireAfterSeconds": seconds}
    present = held({option: value for option, value in options.items() if value is not None})
    steps, after = all_steps(declared, present, NOTHING)
    assert [step.action for step in steps[:2]] == [Action.DEFUSE_TTL, Action.BUILD_BRIDGE]
    for step in steps:
        present = dict(imagined(present, step))
        deleting = [name for name, index in present.items() if ttl_of(index) not in (None, NEVER_SECONDS)]
        assert deleting in ([], ["n"])
        assert not deleting or compare(declared.indexes["n"], present["n"]) == ()
    assert ttl_of(after["n"]) == 60


def test_an_index_of_other_documents_without_a_ttl_gets_none() -> None:
    """Only the target that is built deletes."""
    declared = one(key={"a": 1}, expireAfterSeconds=60, partialFilterExpression={"status": "ended"})
    assert actions(declared, held({"name": "n", "key": {"a": 1}}))[0] == ("build bridge", "n")


def test_a_bridge_that_deletes_is_defused() -> None:
    """An older release declared another TTL, and its run was killed. The bridge that it left must not delete."""
    declared = one(key={"a": 1}, expireAfterSeconds=86400)
    bridge = bridge_of(declared.indexes["n"])
    assert bridge is not None
    assert ttl_of(bridge) is None
    left = {**bridge, "expireAfterSeconds": 60}
    assert actions(declared, held(left)) == [("defuse TTL", "n"), ("build", "n"), ("drop bridge", "n")]


@pytest.mark.parametrize("keys", [{"a": "hashed"}, {"_fts": "text", "_ftsx": 1}, {"$**": 1}, {"a": "2dsphere", "b": 1}])
def test_keys_without_a_direction_are_left_alone_with_a_reason(keys: dict[str, Any]) -> None:
    """They can't be reversed, so that a change would leave a moment without an index."""
    declared = one(key=keys)
    present = held({"name": "n", "key": {"other": 1}})
    assert actions(declared, present) == []
    (blocked,) = blocked_in(declared, present, NOTHING)
    assert "can't be reversed" in blocked.reason


def test_a_missing_index_without_directions_is_built() -> None:
    """Only a change needs a bridge."""
    assert actions(one(key={"a": "hashed"}), ID) == [("build", "n")]


def test_a_leftover_bridge_goes_only_behind_its_target() -> None:
    """While the target is missing or unfinished, only the bridge does its work."""
    declared = one(key={"a": 1}, unique=True)
    bridge = bridge_of(declared.indexes["n"])
    assert bridge is not None
    assert actions(declared, held(bridge)) == [("build", "n"), ("drop bridge", "n")]
    unfinished = {**declared.indexes["n"], "buildUUID": "b"}
    first = next_step(declared, held(bridge, unfinished), NOTHING)
    assert first is not None
    assert first.action is Action.WAIT


def test_an_index_that_only_looks_like_a_bridge_is_foreign() -> None:
    """A bridge's name has a digest of its definition. What an operator named so by hand is not ours to drop."""
    declared = one(key={"a": 1})
    impostor: dict[str, Any] = {"name": "n__bridge_00000000", "key": {"x": 1}}
    present = held(declared.indexes["n"], impostor)
    assert target_of_bridge(impostor["name"], impostor) is None
    assert undeclared_in(declared, present) == [impostor["name"]]
    assert actions(declared, present) == []


def test_a_bridge_of_another_declaration_does_not_stand_in_the_way() -> None:
    """A release that was rolled back left a bridge of its own; the names differ, and both are recognised."""
    old, new = one(key={"a": 1}), one(key={"b": 1})
    leftover = bridge_of(old.indexes["n"])
    assert leftover is not None
    present = held({"name": "n", "key": {"c": 1}}, leftover)
    steps, after = all_steps(new, present, NOTHING)
    assert sorted(after) == ["_id_", "n"]
    assert len({step.index for step in steps}) == 3


def test_a_foreign_index_is_dropped_only_when_allowed_and_hidden_first() -> None:
    """It is only listed. The flag hides and then drops it, hide-only hides it, and its TTL is defused before."""
    declared = one(key={"a": 1})
    present = held(declared.indexes["n"], {"name": "theirs", "key": {"z": 1}})
    assert actions(declared, present) == []
    assert actions(declared, present, FOREIGN) == [("hide", "theirs"), ("drop", "theirs")]
    assert actions(declared, present, Choices(hide_only=True)) == [("hide", "theirs")]
    deleting = held(declared.indexes["n"], {"name": "theirs", "key": {"z": 1}, "expireAfterSeconds": 1})
    assert actions(declared, deleting, FOREIGN)[0] == ("defuse TTL", "theirs")


def test_the_declared_index_under_another_name_needs_the_flag() -> None:
    """The server takes a definition under one name only, and the other index may be somebody's."""
    declared = one(key={"a": 1}, unique=True)
    present = held({"name": "theirs", "key": {"a": 1}, "unique": True})
    assert actions(declared, present) == []
    (blocked,) = blocked_in(declared, present, NOTHING)
    assert "theirs" in blocked.reason
    assert "--drop-undeclared" in blocked.reason
    steps, after = all_steps(declared, present, FOREIGN)
    assert sorted(after) == ["_id_", "n"]
    assert next(step.action for step in steps if step.builds) is Action.BUILD_BRIDGE


@pytest.mark.parametrize("way", [1, -1])
def test_what_alone_serves_a_declared_index_is_not_hidden(way: int) -> None:
    """Hidden, it would leave those queries without an index. The reason says what replaces it."""
    declared = one(key={"a": 1})
    present = held({"name": "theirs", "key": {"a": way}}, {"name": "others", "key": {"z": 1}, "expireAfterSeconds": 5})
    steps, after = all_steps(declared, present, Choices(hide_only=True))
    assert ("hide", "others") in [(step.action.value, step.index) for step in steps]
    if way == 1:
        assert not after["theirs"].get("hidden")
        (kept,) = [blocked for blocked in blocked_in(declared, after, Choices(hide_only=True)) if blocked.index != "n"]
        assert kept.index == "theirs"
        assert "n: --drop-undeclared replaces it" in kept.reason
    else:  # the declared one can be built beside its reverse, and then serves
        assert [step.action for step in steps if step.index in ("n", "theirs")] == [Action.BUILD, Action.HIDE]


def test_what_alone_deletes_and_serves_is_left_whole() -> None:
    """An index that is not hidden keeps its TTL too, so hide-only changes nothing about it."""
    present = held({"name": "theirs", "key": {"a": 1}, "expireAfterSeconds": 5})
    assert actions(one(key={"a": 1}), present, Choices(hide_only=True)) == []


@pytest.mark.parametrize("choices", [FOREIGN, Choices(hide_only=True)])
def test_what_can_have_no_bridge_is_not_hidden_either(choices: Choices) -> None:
    """The declared hashed index has another name. It can only be replaced at a quiet time, and the reason says so."""
    declared = one(key={"a": "hashed"})
    present = held({"name": "theirs", "key": {"a": "hashed"}})
    assert actions(declared, present, choices) == []
    assert {blocked.index for blocked in blocked_in(declared, present, choices)} == {"n", "theirs"}
    assert any("by hand at a quiet time" in blocked.reason for blocked in blocked_in(declared, present, choices))


def test_the_declared_index_under_another_name_is_defused_and_hidden_before_it_goes() -> None:
    """Its TTL would delete while the bridge is built. Hidden, it can be unhidden as long as a query may need it."""
    declared = one(key={"a": 1})
    present = held({"name": "theirs", "key": {"a": 1}, "expireAfterSeconds": 5})
    assert actions(declared, present, FOREIGN) == [
        ("defuse TTL", "theirs"),
        ("build bridge", "n"),
        ("hide", "theirs"),
        ("drop", "theirs"),
        ("build", "n"),
        ("drop bridge", "n"),
    ]


@pytest.mark.parametrize("choices", [FOREIGN, Choices(hide_only=True)])
def test_a_foreign_ttl_is_defused_before_anything_is_built(choices: Choices) -> None:
    """A build takes long, and the index that has to go would delete live documents meanwhile."""
    present = held({"name": "theirs", "key": {"a": -1}, "expireAfterSeconds": 5}, {"name": "n", "key": {"b": 1}})
    steps = actions(one(key={"a": 1}), present, choices)
    reversed_twin_serves = [("drop", "n"), ("build", "n"), ("defuse TTL", "theirs"), ("hide", "theirs")]
    if choices.hide_only:  # until the declared one is built it is left whole
        assert steps == reversed_twin_serves
    else:
        assert steps[0] == ("defuse TTL", "theirs")


def test_two_indexes_that_are_each_others_reverse() -> None:
    """The bridge of each is the other's definition. Both can change, even if they are swapped."""
    up, down = {"name": "up", "key": {"a": 1}}, {"name": "down", "key": {"a": -1}}
    declared = Declared("c", {"up": up, "down": down})
    crossed = held({**up, "sparse": True}, {**down, "sparse": True})
    swapped = held({**up, "key": {"a": -1}}, {**down, "key": {"a": 1}})
    for present in (crossed, swapped):
        after = all_steps(declared, present, NOTHING)[1]
        assert sorted(after) == ["_id_", "down", "up"]
        assert all(compare(definition, after[name]) == () for name, definition in declared.indexes.items())


def test_what_serves_another_declared_index_goes_only_behind_a_bridge_of_that_one() -> None:
    """A declared name has the definition of a missing index, whose queries must keep an index."""
    declared = Declared("c", {"n": {"name": "n", "key": {"a": 1}}, "m": {"name": "m", "key": {"b": 1}, "unique": True}})
    present = held({"name": "n", "key": {"b": 1}, "unique": True})
    assert actions(declared, present) == [
        ("build bridge", "n"),
        ("build bridge", "m"),
        ("drop", "n"),
        ("build", "m"),
        ("drop bridge", "m"),
        ("build", "n"),
        ("drop bridge", "n"),
    ]


# What is declared and what stands there is drawn from these: among them are reversed pairs, and pairs of equal keys.
KINDS: Final[tuple[dict[str, Any], ...]] = (
    {"key": {"a": 1}},
    {"key": {"a": -1}},
    {"key": {"a": 1}, "unique": True},
    {"key": {"a": -1}, "unique": True},
    {"key": {"b": 1}},
    {"key": {"b": -1}},
    {"key": {"c": 1}, "expireAfterSeconds": 60},
    {"key": {"c": 1}, "partialFilterExpression": {"s": 1}},
    {"key": {"d": 1, "e": 1}, "unique": True},
)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(200))
def test_declared_names_that_hold_each_others_definitions(seed: int) -> None:
    """Two to four in a ring, some under foreign names. At each moment every index that served is still served."""
    chance = random.Random(seed)
    kinds = chance.sample(KINDS, chance.randint(2, 4))
    names = "mnop"[: len(kinds)]
    declared = Declared("c", {name: {"name": name, **kind} for name, kind in zip(names, kinds, strict=True)})
    places = chance.sample([*names, "x", "y"], chance.randint(1, len(kinds)))
    turned = [{**kind, "name": place} for place, kind in zip(places, chance.sample(kinds, len(places)), strict=True)]
    present: Mapping[str, Mapping[str, Any]] = held(*turned)
    for step in all_steps(declared, present, FOREIGN)[0]:
        after = imagined(present, step)
        for target in declared.indexes.values():
            lost_uniqueness = is_enforced(target, present) and not is_enforced(target, after)
            assert not (target.get("unique") and lost_uniqueness), step
            if step.action is not Action.MAKE_UNIQUE:  # it goes on serving those that asked for less
                assert is_served(target, after) or not is_served(target, present), step
        present = after
    assert set(present) == {"_id_", *names}
    assert all(compare(definition, present[name]) == () for name, definition in declared.indexes.items())


def test_the_index_of_the_shard_key_counts_as_declared() -> None:
    """A sharded collection needs it, so it is never listed as foreign."""
    present = held(*SESSIONS.indexes.values(), {"name": "user_id_hashed", "key": {"user_id": "hashed"}})
    assert undeclared_in(SESSIONS, present) == []


def test_only_what_nothing_enforces_is_searched_for_conflicts() -> None:
    """A scan for duplicates is expensive, and if a unique twin exists there are none."""
    declared = one(key={"a": 1}, unique=True)
    missing: dict[str, Any] = dict(ID)
    assert [found["name"] for found in to_be_unique(declared, missing, all_steps(declared, missing, NOTHING)[0])] == [
        "n"
    ]
    bridge = bridge_of(declared.indexes["n"])
    assert bridge is not None
    resumed = held(bridge)
    assert to_be_unique(declared, resumed, all_steps(declared, resumed, NOTHING)[0]) == []


# --- every moment of every way --------------------------------------------------------------------------------

DRIFTS: Final[tuple[dict[str, Any], ...]] = (
    {"key": {"conversation_id": 1, "user_id": 1}},
    {"key": {"user_id": -1, "conversation_id": -1}},
    {"key": {"user_id": 1, "conversation_id": -1}},
    {"hidden": True},
    {"sparse": True},
    {"collation": {"locale": "de"}},
    {"partialFilterExpression": {"conversation_id": {"$type": "string"}}},
)


def governs_alone(present: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether some finished unique index keeps two sessions from governing one conversation."""
    return any(
        definition.get("unique") and "buildUUID" not in definition and set(definition["key"]) <= set(GOVERNOR["key"])
        for definition in present.values()
    )


def serves_routes(present: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether a visible index on the routed fields stands."""
    return any(
        set(definition["key"]) == set(GOVERNOR["key"]) and not definition.get("hidden")
        for definition in present.values()
    )


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(200))
def test_at_no_moment_is_uniqueness_or_the_index_lost(seed: int) -> None:
    """From any drift, killed after any step and continued, the end is equal and each moment on the way is safe."""
    chance = random.Random(seed)
    wrong = {**GOVERNOR, **chance.choice(DRIFTS)}
    others = [
        {**definition, **chance.choice(({}, {"hidden": True}, {"sparse": True}, {"key": {"odd": 1}}))}
        for name, definition in SESSIONS.indexes.items()
        if name != ROUTING_INDEX and chance.random() < 0.8
    ]
    foreign = [{"name": "theirs", "key": {"z": 1}}] if chance.random() < 0.5 else []
    present: Mapping[str, Mapping[str, Any]] = held(wrong, *others, *foreign)
    choices = chance.choice((NOTHING, FOREIGN, Choices(hide_only=True)))
    taken = 0
    while (step := next_step(SESSIONS, present, choices)) is not None:
        served, taken = serves_routes(present), taken + 1
        present = imagined(present, step)
        assert governs_alone(present), step
        assert serves_routes(present) or not served, step
        assert taken < 60
    assert all(compare(definition, present[name]) == () for name, definition in SESSIONS.indexes.items())
    assert not any("__bridge_" in name for name in present)


def test_a_bridge_never_is_the_index_that_it_stands_in_for() -> None:
    """The server refuses one definition under two names."""
    for definition in SESSIONS.indexes.values():
        bridge = bridge_of(definition)
        assert bridge is not None
        assert signature(bridge) != signature(definition)
        assert target_of_bridge(bridge["name"], bridge) == definition["name"]
        assert ttl_of({**definition, "expireAfterSeconds": NEVER_SECONDS}) == NEVER_SECONDS
