"""The steps from the indexes that a collection holds to those that are declared. It asks no server.

`next_step` is the whole computation. From what a collection holds it names the one step to take. A plan is made by
imagining each step done. It is carried out by doing each step and looking again. So the next run continues one that was
killed anywhere, without any record of it.
"""

import hashlib
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from indexes.declared import Declared, is_index_of_ids
from indexes.present import Definition, Present, is_building
from indexes.session_collection.session_document import is_shard_key_index
from sessions.store.index_definitions import Aspect, compare, keys_of, signature, ttl_of

NEVER_SECONDS: Final = 2_147_483_647
"""A TTL can't be removed in place. This one, the longest possible, deletes nothing."""

_BRIDGE: Final = re.compile(r"(?P<target>.+)__bridge_(?P<digest>[0-9a-f]{8})")
_IN_PLACE: Final = frozenset({Aspect.HIDDEN, Aspect.TTL, Aspect.UNIQUE, Aspect.PREPARE_UNIQUE})


class Action(StrEnum):
    """What a step does."""

    WAIT = "wait"
    BUILD = "build"
    BUILD_BRIDGE = "build bridge"
    DROP = "drop"
    DROP_BRIDGE = "drop bridge"
    UNHIDE = "unhide"
    HIDE = "hide"
    SET_TTL = "set TTL"
    DEFUSE_TTL = "defuse TTL"
    MAKE_UNIQUE = "make unique"
    CANCEL_PREPARE_UNIQUE = "cancel prepareUnique"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing to do, on one index.

    Attributes:
        collection: The collection's name.
        action: What to do.
        index: The index's name.
        definition: The index to build, or the index to drop as it was read.
        why: The reason, for people.
    """

    collection: str
    action: Action
    index: str
    definition: Mapping[str, Any] = field(default_factory=dict, compare=False, hash=False)
    why: str = ""

    @property
    def builds(self) -> bool:
        """Whether it builds an index, and so scans the collection."""
        return self.action in (Action.BUILD, Action.BUILD_BRIDGE)


@dataclass(frozen=True, slots=True)
class Blocked:
    """An index that `apply` leaves as it is, and what to do about it."""

    collection: str
    index: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """What the operator allows beyond building what is declared."""

    drop_undeclared: bool = False
    hide_only: bool = False


NOTHING_FOREIGN: Final = Choices()


def _digest(definition: Definition) -> str:
    return hashlib.sha256(repr(signature(definition)).encode()).hexdigest()[:8]


def bridge_of(target: Definition) -> Definition | None:
    """The target with every key's direction reversed and without a TTL; None if a key has no direction.

    It can coexist with its target, enforces the same uniqueness and serves the same sorts. Its name consists of its
    target's and a digest of its own definition, so that nobody else's index is taken for a bridge.
    """
    keys = keys_of(target)
    if any(not isinstance(way, int | float) or name.endswith("$**") for name, way in keys):
        return None
    return _standing_in({**target, "key": {name: -way for name, way in keys if isinstance(way, int | float)}})


def _standing_in(target: Definition) -> Definition:
    """The same under a bridge's name."""
    # Visible even if the target is hidden, since it has to serve. Without a TTL, since a bridge that a killed run left
    # would delete what an older release declared.
    bridge = {name: value for name, value in target.items() if name not in ("hidden", "expireAfterSeconds")}
    return {**bridge, "name": f"{target['name']}__bridge_{_digest(bridge)}"}


def target_of_bridge(name: str, present: Definition) -> str | None:
    """The index that a bridge stands in for; None if this is no bridge of ours."""
    found = _BRIDGE.fullmatch(name)
    return found["target"] if found and found["digest"] == _digest(present) else None


def deletes(definition: Definition) -> bool:
    """Whether it has a TTL by which the server deletes documents."""
    return ttl_of(definition) not in (None, NEVER_SECONDS)


def undeclared_in(declared: Declared, present: Present) -> list[str]:
    """The names of the indexes that nobody declared, without those that every collection has."""
    return [
        name
        for name, definition in present.items()
        if name not in declared.indexes
        and not is_index_of_ids(definition)
        and not definition.get("clustered")
        and target_of_bridge(name, definition) not in declared.indexes
        and not is_shard_key_index(declared.collection, definition)
    ]


