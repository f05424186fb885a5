"""The indexes that a collection holds, by their names, as the server lists them."""

from collections.abc import Mapping
from typing import Any

Definition = Mapping[str, Any]
Present = Mapping[str, Definition]


def is_building(definition: Definition | None) -> bool:
    """Whether the server has not finished it."""
    return definition is not None and "buildUUID" in definition
