"""What the driver's errors mean: whether a write may have happened, whether to try again, what ends a watch."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from pymongo.errors import (
    ConfigurationError,
    ConnectionFailure,
    InvalidOperation,
    NotPrimaryError,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WriteConcernError,
)

from sessions.domain.errors import SessionRef, StoreUnavailable, WatchInterrupted, WriteOutcome

NO_COLLECTION: Final = 26
STRICT_API: Final = 323


class DriverFault(ConnectionFailure):
    """The driver did not answer by its own deadline, or failed in a way that is none of its errors."""


_BAD_HINT: Final = (2, "hint provided does not correspond")
_QUERY_KILLED: Final = 175  # an index was dropped under the running query
# Not a full pool: a driver that tries again by itself may meet that after a first try that was sent.
_NEVER_SENT: Final = (ServerSelectionTimeoutError, ConfigurationError, InvalidOperation)
# Most specific first: the first kind that fits says what is known of a write that met the error.
_OUTCOMES: Final[tuple[tuple[type[PyMongoError] | tuple[type[PyMongoError], ...], WriteOutcome], ...]] = (
    (_NEVER_SENT, WriteOutcome.NOT_WRITTEN),
    (NotPrimaryError, WriteOutcome.UNKNOWN),
    (ConnectionFailure, WriteOutcome.UNKNOWN),
    (WriteConcernError, WriteOutcome.UNKNOWN),
    (OperationFailure, WriteOutcome.NOT_WRITTEN),
    (PyMongoError, WriteOutcome.UNKNOWN),
)
# The network between a router and its shards, and a primary that goes, told by code alone: the write may have happened,
# and the same command may succeed later.
_TRANSIENT_CODES: Final = frozenset({6, 7, 64, 89, 91, 134, 189, 202, 262, 9001, 10107, 11600, 11602, 13435, 13436})
_FIELD_OF_ANOTHER_KIND: Final = frozenset({2, 14, 28})
_UNAUTHORIZED: Final = 13
# Of the server's text its command's name alone: the rest quotes the command.
_COMMAND: Final = re.compile(r"to execute command \{ (\w+):")
_CANNOT_PASS: Final[Mapping[int, str]] = {
    # The names are the server's: https://www.mongodb.com/docs/v6.0/reference/error-codes/
    _UNAUTHORIZED: "the user lacks a right for this",
    18: "the server refused the user or the password",
    20: "this server does not allow it",
    73: "a name is not one that the server accepts",
    121: "a validator of the collection refuses the document",
    166: "the collection is a view",
    STRICT_API: "the strict stable API does not have this command",
    10334: "the document is too large",
    17419: "the document is too large",
    17420: "the document is too large",
    **dict.fromkeys((2, 9, 14, 28, 52, 59, 72), "the server refuses the command as it is"),
}
_PASSES: Final = (ConnectionFailure, WriteConcernError)
_STANDALONE: Final = 40573
# With these another stream may go on from the same token: those that the specification of change streams names (the
# transient ones above among them), a cursor or an operation that was killed, a right or a login that may come back.
_LEAVE_THE_TOKEN: Final = _TRANSIENT_CODES | {43, 63, 133, 150, 234, 13388, 50, 175, 237, 11601, _UNAUTHORIZED, 18, 391}
# All others are the token's, or of what comes behind it; the server has dozens for one that it can't read (*measured*).
_INTERRUPTS: Final[Mapping[int, str]] = {
    286: "the server no longer holds the changes since the token",
    280: "the server does not find the token among its changes",
    260: "the token is not one to go on from",
    10334: "the next change is larger than the 16 MB that the server can tell of",
}
_UNREADABLE: Final = "this is not a token of a watch, or the server cannot go on from it"


def reason_of(error: PyMongoError) -> str | None:
    """Why the same command can never succeed as things are; None if it may pass by itself."""
    if isinstance(error, InvalidOperation):
        return "the client is closed"
    if isinstance(error, ConfigurationError) and not isinstance(error, ServerSelectionTimeoutError):
        return "the client is configured wrongly"
    code = getattr(error, "code", None)
    if code == _UNAUTHORIZED and (command := _COMMAND.search(str(error))):
        return f"the user lacks the right to {command[1]}"
    return None if code is None else _CANNOT_PASS.get(code)


def update_is_refused(error: PyMongoError) -> bool:
    """Whether a field of the stored document is of a kind that the update cannot change."""
    return isinstance(error, OperationFailure) and error.code in _FIELD_OF_ANOTHER_KIND


def is_transient(error: PyMongoError) -> bool:
    """Whether the server says that the network or the primary is at fault."""
    return getattr(error, "code", None) in _TRANSIENT_CODES


def is_bad_hint(error: OperationFailure) -> bool:
    """Whether the index that a query names is hidden or absent."""
    code, said = _BAD_HINT
    return error.code == code and said in str(error)


def known_of(error: PyMongoError) -> WriteOutcome:
    """What is known of a write that met the error."""
    known = next(outcome for kinds, outcome in _OUTCOMES if isinstance(error, kinds))
    if is_transient(error) or (error.timeout and not isinstance(error, _NEVER_SENT)):
        return WriteOutcome.UNKNOWN
    return known


def may_pass(error: PyMongoError) -> bool:
    """Whether the same command may succeed when it is sent again."""
    return isinstance(error, _PASSES) or getattr(error, "code", None) == _QUERY_KILLED or is_transient(error)


def cause_of(error: PyMongoError) -> str:
    """Kind and code of an error; not its text, which may quote a document or the connection string."""
    code, reason = getattr(error, "code", None), reason_of(error)
    told = type(error).__name__ if code is None else f"{type(error).__name__}, code {code}"
    return told if reason is None else f"{reason}: {told}"


@contextmanager
def following(namespace: str, *, goes_on: bool) -> Iterator[None]:
    """Tell apart why a stream is refused: for good where it was to go on, for want of a right, or for now.

    Args:
        namespace: Database and collection.
        goes_on: Whether the stream goes on from a token, which may be at fault.

    Raises:
        StoreUnavailable: The same stream may be opened later; a missing right is named.
        WatchInterrupted: It never will.
    """
    try:
        yield
    except StoreUnavailable as error:
        refusal = error.__cause__
        if not isinstance(refusal, OperationFailure):
            raise
        code = refusal.code
        if code == _UNAUTHORIZED:
            cause = (
                f"the user lacks a right to follow changes, code {code}: grant the actions changeStream and find on "
                f"{namespace}, as the roles read and readWrite have them, and it goes on"
            )
            outcome = WriteOutcome.NOT_WRITTEN
            raise StoreUnavailable(SessionRef(), outcome=outcome, cause=cause, may_pass=False) from refusal
        if code == _STANDALONE:
            cause = f"a standalone server has no change streams, code {code}"
            raise WatchInterrupted(cause, needs_replica_set=True) from error
        if not goes_on or code is None or code in _LEAVE_THE_TOKEN or refusal.timeout:
            raise
        raise WatchInterrupted(f"{_INTERRUPTS.get(code, _UNREADABLE)}, code {code}") from error
