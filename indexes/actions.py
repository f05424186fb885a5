"""What can be done about an index, what is left alone, and what the operator allows."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from sessions.store.index_definitions import LONGEST_TTL

NEVER_SECONDS: Final = LONGEST_TTL
"""A TTL can't be removed in place. This one deletes nothing."""


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
    """An index that `apply` leaves as it is, and what to do about it.

    Attributes:
        collection: The collection's name.
        index: The index's name; None if the collection is left alone as a whole.
        reason: Why, and what to do.
    """

    collection: str
    index: str | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """What the operator allows beyond building what is declared."""

    drop_undeclared: bool = False
    hide_only: bool = False


NOTHING_FOREIGN: Final = Choices()
