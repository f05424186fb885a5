"""What a driver's error comes to: whether it may pass, what it is called, and never its text."""

from typing import Final

import pytest
from pymongo.errors import AutoReconnect, InvalidOperation, OperationFailure, PyMongoError, ServerSelectionTimeoutError

from sessions.store.driver_errors import cause_of, is_transient, may_pass, reason_of, update_is_refused

SECRET: Final = "SECRET"  # noqa: S105 - a text of a user
CANNOT_PASS: Final = (2, 9, 13, 14, 18, 20, 28, 52, 59, 72, 73, 121, 166, 323, 10334, 17419, 17420)
TRANSIENT: Final = (6, 7, 64, 89, 91, 134, 189, 262, 9001, 10107, 11600, 11602, 13435, 13436)


@pytest.mark.parametrize("code", CANNOT_PASS)
def test_what_cannot_pass_has_a_reason_in_words(code: int) -> None:
    """An operator reads what to put right; nothing is tried again, and no text of the server is told."""
    error = OperationFailure(f"about {SECRET}", code)
    reason = reason_of(error)
    assert reason
    assert cause_of(error) == f"{reason}: OperationFailure, code {code}"
    assert not may_pass(error)
    assert SECRET not in cause_of(error)


@pytest.mark.parametrize("code", TRANSIENT)
def test_what_may_pass_is_tried_again(code: int) -> None:
    """The network between servers and a primary that goes pass by themselves."""
    error = OperationFailure(SECRET, code)
    assert is_transient(error)
    assert may_pass(error)
    assert reason_of(error) is None
    assert not update_is_refused(error)


def test_a_missing_right_names_the_command_and_not_its_content() -> None:
    """The server quotes the whole command, with the user's text in it."""
    text = f'not authorized on app to execute command {{ findAndModify: "c", query: {{ _id: "{SECRET}" }} }}'
    assert cause_of(OperationFailure(text, 13)) == (
        "the user lacks the right to findAndModify: OperationFailure, code 13"
    )


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (InvalidOperation(SECRET), "the client is closed"),
        (AutoReconnect(SECRET), None),
        (ServerSelectionTimeoutError(SECRET), None),
        (PyMongoError(SECRET), None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_errors_without_a_code(error: PyMongoError, reason: str | None) -> None:
    """A client that was closed stays closed; a server that was not found may come back."""
    assert reason_of(error) == reason
    assert SECRET not in cause_of(error)
