"""``python -m sessions``, and the console script ``sessions``."""

import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from typing import Final

from sessions.extras import MissingExtra, needs_extra

_USAGE_ERROR: Final = 2
_STOPPED: Final = 130


def _demo() -> int:
    with needs_extra("demo", "The demo"):
        from sessions.demo import command  # noqa: PLC0415 - it needs an extra that no other command would

        return command.main()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: Those of the command line; None for the process's own.

    Returns:
        The exit status; 2 if no command was given.
    """
    try:
        with needs_extra("cli", "The command line"):
            from sessions.cli import app  # noqa: PLC0415 - the library works without the extra

        return app.main(arguments, demo=_demo)
    except MissingExtra as error:
        print(error, file=sys.stderr)  # noqa: T201 - the one line of a command
        return _USAGE_ERROR


def run() -> int:
    """Run the process's own command line."""
    for stream in (sys.stdout, sys.stderr):
        # Ids may hold letters that a log file's encoding lacks.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    status = main()
    if status == _STOPPED:
        # At a plain exit Python would wait for Motor's threads, and they for the server.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


if __name__ == "__main__":
    sys.exit(run())
