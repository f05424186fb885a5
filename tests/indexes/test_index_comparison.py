"""Is the index that a database holds the one that was declared?"""

from typing import Any, Final

import pytest
from bson.int64 import Int64
from bson.son import SON

from sessions.store.document import INDEXES, ROUTING_INDEX
from sessions.store.index_definitions import differences, keys_of

DECLARED: Final[dict[str, Any]] = next(
    dict(index.document) for index in INDEXES if index.document["name"] == ROUTING_INDEX
)
NAMES: Final = [
    "idx_active_schedule_sessions_user_conv",
    "idx_active_schedule_sessions_user_status_updated",
    "idx_active_schedule_sessions_status_updated",
    "idx_active_schedule_sessions_conversation_status_updated",
    "idx_active_schedule_sessions_trigger_id",
    "idx_active_schedule_sessions_preview_id",
    "uniq_active_schedule_sessions_governor",
    "idx_active_schedule_sessions_expires_at",
    "idx_active_schedule_sessions_lease_expires_at",
    "idx_active_schedule_sessions_conversation_answered",
    "idx_active_schedule_sessions_conversation_replaced",
]


def listed(**changes: Any) -> dict[str, Any]:
    """The governor index as a server lists it, with changes."""
    return {
        "v": 2,
        "key": {"user_id": 1, "conversation_id": 1},
        "name": ROUTING_INDEX,
        "unique": True,
        "partialFilterExpression": {
            "status": {"$in": ["waiting_user_reply", "rerunning"]},
            "conversation_id": {"$type": "string"},
        },
        **changes,
    }


def test_the_eleven_declared_names() -> None:
    """Queries name indexes as hints, so a name that changes silently costs every lookup."""
    assert [index.document["name"] for index in INDEXES] == NAMES


def test_the_same_definition_does_not_differ() -> None:
    """What the server lists for an index that was created as declared is accepted."""
    assert differences(DECLARED, listed()) == ()


@pytest.mark.parametrize(
    "present",
    [
        listed(hidden=True),
        listed(key={"user_id": 1.0, "conversation_id": Int64(1)}),
        listed(key=SON([("user_id", 1), ("conversation_id", 1)])),
        listed(sparse=False),
        listed(
            partialFilterExpression={
                "conversation_id": {"$type": "string"},
                "status": {"$in": ["rerunning", "waiting_user_reply"]},
            }
        ),
    ],
    ids=["hidden", "number types", "son", "explicit default", "filter's order"],
)
def test_what_changes_nothing_is_no_difference(present: dict[str, Any]) -> None:
    """A hidden index still enforces uniqueness; number types and the order within a filter mean nothing."""
    assert differences(DECLARED, present) == ()


@pytest.mark.parametrize(
    ("present", "said"),
    [
        (None, "is missing"),
        (listed(buildUUID="of a build under way"), "is still being built"),
        (listed(unique=False), "unique False"),
        ({name: value for name, value in listed().items() if name != "unique"}, "unique False"),
        (listed(sparse=True), "sparse True"),
        (listed(key={"conversation_id": 1, "user_id": 1}), "instead of"),
        (listed(key={"user_id": 1, "conversation_id": -1}), "instead of"),
        (listed(key={"user_id": 1}), "instead of"),
        (listed(key={"user_id": "hashed", "conversation_id": 1}), "instead of"),
        ({name: value for name, value in listed().items() if name != "partialFilterExpression"}, "partial filter"),
        (listed(partialFilterExpression={"status": "rerunning"}), "partial filter"),
        (
            listed(
                partialFilterExpression={
                    "status": {"$in": ["waiting_user_reply", "rerunning", "ready_preview"]},
                    "conversation_id": {"$type": "string"},
                }
            ),
            "partial filter",
        ),
        (listed(collation={"locale": "de"}), "collation"),
    ],
)
def test_what_differs_is_said(present: dict[str, Any] | None, said: str) -> None:
    """Each difference that could let two sessions govern, or a hint find too little, is one sentence."""
    found = differences(DECLARED, present)
    assert len(found) == 1
    assert said in found[0]
    assert ROUTING_INDEX in found[0]


def test_all_differences_are_told_at_once() -> None:
    """An operator need not put one right to learn of the next."""
    assert len(differences(DECLARED, listed(unique=False, key={"user_id": 1}, buildUUID="b"))) == 3


def test_keys_keep_their_order() -> None:
    """Order and direction are part of an index; the number's type is not."""
    assert keys_of({"key": {"b": 1.0, "a": -1}}) == [("b", 1), ("a", -1)]
