"""The command line, ``python -m sessions`` or ``sessions``. It never prints the URI: that may hold a password."""

import asyncio
import sys
from collections.abc import Callable, Sequence
from typing import Final

import typer

from sessions.cli import changes, diagram, doctor, lookups, transfer, upkeep
from sessions.cli.ending import DONE, FOUND, STOPPED, USAGE_OR_UNREACHABLE, CommandRefused
from sessions.domain.errors import InvalidSessionInput, SessionError, StoreUnavailable, WatchInterrupted
from sessions.store.named_database import names_uri, without_uri

_COMMAND: Final = "python -m sessions"
_EPILOG: Final = (
    f"Exit status: {DONE} done, and nothing to see to; {FOUND} something to see to: a failed check, damaged documents, "
    f"rejected rows, no such session, or a session that does not allow it; {USAGE_OR_UNREACHABLE} wrong usage, a "
    f"missing right, or no server reached; {STOPPED} stopped by Ctrl-C or a signal. The server is named by --uri or "
    "the variable MONGODB_URI. Texts of users are printed by --show-text only."
)


def _app(demo: Callable[[], int]) -> typer.Typer:
    app = typer.Typer(
        name="sessions",
        help="Active schedule sessions on MongoDB: the operator's commands.",
        epilog=_EPILOG,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.command("demo", help=_DEMO)(demo)
    for name, command in (
        ("counts", lookups.counts),
        ("list", lookups.list_sessions),
        ("show", lookups.show),
        ("route", lookups.route),
        ("stalled", lookups.stalled),
        ("damaged", lookups.damaged),
        ("watch", changes.watch),
        ("expire", upkeep.expire),
        ("recover", upkeep.recover),
        ("purge", upkeep.purge),
        ("stop", upkeep.stop),
        ("import", transfer.import_rows),
        ("export", transfer.export_rows),
        ("diagram", diagram.diagram),
        ("doctor", doctor.doctor),
    ):
        app.command(name)(command)
    return app


_DEMO: Final = (
    "Play one whole story on a real mongod and check each step. It runs on the server that MONGODB_URI names (in a "
    "database that it makes and removes), else on a mongod of its own, else on an in-memory double. Exit status: 0, 1 "
    "if a step did not end as it says, 2 if there is nothing to run on."
)


def _refuse(text: str, status: int) -> int:
    typer.echo(f"{_COMMAND}: {without_uri(text)}", err=True)
    return status


def _status_of(error: SessionError) -> int:
    """The exit status of what the library refuses."""
    if isinstance(error, InvalidSessionInput | StoreUnavailable):
        return USAGE_OR_UNREACHABLE
    return USAGE_OR_UNREACHABLE if isinstance(error, WatchInterrupted) and error.needs_replica_set else FOUND


def _said(error: typer.TyperException) -> str:
    # A usage error quotes what it does not understand. A URI in the wrong place must not reach the terminal.
    said = error.format_message()
    if names_uri(said):
        said = "a connection string stands where none is expected: give it as --uri or in MONGODB_URI"
    return f"{said} Try --help." if said.endswith(".") else f"{said}. Try --help."


def main(arguments: Sequence[str] | None, *, demo: Callable[[], int]) -> int:
    """Run a command; the exit status says how it ended.

    Args:
        arguments: Those of the command line; None for the process's own.
        demo: The command of that name.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    command = typer.main.get_command(_app(demo))
    try:
        status = command.main(args=given or ["--help"], prog_name=_COMMAND, standalone_mode=False)
    except CommandRefused as error:
        return _refuse(str(error), error.exit_status)
    except SessionError as error:
        return _refuse(str(error), _status_of(error))
    except (KeyboardInterrupt, asyncio.CancelledError, typer.Abort):
        return _refuse("stopped; what was done stays", STOPPED)
    except typer.TyperException as error:
        return _refuse(_said(error), USAGE_OR_UNREACHABLE)
    return int(status or DONE) if given else USAGE_OR_UNREACHABLE
