"""Files of rows: JSON lines or CSV, read and written one row at a time, each row checked by the library's limits."""

import codecs
import csv
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, Protocol, Self, TextIO

from pydantic import ValidationError

from sessions.cli.ending import CommandRefused
from sessions.domain.lifecycle import ALL, SessionStatus
from sessions.domain.limits import IDENTIFIERS, INTEGERS, IdentifierLimit, IntegerLimit, checked_moment
from sessions.domain.models import ActiveScheduleSessionState
from sessions.store.relational import COLUMNS, Row

_LONGEST_LINE: Final = 1_000_000
"""Bytes; the longest row that fits all limits takes a tenth of it."""
_STATE_FIELDS: Final = frozenset(ActiveScheduleSessionState.model_fields)


class Format(StrEnum):
    """How a file holds rows."""

    JSONL = "jsonl"
    CSV = "csv"


def format_of(path: Path, given: Format | None) -> Format:
    """The format that was named, else that of the file's name."""
    return given or (Format.CSV if path.suffix.lower() == ".csv" else Format.JSONL)


class UnfitValue(ValueError):
    """A value of a row is outside its limits; the text names the column and the limit, and quotes no value."""


class Line(NamedTuple):
    """One row as it was found."""

    number: int
    """Of the line that it ends on, from 1."""
    values: Mapping[str, object] | None
    """By their columns; None if it cannot be taken apart."""
    fault: str
    source: object
    """What stands there, for whoever mends it."""
    position: int
    """Bytes read so far."""


# --- reading --------------------------------------------------------------------------------------------------


def _json_lines(opened: IO[bytes]) -> Iterator[Line]:
    number = position = 0
    while taken := opened.readline(_LONGEST_LINE):
        number += 1
        position += len(taken)
        if not taken.endswith(b"\n") and len(taken) == _LONGEST_LINE:
            while (rest := opened.readline(_LONGEST_LINE)) and not rest.endswith(b"\n"):
                position += len(rest)
            yield Line(number, None, f"the line is longer than {_LONGEST_LINE:,} bytes", None, position)
            continue
        if number == 1:
            taken = taken.removeprefix(b"\xef\xbb\xbf")
        if not taken.strip():
            continue
        yield _json_line(number, taken, position)


def _json_line(number: int, taken: bytes, position: int) -> Line:
    source = taken.decode(errors="replace").rstrip("\r\n")
    try:
        values = json.loads(taken)
    except (ValueError, RecursionError):
        return Line(number, None, "the line is not JSON", source, position)
    if not isinstance(values, dict):
        return Line(number, None, "the line is no JSON object", source, position)
    return Line(number, values, "", values, position)


def _csv_lines(opened: IO[bytes]) -> Iterator[Line]:
    bounded = iter(partial(opened.readline, _LONGEST_LINE), b"")
    # What is no UTF-8 becomes lone surrogates, which every limit refuses.
    reader = csv.reader(codecs.iterdecode(bounded, "utf-8-sig", errors="surrogateescape"))
    head = next(reader, [])
    if sorted(head) != sorted(COLUMNS):
        raise CommandRefused(f"the first line of a CSV names the columns: {', '.join(COLUMNS)}")
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error:
            yield Line(reader.line_num, None, "the line is not CSV", None, opened.tell())
            continue
        if not cells:
            continue
        if len(cells) != len(head):
            fault = f"{len(cells)} cells instead of {len(head)}"
            yield Line(reader.line_num, None, fault, cells, opened.tell())
            continue
        found: dict[str, object] = {name: cell or None for name, cell in zip(head, cells, strict=True)}
        with suppress(ValueError, TypeError):
            found["user_id"] = int(str(found["user_id"]))
        yield Line(reader.line_num, found, "", dict(zip(head, cells, strict=True)), opened.tell())


def lines_of(opened: IO[bytes], kind: Format) -> Iterator[Line]:
    """Each row of a file, good or bad; memory holds one at a time."""
    return _csv_lines(opened) if kind is Format.CSV else _json_lines(opened)


# --- checking -------------------------------------------------------------------------------------------------


def _limited(column: str, value: object, limit: IdentifierLimit | IntegerLimit) -> Any:
    try:
        return limit.checked(value)
    except ValueError as error:
        raise UnfitValue(f"{column} must be {error}") from None


def _optional(column: str, value: object, limit: IdentifierLimit) -> str | None:
    return None if value is None else str(_limited(column, value, limit))


