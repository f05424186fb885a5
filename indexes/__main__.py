"""``python -m indexes``, and the console script ``session-indexes``."""

import os
import sys
from typing import Final

from indexes.errors import STOPPED, USAGE_OR_UNREACHABLE

_OF_THE_EXTRA: Final = frozenset({"typer", "rich"})


def run() -> int:
    """Run the command line, or say which extra it needs."""
    try:
        from indexes.cli import main  # noqa: PLC0415 - from Python the package works without the extra
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _OF_THE_EXTRA:
            raise
        print(  # noqa: T201 - the one line of a command
            f"The command line needs {package}: pip install 'active-schedule-sessions[cli]'", file=sys.stderr
        )
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
