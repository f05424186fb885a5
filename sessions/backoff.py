"""The pauses between tries, for whatever is tried again."""

from random import uniform
from typing import Final

_JITTER: Final = 0.25


class Backoff:
    """Pauses in seconds that double up to the longest, each up to a quarter shorter or longer; else all of one length.

    The jitter spreads many processes that lost the same server at the same moment.
    """

    def __init__(self, first: float, longest: float | None = None) -> None:
        self._first = self._pause = first
        self._longest = first if longest is None else longest

    def next(self) -> float:
        """The next pause."""
        pause, self._pause = self._pause, min(self._pause * 2, self._longest)
        return pause * uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 - no secret

    def reset(self) -> None:
        """Begin anew with the first pause."""
        self._pause = self._first
