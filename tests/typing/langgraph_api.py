"""What the type checker must infer for a user of `sessions.langgraph`; checked, never run."""

from collections.abc import Sequence
from typing import Any, assert_type

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import MessagesState, StateGraph
from langgraph.types import Interrupt

from sessions import AskUser, Close, Fail, NotAnAnswer, SessionBridge, SessionRepository, ShowPreview, Turn
from sessions.langgraph import GraphRerun, default_ask, default_reply


def finish(values: dict[str, Any]) -> ShowPreview | Close:
    """One of the three."""
    return ShowPreview("p") if values else Close()


async def finish_later(values: dict[str, Any]) -> Fail:
    """An async function serves too."""
    return Fail(str(len(values)))


def ask(interrupts: Sequence[Interrupt[Any]]) -> AskUser | ShowPreview:
    """The rest is left to the default."""
    return default_ask(interrupts)


async def reply(turn: Turn, interrupt: Interrupt[Any]) -> object:
    """The same."""
    return default_reply(turn, interrupt)


async def begun(repository: SessionRepository) -> None:
    """A compiled graph of any state is what the bridge reruns; what it begins with is what the bridge starts with."""
    graph = StateGraph(MessagesState).compile(checkpointer=InMemorySaver())
    rerun = GraphRerun(
        graph, finish=finish, ask=ask, reply=reply, thread_id=lambda user_id, trigger: f"{user_id}{trigger}"
    )
    GraphRerun(graph.with_config(tags=["lesson"]), finish=finish_later)
    bridge = SessionBridge(repository, rerun)
    first = await rerun.begin(7, "t", {"messages": []})
    assert_type(first, AskUser | ShowPreview | Close)
    started = await bridge.start(7, "t", first)
    assert_type(await rerun.forget(started.session), None)


async def ran(rerun: GraphRerun, turn: Turn) -> None:
    """A run answers what any ``rerun`` may."""
    assert_type(await rerun(turn), AskUser | ShowPreview | Close | Fail | NotAnAnswer)
