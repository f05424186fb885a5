"""The errors: their HTTP statuses, their texts, their way through a pickle; and the public names."""

import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

import pytest

import sessions
from sessions import ActiveScheduleSessionSnapshot, ConflictReason, SessionError, SessionStatus
from sessions.domain.errors import SessionRef, WriteOutcome
from sessions.domain.lifecycle import NOT_ENDED

QUESTION: Final = "what the user is asked"
SNAPSHOT: Final = ActiveScheduleSessionSnapshot.model_validate(
    {
        "session_id": "abc",
        "user_id": 7,
        "trigger_id": "trigger",
        "status": "waiting_user_reply",
        "state": {"pending_question": QUESTION},
        "revision": 3,
        "created_at": datetime(2026, 1, 1, tzinfo=UTC),
        "updated_at": datetime(2026, 1, 1, tzinfo=UTC),
    }
)
ABOUT: Final = SessionRef(
    session_id="abc", user_id=7, status=SessionStatus.WAITING_USER_REPLY, revision=3, session=SNAPSHOT
)
MADE: Final[dict[str, tuple[int, Callable[[], SessionError], dict[str, object]]]] = {
    "InvalidSessionInput": (
        422,
        lambda: sessions.InvalidSessionInput("user_id", "an integer"),
        {"argument": "user_id", "limit": "an integer"},
    ),
    "SessionNotFound": (404, lambda: sessions.SessionNotFound(ABOUT), {}),
    "SessionExists": (409, lambda: sessions.SessionExists(ABOUT), {}),
    "InvalidTransition": (
        409,
        lambda: sessions.InvalidTransition(ABOUT, call="apply", starts_from=(SessionStatus.READY_PREVIEW,)),
        {"call": "apply"},
    ),
    "TransitionConflict": (
        409,
        lambda: sessions.TransitionConflict(ABOUT, reason=ConflictReason.RACED),
        {"reason": ConflictReason.RACED},
    ),
    "ConversationBusy": (
        409,
        lambda: sessions.ConversationBusy(ABOUT, governing_session_id="other"),
        {"governing_session_id": "other"},
    ),
    "StalePreview": (
        409,
        lambda: sessions.StalePreview(ABOUT, current_preview_id="new"),
        {"current_preview_id": "new"},
    ),
    "StaleReply": (
        409,
        lambda: sessions.StaleReply(ABOUT, current_question_number=2),
        {"current_question_number": 2},
    ),
    "LeaseLost": (409, lambda: sessions.LeaseLost(ABOUT), {}),
    "StoreUnavailable": (
        503,
        lambda: sessions.StoreUnavailable(ABOUT, outcome=WriteOutcome.UNKNOWN, cause="AutoReconnect"),
        {"outcome": WriteOutcome.UNKNOWN},
    ),
    "SessionDamaged": (
        500,
        lambda: sessions.SessionDamaged(session_id="abc", user_id=7, fields=("state.expires_at", "status")),
        {"fields": ("state.expires_at", "status")},
    ),
    "WatchInterrupted": (
        410,
        lambda: sessions.WatchInterrupted("the token is not one to go on from, code 260"),
        {"needs_replica_set": False},
    ),
    "IndexesMissing": (
        503,
        lambda: sessions.IndexesMissing(("index x is missing",)),
        {"differences": ("index x is missing",)},
    ),
}
PUBLIC: Final = {
    *("ActiveScheduleSession", "ActiveScheduleSessionSnapshot", "ActiveScheduleSessionState", "SessionStatus"),
    *("Transition", "SessionRepository", "open_repository", "UNSET", "Page", "Route", "RouteAction"),
    *("ApplyClaim", "RerunClaim", "SessionBridge", "Upkeep", "Turn", "action_url"),
    *("AskUser", "ShowPreview", "Close", "Fail", "NotAnAnswer"),
    *(
        "Deferred",
        "Stopped",
        "TryAgain",
        "WhileRunning",
        "FreeChat",
        "Asked",
        "PreviewShown",
        "Closed",
        "Held",
        "AlreadyHandled",
        "RerunFailed",
        "TimedOut",
    ),
    *("Superseded", "Applied", "ApplyFailed", "Dismissed"),
    *("SessionError", "ConflictReason", *MADE, "Change", "CachedRouter"),
    # What the signatures of those name.
    *("CacheStats", "Watch", "Opening", "Lease", "LeaseKind", "WriteOutcome", "Question", "SessionRef", "Outcome"),
    *("Started", "Handled", "Confirmed", "GraphResult", "Rerun", "WriteBack", "Unset", "StoredTransition"),
    *("ClientSession", "Database"),
}


