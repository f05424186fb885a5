"""What is told of anybody's exception: its kinds and where it was raised, never its text, which may quote a user."""

import traceback
from collections.abc import Iterator
from itertools import islice
from typing import Final

_LONGEST_NAME: Final = 200
_MOST_WITHIN: Final = 1_000
_MOST_TOLD: Final = 20


def kind_of(found: object) -> str:
    """The name of a value's type, short enough for a reason."""
    return type(found).__name__[:_LONGEST_NAME]


def _each(error: BaseException) -> Iterator[BaseException]:
    waiting, seen = [error], set[int]()
    while waiting:
        found = waiting.pop(0)
        if id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        if isinstance(found, BaseExceptionGroup):
            waiting += found.exceptions
        behind = found.__cause__ or (None if found.__suppress_context__ else found.__context__)
        if behind is not None:
            waiting.append(behind)


def all_within(error: BaseException, most: int = _MOST_WITHIN) -> list[BaseException]:
    """An error and what stands behind it: the members of a group, and what it was raised from, the nearest first."""
    return list(islice(_each(error), most))


def reason_of(what: str, error: BaseException) -> str:
    """Why something failed, by the kinds of the errors."""
    first, *within = dict.fromkeys(map(kind_of, all_within(error, _MOST_TOLD)))
    return f"{what} raised {first} ({', '.join(within)})" if within else f"{what} raised {first}"


def traces_of(error: BaseException) -> str:
    """Where each of the errors was raised; the lines of source hold no value."""
    told = [
        f"{kind_of(each)}:\n{''.join(traceback.format_tb(each.__traceback__)).rstrip()}"
        for each in all_within(error, _MOST_TOLD)
    ]
    return "\n".join(told)
