"""What stops a command, each kind with the exit status that the command line ends with.

IndexToolError
├── BadDocument      2  what ``--document`` names is no Beanie document, or declares what no collection can hold
├── BadChoice        2  an argument is outside its limits
├── Unreachable      2  no server, or none that may write, answered
├── MissingRight     2  the user lacks a right; it names the action and the role that has it
├── NotSharded       2  the server for ``shard`` is no router of a sharded cluster
├── CannotShard      3  a unique index does not begin with the shard key's field
├── UnfitCollection  1  what has the collection's name cannot hold its indexes
├── LockHeld         1  another ``apply`` is at work
└── Unsettled        1  somebody else changed the indexes before each step of a run
"""

from typing import ClassVar, Final

DONE: Final = 0
DIFFERENCES: Final = 1
USAGE_OR_UNREACHABLE: Final = 2
CONFLICTS: Final = 3
STOPPED: Final = 130
"""A shell's own status after Ctrl-C. It stands for SIGTERM too, since both end a run in the same way."""


class IndexToolError(Exception):
    """The base of all errors of this package; the text is one line that says what to do next."""

    exit_status: ClassVar[int] = USAGE_OR_UNREACHABLE


class BadDocument(IndexToolError):
    """A class is no Beanie document, or declares two indexes that exclude each other."""


class BadChoice(IndexToolError, ValueError):
    """A call was refused for its arguments, before anything was sent."""


class Unreachable(IndexToolError):
    """The server did not answer. What was done stays, and the next run goes on from there."""


class MissingRight(IndexToolError):
    """The user may not do this.

    Attributes:
        action: The action that is missing, as the server names it.
        role: The smallest built-in role that has it.
    """

    def __init__(self, action: str, role: str, namespace: str) -> None:
        super().__init__(f"this user lacks the action {action} on {namespace}: grant it the role {role}")
        self.action = action
        self.role = role


class NotSharded(IndexToolError):
    """The server is no router of a sharded cluster."""


class CannotShard(IndexToolError):
    """A declared or present index would lose its uniqueness on a sharded collection."""

    exit_status: ClassVar[int] = CONFLICTS


class UnfitCollection(IndexToolError):
    """What has the collection's name is a view, a time series, or another thing that cannot be served.

    Attributes:
        reason: Why, without the collection's name.
    """

    exit_status: ClassVar[int] = DIFFERENCES

    def __init__(self, namespace: str, reason: str) -> None:
        super().__init__(f"{namespace}: {reason}")
        self.reason = reason


class LockHeld(IndexToolError):
    """Another ``apply`` holds the lock of this database, or took it over."""

    exit_status: ClassVar[int] = DIFFERENCES


class Unsettled(IndexToolError):
    """Somebody else keeps changing the indexes."""

    exit_status: ClassVar[int] = DIFFERENCES
