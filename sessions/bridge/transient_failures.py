"""Failures that pass by themselves: what a graph or a write-back raises to be called again later."""

from datetime import timedelta
from typing import Final, TypeAlias

from sessions.domain import inputs
from sessions.domain.errors import InvalidSessionInput
from sessions.failures import all_within

RetryOn: TypeAlias = tuple[type[Exception], ...]

DEFAULT_AFTER: Final = timedelta(seconds=5)


class TryAgain(RuntimeError):
    """Raised by a graph or a write-back that cannot do its work now; nothing ends by it.

    Args:
        after: How long to wait before the next try, 1 ms to 7 days.

    Raises:
        InvalidSessionInput: ``after`` is outside its limits.
    """

    def __init__(self, after: timedelta = DEFAULT_AFTER) -> None:
        self.after = inputs.duration("after", after)
        super().__init__(f"try again after {self.after}")

    def __reduce__(self) -> tuple[type["TryAgain"], tuple[timedelta]]:
        return type(self), (self.after,)


def checked_retry_on(retry_on: object) -> RetryOn:
    """The kinds of error that an application takes for passing ones."""
    if isinstance(retry_on, tuple) and all(isinstance(kind, type) and issubclass(kind, Exception) for kind in retry_on):
        return retry_on
    raise InvalidSessionInput("retry_on", "a tuple of classes of exceptions")


def passes_after(error: BaseException, retry_on: RetryOn) -> timedelta | None:
    """How long to wait before the work is tried again; None if it failed for good.

    Args:
        error: What the work raised.
        retry_on: What counts as passing, wherever it stands within the error.
    """
    within = all_within(error)
    asked = [each.after for each in within if isinstance(each, TryAgain)]
    if asked:
        return max(asked)
    return DEFAULT_AFTER if any(isinstance(each, retry_on) for each in within) else None
