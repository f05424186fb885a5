"""The command line: ``python -m sessions demo``."""

import argparse
import sys
from collections.abc import Sequence
from typing import Final

from sessions.extras import MissingExtra, needs_extra

_USAGE_ERROR: Final = 2


def _demo() -> int:
    try:
        with needs_extra("demo", "The demo"):
            from sessions.demo import command  # noqa: PLC0415 - it needs an extra that no other command would

            return command.main()
    except MissingExtra as error:
        print(error, file=sys.stderr)  # noqa: T201 - the one line of a command
        return _USAGE_ERROR


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: Those of the command line; None for the process's own.

    Returns:
        The exit status; 2 if no command was given.
    """
    parser = argparse.ArgumentParser(prog="python -m sessions", description="Active schedule sessions on MongoDB.")
    commands = parser.add_subparsers(dest="command", metavar="command")
    commands.add_parser(
        "demo",
        help="play one whole story on a real mongod and check each step",
        description="Play one whole story and check each step. It runs on the server that MONGODB_URI names (in a "
        "database that it makes and removes), else on a mongod of its own, else on an in-memory double. "
        "Exit status: 0, 1 if a step did not end as it says, 2 if there is nothing to run on.",
    )
    chosen = parser.parse_args(arguments)
    if chosen.command is None:
        parser.print_help()
        return _USAGE_ERROR
    return _demo()


if __name__ == "__main__":
    sys.exit(main())
