"""Rows, before any database: what is read from a file, which are refused and why, and which session each becomes."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from sessions.cli.ending import CommandRefused
from sessions.cli.rows import Format, Line, UnfitValue, format_of, lines_of, row_of
from sessions.domain.lifecycle import LIFECYCLE, SessionStatus
from sessions.store.reading import to_snapshot, to_transitions
from sessions.store.relational import COLUMNS, UnfitRow, cells_of, document_of, is_changed
from tests.support.table_rows import STATES, row, write_csv, write_jsonl

SECRET: Final = "Anna Meier"  # noqa: S105 - a name
PREVIEW: Final = "preview-1"


def read(path: Path, kind: Format | None = None) -> list[Line]:
    """All rows of a file."""
    with path.open("rb") as opened:
        return list(lines_of(opened, format_of(path, kind)))


def document(**values: Any) -> dict[str, Any]:
    """The document of a row."""
    return document_of(row_of(values, assume_utc=False))


@pytest.mark.parametrize("status", list(STATES))
def test_a_good_row_is_a_session_and_a_row_again(status: str) -> None:
    """It can be read as any other, and what is exported of it is what was imported."""
    given = row(1, status)
    made = document(**given)
    session = to_snapshot(made)
    assert cells_of(session) == given
    assert list(cells_of(session)) == list(COLUMNS)
    assert [entry.to_status for entry in to_transitions(made)] == [status]
    assert not is_changed(row_of(given, assume_utc=False), made)


RERUNS: Final = {
    "a question": ({"pending_question": "Which day?"}, None, SessionStatus.WAITING_USER_REPLY),
    "missing info": ({"missing_info": ["day"]}, None, SessionStatus.WAITING_USER_REPLY),
    "a preview": ({}, PREVIEW, SessionStatus.READY_PREVIEW),
    "both": ({"pending_question": "Which day?"}, PREVIEW, SessionStatus.WAITING_USER_REPLY),
}


@pytest.mark.parametrize("left", list(RERUNS))
def test_a_rerun_under_way_goes_back_to_where_it_came_from(left: str) -> None:
    """Nobody works on it any more: the next message answers the question, or is free chat beside the preview."""
    state, preview, status = RERUNS[left]
    given = row(1, "rerunning", state_json=json.dumps(state), current_preview_id=preview)
    made = document(**given)
    session = to_snapshot(made)
    assert session.status is status
    assert session.lease is None
    assert session.current_preview_id == (PREVIEW if status is SessionStatus.READY_PREVIEW else None)
    assert [entry.to_status for entry in to_transitions(made)] == ["rerunning", status]
    assert is_changed(row_of(given, assume_utc=False), made)


def test_a_rerun_with_nothing_to_go_back_to_is_refused() -> None:
    """Its user could neither answer nor confirm anything."""
    with pytest.raises(UnfitRow, match="neither a question nor a preview"):
        document(**row(1, "rerunning", state_json="{}"))


@pytest.mark.parametrize("status", [status for status, rule in LIFECYCLE.items() if rule.clears])
def test_what_a_status_has_no_use_for_is_left_out(status: SessionStatus) -> None:
    """As each write that enters the status does; a row that lost something that way is counted."""
    state = {"pending_question": "Which day?", "failed_reason": SECRET, "last_candidate_id": "c"}
    given = row(1, status, state_json=json.dumps(state), current_preview_id=PREVIEW)
    made = document(**given)
    values = {"current_preview_id": made["current_preview_id"]} | {f"state.{k}": v for k, v in made["state"].items()}
    assert not {path for path, value in values.items() if value} & set(LIFECYCLE[status].clears)
    assert made["state"]["last_candidate_id"] == "c"
    assert is_changed(row_of(given, assume_utc=False), made)


def test_a_moment_without_zone_is_taken_for_utc_if_told_so() -> None:
    """Relational tables often keep UTC without saying so; nobody guesses that."""
    state = json.dumps({"expires_at": "2026-02-01 00:00:00"})
    given = row(
        1, "applied", created_at="2026-01-01 00:00:00", updated_at="2026-01-01T01:00:00.123456", state_json=state
    )
    for column in ("created_at", "updated_at", "state_json"):
        with pytest.raises(UnfitValue, match="--assume-utc"):
            row_of({**row(1), column: given[column]}, assume_utc=False)
    made = row_of(given, assume_utc=True)
    assert made.created_at.isoformat() == "2026-01-01T00:00:00+00:00"
    assert made.updated_at.isoformat() == "2026-01-01T01:00:00.123000+00:00"
    assert made.state.expires_at is not None


UNFIT: Final[dict[str, Sequence[object]]] = {
    "session_id": (None, "", " a", "a\x00", "a" * 65, 1, "\ud800"),
    "user_id": (None, 0, -1, 2**63, "1", 1.0, True),
    "conversation_id": ("", "a" * 257, 1),
    "trigger_id": (None, "", "a" * 129),
    "current_preview_id": ("", "a" * 129, ["a"]),
    "status": (None, "open", "WAITING_USER_REPLY", 1),
    "state_json": (
        *("", "{", "[]", "1", 1, '{"pending_question": 1}', '{"note": "x"}', '{"expires_at": 1}', "[" * 100_000),
        *(json.dumps({"missing_info": ["a"] * 33}), json.dumps({"pending_question": SECRET * 1000})),
        *('{"expires_at": "soon"}', '{"last_candidate_id": ""}', '{"missing_info": "day"}'),
    ),
    "created_at": (None, "", "yesterday", 1, "0001-01-01T00:00:00+14:00"),
    "updated_at": (None, "2026-13-01T00:00:00Z"),
}


@pytest.mark.parametrize(("column", "value"), [(column, value) for column in UNFIT for value in UNFIT[column]])
def test_a_value_outside_its_limits_is_named_and_never_quoted(column: str, value: object) -> None:
    """Whoever mends the row learns which column, and what it has to be."""
    with pytest.raises(UnfitValue) as refused:
        row_of({**row(1, "applied"), column: value}, assume_utc=False)
    assert str(refused.value).startswith(column)
    assert SECRET not in str(refused.value)
    assert refused.value.__cause__ is None


def test_a_state_may_be_absent_an_object_or_hold_nulls() -> None:
    """What a relational row may look like that has no light state."""
    for state in (None, {}, {"pending_question": None}, "null"):
        assert document(**row(1, "applied", state_json=state))["state"] == {}


def test_a_column_too_many_is_refused() -> None:
    """Nothing is dropped without a word."""
    with pytest.raises(UnfitValue, match="other columns"):
        row_of({**row(1), "note": SECRET}, assume_utc=False)


UNFIT_ROWS: Final = {
    "changed before it was made": row(1, "applied", updated_at="2020-01-01T00:00:00Z"),
    "no question": row(1, "waiting_user_reply", state_json="{}"),
    "no preview": row(1, "ready_preview", current_preview_id=None),
    "no reason": row(1, "failed", state_json="{}"),
}


@pytest.mark.parametrize("why", list(UNFIT_ROWS))
def test_a_row_that_the_lifecycle_does_not_know(why: str) -> None:
    """A session has what its status needs."""
    with pytest.raises(UnfitRow):
        document(**UNFIT_ROWS[why])


def test_both_formats_say_the_same(tmp_path: Path) -> None:
    """CSV knows neither numbers nor nulls; its rows are the same all the same."""
    made = [row(number) for number in range(20)]
    of_csv = read(write_csv(tmp_path / "rows.csv", made))
    of_json = read(write_jsonl(tmp_path / "rows.jsonl", made))
    assert [line.values for line in of_csv] == [line.values for line in of_json] == made
    assert [line.number for line in of_csv] == list(range(2, 22))
    assert [line.number for line in of_json] == list(range(1, 21))
    assert of_csv[-1].position == (tmp_path / "rows.csv").stat().st_size
    assert of_json[-1].position == (tmp_path / "rows.jsonl").stat().st_size


def test_lines_that_are_none(tmp_path: Path) -> None:
    """Each is told by its number, and those behind it are read."""
    path = tmp_path / "rows"
    good = json.dumps(row(1)).encode()
    long = b'"' + b"x" * 2_500_000 + b'"'
    parts = [b"\xef\xbb\xbf" + good, b"", b"{", b"[1]", b"\xff", b"[" * 100_000, long, good]
    path.write_bytes(b"\n".join(parts))
    found = read(path)
    assert [(line.number, line.fault) for line in found] == [
        (1, ""),
        (3, "the line is not JSON"),
        (4, "the line is no JSON object"),
        (5, "the line is not JSON"),
        (6, "the line is not JSON"),
        (7, "the line is longer than 1,000,000 bytes"),
        (8, ""),
    ]


def test_csv_that_is_none(tmp_path: Path) -> None:
    """A row of another length, a cell beyond all limits and bytes that are no text; without its head no row at all."""
    path = write_csv(tmp_path / "rows.csv", [row(1)])
    head, good, _ = path.read_bytes().split(b"\n")
    huge = b"x" * 200_000
    path.write_bytes(b"\n".join([head, b"a,b", b"", huge, good, good.replace(b"trigger-1", b"\xff")]))
    found = read(path)
    assert [(line.number, line.fault) for line in found] == [
        (2, "2 cells instead of 9"),
        (4, "the line is not CSV"),
        (5, ""),
        (6, ""),
    ]
    with pytest.raises(UnfitValue, match="trigger_id"):
        row_of(found[-1].values or {}, assume_utc=False)
    path.write_bytes(good)
    with pytest.raises(CommandRefused, match="names the columns"):
        read(path)
    assert format_of(path, Format.JSONL) is Format.JSONL
