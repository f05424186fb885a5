"""``python -m indexes``, and the console script ``session-indexes``."""

import os
import sys

from indexes.errors import STOPPED, USAGE_OR_UNREACHABLE
from sessions.extras import MissingExtra, needs_extra


def run() -> int:
    """Run the command line, or say which extra it needs."""
    try:
        with needs_extra("cli", "The command line"):
            from indexes.cli import main  # noqa: PLC0415 - from Python the package works without the extra
    except MissingExtra as error:
        print(error, file=sys.stderr)  # noqa: T201 - the one line of a command
        return USAGE_OR_UNREACHABLE
    status = main()
    if status == STOPPED:
        # At a plain exit Python would wait for Motor's threads, and they for the server's build.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


if __name__ == "__main__":
    sys.exit(run())
