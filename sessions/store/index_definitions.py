"""Is an index that a database holds the one that was declared? A pure comparison, for opening and for operators."""

from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from enum import StrEnum
from math import isnan
from typing import Any, Final, NamedTuple

from bson import Decimal128, json_util

_TYPE_NAMES: Final[Mapping[str, int]] = {
    # https://www.mongodb.com/docs/v6.0/reference/operator/query/type/ - a filter may give a type's number or its name.
    "double": 1,
    "string": 2,
    "object": 3,
    "array": 4,
    "binData": 5,
    "objectId": 7,
    "bool": 8,
    "date": 9,
    "null": 10,
    "regex": 11,
    "javascript": 13,
    "int": 16,
    "timestamp": 17,
    "long": 18,
    "decimal": 19,
    "minKey": -1,
    "maxKey": 127,
}
_SERVER_FILLS_IN: Final[Mapping[str, object]] = {
    "weights": None,
    "default_language": "english",
    "language_override": "language",
    "bits": 26,
    "min": -180,
    "max": 180,
}
"""Options of text and 2d indexes that the server lists even if they were left out, with its defaults."""
_COMPARED_WHERE_DECLARED: Final = ("storageEngine", "textIndexVersion", "2dsphereIndexVersion")
LONGEST_TTL: Final = 2_147_483_647
"""The longest TTL that the server takes, in seconds; it deletes nothing."""


class Aspect(StrEnum):
    """In what an index differs from the declared one."""

    MISSING = "missing"
    BUILDING = "building"
    KEYS = "keys"
    ORDER = "order"
    UNIQUE = "unique"
    SPARSE = "sparse"
    PARTIAL_FILTER = "partial filter"
    COLLATION = "collation"
    TTL = "TTL"
    HIDDEN = "hidden"
    PREPARE_UNIQUE = "prepareUnique"
    OTHER = "other options"


class Difference(NamedTuple):
    """One aspect in which an index is not as declared, and a sentence for people."""

    aspect: Aspect
    text: str


def _number(value: object) -> object:
    # 1, 1.0, Int64(1) and Decimal128("1") are one value to the server; True is not.
    if isinstance(value, Decimal128):
        exact = value.to_decimal()
        if exact.is_nan() or Decimal(float(exact)) != exact:
            return value
        value = float(exact)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return int(value) if float(value).is_integer() else float(value)


def _text_of(value: object) -> str:
    """A value as text that is equal if the server takes the values for equal, and tells types apart."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{name}:{_text_of(part)}" for name, part in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(_text_of(part) for part in value) + "]"
    return json_util.dumps(_number(value))


def _types(value: object) -> list[str]:
    named = value if isinstance(value, list | tuple) else [value]
    return sorted(str(_TYPE_NAMES.get(str(item), _number(item))) for item in named)


def _condition(path: str, operator: str, value: object) -> str:
    if operator == "$in" and isinstance(value, list | tuple):
        values = sorted({_text_of(item) for item in value})
        return f"{path} $eq {values[0]}" if len(values) == 1 else f"{path} $in {values}"
    if operator == "$exists":
        return f"{path} $exists {bool(value)}"
    if operator == "$type":
        return f"{path} $type {_types(value)}"
    return f"{path} {operator} {_text_of(value)}"


def canonical_filter(conditions: Mapping[str, Any]) -> tuple[str, ...]:
    """A partial filter in the form in which the server compares it.

    Neither the order of conditions nor that of an ``$in`` counts, nor whether ``$eq`` is written out, nor how a type
    is named, nor whether values of one path stand in an ``$in`` or in an ``$or``; *measured* on 6.0.5, where such
    filters are one definition (error 85).
    """
    found: set[str] = set()
    for path, wanted in conditions.items():
        if path == "$and":
            found.update(part for nested in wanted for part in canonical_filter(nested))
        elif path == "$or":
            found.update(_alternatives(wanted))
        elif path == "$nor":
            found.add(f"{path} {sorted(str(canonical_filter(nested)) for nested in wanted)}")
        elif isinstance(wanted, Mapping) and wanted and all(str(name).startswith("$") for name in wanted):
            found.update(_condition(path, str(operator), value) for operator, value in wanted.items())
        else:
            found.add(_condition(path, "$eq", wanted))
    return tuple(sorted(found))


def _branches(wanted: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    for nested in wanted:
        if list(nested) == ["$or"]:
            yield from _branches(nested["$or"])
        else:
            yield nested


def _alternatives(wanted: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    branches = [canonical_filter(nested) for nested in _branches(wanted)]
    if len(branches) == 1:
        return branches[0]
    equals = [branch[0].partition(" $eq ") for branch in branches if len(branch) == 1]
    values = {value for _, operator, value in equals if operator}
    if len(values) == len(branches) and len({path for path, _, _ in equals}) == 1:
        return (f"{equals[0][0]} $in {sorted(values)}",)
    return (f"$or {sorted(map(str, branches))}",)


def keys_of(definition: Mapping[str, Any]) -> list[tuple[str, object]]:
    """An index's fields with their directions, in order; a direction counts as a number whatever its BSON type."""
    keys = [(name, _number(way)) for name, way in dict(definition["key"]).items()]
    texts = [name for name, way in keys if way == "text" and name != "_fts"]
    if not texts:
        return keys
    # The server lists the fields of a text index as one pair of its own, with the fields under `weights`.
    place = next(number for number, (name, _) in enumerate(keys) if name in texts)
    others = [key for key in keys if key[0] not in texts]
    return [*others[:place], ("_fts", "text"), ("_ftsx", 1), *others[place:]]


