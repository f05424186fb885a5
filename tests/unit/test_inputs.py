"""The limits at their very edge: what just fits passes, what just exceeds is refused by name."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from enum import StrEnum

import pytest

from sessions import UNSET, InvalidSessionInput
from sessions.domain import inputs, limits

LONGEST_IDS = {
    "session_id": 64,
    "conversation_id": 256,
    "trigger_id": 128,
    "preview_id": 128,
    "candidate_id": 128,
    "notification_id": 128,
    "operation_id": 64,
    "reply_id": 256,
    "message_id": 256,
}
LONGEST_TEXTS = {"pending_question": 4_000, "reason": 2_000, "text": 1_000_000}
INTEGERS = {
    "user_id": (1, 2**63 - 1),
    "question_number": (0, 2**63 - 1),
    "expected_revision": (1, 2**63 - 1),
    "page limit": (1, 1_000),
    "limit": (1, 100_000),
    "max_attempts": (1, 1_000),
    "max_entries": (1, 10_000_000),
}
DURATIONS = {
    "lease": (timedelta(milliseconds=1), timedelta(days=7)),
    "timeout": (timedelta(milliseconds=1), timedelta(hours=1)),
    "max_rerun": (timedelta(milliseconds=1), timedelta(days=7)),
    "max_write_back": (timedelta(milliseconds=1), timedelta(days=7)),
    "every": (timedelta(milliseconds=1), timedelta(days=7)),
    "after": (timedelta(milliseconds=1), timedelta(days=7)),
    "wait": (timedelta(0), timedelta(hours=1)),
    "heartbeat": (timedelta(milliseconds=1), timedelta(days=7)),
    "max_staleness": (timedelta(milliseconds=10), timedelta(hours=1)),
}
BOOLS = (True, False)
FIRST_MOMENT = datetime(1, 1, 1, tzinfo=UTC)


class Named(StrEnum):
    """A string that is more than one."""

    ID = "an-id"


def refused(check: Callable[[str, object], object], argument: str, *values: object) -> None:
    """Each value is refused, and the error names the argument and the limit."""
    for value in values:
        with pytest.raises(InvalidSessionInput) as refusal:
            check(argument, value)
        assert refusal.value.argument == argument
        assert refusal.value.limit
        assert str(refusal.value).startswith(f"{argument} must be ")


def test_each_table_is_tried_here() -> None:
    """A limit that this file forgets would go untested, and one that changes is noticed."""
    assert {name: limit.longest for name, limit in limits.IDENTIFIERS.items()} == LONGEST_IDS
    assert {name: limit.longest for name, limit in limits.TEXTS.items()} == LONGEST_TEXTS
    assert {name: (limit.most, limit.each.longest) for name, limit in limits.TEXT_LISTS.items()} == {
        "missing_info": (32, 200)
    }
    assert {name: (limit.least, limit.greatest) for name, limit in limits.INTEGERS.items()} == INTEGERS
    assert {name: (limit.least, limit.greatest) for name, limit in limits.DURATIONS.items()} == DURATIONS


@pytest.mark.parametrize(("argument", "longest"), LONGEST_IDS.items())
def test_identifiers(argument: str, longest: int) -> None:
    """An id counts in characters, not bytes, and is never trimmed."""
    for fits in ("x", "x" * longest, "😀" * longest, "a b", "$where", "a.b"):
        assert inputs.identifier(argument, fits) == fits
        assert inputs.optional_identifier(argument, fits) == fits
    assert inputs.optional_identifier(argument, None) is None
    outside = ("", "x" * (longest + 1), " x", "x ", "\tx", "x\x00", "\ud800", "\u00a0x")
    no_strings = (None, 1, True, b"x", ["x"], {"$gt": ""}, UNSET)
    refused(inputs.identifier, argument, *outside, *no_strings)


def test_an_enum_member_becomes_a_plain_string() -> None:
    """A codec that knows only ``str`` stores what it was given."""
    assert type(inputs.identifier("trigger_id", Named.ID)) is str
    assert inputs.identifier("trigger_id", Named.ID) == "an-id"


@pytest.mark.parametrize(("argument", "longest"), LONGEST_TEXTS.items())
def test_texts(argument: str, longest: int) -> None:
    """A text is trimmed and may be empty; what it says is never read as an expression."""
    assert inputs.text(argument, "  " + "ü" * longest + "\n") == "ü" * longest
    for fits in ("", "$5 for the lesson?", "$$NOW", "$user_id", "two\nlines"):
        assert inputs.text(argument, fits) == fits
    refused(inputs.text, argument, "x" * (longest + 1), "a\x00b", "\udfff", None, 5, b"x", ["x"], {"$set": 1})


def test_lists_of_texts() -> None:
    """A list is trimmed, loses blanks and doubles, and keeps its order."""
    assert inputs.texts("missing_info", [" b ", "a", "", " ", "b"]) == ("b", "a")
    most = [f"{number:03}".ljust(200, "x") for number in range(32)]
    assert inputs.texts("missing_info", most) == tuple(most)
    assert inputs.texts("missing_info", tuple(most)) == tuple(most)
    too_many = [f"{number}" for number in range(33)]
    refused(inputs.texts, "missing_info", too_many, ["x" * 201], "day", None, {"day"}, [1], ["\x00"], [None], {"a": 1})


@pytest.mark.parametrize(("argument", "least", "greatest"), [(name, *edges) for name, edges in INTEGERS.items()])
def test_integers(argument: str, least: int, greatest: int) -> None:
    """A whole number within 64 bits; a bool only counts as one."""
    for fits in (least, greatest):
        assert inputs.integer(argument, fits) == fits
        assert inputs.optional_integer(argument, fits) == fits
    assert inputs.optional_integer(argument, None) is None
    refused(inputs.integer, argument, least - 1, greatest + 1, *BOOLS, 1.0, "1", None, {"$gt": 0}, [1])


@pytest.mark.parametrize(("argument", "least", "greatest"), [(name, *edges) for name, edges in DURATIONS.items()])
def test_durations(argument: str, least: timedelta, greatest: timedelta) -> None:
    """A timedelta within its limits; a bare number has no unit."""
    step = timedelta(microseconds=1)
    for fits in (least, greatest):
        assert inputs.duration(argument, fits) == fits
    refused(inputs.duration, argument, least - step, greatest + step, 60, 1.5, None, "60")


def test_seconds() -> None:
    """The time-out is a finite number of seconds."""
    assert inputs.seconds("timeout", 1) == 1.0
    assert inputs.seconds("timeout", 0.001) == 0.001
    assert inputs.seconds("timeout", 3_600) == 3_600.0
    outside = (0, 0.0009, 3_600.1, float("nan"), float("inf"))
    refused(inputs.seconds, "timeout", *outside, *BOOLS, None, "5", timedelta(seconds=5))


def test_flags() -> None:
    """What only counts as true is no flag."""
    assert inputs.flag("ignored", True) is True  # noqa: FBT003 - the value under test
    refused(inputs.flag, "ignored", 1, 0, None, "yes", [])


def test_moments() -> None:
    """A moment has a zone, becomes UTC, is cut to the millisecond and stays within the calendar."""
    ahead = timezone(timedelta(hours=14))
    given = datetime(2026, 1, 1, 14, 0, 0, 999_999, tzinfo=ahead)
    assert inputs.moment("expires_at", given) == datetime(2026, 1, 1, 0, 0, 0, 999_000, tzinfo=UTC)
    assert inputs.moment("expires_at", FIRST_MOMENT) == FIRST_MOMENT
    assert inputs.optional_moment("expires_at", None) is None
    before_the_calendar = FIRST_MOMENT.replace(tzinfo=ahead)
    naive = datetime(2026, 1, 1)  # noqa: DTZ001 - the case
    refused(inputs.moment, "expires_at", naive, before_the_calendar, 1_700_000_000, "2026-01-01T00:00:00Z", None)
    refused(inputs.moment, "expires_at", given.date(), timedelta(days=1))


def test_ahead() -> None:
    """An end that is now has passed."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    later = now + timedelta(milliseconds=1)
    assert inputs.ahead("expires_at", later, now=now) == later
    assert inputs.ahead("expires_at", None, now=now) is None
    for passed in (now, now - timedelta(days=1)):
        with pytest.raises(InvalidSessionInput, match="still ahead"):
            inputs.ahead("expires_at", passed, now=now)


def test_unset_shows_its_name() -> None:
    """A signature in a help text reads ``UNSET``."""
    assert repr(UNSET) == "UNSET"
