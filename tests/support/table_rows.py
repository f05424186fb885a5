"""Rows of the relational table, good and bad, as many as a test wants; each is the same at every run."""

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from sessions.store.relational import COLUMNS

START: Final = datetime(2026, 1, 1, tzinfo=UTC)
STATES: Final[dict[str, dict[str, Any]]] = {
    "waiting_user_reply": {"pending_question": "Which day suits you?", "missing_info": ["day"]},
    "ready_preview": {"last_candidate_id": "candidate-1"},
    "applied": {},
    "ignored": {},
    "expired": {"pending_question": "Still there?", "expires_at": "2026-01-02T00:00:00Z"},
    "failed": {"failed_reason": "the calendar was closed"},
}
_STATUSES: Final = list(STATES)


def row(number: int, status: str | None = None, **others: Any) -> dict[str, Any]:
    """A good row, of this status or the next one in turn."""
    status = status or _STATUSES[number % len(_STATUSES)]
    at = (START + timedelta(seconds=number)).isoformat().replace("+00:00", "Z")
    state = STATES.get(status, STATES["waiting_user_reply"])
    told: dict[str, Any] = {
        "session_id": f"session-{number:07}",
        "user_id": number // 5 + 1,
        "conversation_id": f"chat-{number}" if number % 7 else None,
        "trigger_id": f"trigger-{number}",
        "current_preview_id": f"preview-{number}" if status in ("ready_preview", "applied") else None,
        "status": status,
        "state_json": json.dumps(state, separators=(",", ":")),
        "created_at": at,
        "updated_at": at,
    }
    return {**told, **others}


_Row = dict[str, Any]
BAD: Final[tuple[Callable[[int, _Row], _Row], ...]] = (
    lambda own, _: row(own, user_id=0),
    lambda own, _: row(own, session_id=" padded"),
    lambda own, _: row(own, status="open"),
    lambda own, _: row(own, state_json="{"),
    lambda own, _: row(own, "failed", state_json="{}"),
    lambda own, _: row(own, "waiting_user_reply", state_json="{}"),
    lambda own, _: row(own, created_at="2026-01-01T00:00:00"),
    lambda own, _: row(own, updated_at="2020-01-01T00:00:00Z"),
    # Another user's id, a conversation that is governed, a trigger that has its session.
    lambda own, asked: row(own, session_id=asked["session_id"]),
    lambda own, asked: row(
        own, "waiting_user_reply", user_id=asked["user_id"], conversation_id=asked["conversation_id"]
    ),
    lambda own, asked: row(own, user_id=asked["user_id"], trigger_id=asked["trigger_id"]),
)
"""Each way to be bad: of a number of its own, and of a good row before it that governs a conversation."""


def rows(number: int, bad: int) -> Iterator[_Row]:
    """So many good rows, and among them, evenly, so many bad ones."""
    every = number // bad if bad else number + 1
    asked: _Row = {}
    for place in range(number):
        good = row(place)
        if good["status"] == "waiting_user_reply" and good["conversation_id"]:
            asked = good
        yield good
        which, is_turn = divmod(place, every)
        if is_turn == every - 1 and which < bad:
            yield BAD[which % len(BAD)](number + which, asked)


def write_jsonl(path: Path, made: Iterable[dict[str, Any]]) -> Path:
    """The rows as JSON lines."""
    with path.open("w") as opened:
        for each in made:
            print(json.dumps(each), file=opened)
    return path


def write_csv(path: Path, made: Iterable[dict[str, Any]]) -> Path:
    """The rows as CSV."""
    with path.open("w", newline="") as opened:
        writer = csv.DictWriter(opened, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(made)
    return path