def kinds(of: type[SessionError] = SessionError) -> Iterator[type[SessionError]]:
    """Each kind of error that the library defines."""
    for kind in of.__subclasses__():
        yield kind
        yield from kinds(kind)


def test_every_kind_is_tried_here() -> None:
    """A new kind of error that this file forgets would go untested."""
    assert {kind.__name__ for kind in kinds() if kind.__module__ == "sessions"} == set(MADE)


@pytest.mark.parametrize("name", list(MADE))
def test_an_error_has_its_http_status_and_attributes(name: str) -> None:
    """What a web application answers follows from the kind alone; the attributes are what was found."""
    http_status, make, attributes = MADE[name]
    error = make()
    assert type(error).__name__ == name
    assert error.http_status == http_status
    assert {attribute: getattr(error, attribute) for attribute in attributes} == attributes
    if error.status is not None:
        found = (error.session_id, error.user_id, error.status, error.revision, error.session)
        assert found == ("abc", 7, SessionStatus.WAITING_USER_REPLY, 3, SNAPSHOT)


@pytest.mark.parametrize("name", list(MADE))
def test_an_error_survives_a_pickle(name: str) -> None:
    """An error that crosses a process boundary arrives whole: kind, text and attributes."""
    error = MADE[name][1]()
    error.add_note("seen on worker 3")
    back = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert back.__dict__ == error.__dict__
    assert back.http_status == error.http_status


@pytest.mark.parametrize("name", list(MADE))
def test_the_text_names_the_session_and_the_next_step_but_never_its_content(name: str) -> None:
    """Logs hold ids and status, never what the user was asked."""
    error = MADE[name][1]()
    assert QUESTION not in str(error)
    assert QUESTION not in repr(error)
    if error.status is not None:
        assert str(error).startswith("session abc, user 7, status waiting_user_reply: ")
    assert len(str(error).split(": ", 1)[-1]) > 20


@pytest.mark.parametrize("reason", list(ConflictReason))
def test_each_conflict_says_what_to_do(reason: ConflictReason) -> None:
    """A reason without advice would leave its reader to guess."""
    text = str(sessions.TransitionConflict(SessionRef(), reason=reason))
    assert text.startswith(f"{reason}: ")


def test_the_reasons_are_a_closed_list() -> None:
    """Callers match on these; a new one is a change of the public contract."""
    assert {reason.value for reason in ConflictReason} == {
        *("in_progress", "applying", "already_answered", "already_bound", "revision_changed"),
        *("attempts_exhausted", "operation_id_reused", "raced"),
    }


def test_texts_where_nothing_stands() -> None:
    """No preview, no question and an unknown governor are said in words, not as ``None``."""
    for error in (
        sessions.StalePreview(ABOUT, current_preview_id=None),
        sessions.StaleReply(ABOUT, current_question_number=None),
        sessions.ConversationBusy(ABOUT, governing_session_id=None),
    ):
        assert "None" not in str(error)


@pytest.mark.parametrize("status", SessionStatus)
def test_a_preview_that_is_gone_says_what_to_show(status: SessionStatus) -> None:
    """Where the session has ended there is nothing to wait for."""
    told = str(sessions.StalePreview(replace(ABOUT, status=status), current_preview_id=None))
    assert ("wait" in told) == (status in NOT_ENDED)
    assert ("has ended" in told) == (status not in NOT_ENDED)


def test_invalid_input_is_a_value_error() -> None:
    """Pydantic and callers who know only the standard library catch it too."""
    assert issubclass(sessions.InvalidSessionInput, ValueError)


def test_missing_indexes_name_the_command() -> None:
    """An operator who reads only the last line of a log knows what to run."""
    assert "python -m indexes apply" in str(sessions.IndexesMissing(("index x is missing",)))


def test_following_says_what_it_needs() -> None:
    """Whoever follows changes on a standalone server learns what to start instead."""
    error = sessions.WatchInterrupted("a standalone server has no change streams", needs_replica_set=True)
    assert "replica set" in str(error)
    assert error.needs_replica_set
    assert "resume_after" in str(sessions.WatchInterrupted("code 286"))


def test_the_public_names() -> None:
    """A name more is a promise by accident, a name less breaks an import; the order is the linter's."""
    assert set(sessions.__all__) == PUBLIC
    assert len(sessions.__all__) == len(PUBLIC)
    constants = [name for name in sessions.__all__ if name.isupper()]
    classes = [name for name in sessions.__all__ if name[0].isupper() and not name.isupper()]
    others = [name for name in sessions.__all__ if name[0].islower()]
    assert sessions.__all__ == sorted(constants) + sorted(classes) + sorted(others)
    assert all(hasattr(sessions, name) for name in sessions.__all__)
