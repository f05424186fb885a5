"""``python -m indexes``, and the console script ``session-indexes``."""

import sys
from typing import Final

_OF_THE_EXTRA: Final = frozenset({"typer", "rich"})
_USAGE_ERROR: Final = 2


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
        return _USAGE_ERROR
    return main()


if __name__ == "__main__":
    sys.exit(run())
