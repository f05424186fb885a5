"""What a graph answers and what the bridge tells: frozen values that show nobody's words."""

import copy
import pickle
from dataclasses import FrozenInstanceError
from datetime import UTC, datetime
from typing import Any, Final

import pytest

from sessions import (
    ActiveScheduleSessionSnapshot,
    Asked,
    AskUser,
    Close,
    Fail,
    FreeChat,
    Held,
    InvalidSessionInput,
    NotAnAnswer,
    ShowPreview,
    Turn,
    action_url,
)
from sessions.bridge.outcomes import Outcome

PRIVATE: Final = "my doctor's name"
SESSION: Final = ActiveScheduleSessionSnapshot.model_validate(
    {
        "session_id": "abc",
        "user_id": 7,
        "trigger_id": "trigger",
        "conversation_id": "c",
        "status": "waiting_user_reply",
        "state": {"pending_question": PRIVATE},
        "revision": 3,
        "created_at": datetime(2026, 1, 1, tzinfo=UTC),
        "updated_at": datetime(2026, 1, 1, tzinfo=UTC),
    }
)
OUTCOMES: Final = (*Outcome.__subclasses__(), FreeChat)


@pytest.mark.parametrize("kind", OUTCOMES)
def test_outcomes_are_small_frozen_values(kind: Any) -> None:
    """They compare by value and kind, can be hashed, pickled and matched, and cannot be changed."""
    outcome = kind(SESSION, {"card": [1]})
    assert outcome == kind(SESSION, {"card": [1]})
    assert outcome != kind(SESSION)
    assert outcome != next(other for other in OUTCOMES if other is not kind)(SESSION, {"card": [1]})
    assert hash(outcome) == hash(kind(SESSION, {"card": [1]}))
    assert pickle.loads(pickle.dumps(outcome)) == copy.copy(outcome) == outcome  # noqa: S301 - our own bytes
    with pytest.raises((FrozenInstanceError, AttributeError)):
        outcome.payload = None
    with pytest.raises((FrozenInstanceError, AttributeError, TypeError)):
        outcome.anything = None
    match outcome:
        case Outcome(session, payload) | FreeChat(session, payload):
            assert (session, payload) == (SESSION, {"card": [1]})


@pytest.mark.parametrize(
    "value",
    [
        *(kind(SESSION, PRIVATE) for kind in OUTCOMES),
        FreeChat(),
        Turn(session=SESSION, text=PRIVATE, message_id="m", attempt=1),
        AskUser(PRIVATE, [PRIVATE], payload=PRIVATE),
        ShowPreview("p", payload=PRIVATE),
        Close(PRIVATE, PRIVATE),
        Fail(PRIVATE, PRIVATE),
        NotAnAnswer(PRIVATE),
    ],
)
def test_no_repr_shows_a_text(value: object) -> None:
    """A log line of any of them holds neither what the user was asked nor their answer, nor the payload."""
    assert PRIVATE not in repr(value)
    assert type(value).__name__ in repr(value)


def test_an_outcomes_repr_names_the_session() -> None:
    """What a log needs is there: which session, and where it stands."""
    assert repr(Asked(SESSION)) == "Asked(session abc, waiting_user_reply)"
    assert repr(FreeChat(SESSION)) == "FreeChat(session abc)"
    assert Held(SESSION).payload is None


@pytest.mark.parametrize(
    ("conversation_id", "path"),
    [
        ("chat-42", "/assistant/chat-42"),
        ("a/b?c=d&e#f", "/assistant/a%2Fb%3Fc%3Dd%26e%23f"),
        ("../admin", "/assistant/..%2Fadmin"),
        ("é 1%", "/assistant/%C3%A9%201%25"),
        ("...", "/assistant/..."),
    ],
)
def test_the_path_of_a_notification(conversation_id: str, path: str) -> None:
    """Whatever an id holds, it stays one segment of the path."""
    assert action_url(SESSION.model_copy(update={"conversation_id": conversation_id})) == path


@pytest.mark.parametrize("conversation_id", [None, ".", ".."])
def test_no_path_leads_elsewhere(conversation_id: str | None) -> None:
    """An unbound session has no conversation to lead to, and a browser would resolve a dot segment away."""
    with pytest.raises(InvalidSessionInput, match="bound to a conversation"):
        action_url(SESSION.model_copy(update={"conversation_id": conversation_id}))
    nothing: Any = None
    with pytest.raises(InvalidSessionInput):
        action_url(nothing)
