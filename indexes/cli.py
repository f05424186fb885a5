"""The command line: ``python -m indexes apply``. It never prints the URI, since that may carry a password."""

import argparse
import asyncio
import os
import re
import sys
from typing import TYPE_CHECKING, Any, Final, NoReturn

from pymongo.errors import PyMongoError

from indexes.building import IndexOutcome, IndexReport, apply
from sessions.driver import connect, disconnect
from sessions.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

DONE: Final = 0
DIFFERENCES_REMAIN: Final = 1
USAGE_OR_UNREACHABLE: Final = 2

# To the end of the message: a password may hold anything, a blank too.
_A_URI: Final = re.compile(r"mongodb(\+srv)?:.*", re.IGNORECASE | re.DOTALL)


class _DiscreetParser(argparse.ArgumentParser):
    """Argparse quotes what it does not understand; a URI in the wrong place must not reach the terminal."""

    def error(self, message: str) -> NoReturn:
        super().error(_A_URI.sub("(a URI, not shown): give it as --uri or in MONGODB_URI", message))


def _parser() -> argparse.ArgumentParser:
    parser = _DiscreetParser(
        prog="python -m indexes", description="The indexes of active schedule sessions on a live database."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    applying = commands.add_parser(
        "apply",
        help="create the declared indexes that are missing, one at a time",
        description="Creates the declared indexes that are missing, one at a time. It never drops or changes one.",
        epilog="Exit status: 0 all nine are in place, 1 differences remain, 2 wrong usage or no server reached.",
    )
    applying.add_argument("--uri", help="the server's connection string; default: the variable MONGODB_URI")
    applying.add_argument("--database", help="default: the database that the connection string names")
    return parser


def _tell(report: IndexReport) -> None:
    said = "; ".join(report.differences)
    print(f"{report.outcome:<8} {said or report.name}", flush=True)  # noqa: T201 - a command line's output


def _refuse(text: str) -> int:
    print(f"python -m indexes: {text}", file=sys.stderr)  # noqa: T201 - a command line's output
    return USAGE_OR_UNREACHABLE


async def _apply(uri: str, name: str | None) -> int:
    try:
        client: Any = connect(uri)
    except (PyMongoError, ValueError, TypeError):
        # The driver's text quotes parts of the URI.
        return _refuse("the connection string is not one that MongoDB's driver accepts; its form is mongodb://host/")
    try:
        try:
            database = client.get_default_database() if name is None else client[name]
        except PyMongoError:
            return _refuse("name the database: --database NAME, or at the end of the connection string")
        reports = await apply(database, tell=_tell)
    except StoreUnavailable as error:
        return _refuse(str(error))
    finally:
        await disconnect(client)
    if any(report.outcome is IndexOutcome.DIFFERS for report in reports):
        print("What differs was left alone: put it right by hand, then run this again.")  # noqa: T201 - the same
        return DIFFERENCES_REMAIN
    return DONE


def main(arguments: "Sequence[str] | None" = None) -> int:
    """Run a command; the exit status says how it ended."""
    given = _parser().parse_args(arguments)
    uri = given.uri or os.environ.get("MONGODB_URI")
    if not uri:
        return _refuse("say which server: --uri mongodb://host/, or the variable MONGODB_URI")
    return asyncio.run(_apply(uri, given.database))