def is_text(definition: Mapping[str, Any]) -> bool:
    """Whether it is a text index, of which a collection holds one."""
    return ("_fts", "text") in keys_of(definition)


def _weights(definition: Mapping[str, Any]) -> Mapping[str, object]:
    """The fields of a text index, each with its weight, of which the server keeps the whole number."""
    declared = {name: 1 for name, way in dict(definition["key"]).items() if way == "text" and name != "_fts"}
    found = {name: _number(weight) for name, weight in {**declared, **definition.get("weights", {})}.items()}
    return {name: int(weight) if isinstance(weight, float) else weight for name, weight in sorted(found.items())}


def shown_keys(definition: Mapping[str, Any]) -> list[tuple[str, object]]:
    """An index's fields for people: those of a text index by their own names, in alphabetical order."""
    shown: list[tuple[str, object]] = []
    for name, way in keys_of(definition):
        if name == "_fts":
            shown += [(field, "text") for field in _weights(definition)]
        elif name != "_ftsx":
            shown.append((name, way))
    return shown


def ttl_of(definition: Mapping[str, Any]) -> int | None:
    """After how many seconds the server deletes documents by this index; None if it never does."""
    seconds = definition.get("expireAfterSeconds")
    if seconds is None:
        return None
    number = float(str(seconds))
    return LONGEST_TTL if isnan(number) else int(number)


def signature(definition: Mapping[str, Any]) -> tuple[object, ...]:
    """What makes two definitions one index to the server, whatever their names (error 85); collations expanded."""
    return (
        tuple(keys_of(definition)),
        bool(definition.get("unique")),
        bool(definition.get("sparse")),
        canonical_filter(definition.get("partialFilterExpression") or {}),
        _collation(definition),
        _text_of(_projection(definition)),
        *(_weights(definition).items() if is_text(definition) else ()),
    )


def _projection(definition: Mapping[str, Any]) -> Mapping[str, bool] | None:
    """A ``wildcardProjection`` in the form in which the server compares it; None without one.

    Neither the order of its fields counts, nor whether they are nested or dotted, nor which number stands for true,
    and ``_id`` is left out unless it is asked for; *measured* on 6.0.5, where such projections are one.
    """
    projection = definition.get("wildcardProjection")
    if projection is None:
        return None
    leaves = dict(_leaves("", projection))
    if len(leaves) > 1 and leaves.get("_id") is False:
        del leaves["_id"]
    return dict(sorted(leaves.items()))


def _leaves(path: str, value: object) -> Iterator[tuple[str, bool]]:
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield from _leaves(f"{path}.{name}" if path else str(name), part)
    else:
        yield path, bool(_number(value))


def _collation(definition: Mapping[str, Any]) -> tuple[tuple[str, object], ...]:
    collation = definition.get("collation")
    if not collation or collation.get("locale") == "simple":
        return ()
    return tuple(sorted((name, _number(value)) for name, value in collation.items() if name != "version"))


