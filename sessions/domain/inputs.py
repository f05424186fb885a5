"""Raw arguments in; checked ones, or `InvalidSessionInput` with the argument's name and its limit, out."""

import functools
import inspect
from collections.abc import Callable
from datetime import datetime, timedelta
from enum import Enum
from types import FunctionType, MethodType
from typing import Final, TypeVar

from sessions.domain.errors import InvalidSessionInput
from sessions.domain.lifecycle import CALLS, RERUNS, CallName, LeaseKind
from sessions.domain.limits import (
    DURATIONS,
    IDENTIFIERS,
    INTEGERS,
    TEXT_LISTS,
    TEXTS,
    IdentifierLimit,
    IntegerLimit,
    checked_moment,
)
from sessions.domain.models import ActiveScheduleSessionSnapshot, ApplyClaim, Claim, Lease, Question, RerunClaim

Checked = TypeVar("Checked")

_LONGEST_TOKEN: Final = 4_096
_HEX_DIGITS: Final = frozenset("0123456789abcdefABCDEF")
_TOKEN: Final = IntegerLimit(1)
_CLASSES: Final = {kind: RerunClaim if kind in RERUNS else ApplyClaim for kind in LeaseKind}


class Unset(Enum):
    """The type of `UNSET`."""

    UNSET = "UNSET"

    def __repr__(self) -> str:
        return "UNSET"


UNSET: Final = Unset.UNSET
"""An argument left out: the field stays as it is, while ``None`` clears it."""


def _checked(argument: str, check: Callable[[object], Checked], value: object) -> Checked:
    try:
        return check(value)
    except ValueError as error:
        raise InvalidSessionInput(argument, str(error)) from None


def identifier(argument: str, value: object, *, limit: IdentifierLimit | None = None) -> str:
    """An id within the limit of its name in `IDENTIFIERS`."""
    return _checked(argument, (limit or IDENTIFIERS[argument]).checked, value)


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


def text(argument: str, value: object) -> str:
    """A text within the limit of its name in `TEXTS`, trimmed."""
    return _checked(argument, TEXTS[argument].checked, value)


def required_text(argument: str, value: object) -> str:
    """A text that is not blank."""
    found = text(argument, value)
    if not found:
        raise InvalidSessionInput(argument, f"{TEXTS[argument]}, and not blank")
    return found


def texts(argument: str, value: object) -> tuple[str, ...]:
    """The texts of a list within the limit of its name in `TEXT_LISTS`."""
    return _checked(argument, TEXT_LISTS[argument].checked, value)


def integer(argument: str, value: object, *, limit: IntegerLimit | None = None) -> int:
    """A whole number within the limit of its name in `INTEGERS`."""
    return _checked(argument, (limit or INTEGERS[argument]).checked, value)


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
    return _checked(argument, DURATIONS[argument].checked, value)


def seconds(argument: str, value: object) -> float:
    """A number of seconds within the limit of its name in `DURATIONS`."""
    return _checked(argument, DURATIONS[argument].checked_seconds, value)


def moment(argument: str, value: object) -> datetime:
    """An aware datetime in UTC, cut to the millisecond."""
    return _checked(argument, checked_moment, value)


def optional_moment(argument: str, value: object) -> datetime | None:
    """An aware datetime, or None."""
    return None if value is None else moment(argument, value)


def ahead(argument: str, value: datetime | None, *, now: datetime) -> datetime | None:
    """The moment, refused if it has passed; None passes."""
    if value is not None and value <= now:
        raise InvalidSessionInput(argument, "a moment still ahead by the repository's clock")
    return value


def async_function(argument: str, value: object) -> None:
    """A coroutine function, or what gives something to await: one that is none would be carried out, and then fail."""
    called = value
    while isinstance(called, functools.partial):
        called = called.func
    if not callable(called):
        raise InvalidSessionInput(argument, "an async function")
    code = inspect.unwrap(called)
    if not isinstance(code, FunctionType | MethodType):
        code = type(code).__call__
    # A lambda has no `async` of its own.
    if inspect.isfunction(code) or inspect.ismethod(code):
        is_async = inspect.iscoroutinefunction(code) or code.__name__ == "<lambda>"
        if not is_async:
            raise InvalidSessionInput(argument, "an async function: define it by `async def`")


def replaced(value: object) -> Lease | str | None:
    """The lease of the run that a message replaces, or its ``operation_id``, or None."""
    if value is None:
        return None
    try:
        if not isinstance(value, Lease):
            return identifier("operation_id", value)
        identifier("operation_id", value.operation_id)
        identifier("reply_id", value.reply_id)
    except InvalidSessionInput:
        wanted = "None, or the `lease` of a session under a rerun, or that lease's `operation_id`"
        raise InvalidSessionInput("replaces", wanted) from None
    return value


def question_named(question_id: object) -> Question | None:
    """The session and the number that a ``question_id`` names."""
    if question_id is None:
        return None
    wanted = InvalidSessionInput("question_id", "None, or the `question_id` of a session")
    if not isinstance(question_id, str):
        raise wanted
    try:
        session_id, created_ms, number = question_id.rsplit(":", 2)
        named = Question(identifier("session_id", session_id), int(created_ms), integer("question_number", int(number)))
    except ValueError as error:
        raise wanted from error
    if str(named) != question_id:
        raise wanted
    return named


def checked_claim(call: CallName, claim: object) -> Claim:
    """A claim of a kind that a holder's call is for; its parts are checked like any other argument."""
    held = CALLS[call].held
    names = {_CLASSES[kind].__name__: None for kind in LeaseKind if kind in held}
    wanted = InvalidSessionInput("claim", f"the {' or '.join(names)} that a claim or a renewal returned, unchanged")
    if not isinstance(claim, RerunClaim | ApplyClaim) or not isinstance(claim.kind, LeaseKind):
        raise wanted
    if claim.kind not in held or not isinstance(claim, _CLASSES[claim.kind]):
        raise wanted
    if not isinstance(claim.session, ActiveScheduleSessionSnapshot):
        raise wanted
    try:
        integer("token", claim.token, limit=_TOKEN)
        identifier("operation_id", claim.operation_id)
        if isinstance(claim, RerunClaim):
            identifier("reply_id", claim.reply_id)
        duration("lease", claim.lease)
        # model_copy and model_construct make snapshots without checking them.
        identifier("session_id", claim.session.session_id)
        integer("user_id", claim.session.user_id)
    except InvalidSessionInput as error:
        raise wanted from error
    return claim