def is_enforced(target: Definition, present: Present) -> bool:
    """Whether the uniqueness that ``target`` asks for is held by a finished index, hidden or not, or its reverse."""
    twins = {signature(target), signature(bridge_of(target) or target)}
    return any(not is_building(held) and signature(held) in twins for held in present.values())


def is_served(target: Definition, present: Present) -> bool:
    """Whether one of those is visible too, so that the target's queries have an index."""
    return is_enforced(target, {name: held for name, held in present.items() if not held.get("hidden")})


class _CollectionSteps:
    """The steps of one collection, given what it holds now."""

    def __init__(self, declared: Declared, present: Present, choices: Choices) -> None:
        self._declared = declared
        self._present = present
        self._choices = choices
        self.blocked: list[Blocked] = []

    def _step(self, action: Action, index: str, definition: Definition, why: str) -> Step:
        return Step(collection=self._declared.collection, action=action, index=index, definition=definition, why=why)

    def _block(self, index: str, reason: str) -> None:
        self.blocked.append(Blocked(self._declared.collection, index, reason))

    def steps(self) -> Iterator[Step]:
        """Each step that could come next, the one to take first."""
        for name, held in self._present.items():
            is_ours = name in self._declared.indexes or target_of_bridge(name, held) in self._declared.indexes
            if is_building(held) and is_ours:
                yield self._step(Action.WAIT, name, held, "the server is still building it")
        # First what protects live data, since a wrong TTL deletes and a hidden index serves no query.
        for name, target in self._declared.indexes.items():
            there = self._present.get(name)
            if there is not None and not is_building(there):
                yield from self._in_place(target, there)
        for name, held in self._present.items():
            if target_of_bridge(name, held) in self._declared.indexes and deletes(held):
                yield self._step(Action.DEFUSE_TTL, name, held, "a bridge must not delete")
        if self._touches_foreign:
            yield from self._foreign_ttls()
        ordered = sorted(self._declared.indexes.items(), key=lambda item: not item[1].get("unique"))
        for name, target in ordered:
            yield from self._of(name, target)
        if self._touches_foreign:
            yield from self._foreign()

    @property
    def _touches_foreign(self) -> bool:
        return self._choices.drop_undeclared or self._choices.hide_only

    def _in_place(self, target: Definition, held: Definition) -> Iterator[Step]:
        name = target["name"]
        found = {difference.aspect for difference in compare(target, held)}
        # A TTL deletes what its index covers. On an index that covers other documents than the declared one even the
        # declared TTL is wrong, so that only the new index gets it.
        covers_the_same = found <= _IN_PLACE
        if covers_the_same and Aspect.TTL in found and ttl_of(target) is not None:
            yield self._step(Action.SET_TTL, name, target, f"{ttl_of(target)} s are declared")
        elif deletes(held) and (ttl_of(target) is None or not covers_the_same):
            yield self._step(Action.DEFUSE_TTL, name, held, "this TTL is not declared, and deletes meanwhile")
        if Aspect.HIDDEN in found and (covers_the_same or not target.get("hidden")):
            yield self._step(Action.HIDE if target.get("hidden") else Action.UNHIDE, name, held, "declared so")
        if Aspect.PREPARE_UNIQUE in found and not target.get("unique"):
            yield self._step(Action.CANCEL_PREPARE_UNIQUE, name, held, "left by a run that did not end")
        # If a TTL has to go, its index is replaced, and the new one is unique from the start.
        if target.get("unique") and Aspect.UNIQUE in found and covers_the_same and ttl_of(held) == ttl_of(target):
            yield self._step(Action.MAKE_UNIQUE, name, target, "only its uniqueness was lost")

    def _of(self, name: str, target: Definition) -> Iterator[Step]:
        held = self._present.get(name)
        if is_building(held):
            return
        found = compare(target, held)
        if not found:
            yield from self._leftovers(name)
            return
        twin = self._holder_of(target, but=name)
        owner = target_of_bridge(twin, self._present[twin]) if twin is not None else None
        if twin is not None and owner not in self._declared.indexes and twin not in self._declared.indexes:
            yield from self._under_another_name(name, target, twin)
        elif held is not None:
            aspects = ", ".join(difference.aspect for difference in found)
            yield from self._bridged(target, name, f"it differs in: {aspects}")
        elif twin is None:
            yield self._step(Action.BUILD, name, target, "it is missing")
        elif owner == name:
            yield from self._bridged(target, twin, "it stands under the name of a bridge")
        # Else the twin is another index's bridge, or has another declared name. It goes when its own target is in
        # place, and this index follows.

    def _without(self, name: str) -> Present:
        return {other: held for other, held in self._present.items() if other != name}

    def _relying_on(self, name: str) -> list[Definition]:
        """The declared indexes whose queries, or whose uniqueness, depend on this one alone."""
        held, rest = self._present[name], self._without(name)

        def is_left_alone(target: Definition) -> bool:
            serves = not held.get("hidden") and not target.get("hidden")
            return (serves and not is_served(target, rest)) or (
                bool(target.get("unique")) and not is_enforced(target, rest)
            )

        does_its_work = [one for one in self._declared.indexes.values() if is_enforced(one, {name: held})]
        return [target for target in does_its_work if is_left_alone(target)]

    def _holder_of(self, definition: Definition, *, but: str) -> str | None:
        wanted = signature(definition)
        return next((name for name, held in self._present.items() if name != but and signature(held) == wanted), None)

    def _under_another_name(self, name: str, target: Definition, twin: str) -> Iterator[Step]:
        if not self._choices.drop_undeclared or self._choices.hide_only:
            self._block(name, f"the same index stands under the name {twin}: --drop-undeclared replaces it")
        elif is_building(self._present[twin]):
            self._block(name, f"the same index is being built under the name {twin}: run this again later")
        else:
            yield from self._bridged(target, twin, f"it stands under the name {twin}")

    def _bridged(self, target: Definition, in_the_way: str, why: str) -> Iterator[Step]:
        """Drop what is in the way of the target, once another index does its work."""
        held = self._present[in_the_way]
        if bridge_of(target) is None or not is_served(target, self._without(in_the_way)):
            yield from self._bridge(target, in_the_way, why)
        elif others := self._relying_on(in_the_way):
            # Declared indexes can have each other's names.
            for other in others:
                yield from self._bridge(other, in_the_way, f"so far {in_the_way} does its work")
        else:
            said = f"{why}; a reversed twin serves meanwhile"
            if in_the_way in undeclared_in(self._declared, self._present) and not held.get("hidden"):
                yield self._step(Action.HIDE, in_the_way, held, said)
            yield self._step(Action.DROP, in_the_way, held, said)

    def _bridge(self, target: Definition, in_the_way: str, why: str) -> Iterator[Step]:
        name = target["name"]
        bridge: Definition | None = bridge_of(target)
        if bridge is None:
            self._block(name, f"{why}. Such keys can't be reversed for a bridge: drop it by hand at a quiet time")
            return
        if signature(self._present[in_the_way]) == signature(bridge):
            # The index in the way is the target reversed, so the bridge can't be built beside it, but the target can.
            bridge = _standing_in(target)
        twin = self._holder_of(bridge, but=in_the_way)
        if twin is None:
            yield self._step(Action.BUILD_BRIDGE, bridge["name"], bridge, f"{name}: {why}")
        elif twin not in self._declared.indexes and not is_building(self._present[twin]):
            self._block(name, f"{why}. {twin} could serve meanwhile, but it is hidden: unhide it")
        # Else the twin serves once it is finished and visible.

    def _leftovers(self, name: str) -> Iterator[Step]:
        for other, held in self._present.items():
            if target_of_bridge(other, held) == name and not is_building(held):
                yield self._step(Action.DROP_BRIDGE, other, held, f"{name} is in place")

    def _foreign_ttls(self) -> Iterator[Step]:
        for name in undeclared_in(self._declared, self._present):
            held = self._present[name]
            goes = not is_building(held) and not (self._choices.hide_only and self._relying_on(name))
            if goes and deletes(held):
                yield self._step(
                    Action.DEFUSE_TTL, name, held, "nobody declared it, and even hidden it would go on deleting"
                )

    def _foreign(self) -> Iterator[Step]:
        for name in undeclared_in(self._declared, self._present):
            held = self._present[name]
            if is_building(held):
                self._block(name, "nobody declared it, and the server is still building it: run this again later")
            elif relying := self._relying_on(name):
                self._block(name, self._why_kept(relying))
            elif not held.get("hidden"):
                yield self._step(Action.HIDE, name, held, "nobody declared it")
            elif not self._choices.hide_only:
                yield self._step(Action.DROP, name, held, "nobody declared it, and it is hidden")

    def _why_kept(self, relying: Collection[Definition]) -> str:
        said = f"nobody declared it, but it alone does the work of {', '.join(target['name'] for target in relying)}"
        if any(bridge_of(target) is None for target in relying):
            return f"{said}. Such keys can't be reversed for a bridge: replace it by hand at a quiet time"
        return f"{said}: --drop-undeclared replaces it" if self._choices.hide_only else said


