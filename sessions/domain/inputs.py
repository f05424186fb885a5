"""Raw arguments in, checked values out: one table of limits, and `InvalidSessionInput` for all that breaks one."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Final

from sessions.domain.errors import InvalidSessionInput

INT64_MAX: Final = 2**63 - 1


class Unset(Enum):
    """The type of `UNSET`."""

    UNSET = "UNSET"

    def __repr__(self) -> str:
        return "UNSET"


UNSET: Final = Unset.UNSET
"""An argument left out: the field stays as it is, where ``None`` clears it."""


@dataclass(frozen=True, slots=True)
class IdentifierLimit:
    """An opaque id: never empty, never trimmed."""

    longest: int

    def __str__(self) -> str:
        return (
            f"a string of 1 to {self.longest} characters without white space around it, "
            "without NUL and without lone surrogates"
        )


@dataclass(frozen=True, slots=True)
class TextLimit:
    """A text for people; white space around it is dropped."""

    longest: int

    def __str__(self) -> str:
        return f"a string of at most {self.longest:,} characters without NUL and without lone surrogates"


@dataclass(frozen=True, slots=True)
class TextsLimit:
    """A short list of texts."""

    most: int
    each: TextLimit

    def __str__(self) -> str:
        return f"a list or tuple of at most {self.most} texts, each {self.each}"


@dataclass(frozen=True, slots=True)
class IntegerLimit:
    """A whole number; a bool is none."""

    least: int
    greatest: int = INT64_MAX

    def __str__(self) -> str:
        return f"an integer from {self.least} to {self.greatest}"


@dataclass(frozen=True, slots=True)
class DurationLimit:
    """A length of time."""

    least: timedelta
    greatest: timedelta

    def __str__(self) -> str:
        return f"a timedelta from {self.least.total_seconds():g} to {self.greatest.total_seconds():g} seconds"


_SHORT_ID: Final = IdentifierLimit(64)
_REPLY: Final = IdentifierLimit(128)

IDENTIFIERS: Final[Mapping[str, IdentifierLimit]] = {
    "session_id": _SHORT_ID,
    "conversation_id": IdentifierLimit(128),
    "trigger_id": _SHORT_ID,
    "preview_id": _SHORT_ID,
    "candidate_id": _SHORT_ID,
    "notification_id": _SHORT_ID,
    "operation_id": _SHORT_ID,
    "reply_id": _REPLY,
    "message_id": _REPLY,
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
    "lease": DurationLimit(timedelta(milliseconds=1), timedelta(days=7)),
    "timeout": DurationLimit(timedelta(milliseconds=1), timedelta(hours=1)),
    "max_rerun": DurationLimit(timedelta(milliseconds=1), timedelta(days=7)),
    "every": DurationLimit(timedelta(milliseconds=1), timedelta(days=7)),
    "heartbeat": DurationLimit(timedelta(milliseconds=1), timedelta(days=7)),
    "max_staleness": DurationLimit(timedelta(milliseconds=10), timedelta(hours=1)),
}
MOST_CONVERSATIONS: Final = 1_000
_LONGEST_TOKEN: Final = 4_096
_HEX_DIGITS: Final = frozenset("0123456789abcdefABCDEF")
AWARE: Final = "a datetime with a time zone, between the years 1 and 9999 in UTC"
AHEAD: Final = "a moment still ahead by the repository's clock"


def _encodable(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return "\x00" not in value


def identifier(argument: str, value: object, *, limit: IdentifierLimit | None = None) -> str:
    """An id within the limit of its name in `IDENTIFIERS`."""
    limit = limit or IDENTIFIERS[argument]
    if not isinstance(value, str) or not 1 <= len(value) <= limit.longest:
        raise InvalidSessionInput(argument, str(limit))
    if value != value.strip() or not _encodable(value):
        raise InvalidSessionInput(argument, str(limit))
    # A plain str: a StrEnum member would be stored and compared as another type by some codecs.
    return str.__str__(value)


def optional_identifier(argument: str, value: object) -> str | None:
    """An id, or None."""
    return None if value is None else identifier(argument, value)


def settable_identifier(argument: str, value: object) -> str | Unset | None:
    """An id, None to clear the field, or `UNSET` to leave it."""
    return UNSET if value is UNSET else optional_identifier(argument, value)


def optional_token(argument: str, value: object) -> str | None:
    """The token of a watch, or None."""
    if value is None:
        return None
    if not isinstance(value, str) or not value or len(value) > _LONGEST_TOKEN or not set(value) <= _HEX_DIGITS:
        raise InvalidSessionInput(argument, "None, or the `token` of a Change or of a watch")
    return str.__str__(value)


def text(argument: str, value: object, *, limit: TextLimit | None = None) -> str:
    """A text within the limit of its name in `TEXTS`, trimmed."""
    limit = limit or TEXTS[argument]
    if not isinstance(value, str):
        raise InvalidSessionInput(argument, str(limit))
    trimmed = str.__str__(value).strip()
    if len(trimmed) > limit.longest or not _encodable(trimmed):
        raise InvalidSessionInput(argument, str(limit))
    return trimmed


def required_text(argument: str, value: object) -> str:
    """A text that is not blank."""
    found = text(argument, value)
    if not found:
        raise InvalidSessionInput(argument, f"{TEXTS[argument]}, and not blank")
    return found


def texts(argument: str, value: object) -> tuple[str, ...]:
    """The texts of a list, trimmed, without blanks and doubles, in their order."""
    limit = TEXT_LISTS[argument]
    if not isinstance(value, list | tuple) or len(value) > limit.most:
        raise InvalidSessionInput(argument, str(limit))
    try:
        found = [text(argument, item, limit=limit.each) for item in value]
    except InvalidSessionInput as error:
        raise InvalidSessionInput(argument, str(limit)) from error
    return tuple(dict.fromkeys(item for item in found if item))


def integer(argument: str, value: object, *, limit: IntegerLimit | None = None) -> int:
    """A whole number within the limit of its name in `INTEGERS`."""
    limit = limit or INTEGERS[argument]
    if isinstance(value, bool) or not isinstance(value, int) or not limit.least <= value <= limit.greatest:
        raise InvalidSessionInput(argument, str(limit))
    return int(value)


def optional_integer(argument: str, value: object) -> int | None:
    """A whole number, or None."""
    return None if value is None else integer(argument, value)


def flag(argument: str, value: object) -> bool:
    """True or False; nothing that only counts as such."""
    if not isinstance(value, bool):
        raise InvalidSessionInput(argument, "True or False")
    return value


def duration(argument: str, value: object) -> timedelta:
    """A length of time within the limit of its name in `DURATIONS`."""
    limit = DURATIONS[argument]
    if not isinstance(value, timedelta) or not limit.least <= value <= limit.greatest:
        raise InvalidSessionInput(argument, str(limit))
    return value


def seconds(argument: str, value: object) -> float:
    """A number of seconds within the limit of its name in `DURATIONS`."""
    limit = DURATIONS[argument]
    least, greatest = limit.least.total_seconds(), limit.greatest.total_seconds()
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= greatest:
        raise InvalidSessionInput(argument, f"a number of seconds from {least:g} to {greatest:g}")
    return float(value)


def to_millisecond(value: datetime) -> datetime:
    """The moment as the store keeps it: cut, not rounded, so that it never lies later than what was given."""
    return value.replace(microsecond=value.microsecond // 1000 * 1000)


def moment(argument: str, value: object) -> datetime:
    """An aware datetime in UTC, cut to the millisecond."""
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise InvalidSessionInput(argument, AWARE)
    try:
        return to_millisecond(value.astimezone(UTC))
    except OverflowError as error:
        raise InvalidSessionInput(argument, AWARE) from error


def optional_moment(argument: str, value: object) -> datetime | None:
    """An aware datetime, or None."""
    return None if value is None else moment(argument, value)


def ahead(argument: str, value: datetime | None, *, now: datetime) -> datetime | None:
    """The moment, refused where it has passed; None passes."""
    if value is not None and value <= now:
        raise InvalidSessionInput(argument, AHEAD)
    return value
