"""What every campaign of faults has in common: how much it does, from which seed, and what it counted."""

from collections.abc import Awaitable, Callable, Mapping
from enum import StrEnum
from typing import Final, NamedTuple, TypeAlias

Tally: TypeAlias = Mapping[str, float]
"""What was counted, by the words of the table; of `VIOLATIONS` none may be above zero."""

VIOLATIONS: Final = frozenset({"lost", "doubled", "illegal", "left behind", "missed"})
"""An acknowledged write that is gone, one with two effects, a step that the lifecycle forbids, a task or lease left; a
mutation of the library that no campaign has found."""


class Form(StrEnum):
    """How much a campaign does."""

    SHORT = "short"
    """In CI: all campaigns together take less than five minutes."""
    LONG = "long"
    """By ``python -m tests.faults``: what the documentation's table is made of."""


class Setting(NamedTuple):
    """What one run of a campaign is given."""

    form: Form
    seed: int
    """The same seed makes the same choices; what the machine and its scheduler choose it cannot repeat."""
    driver: str
    """The driver's name, as `sessions.store.clients.connect` takes it."""
    advance: Callable[[], None] = lambda: None
    """Told of each step, for a progress bar."""

    @property
    def is_short(self) -> bool:
        """Whether it is the form for CI."""
        return self.form is Form.SHORT


Run: TypeAlias = Callable[[Setting], Awaitable[Tally]]
"""A campaign. It starts the servers that it needs, and raises `Unable` where the machine lacks something."""


class Unable(Exception):
    """The machine lacks what the campaign needs; the text says what."""


def violations(tally: Tally) -> dict[str, float]:
    """What must not have happened, and has."""
    return {name: count for name, count in tally.items() if name in VIOLATIONS and count}
