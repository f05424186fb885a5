"""The steps from the indexes that a collection holds to those that are declared. It asks no server.

`next_step` is the whole computation. From what a collection holds it names the one step to take. A plan is made by
imagining each step done. It is carried out by doing each step and looking again. So the next run continues one that was
killed anywhere, without any record of it.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Final

from indexes.actions import NEVER_SECONDS, NOTHING_FOREIGN, Action, Blocked, Choices, Step
from indexes.bridges import (
    Definition,
    Present,
    bridge_of,
    is_building,
    is_enforced,
    is_served,
    standing_in,
    target_of_bridge,
)
from indexes.declared import Declared, is_index_of_ids
from indexes.session_collection.session_document import is_shard_key_index
from sessions.store.index_definitions import Aspect, compare, in_words, is_text, shown_keys, signature, ttl_of

MOST_INDEXES: Final = 64
"""As many indexes a collection holds, with that of its ids, unless that is its clustered key (*measured*)."""
_FULL: Final = f"the collection holds {MOST_INDEXES} indexes, the most that the server allows"
IN_PLACE: Final = frozenset({Aspect.HIDDEN, Aspect.TTL, Aspect.UNIQUE, Aspect.PREPARE_UNIQUE})


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


class _CollectionSteps:
    """The steps of one collection, given what it holds now."""

    def __init__(self, declared: Declared, present: Present, choices: Choices) -> None:
        self._declared = declared
        self._present = present
        self._choices = choices
        # What is refused stays declared, so that nothing of its name counts as foreign, and is not worked on.
        self._targets = {name: one for name, one in declared.indexes.items() if name not in declared.refused}
        self.blocked: list[Blocked] = []

    def _step(self, action: Action, index: str, definition: Definition, why: str) -> Step:
        return Step(collection=self._declared.collection, action=action, index=index, definition=definition, why=why)

    def _block(self, index: str, reason: str) -> None:
        self.blocked.append(Blocked(self._declared.collection, index, reason))

    def steps(self) -> Iterator[Step]:
        """Each step that could come next, the one to take first."""
        for name, reason in self._declared.refused.items():
            self._block(name, reason)
        is_full = sum(1 for held in self._present.values() if not held.get("clustered")) >= MOST_INDEXES
        for step in self._wanted():
            if not (step.builds and is_full):
                yield step
            elif step.action is Action.BUILD:
                self._block(step.index, f"{_FULL}: drop one that is not needed")
            else:
                target = target_of_bridge(step.index, step.definition) or step.index
                self._block(target, f"{_FULL}, and its bridge would be one more: drop one that is not needed")

    def _wanted(self) -> Iterator[Step]:
        for name, held in self._present.items():
            is_ours = name in self._targets or target_of_bridge(name, held) in self._targets
            if is_building(held) and is_ours:
                yield self._step(Action.WAIT, name, held, "the server is still building it")
        # First what protects live data, since a wrong TTL deletes and a hidden index serves no query.
        for name, target in self._targets.items():
            there = self._present.get(name)
            if there is not None and not is_building(there):
                yield from self._in_place(target, there)
        for name, held in self._present.items():
            if target_of_bridge(name, held) in self._targets and deletes(held):
                yield self._step(Action.DEFUSE_TTL, name, held, "a bridge must not delete")
        if self._touches_foreign:
            yield from self._foreign_ttls()
        ordered = sorted(self._targets.items(), key=lambda item: not item[1].get("unique"))
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
        covers_the_same = found <= IN_PLACE
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
        if held is not None and held.get("clustered"):
            self._block(name, "the key of the clustered collection has this name: give the index another one")
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
            yield from self._missing(name, target)
        elif owner == name:
            yield from self._bridged(target, twin, "it stands under the name of a bridge")
        # Else the twin is another index's bridge, or has another declared name. It goes when its own target is in
        # place, and this index follows.

    def _missing(self, name: str, target: Definition) -> Iterator[Step]:
        texts = [held for held in self._present.values() if is_text(held)] if is_text(target) else []
        if texts:
            other = f"{texts[0]['name']} ({in_words(shown_keys(texts[0]))})"
            self._block(name, f"a collection holds one text index, and {other} is it: drop one of the two")
        else:
            yield self._step(Action.BUILD, name, target, "it is missing")

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

        does_its_work = [one for one in self._targets.values() if is_enforced(one, {name: held})]
        return [target for target in does_its_work if is_left_alone(target)]

    def _holder_of(self, definition: Definition, *, but: str) -> str | None:
        wanted = signature(definition)
        return next((name for name, held in self._present.items() if name != but and signature(held) == wanted), None)

    def _under_another_name(self, name: str, target: Definition, twin: str) -> Iterator[Step]:
        is_replaced = self._choices.drop_undeclared and not self._choices.hide_only
        if self._reason_to_keep(twin) or (not is_replaced and bridge_of(target) is not None):
            advice = self._reason_to_keep(twin) or "--drop-undeclared replaces it"
            self._block(name, f"the same index stands under the name {twin}: {advice}")
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
            bridge = standing_in(target)
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
            is_kept = self._reason_to_keep(name) or (self._choices.hide_only and self._relying_on(name))
            goes = not is_building(held) and not is_kept
            if goes and deletes(held):
                yield self._step(
                    Action.DEFUSE_TTL, name, held, "nobody declared it, and even hidden it would go on deleting"
                )

    def _foreign(self) -> Iterator[Step]:
        for name in undeclared_in(self._declared, self._present):
            held = self._present[name]
            if reason := self._reason_to_keep(name):
                self._block(name, reason)
            elif is_building(held):
                self._block(name, "nobody declared it, and the server is still building it: run this again later")
            elif relying := self._relying_on(name):
                self._block(name, self._why_kept(relying))
            elif not held.get("hidden"):
                yield self._step(Action.HIDE, name, held, "nobody declared it")
            elif not self._choices.hide_only:
                yield self._step(Action.DROP, name, held, "nobody declared it, and it is hidden")

    def _reason_to_keep(self, name: str) -> str | None:
        """Why an index that nobody declared is left as it is, whatever the operator allows."""
        held = self._present[name]
        owner = self._declared.siblings.get(target_of_bridge(name, held) or name)
        if owner is not None:
            return f"{owner} declares it for the same collection: name that document too"
        if name in self._declared.refused:
            return self._declared.refused[name]
        for other in self._declared.refused.keys() & self._declared.indexes.keys():
            # By its first field, since a refused declaration may be one that can't be compared.
            if shown_keys(held)[:1] == shown_keys(self._declared.indexes[other])[:1]:
                return f"nobody declared it, but it may do the work of {other}, which is refused: see to that first"
        return None

    def _why_kept(self, relying: Collection[Definition]) -> str:
        said = f"nobody declared it, but it alone does the work of {', '.join(target['name'] for target in relying)}"
        if any(bridge_of(target) is None for target in relying):
            return f"{said}. Such keys can't be reversed for a bridge: replace it by hand at a quiet time"
        return f"{said}: --drop-undeclared replaces it" if self._choices.hide_only else said


def next_step(declared: Declared, present: Present, choices: Choices) -> Step | None:
    """The one step to take on a collection that holds ``present``; None if nothing more can be done."""
    return None if declared.unfit else next(_CollectionSteps(declared, present, choices).steps(), None)


def blocked_in(declared: Declared, present: Present, choices: Choices) -> tuple[Blocked, ...]:
    """The indexes that do not become as declared, from what a collection holds once every step is done."""
    if declared.unfit:
        is_asked_for = declared.indexes or choices != NOTHING_FOREIGN
        return (Blocked(declared.collection, None, declared.unfit),) if is_asked_for else ()
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