def _other_options(declared: Mapping[str, Any], present: Mapping[str, Any]) -> list[str]:
    found = [
        name
        for name in _COMPARED_WHERE_DECLARED
        if name in declared and _text_of(declared[name]) != _text_of(present.get(name))
    ]
    wanted, held = _weights(declared), _weights(present)
    if wanted.keys() == held.keys() and wanted != held:  # other fields are told as other keys
        found.append("weights")
    if _projection(declared) != _projection(present):
        found.append("wildcardProjection")
    kinds = [way for _, way in keys_of(declared)]
    for name, default in _SERVER_FILLS_IN.items():
        applies = "2d" in kinds if name in ("bits", "min", "max") else "text" in kinds and default is not None
        if applies and _number(declared.get(name, default)) != _number(present.get(name, default)):
            found.append(name)
    return found


def _key_difference(declared: Mapping[str, Any], present: Mapping[str, Any]) -> tuple[Aspect, str]:
    wanted, held = shown_keys(declared), shown_keys(present)
    aspect = Aspect.ORDER if sorted(map(str, wanted)) == sorted(map(str, held)) else Aspect.KEYS
    return aspect, f"has the keys {in_words(held)} instead of {in_words(wanted)}" if wanted != held else ""


def in_words(keys: Iterable[tuple[str, object]]) -> str:
    """Fields for people: each with its direction unless that is the plain one."""
    return ", ".join(name if way == 1 else f"{name} {way}" for name, way in keys)


def _flag_differences(declared: Mapping[str, Any], present: Mapping[str, Any]) -> Iterator[tuple[Aspect, str]]:
    texts = {
        Aspect.UNIQUE: ("has unique False", "has unique True"),
        Aspect.SPARSE: ("has sparse False", "has sparse True"),
        Aspect.HIDDEN: ("is not hidden", "is hidden"),
    }
    for aspect, said in texts.items():
        wanted, held = bool(declared.get(aspect)), bool(present.get(aspect))
        yield aspect, said[held] if wanted != held else ""


def _filters_differ(declared: Mapping[str, Any], present: Mapping[str, Any]) -> bool:
    option = "partialFilterExpression"
    return canonical_filter(declared.get(option) or {}) != canonical_filter(present.get(option) or {})


def _ttl_difference(declared: Mapping[str, Any], present: Mapping[str, Any]) -> str:
    wanted, held = ("none" if ttl is None else f"{ttl} s" for ttl in (ttl_of(declared), ttl_of(present)))
    return f"has the TTL {held} instead of {wanted}" if wanted != held else ""


def _other_difference(declared: Mapping[str, Any], present: Mapping[str, Any]) -> str:
    others = _other_options(declared, present)
    return f"has another {', '.join(others)}" if others else ""


def compare(declared: Mapping[str, Any], present: Mapping[str, Any] | None) -> tuple[Difference, ...]:
    """Each aspect in which ``present`` is not ``declared``.

    Args:
        declared: The definition as `pymongo.IndexModel.document` gives it, its collation expanded.
        present: The definition as ``listIndexes`` gives it; None if no index has that name.
            ``{"buildUUID": …}`` beside it says that it is still being built.

    Returns:
        One difference for each aspect; empty if there is none.
    """
    name = declared["name"]
    if present is None:
        return (Difference(Aspect.MISSING, f"index {name} is missing"),)
    return tuple(
        Difference(aspect, f"index {name} {text}")
        for aspect, text in (
            (Aspect.BUILDING, "is still being built" if "buildUUID" in present else ""),
            _key_difference(declared, present),
            *_flag_differences(declared, present),
            (Aspect.PARTIAL_FILTER, "has another partial filter" if _filters_differ(declared, present) else ""),
            (Aspect.COLLATION, "has another collation" if _collation(declared) != _collation(present) else ""),
            (Aspect.TTL, _ttl_difference(declared, present)),
            (
                Aspect.PREPARE_UNIQUE,
                "was left in prepareUnique by a run that did not end" if present.get("prepareUnique") else "",
            ),
            (Aspect.OTHER, _other_difference(declared, present)),
        )
        if text
    )


_HARMLESS: Final = frozenset({Aspect.HIDDEN, Aspect.TTL, Aspect.PREPARE_UNIQUE, Aspect.OTHER})


def differences(declared: Mapping[str, Any], present: Mapping[str, Any] | None) -> tuple[str, ...]:
    """What keeps ``present`` from holding the invariant that ``declared`` is for, one sentence each.

    A hidden index still enforces uniqueness and so is no difference here; `compare` tells everything.
    """
    return tuple(found.text for found in compare(declared, present) if found.aspect not in _HARMLESS)
