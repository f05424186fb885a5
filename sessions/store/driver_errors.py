"""What the driver's errors mean: whether a write may have happened, whether to try again, what ends a watch."""

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
_BAD_HINT: Final = (2, "hint provided does not correspond")
_QUERY_KILLED: Final = 175  # an index was dropped under the running query
# Not a full pool: a driver that tries again by itself may meet that after a first try that was sent.
_NEVER_SENT: Final = (
    ServerSelectionTimeoutError,
    ConfigurationError,
    InvalidOperation,
)
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
_TRANSIENT_CODES: Final = frozenset({6, 7, 64, 89, 91, 134, 189, 262, 9001, 10107, 11600, 11602, 13435, 13436})
_PASSES: Final = (ConnectionFailure, WriteConcernError)
_STANDALONE: Final = 40573
_NO_RIGHT: Final = 13
# With these another stream may go on from the same token: those that the specification of change streams names (the
# transient ones above among them), a cursor or an operation that was killed, a right or a login that may come back.
_LEAVE_THE_TOKEN: Final = _TRANSIENT_CODES | {43, 63, 133, 150, 234, 13388, 50, 175, 237, 11601, _NO_RIGHT, 18, 391}
# All others are the token's, or of what comes behind it; the server has dozens for one that it can't read (*measured*).
_INTERRUPTS: Final[Mapping[int, str]] = {
    286: "the server no longer holds the changes since the token",
    280: "the server does not find the token among its changes",
    260: "the token is not one to go on from",
    10334: "the next change is larger than the 16 MB that the server can tell of",
}
_UNREADABLE: Final = "this is not a token of a watch, or the server cannot go on from it"


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
    code = getattr(error, "code", None)
    return type(error).__name__ if code is None else f"{type(error).__name__}, code {code}"


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
        if code == _NO_RIGHT:
            cause = (
                f"{cause_of(refusal)}: the database user may not follow changes, grant it the actions changeStream and "
                f"find on {namespace}, as the roles read and readWrite have them, and it goes on"
            )
            raise StoreUnavailable(SessionRef(), outcome=WriteOutcome.NOT_WRITTEN, cause=cause) from refusal
        if code == _STANDALONE:
            cause = f"a standalone server has no change streams, code {code}"
            raise WatchInterrupted(cause, needs_replica_set=True) from error
        if not goes_on or code is None or code in _LEAVE_THE_TOKEN or refusal.timeout:
            raise
        raise WatchInterrupted(f"{_INTERRUPTS.get(code, _UNREADABLE)}, code {code}") from error
