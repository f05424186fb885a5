"""The values that are shared: frozen, bounded, and the same after a way through JSON."""

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from pydantic import ValidationError

from sessions import ActiveScheduleSessionSnapshot, ActiveScheduleSessionState, SessionStatus
from sessions.domain.models import derive_session_id
from sessions.store.reading import to_snapshot, to_transitions

CET = timezone(timedelta(hours=1))
AT = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)


def a_snapshot(**changes: Any) -> ActiveScheduleSessionSnapshot:
    """A session with every field filled."""
    values = {
        "session_id": "s" * 32,
        "user_id": 2**63 - 1,
        "conversation_id": "chat",
        "trigger_id": "trigger",
        "current_preview_id": "preview",
        "status": "rerunning",
        "state": {
            "pending_question": "Which lesson, “Übung” or $5?",
            "missing_info": ["day", "hour"],
            "last_candidate_id": "candidate",
            "last_notification_id": "notification",
            "expires_at": AT,
            "failed_reason": "once",
        },
        "question_number": 3,
        "lease": {"kind": "reply", "operation_id": "op", "reply_id": "reply", "expires_at": AT},
        "fencing_token": 4,
        "attempts": 2,
        "answered_reply_ids": ["earlier"],
        "replaced_reply_ids": ["long ago", "first", "second"],
        "replacements": 2,
        "revision": 7,
        "created_at": AT,
        "updated_at": AT,
    }
    return ActiveScheduleSessionSnapshot.model_validate({**values, **changes})


def test_the_states_json_omits_what_is_empty() -> None:
    """An empty state is ``{}``; a filled field appears alone."""
    assert ActiveScheduleSessionState().model_dump_json() == "{}"
    assert json.loads(ActiveScheduleSessionState(pending_question="Which?").model_dump_json()) == {
        "pending_question": "Which?"
    }
    assert json.loads(a_snapshot(state={}).model_dump_json())["state"] == {}


def test_a_snapshot_comes_back_from_json_as_it_went() -> None:
    """Every field, the millisecond and the time zone survive the way through a cache or a queue."""
    session = a_snapshot()
    back = ActiveScheduleSessionSnapshot.model_validate_json(session.model_dump_json())
    assert back == session
    assert back.updated_at == AT
    assert back.updated_at.utcoffset() == timedelta(0)
    assert back.state.expires_at == AT
    assert back.model_dump_json() == session.model_dump_json()


def test_an_empty_snapshot_comes_back_too() -> None:
    """What the state's JSON omitted is empty again after reading it."""
    session = a_snapshot(state={}, lease=None, conversation_id=None, current_preview_id=None)
    assert ActiveScheduleSessionSnapshot.model_validate_json(session.model_dump_json()) == session


def test_moments_are_utc_and_cut_to_the_millisecond() -> None:
    """Two values of one moment are equal whatever the zone, and never later than what was given."""
    given = datetime(2026, 1, 2, 4, 4, 5, 678_999, tzinfo=CET)
    session = a_snapshot(created_at=given, state={"expires_at": given})
    assert (session.created_at, session.state.expires_at) == (AT, AT)
    assert session.created_at.tzinfo is UTC


@pytest.mark.parametrize("field", ["created_at", "updated_at"])
def test_a_naive_datetime_is_refused(field: str) -> None:
    """A moment without a zone would mean another one on each machine."""
    with pytest.raises(ValidationError, match="time zone"):
        a_snapshot(**{field: AT.replace(tzinfo=None)})
    with pytest.raises(ValidationError, match="time zone"):
        ActiveScheduleSessionState(expires_at=AT.replace(tzinfo=None))