def _moment(column: str, value: object, *, assume_utc: bool) -> datetime:
    wanted = UnfitValue(f"{column} must be an ISO 8601 date and time with its zone, between the years 1 and 9999")
    if not isinstance(value, str):
        raise wanted
    try:
        found = datetime.fromisoformat(value.strip())
        if found.tzinfo is None and assume_utc:
            found = found.replace(tzinfo=UTC)
        return checked_moment(found)
    except ValueError:
        if not assume_utc and value.strip():
            raise UnfitValue(f"{wanted}; --assume-utc takes one without a zone for UTC") from None
        raise wanted from None


def _state(value: object, *, assume_utc: bool) -> ActiveScheduleSessionState:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise UnfitValue("state_json is not JSON") from None
    if value is None:
        return ActiveScheduleSessionState()
    if not isinstance(value, dict):
        raise UnfitValue("state_json is no JSON object")
    if not value.keys() <= _STATE_FIELDS:
        raise UnfitValue(f"state_json holds something else than {', '.join(sorted(_STATE_FIELDS))}")
    told = {name: part for name, part in value.items() if part is not None}
    if "expires_at" in told:
        told["expires_at"] = _moment("state_json.expires_at", told["expires_at"], assume_utc=assume_utc)
    try:
        return ActiveScheduleSessionState.model_validate(told)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        raise UnfitValue(f"state_json.{first['loc'][0]}: {first['msg'].removeprefix('Value error, ')}") from None


def _status(value: object) -> SessionStatus:
    try:
        return SessionStatus(str(value))
    except ValueError:
        raise UnfitValue(f"status must be one of {', '.join(ALL)}") from None


def row_of(values: Mapping[str, object], *, assume_utc: bool) -> Row:
    """A row with each value within its limit.

    Args:
        values: By their columns; one that is left out is null.
        assume_utc: Take moments without a zone for UTC.

    Raises:
        UnfitValue: One is not.
    """
    if not values.keys() <= set(COLUMNS):
        raise UnfitValue(f"the row has other columns than {', '.join(COLUMNS)}")
    return Row(
        session_id=_limited("session_id", values.get("session_id"), IDENTIFIERS["session_id"]),
        user_id=_limited("user_id", values.get("user_id"), INTEGERS["user_id"]),
        conversation_id=_optional("conversation_id", values.get("conversation_id"), IDENTIFIERS["conversation_id"]),
        trigger_id=_limited("trigger_id", values.get("trigger_id"), IDENTIFIERS["trigger_id"]),
        current_preview_id=_optional("current_preview_id", values.get("current_preview_id"), IDENTIFIERS["preview_id"]),
        status=_status(values.get("status")),
        state=_state(values.get("state_json"), assume_utc=assume_utc),
        created_at=_moment("created_at", values.get("created_at"), assume_utc=assume_utc),
        updated_at=_moment("updated_at", values.get("updated_at"), assume_utc=assume_utc),
    )


# --- writing --------------------------------------------------------------------------------------------------


class WriteRow(Protocol):
    """Writes one row."""

    def __call__(self, cells: Mapping[str, object], /) -> None:
        """The row's values, in the order of the columns."""


def writer_of(opened: TextIO, kind: Format) -> WriteRow:
    """Writes rows to a file; a CSV begins with its columns."""
    if kind is Format.JSONL:
        return lambda cells: print(json.dumps(cells), file=opened)
    rows = csv.writer(opened, lineterminator="\n")
    rows.writerow(COLUMNS)
    return lambda cells: rows.writerow(cells.values())


@dataclass(slots=True)
class Rejects:
    """The file of the rows that were not imported, each with its line and the reason; made when there is one."""

    path: Path
    number: int = 0
    _opened: TextIO | None = None

    def __post_init__(self) -> None:
        # That of an earlier run would be taken for this one's.
        self.path.unlink(missing_ok=True)

    def add(self, line: Line, reason: str) -> None:
        """Write one."""
        if self._opened is None:
            self._opened = open_private(self.path)
        self.number += 1
        print(json.dumps({"line": line.number, "reason": reason, "row": line.source}), file=self._opened, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._opened is not None:
            self._opened.close()


def open_private(path: Path) -> TextIO:
    """A new file that only its owner can read: rows hold texts of users."""
    path.touch(mode=0o600)
    return path.open("w", encoding="utf-8", newline="")
