"""The limit of each argument and field, as data, and the pure checks behind them.

A check returns the value as it is stored. It raises `ValueError`, whose text says what the value must be; who knows
the name of the argument makes `InvalidSessionInput` of it (`inputs`).
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

INT64_MAX: Final = 2**63 - 1


def _is_encodable(value: str) -> bool:
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            return False
    return "\x00" not in value


class IdentifierLimit(NamedTuple):
    """An opaque id: never empty, never trimmed."""

    longest: int

    def __str__(self) -> str:
        return (
            f"a string of 1 to {self.longest} characters without white space around it, "
            "without NUL and without lone surrogates"
        )

    def checked(self, value: object) -> str:
        """The id as a plain ``str``: some codecs store a member of a StrEnum as another type."""
        if not isinstance(value, str) or not 1 <= len(value) <= self.longest:
            raise ValueError(str(self))
        if value != value.strip() or not _is_encodable(value):
            raise ValueError(str(self))
        return str.__str__(value)


class TextLimit(NamedTuple):
    """A text for people; white space around it is dropped."""

    longest: int

    def __str__(self) -> str:
        return f"a string of at most {self.longest:,} characters without NUL and without lone surrogates"

    def checked(self, value: object) -> str:
        """The text, trimmed."""
        if not isinstance(value, str):
            raise ValueError(str(self))  # noqa: TRY004 - pydantic makes no ValidationError of a TypeError
        trimmed = str.__str__(value).strip()
        if len(trimmed) > self.longest or not _is_encodable(trimmed):
            raise ValueError(str(self))
        return trimmed


class TextsLimit(NamedTuple):
    """A short list of texts."""

    most: int
    each: TextLimit

    def __str__(self) -> str:
        return f"a list or tuple of at most {self.most} texts, each {self.each}"

    def checked(self, value: object) -> tuple[str, ...]:
        """The texts, trimmed, without blanks and doubles, in their order."""
        if not isinstance(value, (list, tuple)) or len(value) > self.most:
            raise ValueError(str(self))
        try:
            found = dict.fromkeys(map(self.each.checked, value))
        except ValueError as error:
            raise ValueError(str(self)) from error
        found.pop("", None)
        return tuple(found)


class IntegerLimit(NamedTuple):
    """A whole number; a bool is none."""

    least: int
    greatest: int = INT64_MAX

    def __str__(self) -> str:
        return f"an integer from {self.least} to {self.greatest}"

    def checked(self, value: object) -> int:
        """The number as a plain ``int``."""
        if isinstance(value, bool) or not isinstance(value, int) or not self.least <= value <= self.greatest:
            raise ValueError(str(self))
        return int(value)


class DurationLimit(NamedTuple):
    """A length of time."""

    least: timedelta
    greatest: timedelta

    def __str__(self) -> str:
        return f"a timedelta from {self.least.total_seconds():g} to {self.greatest.total_seconds():g} seconds"

    def checked(self, value: object) -> timedelta:
        """The length of time."""
        if not isinstance(value, timedelta) or not self.least <= value <= self.greatest:
            raise ValueError(str(self))
        return value

    @property
    def in_seconds(self) -> str:
        """What it must be where it is given in seconds."""
        return f"a number of seconds from {self.least.total_seconds():g} to {self.greatest.total_seconds():g}"

    def checked_seconds(self, value: object) -> float:
        """A number of seconds within the same limit."""
        least, greatest = self.least.total_seconds(), self.greatest.total_seconds()
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= greatest:
            raise ValueError(self.in_seconds)
        return float(value)


_SHORT_ID: Final = IdentifierLimit(64)
_ID: Final = IdentifierLimit(128)
# Chat platforms send ids of conversations and messages of more than 150 characters.
_OF_A_CHANNEL: Final = IdentifierLimit(256)
_WORK: Final = DurationLimit(timedelta(milliseconds=1), timedelta(days=7))

IDENTIFIERS: Final[Mapping[str, IdentifierLimit]] = {
    "session_id": _SHORT_ID,
    "conversation_id": _OF_A_CHANNEL,
    "trigger_id": _ID,
    "preview_id": _ID,
    "candidate_id": _ID,
    "notification_id": _ID,
    "operation_id": _SHORT_ID,
    "reply_id": _OF_A_CHANNEL,
    "message_id": _OF_A_CHANNEL,
}
TEXTS: Final[Mapping[str, TextLimit]] = {
    "pending_question": TextLimit(4_000),
    "reason": TextLimit(2_000),
    "text": TextLimit(1_000_000),
}
TEXT_LISTS: Final[Mapping[str, TextsLimit]] = {"missing_info": TextsLimit(32, TextLimit(200))}
INTEGERS: Final[Mapping[str, IntegerLimit]] = {
    "user_id": IntegerLimit(1),
    "question_number": IntegerLimit(0),
    "expected_revision": IntegerLimit(1),
    "page limit": IntegerLimit(1, 1_000),
    "limit": IntegerLimit(1, 100_000),
    "max_attempts": IntegerLimit(1, 1_000),
    "max_entries": IntegerLimit(1, 10_000_000),
}
DURATIONS: Final[Mapping[str, DurationLimit]] = {
    "lease": _WORK,
    "timeout": DurationLimit(timedelta(milliseconds=1), timedelta(hours=1)),
    "max_rerun": _WORK,
    "max_write_back": _WORK,
    "every": _WORK,
    "after": _WORK,
    "wait": DurationLimit(timedelta(0), timedelta(hours=1)),
    "heartbeat": _WORK,
    "max_staleness": DurationLimit(timedelta(milliseconds=10), timedelta(hours=1)),
}
MOST_CONVERSATIONS: Final = 1_000
AWARE: Final = "a datetime with a time zone, between the years 1 and 9999 in UTC"


def to_millisecond(value: datetime) -> datetime:
    """The moment as the store keeps it: cut, not rounded, so that it never lies later than what was given."""
    return value.replace(microsecond=value.microsecond // 1000 * 1000)


def checked_moment(value: object) -> datetime:
    """An aware datetime in UTC, cut to the millisecond."""
    if type(value) is datetime and value.tzinfo is UTC and value.microsecond % 1000 == 0:
        return value  # what the store gives back: most of all that is checked
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise ValueError(AWARE)
    try:
        return to_millisecond(value.astimezone(UTC))
    except OverflowError as error:
        raise ValueError(AWARE) from error
