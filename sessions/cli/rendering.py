"""What the commands show: tables for people, one JSON object on each line for programs."""

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from time import monotonic
from typing import Any, Final, Protocol, TextIO

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from sessions.console import console_for
from sessions.domain.expiry import has_live_lease
from sessions.domain.lifecycle import SessionStatus
from sessions.domain.models import ActiveScheduleSessionSnapshot

WIDTH_WITHOUT_TERMINAL: Final = 140
_OWN_ID: Final = 32
"""Characters of the ids that the library makes; an imported one may be longer, and takes more lines then."""
_TEXTS: Final = ("pending_question", "missing_info", "failed_reason")
_OF_REPLIES: Final = {"answered_reply_ids", "replaced_reply_ids", "replacements"}
_SAY_EVERY: Final = 10.0
_STYLES: Final[Mapping[SessionStatus, str]] = {
    SessionStatus.WAITING_USER_REPLY: "yellow",
    SessionStatus.RERUNNING: "yellow",
    SessionStatus.READY_PREVIEW: "cyan",
    SessionStatus.APPLIED: "green",
    SessionStatus.FAILED: "red",
}


def console() -> Console:
    """Standard output."""
    return _console_on(sys.stdout)


def _console_on(stream: TextIO) -> Console:
    return console_for(stream, width_elsewhere=WIDTH_WITHOUT_TERMINAL)


def say(text: str, style: str = "") -> None:
    """Print a line."""
    console().print(Text(printable(text), style=style))


def note(text: str) -> None:
    """Print a line on standard error, for people beside what programs read."""
    _console_on(sys.stderr).print(Text(printable(text)))


def emit(values: Mapping[str, Any]) -> None:
    """Print one JSON object on a line of its own, at once."""
    # Escaped to ASCII: ids may hold anything, a terminal's codes too.
    print(json.dumps(values, default=str), flush=True)  # noqa: T201 - what a program reads


def printable(value: object) -> str:
    """A value as text that a terminal shows as it is: ids may hold anything."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode()
        for each in ("" if value is None else str(value))
    )


def table(*columns: str) -> Table:
    """A table without edges, in which nothing is cut."""
    made = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def show_sessions(shown: Table) -> None:
    """Print a table whose first column is that of the sessions' ids; they stay in one line, since they are copied."""
    ids = shown.columns[0]
    ids.no_wrap = all(len(str(cell)) <= _OWN_ID for cell in ids.cells)
    console().print(shown)


def status_cell(status: SessionStatus) -> Text:
    """A status in its colour."""
    return Text(status, style=_STYLES.get(status, ""))


def moment(at: datetime | None) -> str:
    """A moment for people, in UTC."""
    return "" if at is None else f"{at:%Y-%m-%d %H:%M:%S}"


def span(length: timedelta) -> str:
    """A length of time, roughly: ``3m``."""
    seconds = max(int(length.total_seconds()), 0)
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def lease_in_words(session: ActiveScheduleSessionSnapshot, at: datetime) -> str:
    """Who works on a session, and until when or since when not."""
    lease = session.lease
    if lease is None:
        return ""
    if has_live_lease(session, at):
        return f"{lease.kind}, {span(lease.expires_at - at)} left"
    return f"{lease.kind}, lapsed {span(at - lease.expires_at)} ago"


def session_values(
    session: ActiveScheduleSessionSnapshot, *, show_text: bool, with_replies: bool = False
) -> dict[str, Any]:
    """A session for programs; its texts only if they are asked for, and what it keeps of replies if that was read."""
    told = session.model_dump(mode="json", exclude=None if with_replies else _OF_REPLIES)
    if not show_text:
        told["state"] = {name: value for name, value in told["state"].items() if name not in _TEXTS}
    return told


def texts_of(session: ActiveScheduleSessionSnapshot) -> list[tuple[str, str]]:
    """The texts of a session, each with its name."""
    state = session.state
    missing = "; ".join(state.missing_info)
    told = [("question", state.pending_question), ("missing", missing), ("reason", state.failed_reason)]
    return [(name, text) for name, text in told if text]


def counted(number: int, what: str = "session") -> str:
    """A number of things."""
    return f"{number:,} {what}" + ("" if number == 1 else "s")


class Advance(Protocol):
    """Tells how far something is."""

    def __call__(self, done: int, said: str, /) -> None:
        """So much of the total is done; and what to show beside it."""


@contextmanager
def progress(what: str, total: int | None) -> Iterator[Advance]:
    """Show on standard error how far something is: by a bar on a terminal, by a line each ten seconds elsewhere."""
    shown = _console_on(sys.stderr)
    bars = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[said]}", markup=False),
        TimeRemainingColumn(),
        console=shown,
        transient=True,
        disable=not shown.is_terminal,
    )
    bar = bars.add_task(what, total=total, said="")
    spoke = monotonic()

    def advance(done: int, said: str) -> None:
        nonlocal spoke
        bars.update(bar, completed=done, said=said)
        if not shown.is_terminal and monotonic() - spoke >= _SAY_EVERY:
            spoke = monotonic()
            share = f" ({done * 100 // total}%)" if total else ""
            shown.print(Text(f"{what}: {said}{share}"))

    with bars:
        yield advance
