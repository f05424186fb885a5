"""What an interrupt of a graph asks, and what a message answers to it."""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from sessions.bridge.graph import AskUser, Close, NotAnAnswer, ShowPreview, Turn
from sessions.extras import needs_extra

with needs_extra("langgraph", "sessions.langgraph"):
    from langgraph.types import Interrupt  # noqa: TC002 - before langgraph 1.1 it takes no parameters, so it is quoted

Ask = Callable[[Sequence["Interrupt[Any]"]], AskUser | ShowPreview | Close | Awaitable[AskUser | ShowPreview | Close]]
"""Turns what a graph waits for into an answer; the next message resumes the first one. A function or an async one."""
Reply = Callable[[Turn, "Interrupt[Any]"], object]
"""Turns a message into what its interrupt is resumed with; a function or an async one."""

_APPROVALS: Final = frozenset({"approve", "yes"})


def default_ask(interrupts: Sequence["Interrupt[Any]"]) -> AskUser | ShowPreview:
    """What the first of a graph's interrupts means, by its value.

    Args:
        interrupts: What the graph waits for. The value of the first one is a text, the question; a mapping with
            ``question``, ``missing_info`` or both; a mapping with ``preview_id``, the preview to show, and perhaps to
            change; or a request of LangChain's `HumanInTheLoopMiddleware`. A mapping's ``payload`` is the answer's, as
            is the request itself.

    Returns:
        `AskUser` or `ShowPreview`.

    Raises:
        TypeError: The value is something else.
    """
    value = interrupts[0].value
    match value:
        case str():
            return AskUser(value)
        case {"action_requests": [*requests]}:
            return AskUser("\n\n".join(map(_described, requests)), payload=value)
        case {"type": "tool_approval"}:
            return AskUser(_described(value), payload=value)
        case {"preview_id": str(preview_id)}:
            return ShowPreview(preview_id, payload=value.get("payload"))
        case {"question": _} | {"missing_info": _}:
            question, missing_info = value.get("question", ""), value.get("missing_info", ())
            return AskUser(question, missing_info, payload=value.get("payload"))
    kind = type(value).__name__
    raise TypeError(f"an interrupt of the graph holds {kind}: give GraphRerun an ask=... that says what it means")


def _described(request: Mapping[str, Any]) -> str:
    return str(request.get("description") or f"{request['name']}?")


def default_reply(turn: Turn, interrupt: "Interrupt[Any]") -> object:
    """What an interrupt is resumed with: the message's text, or the decisions that a request for approval awaits.

    Only ``approve`` and ``yes`` approve, for all actions of the request. Any other text rejects them, as the reason
    that the model reads; where rejecting is not allowed it is the response.

    Args:
        turn: The message.
        interrupt: What the graph waits for.

    Raises:
        NotAnAnswer: The text approves nothing, and neither ``reject`` nor ``respond`` is allowed.
    """
    match interrupt.value:
        case {"action_requests": [*_], "review_configs": [*configs]}:
            return {"decisions": [_decision(turn.text, each["allowed_decisions"]) for each in configs]}
        case {"type": "tool_approval"}:
            return _decision(turn.text, set(_constants(getattr(interrupt, "response_schema", None))))
    return turn.text


def _decision(text: str, allowed: Sequence[str] | set[str]) -> dict[str, str]:
    if "approve" in allowed and text.strip().casefold() in _APPROVALS:
        return {"type": "approve"}
    for kind in ("reject", "respond"):
        if kind in allowed:
            return {"type": kind, "message": text}
    raise NotAnAnswer


def _constants(schema: object) -> Iterator[str]:
    """The constants within a JSON schema: of a request for one approval, the decisions that it allows."""
    if isinstance(schema, Mapping):
        if isinstance(constant := schema.get("const"), str):
            yield constant
        for part in schema.values():
            yield from _constants(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from _constants(part)
