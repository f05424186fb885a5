"""The options that several commands share, and how a length of time or a moment is given."""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

import typer

from sessions.domain.lifecycle import ALL, SessionStatus

_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_AGE: Final = re.compile(r"(\d{1,6})([smhdw])")

Uri = Annotated[
    str | None,
    typer.Option(
        "--uri", help="The server's connection string; default: the variable MONGODB_URI.", show_default=False
    ),
]
DatabaseName = Annotated[
    str | None,
    typer.Option(
        "--database", metavar="NAME", help="Default: the database that the connection string names.", show_default=False
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs: one object on each line.")]
ShowText = Annotated[bool, typer.Option("--show-text", help="Print questions and reasons too: texts of users.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say how many it would be, and change nothing.")]
SessionId = Annotated[str, typer.Argument(metavar="ID", help="The session's id.", show_default=False)]
Statuses = Annotated[
    list[SessionStatus] | None,
    typer.Option(
        "--status",
        metavar="STATUS",
        help=f"Only sessions in this status, one of {', '.join(ALL)}; may be repeated.",
        show_default=False,
    ),
]
OfUser = Annotated[int | None, typer.Option("--user", metavar="ID", help="Only this user's.", show_default=False)]
OfConversation = Annotated[
    str | None, typer.Option("--conversation", metavar="ID", help="Only this conversation's.", show_default=False)
]


def age(given: str) -> timedelta:
    """A length of time: ``90s``, ``15m``, ``2h``, ``30d`` or ``4w``."""
    found = _AGE.fullmatch(given)
    if found is None:
        raise typer.BadParameter("a number with its unit: 90s, 15m, 2h, 30d or 4w")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


def moment(given: str) -> datetime:
    """A moment with its zone: ``2026-05-01T00:00Z``."""
    try:
        found = datetime.fromisoformat(given)
        return found.astimezone(UTC) if found.tzinfo else _without_zone()
    except (ValueError, OverflowError):
        return _without_zone()


def _without_zone() -> datetime:
    raise typer.BadParameter("a date and time with its zone: 2026-05-01T00:00Z")
