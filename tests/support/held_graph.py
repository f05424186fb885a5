"""A graph that counts what its nodes do, and whose nodes a test can hold."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypedDict

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import END, START, StateGraph
from langgraph.pregel import Pregel
from langgraph.types import interrupt

from sessions import Close, NotAnAnswer, ShowPreview
from sessions.langgraph import GraphRerun


class Lesson(TypedDict, total=False):
    """The graph's own state."""

    lesson: str
    day: str
    time: str


class HeldGraph:
    """Looks a lesson up, asks for a day, finds and checks a room, asks for a time, books; then waits at a preview.

    Each instance is another worker: they share the checkpointer alone.
    """

    def __init__(
        self, saver: BaseCheckpointSaver[Any], effects: list[str] | None = None, *, is_nested: bool = False
    ) -> None:
        self.effects = effects if effects is not None else []
        self.question = "Which day?"
        self.held: dict[str, tuple[asyncio.Event, asyncio.Event]] = {}
        self.broken: dict[str, BaseException] = {}
        self.graph = self.outer(saver) if is_nested else self.flat(saver)
        self.rerun = GraphRerun(self.graph, finish=lambda values: Close(f"no lesson on {values['day']}"))

    def flat(self, saver: BaseCheckpointSaver[Any]) -> Pregel[Any, Any, Any, Any]:
        """The whole graph."""
        builder = StateGraph(Lesson)
        for name in ("look", "ask_day", "find", "check", "ask_time", "book", "propose"):
            builder.add_node(name, getattr(self, name))
        builder.add_edge(START, "look")
        builder.add_edge("look", "ask_day")
        builder.add_conditional_edges("ask_day", lambda state: END if state["day"] == "never" else "find")
        builder.add_edge("find", "check")
        builder.add_edge("check", "ask_time")
        builder.add_edge("ask_time", "book")
        builder.add_edge("book", "propose")
        builder.add_edge("propose", "book")
        return builder.compile(checkpointer=saver)

    def outer(self, saver: BaseCheckpointSaver[Any]) -> Pregel[Any, Any, Any, Any]:
        """The same without its preview, within another graph."""
        builder = StateGraph(Lesson)
        builder.add_node("lesson", self.inner(None))
        builder.add_edge(START, "lesson")
        return builder.compile(checkpointer=saver)

    def inner(self, checkpointer: bool | None) -> Pregel[Any, Any, Any, Any]:  # noqa: FBT001 - as LangGraph has it
        """Without its preview, as a subgraph."""
        builder = StateGraph(Lesson)
        names = ("look", "ask_day", "find", "check", "ask_time", "book")
        for before, name in zip((START, *names), names, strict=False):
            builder.add_node(name, getattr(self, name))
            builder.add_edge(before, name)
        return builder.compile(checkpointer=checkpointer)

    @asynccontextmanager
    async def holding(self, node: str) -> AsyncIterator[asyncio.Event]:
        """Hold a node before it does its work, until the block ends; gives what is set when it is reached."""
        reached, released = asyncio.Event(), asyncio.Event()
        self.held[node] = reached, released
        try:
            yield reached
        finally:
            self.held.pop(node, None)
            released.set()

    async def do(self, node: str, what: str = "") -> None:
        """A side effect."""
        if node in self.held:
            reached, released = self.held[node]
            reached.set()
            await released.wait()
        if node in self.broken:
            raise self.broken.pop(node)
        self.effects.append(f"{node} {what}".strip())

    async def look(self, state: Lesson) -> Lesson:
        """Before anybody is asked."""
        await self.do("look", state.get("lesson", ""))
        return {}

    async def ask_day(self, state: Lesson) -> Lesson:
        """A question that is a text; a side question comes back as such."""
        del state
        day: str = interrupt(self.question)
        if day.endswith("?"):
            raise NotAnAnswer(day)
        return {"day": day}

    async def find(self, state: Lesson) -> Lesson:
        """The first node after the answer."""
        await self.do("find", state["day"])
        return {}

    async def check(self, state: Lesson) -> Lesson:
        """The second one."""
        await self.do("check", state["day"])
        return {}

    async def ask_time(self, state: Lesson) -> Lesson:
        """A question that is a mapping."""
        return {"time": interrupt({"question": f"{state['day']}, at what time?", "missing_info": ["time"]})}

    async def book(self, state: Lesson) -> Lesson:
        """What is shown afterwards."""
        await self.do("book", f"{state['day']} {state['time']}")
        return {}

    async def propose(self, state: Lesson, config: RunnableConfig) -> Lesson:
        """A preview, which the next message changes."""
        preview_id = f"preview-{config['metadata']['session_message_id']}"
        return {"time": interrupt({"preview_id": preview_id, "payload": f"{state['day']} at {state['time']}"})}


def shown(answer: object) -> str:
    """The preview's payload."""
    assert isinstance(answer, ShowPreview)
    return str(answer.payload)
