"""Messages at random under `GraphRerun`, stopped, taken over, told apart: the graph has taken in what was recorded."""

import asyncio
import operator
from dataclasses import dataclass, field
from random import Random
from typing import Annotated, Any, Final, TypedDict

import pytest
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import START, StateGraph
from langgraph.pregel import Pregel
from langgraph.types import interrupt

from sessions import Asked, Close, FreeChat, NotAnAnswer, SessionBridge, SessionRepository, Superseded
from sessions.langgraph import GraphRerun
from sessions.testing import Backend, MovedClock

Saver = BaseCheckpointSaver[Any]
NODES: Final = ("ask", "first", "second")
MESSAGES: Final = 12


class Heard(TypedDict, total=False):
    """What was said, and what the nodes after it made of that."""

    said: Annotated[list[str], operator.add]


def heard(text: str) -> list[str]:
    """What one message leaves on a clean path."""
    return [text, f"first {text}", f"second {text}"]


class Worker:
    """One process; it can be held in a node, for good or until it is let go as a late one."""

    def __init__(self, repository: SessionRepository, saver: Saver, shape: str) -> None:
        self.held_in = ""
        self.reached, self.released = asyncio.Event(), asyncio.Event()
        graph = self.inner(saver) if shape == "flat" else self.outer(saver, is_called=shape == "called")
        self.rerun = GraphRerun(graph, finish=lambda _: Close())
        self.bridge = SessionBridge(repository, self.rerun)

    async def pause(self, node: str) -> None:
        """Wait in a node that is held."""
        if node == self.held_in:
            self.reached.set()
            await self.released.wait()

    def inner(self, saver: Saver | None) -> Pregel[Any, Any, Any, Any]:
        """Asks again and again, and does something with each answer."""

        async def ask(_: Heard) -> Heard:
            text: str = interrupt("And then?")
            if text.endswith("?"):
                raise NotAnAnswer
            await self.pause("ask")
            return {"said": [text]}

        async def first(state: Heard) -> Heard:
            await self.pause("first")
            return {"said": [f"first {state['said'][-1]}"]}

        async def second(state: Heard) -> Heard:
            await self.pause("second")
            return {"said": [f"second {state['said'][-2]}"]}

        builder = StateGraph(Heard)
        nodes: dict[str, Any] = {"ask": ask, "first": first, "second": second}
        for name, node in nodes.items():
            builder.add_node(name, node)
        builder.add_edge(START, "ask")
        for before, after in zip(NODES, (*NODES[1:], "ask"), strict=True):
            builder.add_edge(before, after)
        return builder.compile(checkpointer=saver)

    def outer(self, saver: Saver, *, is_called: bool) -> Pregel[Any, Any, Any, Any]:
        """The same as a subgraph."""
        inner = self.inner(None)

        async def call(state: Heard) -> Any:
            return await inner.ainvoke(state)

        builder = StateGraph(Heard)
        node: Any = call if is_called else inner
        builder.add_node("inner", node)
        builder.add_edge(START, "inner")
        return builder.compile(checkpointer=saver)


@dataclass
class Conversation:
    """What is done to one session, and what of it was recorded."""

    worker: Worker
    clock: MovedClock
    name: str
    random: Random
    recorded: list[str] = field(default_factory=list)
    late: list[tuple[Worker, "asyncio.Task[Any]", str]] = field(default_factory=list)

    def handle(self, worker: Worker, text: str) -> "asyncio.Task[Any]":
        """A message; its text is its id."""
        return asyncio.create_task(worker.bridge.handle(7, self.name, text, message_id=text))

    async def interrupted(self, worker: Worker, text: str) -> bool:
        """Whether the message was stopped, or its lease lapsed, in one of its nodes; else it was recorded."""
        worker.held_in = self.random.choice(NODES)
        running, reached = self.handle(worker, text), asyncio.create_task(worker.reached.wait())
        await asyncio.wait({running, reached}, return_when=asyncio.FIRST_COMPLETED)
        reached.cancel()
        if running.done():  # what was left to do lay behind the node
            self.record(running.result(), text)
            return False
        if self.random.random() < 0.5:
            running.cancel()
            await asyncio.wait({running})
        else:
            self.clock.advance(seconds=61)
            self.late.append((worker, running, text))
        return True

    async def let_go(self, *, share: float = 1.0) -> set[str]:
        """Let late workers go on; which messages they could still record."""
        let_go = [each for each in self.late if self.random.random() < share]
        self.late = [each for each in self.late if each not in let_go]
        for worker, running, text in let_go:
            worker.released.set()
            if not isinstance(await running, Superseded):
                self.record(running.result(), text)
        return {text for _, running, text in let_go if isinstance(running.result(), Asked)}

    def record(self, outcome: object, text: str) -> None:
        """The message was taken in."""
        assert isinstance(outcome, Asked), outcome
        self.recorded += heard(text)


@pytest.mark.parametrize("shape", ["flat", "sub", "called"])
async def test_what_the_graph_has_taken_in(
    repository: SessionRepository, session_clock: MovedClock, backend: Backend, saver: Saver, shape: str
) -> None:
    """In whatever order messages are stopped, taken over, repeated and told apart, each recorded one counts once."""
    for seed in range(1 if backend.is_real else 6):
        random, name = Random(seed), f"c{seed}"
        worker = Worker(repository, saver, shape)
        talk = Conversation(worker, session_clock, name, random)
        await worker.bridge.start(7, name, await worker.rerun.begin(7, name, {"said": []}), conversation_id=name)
        repeated = ""
        for number in range(MESSAGES):
            text = repeated if repeated and random.random() < 0.5 else f"m{number}"
            worker = Worker(repository, saver, shape)
            match random.choice(["recorded", "interrupted", "aside"]):
                case "recorded":
                    talk.record(await talk.handle(worker, text), text)
                    repeated = ""
                case "interrupted":
                    repeated = text if await talk.interrupted(worker, text) else ""
                case "aside":
                    assert isinstance(await talk.handle(worker, f"aside {number}?"), FreeChat)
            if repeated in await talk.let_go(share=0.4):
                repeated = ""
        talk.record(await talk.handle(Worker(repository, saver, shape), "end"), "end")
        await talk.let_go()
        session = await repository.latest(7, name)
        assert session is not None
        thread: Any = {"configurable": {"thread_id": f"{session.key_prefix}:{session.fencing_token}"}}
        said = [each.checkpoint["channel_values"].get("said", []) async for each in saver.alist(thread)]
        assert max(said, key=len) == talk.recorded, seed
