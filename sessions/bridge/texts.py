"""The texts of users and graphs as the store can keep them: a model's verbosity must not end a session.

Half an emoji is replaced in every text; what the user is asked is cut to its limits, and that is logged.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar, cast

from sessions.bridge.graph import AskUser, Close, Fail
from sessions.domain.limits import TEXT_LISTS, TEXTS, TextLimit
from sessions.log_events import LogEvent, log

Answer = TypeVar("Answer")

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_ELLIPSIS = "…"


def printable(text: str) -> str:
    """The text with half an emoji, or any other lone surrogate, replaced."""
    return "".join(_REPLACEMENT if "\ud800" <= letter <= "\udfff" else letter for letter in text)


def storable(answer: Answer) -> Answer:
    """A graph's answer with texts that can be stored; what is no text is left to its check."""
    match answer:
        case AskUser(question, missing_info):
            told = _cut("pending_question", question, TEXTS["pending_question"])
            return replace(answer, pending_question=told, missing_info=_missing(missing_info))
        case Close(reason) | Fail(reason):
            return replace(answer, reason=printable(reason) if isinstance(cast("object", reason), str) else reason)
    return answer


def _missing(texts: Sequence[str]) -> Sequence[str]:
    limit, given = TEXT_LISTS["missing_info"], cast("object", texts)
    if not isinstance(given, list | tuple):
        return texts
    if len(texts) > limit.most:
        log(LogEvent.ANSWER_TEXTS_LEFT_OUT, argument="missing_info", length=len(texts), longest=limit.most)
    return [_cut("missing_info", text, limit.each) for text in texts[: limit.most]]


def _cut(what: str, text: str, limit: TextLimit) -> str:
    if not isinstance(cast("object", text), str):
        return text
    told = printable(text).strip()
    if len(told) <= limit.longest:
        return told
    log(LogEvent.ANSWER_CUT, argument=what, length=len(told), longest=limit.longest)
    return told[: limit.longest - len(_ELLIPSIS)] + _ELLIPSIS
