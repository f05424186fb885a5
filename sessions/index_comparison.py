"""Is an index that a database holds the one that was declared? A pure comparison, for opening and for operators."""

from collections.abc import Mapping
from typing import Any, Final

_COMPARED_OPTIONS: Final[Mapping[str, object]] = {"unique": False, "sparse": False}


def _canonical(part: object) -> object:
    # Neither the order of a filter's fields nor that of an $in's values changes what the index holds.
    if isinstance(part, Mapping):
        return {
            key: sorted(map(repr, value)) if key == "$in" and isinstance(value, list | tuple) else _canonical(value)
            for key, value in part.items()
        }
    return part


def keys_of(definition: Mapping[str, Any]) -> list[tuple[str, object]]:
    """An index's fields with their directions, in order; a direction counts as a number whatever its BSON type."""
    return [(name, int(way) if isinstance(way, int | float) else way) for name, way in dict(definition["key"]).items()]


def differences(declared: Mapping[str, Any], present: Mapping[str, Any] | None) -> tuple[str, ...]:
    """What keeps ``present`` from serving as ``declared``.

    Args:
        declared: The definition as `pymongo.IndexModel.document` gives it.
        present: The definition as ``listIndexes`` gives it; None where no index has that name.
            ``{"buildUUID": …}`` beside it says that it is still being built.

    Returns:
        One sentence for each difference; empty where there is none. A hidden index still enforces uniqueness
        and so is no difference here.
    """
    name = declared["name"]
    if present is None:
        return (f"index {name} is missing",)
    found = []
    if "buildUUID" in present:
        found.append(f"index {name} is still being built")
    if keys_of(declared) != keys_of(present):
        found.append(f"index {name} has the keys {keys_of(present)} instead of {keys_of(declared)}")
    for option, default in _COMPARED_OPTIONS.items():
        if bool(declared.get(option, default)) != bool(present.get(option, default)):
            found.append(f"index {name} has {option} {bool(present.get(option, default))}")
    if _canonical(declared.get("partialFilterExpression", {})) != _canonical(
        present.get("partialFilterExpression", {})
    ):
        found.append(f"index {name} has another partial filter")
    if declared.get("collation") != present.get("collation"):
        found.append(f"index {name} has another collation")
    return tuple(found)