def next_step(declared: Declared, present: Present, choices: Choices) -> Step | None:
    """The one step to take on a collection that holds ``present``; None if nothing more can be done."""
    return next(_CollectionSteps(declared, present, choices).steps(), None)


def blocked_in(declared: Declared, present: Present, choices: Choices) -> tuple[Blocked, ...]:
    """The indexes that do not become as declared, from what a collection holds once every step is done."""
    collection = _CollectionSteps(declared, present, choices)
    for _ in collection.steps():
        pass
    told = {one.index for one in collection.blocked}
    collection.blocked += [
        Blocked(declared.collection, name, "another declared index stands in its way: drop one at a quiet time")
        for name, target in declared.indexes.items()
        if name not in told and compare(target, present.get(name))
    ]
    return tuple(dict.fromkeys(collection.blocked))


def _changed(held: Definition, **changes: object) -> Definition:
    values = {**held, **changes}
    return {name: value for name, value in values.items() if value is not None}


def imagined(present: Present, step: Step) -> Present:
    """What a collection would hold after a step."""
    rest = {name: held for name, held in present.items() if name != step.index}
    if step.action in (Action.DROP, Action.DROP_BRIDGE):
        return rest
    if step.builds:
        return {**present, step.index: step.definition}
    changes: Mapping[Action, dict[str, object]] = {
        Action.WAIT: {"buildUUID": None},
        Action.UNHIDE: {"hidden": None},
        Action.HIDE: {"hidden": True},
        Action.SET_TTL: {"expireAfterSeconds": step.definition.get("expireAfterSeconds")},
        Action.DEFUSE_TTL: {"expireAfterSeconds": NEVER_SECONDS},
        Action.MAKE_UNIQUE: {"unique": True, "prepareUnique": None},
        Action.CANCEL_PREPARE_UNIQUE: {"prepareUnique": None},
    }
    return {**present, step.index: _changed(present[step.index], **changes[step.action])}


def all_steps(declared: Declared, present: Present, choices: Choices) -> tuple[tuple[Step, ...], Present]:
    """Every step, each with those before it imagined done, and what the collection would hold after them."""
    steps = []
    while (step := next_step(declared, present, choices)) is not None:
        if step in steps:  # pragma: no cover - a guard against a table that goes in circles
            message = f"the steps repeat at {step.action} {step.index}"
            raise RuntimeError(message)
        steps.append(step)
        present = imagined(present, step)
    return tuple(steps), present


def to_be_unique(declared: Declared, present: Present, steps: Collection[Step]) -> list[Definition]:
    """The unique indexes that no index enforces yet, so that stored documents may violate them."""
    touched = {step.index for step in steps} | {
        target_of_bridge(step.index, step.definition) for step in steps if step.action is Action.BUILD_BRIDGE
    }
    return [
        target
        for name, target in declared.indexes.items()
        if target.get("unique") and name in touched and not is_enforced(target, present)
    ]
