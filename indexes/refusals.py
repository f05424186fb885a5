"""Why the server does not take an index: foreseen from its declaration, or read from the server's refusal."""

from collections.abc import Callable, Mapping
from math import isnan
from typing import Any, Final

from bson import Decimal128
from pymongo.errors import OperationFailure

from indexes.codes import Code
from sessions.store.index_definitions import LONGEST_TTL, keys_of, signature

Definition = Mapping[str, Any]

_MOST_FIELDS: Final = 32
_MOST_WORDS: Final = 300
_FLAGS: Final = ("unique", "sparse", "hidden", "prepareUnique")
_DOCUMENTS: Final = ("partialFilterExpression", "collation", "wildcardProjection", "weights", "storageEngine")
_BUILD_FAILED: Final = "Index build failed"
_BEFORE_DOCUMENTS: Final = "initialization on namespace"


def _ways(definition: Definition) -> list[object]:
    return [way for _, way in keys_of(definition)]


def _is_wildcard(definition: Definition) -> bool:
    return any(name == "$**" or name.endswith(".$**") for name, way in keys_of(definition) if way != "text")


def _has_a_wrong_ttl(definition: Definition) -> bool:
    seconds = definition.get("expireAfterSeconds", 0)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float | Decimal128):
        return True
    number = float(str(seconds))
    return not isnan(number) and not -1 < number < LONGEST_TTL + 1


def _is_malformed(definition: Definition) -> bool:
    try:
        signature(definition)
    except (AttributeError, TypeError, ValueError):
        return True
    return False


def _has_a_way_of_nothing(definition: Definition) -> bool:
    return any(isinstance(way, bool) or way in (0, "", None) or way != way for way in _ways(definition))  # noqa: PLR0124 - NaN


# What every server from 6.0 on refuses, whatever the collection holds (*measured* on 6.0.5). The first that fits is
# told, so that a row may rely on those above it.
_RULES: Final[tuple[tuple[str, Callable[[Definition], bool]], ...]] = (
    (
        f"{', '.join(_FLAGS[:-1])} and {_FLAGS[-1]} must be True or False",
        lambda one: any(not isinstance(one.get(flag, False), bool | int | float) for flag in _FLAGS),
    ),
    (
        f"{', '.join(_DOCUMENTS[:-1])} and {_DOCUMENTS[-1]} must be documents",
        lambda one: any(not isinstance(one.get(name, {}), Mapping) for name in _DOCUMENTS),
    ),
    ("its partial filter is malformed", _is_malformed),
    (
        "the direction of a field must be a number above or below 0, or the name of a kind of index",
        _has_a_way_of_nothing,
    ),
    ("an index has at most 32 fields", lambda one: len(keys_of(one)) > _MOST_FIELDS),
    ("its name must not be empty, '*' or '_id_'", lambda one: one["name"] in ("", "*", "_id_")),
    (
        "sparse and partialFilterExpression exclude each other: leave sparse out, let the filter ask for $exists",
        lambda one: bool(one.get("sparse")) and "partialFilterExpression" in one,
    ),
    (f"expireAfterSeconds must be a number from 0 to {LONGEST_TTL}", _has_a_wrong_ttl),
    (
        "a TTL is for an index of one field",
        lambda one: "expireAfterSeconds" in one and len(dict(one["key"])) > 1,
    ),
    (
        "a wildcard index cannot be unique or sparse, and has neither a TTL nor a descending direction",
        lambda one: (
            _is_wildcard(one)
            and (
                bool(one.get("unique") or one.get("sparse") or "expireAfterSeconds" in one)
                or any(isinstance(way, int | float) and way < 0 for name, way in keys_of(one) if name.endswith("$**"))
            )
        ),
    ),
    (
        "wildcardProjection is for an index of all fields, {'$**': 1}",
        lambda one: "wildcardProjection" in one and "$**" not in one["key"],
    ),
    ("a hashed index cannot be unique", lambda one: bool(one.get("unique")) and "hashed" in _ways(one)),
    ("only one field of an index may be hashed", lambda one: _ways(one).count("hashed") > 1),
    (
        "text and 2d indexes take no collation: declare them with collation={'locale': 'simple'}",
        lambda one: takes_no_collation(one) and one.get("collation", {}).get("locale", "simple") != "simple",
    ),
    ("clustered is chosen for a collection when it is made, not for an index", lambda one: bool(one.get("clustered"))),
    ("unique and prepareUnique exclude each other", lambda one: bool(one.get("unique") and one.get("prepareUnique"))),
)


def takes_no_collation(definition: Definition) -> bool:
    """Whether it is of a kind that knows only the simple collation."""
    return bool({"text", "2d"} & {str(way) for way in _ways(definition)})


def foreseen(definition: Definition) -> str | None:
    """Why no server takes this definition; None if nothing speaks against it beforehand."""
    return next((f"no server takes it: {reason}" for reason, fits in _RULES if fits(definition)), None)


def reason_of(error: OperationFailure) -> str:
    """The server's reason for refusing an index.

    Its text is shown only if it judges the declaration, before a document was read. What a build says of the documents
    that it stumbled over quotes them (*measured*: 11000 of keys, 16755 and 13027 of places, 17262 of languages), so
    that of those only the code is told.
    """
    said = " ".join(str((error.details or {}).get("errmsg", "")).split())
    read_documents = _BUILD_FAILED in said and _BEFORE_DOCUMENTS not in said
    if not said:
        return f"the server refuses it, code {error.code}"
    if read_documents or error.code == Code.DUPLICATE_KEY:
        return f"the stored documents do not allow it, code {error.code}: put them right, then run this again"
    # The last cause is the reason; those before it repeat the command.
    reason = said.rpartition(":: caused by ::")[2].strip()
    return f"the server refuses it, code {error.code}: {reason[:_MOST_WORDS]}"
