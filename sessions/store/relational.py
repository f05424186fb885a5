"""The relational table of the same name: a row's values as a stored document, and a session as a row. No I/O."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sessions.domain.lifecycle import LIFECYCLE, CallName, SessionStatus
from sessions.domain.models import ActiveScheduleSessionSnapshot, ActiveScheduleSessionState
from sessions.store.sweeps import EXPIRED_REASON
from sessions.store.updates import RawDocument, entry

COLUMNS: Final = (
    *("session_id", "user_id", "conversation_id", "trigger_id", "current_preview_id"),
    *("status", "state_json", "created_at", "updated_at"),
)
IMPORT: Final = "import"
"""What the history names as the call of an imported row."""
_SAID_BY_ROW: Final = ("conversation_id", "current_preview_id", "status", "state", "updated_at")
_LEFT_REASON: Final = "nobody works on an imported session"
_NOWHERE: Final = "rerunning, with neither a question nor a preview to give it back to"


class UnfitRow(ValueError):
    """The lifecycle knows no such session; the text says why, and quotes no value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row, each value within its limit."""

    session_id: str
    user_id: int
    conversation_id: str | None
    trigger_id: str
    current_preview_id: str | None
    status: SessionStatus
    state: ActiveScheduleSessionState
    created_at: datetime
    updated_at: datetime


def _settled(row: Row) -> SessionStatus:
    """The status in which the next message meets the session: of a rerun under way, where its worker took it from."""
    if row.status is not SessionStatus.RERUNNING:
        return row.status
    if row.state.pending_question or row.state.missing_info:
        return SessionStatus.WAITING_USER_REPLY
    if row.current_preview_id is not None:
        return SessionStatus.READY_PREVIEW
    raise UnfitRow(_NOWHERE)


def _imported(status: SessionStatus, at: datetime, reason: str = "") -> RawDocument:
    return {"to_status": status.value, "at": at, "reason": reason, "operation_id": None, "call": IMPORT}


def document_of(row: Row) -> RawDocument:
    """The document of a row; the same one however often it is asked for.

    What the status has no use for is left out, as each write that enters the status does.

    Raises:
        UnfitRow: The row lacks what its status needs, or changed before it was made.
    """
    if row.updated_at < row.created_at:
        raise UnfitRow("updated_at is before created_at")
    status = _settled(row)
    stored = {
        name: list(value) if isinstance(value, tuple) else value for name, value in row.state.model_dump().items()
    }
    values: dict[str, Any] = {
        "current_preview_id": row.current_preview_id,
        **{f"state.{name}": value for name, value in stored.items()},
    }
    rule = LIFECYCLE[status]
    if rule.needs_one_of and not any(values.get(path) for path in rule.needs_one_of):
        raise UnfitRow(f"{status} needs {' or '.join(rule.needs_one_of)}")
    kept = {path: value for path, value in values.items() if path not in rule.clears}
    history = [_imported(row.status, row.updated_at)]
    if status is not row.status:
        history.append(_imported(status, row.updated_at, _LEFT_REASON))
    return {
        "_id": row.session_id,
        "user_id": row.user_id,
        "conversation_id": row.conversation_id,
        "trigger_id": row.trigger_id,
        "current_preview_id": kept.get("current_preview_id"),
        "status": status.value,
        "state": {path.removeprefix("state."): value for path, value in kept.items() if path.startswith("state.")},
        "question_number": 1 if status is SessionStatus.WAITING_USER_REPLY else 0,
        "fencing_token": 0,
        "attempts": 0,
        "replacements": 0,
        "answered_reply_ids": [],
        "revision": 1,
        "history": history,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
    }


def is_changed(row: Row, document: RawDocument) -> bool:
    """Whether the document of a row says anything else than the row: another status, or something left out."""
    return (
        document["status"] != row.status.value
        or document["current_preview_id"] != row.current_preview_id
        or len(document["state"]) != len(row.state.model_dump())
    )


def expired(document: RawDocument, at: datetime) -> RawDocument:
    """The same session after its end, for one that would stand in another's way."""
    status = SessionStatus.EXPIRED
    return {
        **document,
        "status": status.value,
        "revision": document["revision"] + 1,
        "history": [*document["history"], entry(CallName.EXPIRE_DUE, status, at, EXPIRED_REASON, None)],
        "updated_at": max(document["updated_at"], at),
    }


def is_same_session(document: RawDocument, stored: Mapping[str, Any]) -> bool:
    """Whether both are one session of one user, whatever has happened to the stored one since."""
    return all(document[name] == stored.get(name) for name in ("_id", "user_id", "trigger_id", "created_at"))


def contradicts(document: RawDocument, stored: Mapping[str, Any]) -> bool:
    """Whether a session to which nothing has happened says something else than the row of the same session."""
    if stored.get("revision") != 1:
        return False
    told = {**stored, "state": stored.get("state") or {}}
    return any(document[name] != told.get(name) for name in _SAID_BY_ROW)


def cells_of(session: ActiveScheduleSessionSnapshot) -> dict[str, Any]:
    """A session as the values of a row, in the order of the columns."""
    told = session.model_dump(mode="json")
    state = session.state.model_dump_json()
    return {name: state if name == "state_json" else told[name] for name in COLUMNS}