def test_snapshot_and_state_are_frozen() -> None:
    """A value that several tasks share cannot be changed by one of them."""
    session = a_snapshot()
    with pytest.raises(ValidationError, match="frozen"):
        session.status = SessionStatus.FAILED
    with pytest.raises(ValidationError, match="frozen"):
        session.state.pending_question = ""
    assert session.lease is not None
    with pytest.raises(ValidationError, match="frozen"):
        session.lease.operation_id = "mine"
    assert isinstance(session.state.missing_info, tuple)
    assert isinstance(session.answered_reply_ids, tuple)
    assert isinstance(session.replaced_reply_ids, tuple)


def test_the_states_texts_are_trimmed() -> None:
    """White space around texts goes; blanks and doubles leave the list, whose order stays."""
    state = ActiveScheduleSessionState(
        pending_question="  Which one?\n", missing_info=(" day ", "", "hour", "  ", "day"), failed_reason=" no "
    )
    assert state.pending_question == "Which one?"
    assert state.missing_info == ("day", "hour")
    assert state.failed_reason == "no"


@pytest.mark.parametrize(
    ("field", "fits", "exceeds"),
    [
        ("pending_question", "x" * 4_000, "x" * 4_001),
        ("missing_info", [f"{number}" for number in range(32)], [f"{number}" for number in range(33)]),
        ("missing_info", ["x" * 200], ["x" * 201]),
        ("last_candidate_id", "x" * 128, "x" * 129),
        ("last_candidate_id", "x", ""),
        ("last_notification_id", "x" * 128, " x"),
        ("failed_reason", "ü" * 2_000, "ü" * 2_001),
        ("pending_question", "", "\x00"),
        ("pending_question", "", "\ud800"),
    ],
)
def test_the_states_limits(field: str, fits: object, exceeds: object) -> None:
    """The limits of the repository's arguments hold for a state that a caller builds himself."""
    ActiveScheduleSessionState.model_validate({field: fits})
    with pytest.raises(ValidationError):
        ActiveScheduleSessionState.model_validate({field: exceeds})


def test_the_question_id_names_session_and_number() -> None:
    """A reply can say which question it answers."""
    assert a_snapshot().question_id == "s" * 32 + f":{round(AT.timestamp() * 1000)}:3"


@pytest.mark.parametrize(
    ("replacements", "expected"),
    [(0, ()), (1, ("second",)), (2, ("first", "second")), (9, ("long ago", "first", "second"))],
)
def test_what_was_replaced_since_the_question_was_asked(replacements: int, expected: tuple[str, ...]) -> None:
    """The last ones, as many as were counted; of more than are kept, all that are."""
    assert a_snapshot(replacements=replacements).replaced_since_asked == expected


def test_the_session_id_derives_from_user_and_trigger() -> None:
    """A trigger delivered twice makes one id; another user's trigger of the same name makes another."""
    assert derive_session_id(1, "trigger") == derive_session_id(1, "trigger")
    assert derive_session_id(1, "trigger") == "a971ae92ca0f2a907e1c396d072f661f"
    assert derive_session_id(2, "trigger") != derive_session_id(1, "trigger")
    assert derive_session_id(1, "1:t") != derive_session_id(11, ":t")


def test_a_stored_document_is_read_without_its_history() -> None:
    """The snapshot names the id as the library does and drops what only audits need."""
    session = a_snapshot()
    raw = {**session.model_dump(exclude={"session_id"}), "_id": session.session_id, "history": [{"never": "read"}]}
    assert to_snapshot(raw) == session


def test_each_transition_knows_the_status_before_it() -> None:
    """``from_status`` is the entry before; the first one kept has none."""
    entry = {"at": AT, "reason": "", "operation_id": None, "call": "create"}
    raw = {"history": [{**entry, "to_status": name} for name in ("waiting_user_reply", "rerunning", "failed")]}
    found = to_transitions(raw)
    assert [(step.from_status, step.to_status) for step in found] == [
        (None, "waiting_user_reply"),
        ("waiting_user_reply", "rerunning"),
        ("rerunning", "failed"),
    ]
    assert to_transitions({}) == []
