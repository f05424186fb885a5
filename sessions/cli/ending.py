"""How a command ends: its exit status, and the one line for whoever has to put something right."""

from typing import ClassVar, Final

DONE: Final = 0
FOUND: Final = 1
"""Something to see to was found, or the session does not allow the call."""
USAGE_OR_UNREACHABLE: Final = 2
STOPPED: Final = 130
"""A shell's own status after Ctrl-C; it stands for SIGTERM too."""


class CommandRefused(Exception):
    """A command was not carried out; the text is one line that says what to do next."""

    exit_status: ClassVar[int] = USAGE_OR_UNREACHABLE


class NothingSuch(CommandRefused):
    """What the command names does not exist."""

    exit_status: ClassVar[int] = FOUND
