"""The index that stands in for another one while that is replaced, and what serves or enforces what it does."""

import hashlib
import re
from collections.abc import Mapping
from typing import Any, Final

from sessions.store.index_definitions import keys_of, signature

Definition = Mapping[str, Any]
Present = Mapping[str, Definition]

_BRIDGE: Final = re.compile(r"(?P<target>.+)__bridge_(?P<digest>[0-9a-f]{8})")


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
    return standing_in({**target, "key": {name: -way for name, way in keys if isinstance(way, int | float)}})


def standing_in(target: Definition) -> Definition:
    """The same under a bridge's name."""
    # Visible even if the target is hidden, since it has to serve. Without a TTL, since a bridge that a killed run left
    # would delete what an older release declared.
    bridge = {name: value for name, value in target.items() if name not in ("hidden", "expireAfterSeconds")}
    return {**bridge, "name": f"{target['name']}__bridge_{_digest(bridge)}"}


def target_of_bridge(name: str, present: Definition) -> str | None:
    """The index that a bridge stands in for; None if this is no bridge of ours."""
    found = _BRIDGE.fullmatch(name)
    return found["target"] if found and found["digest"] == _digest(present) else None


def is_building(definition: Definition | None) -> bool:
    """Whether the server has not finished it."""
    return definition is not None and "buildUUID" in definition


def is_enforced(target: Definition, present: Present) -> bool:
    """Whether the uniqueness that ``target`` asks for is held by a finished index, hidden or not, or its reverse."""
    twins = {signature(target), signature(bridge_of(target) or target)}
    return any(not is_building(held) and signature(held) in twins for held in present.values())


def is_served(target: Definition, present: Present) -> bool:
    """Whether one of those is visible too, so that the target's queries have an index."""
    return is_enforced(target, {name: held for name, held in present.items() if not held.get("hidden")})
