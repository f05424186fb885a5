"""What a graph waits for under `GraphRerun`: several interrupts, subgraphs, agents with a human in the loop."""

import asyncio
import operator
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, TypedDict

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import START, StateGraph
from langgraph.types import Interrupt, interrupt

from sessions import (
    ActiveScheduleSessionSnapshot,
    Asked,
    AskUser,
    Close,
    Closed,
    FreeChat,
    NotAnAnswer,
    PreviewShown,
    SessionBridge,
    SessionRepository,
    ShowPreview,
    Turn,
)
from sessions.langgraph import GraphRerun, default_ask, default_reply
from tests.support.held_graph import HeldGraph, Lesson

Saver = BaseCheckpointSaver[Any]


class Answers(TypedDict, total=False):
    """What was answered, in any order."""

    said: Annotated[list[str], operator.add]


def close(values: dict[str, Any]) -> Close:
    """The answers, as the reason."""
    return Close(", ".join(sorted(values["said"])))


async def asked(bridge: SessionBridge, text: str, message_id: str) -> str:
    """The question that a message leads to."""
    outcome = await bridge.handle(7, "c", text, message_id=message_id)
    assert isinstance(outcome, Asked), outcome
    return outcome.session.state.pending_question


async def started(rerun: GraphRerun, bridge: SessionBridge, given: Any = None) -> ActiveScheduleSessionSnapshot:
    """The trigger's session."""
    result = await rerun.begin(7, "t", given or {"said": []})
    outcome = await bridge.start(7, "t", result, conversation_id="c")
    assert isinstance(outcome, Asked)
    return outcome.session


async def test_several_interrupts(repository: SessionRepository, saver: Saver) -> None:
    """They are asked one after the other, each is resumed by its id, and what has ended beside them runs once."""
    effects: list[str] = []
    resumed: list[str] = []

    def asking(question: str) -> Callable[[Answers], Answers]:
        def node(state: Answers) -> Answers:
            said = interrupt(question)
            resumed.append(f"{question} {said}")
            return {"said": [said]}

        return node

    def aside(state: Answers) -> Answers:
        effects.append("aside")
        return {"said": ["aside"]}

    builder = StateGraph(Answers)
    nodes: dict[str, Any] = {"day": asking("Day?"), "time": asking("Time?"), "room": asking("Room?"), "aside": aside}
    for name, node in nodes.items():
        builder.add_node(name, node)
        builder.add_edge(START, name)
    rerun = GraphRerun(builder.compile(checkpointer=saver), finish=close)
    bridge = SessionBridge(repository, rerun)
    session = await started(rerun, bridge)
    questions = [session.state.pending_question]
    questions.append(await asked(bridge, questions[0].upper(), "m1"))
    questions.append(await asked(bridge, questions[1].upper(), "m2"))
    outcome = await bridge.handle(7, "c", questions[2].upper(), message_id="m3")
    assert isinstance(outcome, Closed)
    assert sorted(questions) == ["Day?", "Room?", "Time?"]
    assert sorted(resumed) == ["Day? DAY?", "Room? ROOM?", "Time? TIME?"]
    assert effects == ["aside"]
    assert (await repository.history(session.session_id, user_id=7))[-1].reason == "DAY?, ROOM?, TIME?, aside"


async def test_two_questions_of_one_node(repository: SessionRepository, saver: Saver) -> None:
    """Stopped after the first answer was kept, the message again does not answer the second question."""

    async def node(state: Answers) -> Answers:
        return {"said": [interrupt("Day?"), interrupt("Time?")]}

    builder = StateGraph(Answers)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    rerun = GraphRerun(builder.compile(checkpointer=saver), finish=close)
    bridge = SessionBridge(repository, rerun)
    session = await started(rerun, bridge)
    claim = await repository.claim_rerun(session.session_id, user_id=7, reply_id="m1")
    turn = Turn(session=claim.session, text="Tuesday", message_id="m1", attempt=1)
    assert await rerun(turn) == AskUser("Time?")
    await repository.release(claim)
    assert await asked(bridge, "Tuesday", "m1") == "Time?"
    outcome = await bridge.handle(7, "c", "10:00", message_id="m2")
    assert isinstance(outcome, Closed)
    assert (await repository.history(session.session_id, user_id=7))[-1].reason == "10:00, Tuesday"


@pytest.mark.parametrize("is_called", [False, True], ids=["as a node", "called in a node"])
@pytest.mark.parametrize("checkpointer", [None, True], ids=["anew each time", "with a memory"])
async def test_a_subgraph(repository: SessionRepository, saver: Saver, *, is_called: bool, checkpointer: Any) -> None:
    """A subgraph goes on where it waits; stopped in its middle it goes on there too: each of its nodes runs once."""
    inner, effects = HeldGraph(saver), []
    subgraph = inner.inner(checkpointer)

    async def calling(state: Any) -> Any:
        return await subgraph.ainvoke(state)

    def before(state: Any) -> Any:
        effects.append("before")
        return {}

    builder = StateGraph(Lesson)
    builder.add_node("before", before)
    builder.add_node("sub", calling if is_called else subgraph)
    builder.add_edge(START, "before")
    builder.add_edge("before", "sub")
    graph = builder.compile(checkpointer=saver)
    rerun = GraphRerun(graph, finish=lambda values: Close(f"{values['day']} {values['time']}"))
    bridge = SessionBridge(repository, rerun)
    session = await started(rerun, bridge, {"lesson": "lesson-1"})
    assert session.state.pending_question == "Which day?"
    async with inner.holding("check") as reached:
        running = asyncio.create_task(bridge.handle(7, "c", "Tuesday", message_id="m1"))
        await reached.wait()
        running.cancel()
        await asyncio.wait({running})
    assert inner.effects == ["look lesson-1", "find Tuesday"]
    assert await asked(bridge, "Friday", "m2") == "Friday, at what time?"
    assert inner.effects == ["look lesson-1", "find Tuesday", "find Friday", "check Friday"]
    async with inner.holding("book") as reached:
        running = asyncio.create_task(bridge.handle(7, "c", "10:00", message_id="m3"))
        await reached.wait()
        running.cancel()
        await asyncio.wait({running})
    outcome = await bridge.handle(7, "c", "10:00", message_id="m3")
    assert isinstance(outcome, Closed)
    assert (await repository.history(session.session_id, user_id=7))[-1].reason == "Friday 10:00"
    assert inner.effects[2:] == ["find Friday", "check Friday", "book Friday 10:00"]
    assert effects == ["before"]


# --- agents -----------------------------------------------------------------------------------------------------


class Model(GenericFakeChatModel):
    """A chat model that says what it was told to, and is given tools for nothing."""

    def bind_tools(self, tools: Any, **given: Any) -> "Model":
        """The tools are called by what it says."""
        del tools, given
        return self


def calls(*days: str) -> AIMessage:
    """The model calls the tool, once for each day."""
    return AIMessage("", tool_calls=[{"name": "move", "args": {"day": day}, "id": f"call-{day}"} for day in days])


class Agent:
    """An agent whose tool needs an approval."""

    def __init__(
        self, saver: Saver, *said: AIMessage, mode: Any = "batched", allowed: Any = ("approve", "reject")
    ) -> None:
        self.moved: list[str] = []

        def move(day: str) -> str:
            """Move the lesson."""
            self.moved.append(day)
            return f"moved to {day}"

        middleware: Any = HumanInTheLoopMiddleware(
            interrupt_on={"move": {"allowed_decisions": list(allowed)}}, interrupt_mode=mode
        )
        graph = create_agent(Model(messages=iter(said)), [move], middleware=[middleware], checkpointer=saver)
        self.rerun = GraphRerun(graph, finish=self.finish)

    def finish(self, values: dict[str, Any]) -> Close:
        """What the model said last."""
        self.values = values
        return Close(values["messages"][-1].text)

    given: ClassVar = {"messages": [{"role": "user", "content": "the lesson falls on a holiday"}]}


@pytest.mark.parametrize("mode", ["batched", "per_call"])
async def test_an_agent_that_is_approved(repository: SessionRepository, saver: Saver, mode: str) -> None:
    """The request of the human-in-the-loop middleware is a question; ``yes`` approves it, and the tool runs once."""
    agent = Agent(saver, calls("Tuesday"), AIMessage("done"), mode=mode)
    bridge = SessionBridge(repository, agent.rerun)
    result = await agent.rerun.begin(7, "t", agent.given)
    assert isinstance(result, AskUser)
    assert "move" in result.pending_question
    assert isinstance(result.payload, dict)
    await bridge.start(7, "t", result, conversation_id="c")
    outcome = await bridge.handle(7, "c", " Yes", message_id="m1")
    assert isinstance(outcome, Closed)
    assert agent.moved == ["Tuesday"]
    assert agent.values["messages"][-1].text == "done"


@pytest.mark.parametrize("mode", ["batched", "per_call"])
async def test_an_agent_that_is_rejected(repository: SessionRepository, saver: Saver, mode: str) -> None:
    """Any other text rejects, and is the reason that the model reads: it asks again with another call."""
    agent = Agent(saver, calls("Tuesday"), calls("Friday"), AIMessage("done"), mode=mode)
    bridge = SessionBridge(repository, agent.rerun)
    session = await started(agent.rerun, bridge, agent.given)
    assert "Tuesday" in session.state.pending_question
    assert "Friday" in await asked(bridge, "rather on Friday", "m1")
    assert isinstance(await bridge.handle(7, "c", "approve", message_id="m2"), Closed)
    assert agent.moved == ["Friday"]
    assert any("rather on Friday" in message.text for message in agent.values["messages"])


async def test_an_agent_with_two_actions(repository: SessionRepository, saver: Saver) -> None:
    """One request for two calls is one question, and one approval is a decision on each."""
    agent = Agent(saver, calls("Tuesday", "Friday"), AIMessage("done"))
    bridge = SessionBridge(repository, agent.rerun)
    session = await started(agent.rerun, bridge, agent.given)
    assert "Tuesday" in session.state.pending_question
    assert "Friday" in session.state.pending_question
    assert isinstance(await bridge.handle(7, "c", "yes", message_id="m1"), Closed)
    assert sorted(agent.moved) == ["Friday", "Tuesday"]


async def test_an_agent_with_a_request_for_each_call(repository: SessionRepository, saver: Saver) -> None:
    """Two requests at once are asked one after the other."""
    agent = Agent(saver, calls("Tuesday", "Friday"), AIMessage("done"), mode="per_call")
    bridge = SessionBridge(repository, agent.rerun)
    session = await started(agent.rerun, bridge, agent.given)
    assert "Tuesday" in session.state.pending_question
    assert "Friday" in await asked(bridge, "yes", "m1")
    assert isinstance(await bridge.handle(7, "c", "no", message_id="m2"), Closed)
    assert agent.moved == ["Tuesday"]


@pytest.mark.parametrize("mode", ["batched", "per_call"])
@pytest.mark.parametrize(
    ("allowed", "text", "kind"), [(["respond"], "yes", Closed), (["approve", "edit"], "no", FreeChat)]
)
async def test_what_an_agent_allows(
    repository: SessionRepository, saver: Saver, mode: str, allowed: list[str], text: str, kind: type
) -> None:
    """A text responds where that is all there is; where nothing fits it is no answer, and the question stands."""
    agent = Agent(saver, calls("Tuesday"), AIMessage("done"), mode=mode, allowed=allowed)
    bridge = SessionBridge(repository, agent.rerun)
    await started(agent.rerun, bridge, agent.given)
    assert isinstance(await bridge.handle(7, "c", text, message_id="m1"), kind)
    assert agent.moved == []


# --- what the application says -------------------------------------------------------------------------------------


async def test_an_applications_own_words(repository: SessionRepository, saver: Saver) -> None:
    """``ask`` and ``reply`` may be async; they see what the graph waits for, and leave the rest to the defaults."""
    builder = StateGraph(Answers)
    builder.add_node("day", lambda _: {"said": [interrupt({"of": "day"})]})
    builder.add_node("time", lambda _: {"said": [interrupt("Time?")]})
    builder.add_edge(START, "day")
    builder.add_edge("day", "time")

    async def ask(interrupts: Any) -> AskUser | ShowPreview:
        match interrupts[0].value:
            case {"of": of}:
                return ShowPreview("preview-1", payload=of)
        return default_ask(interrupts)

    async def reply(turn: Turn, interrupt: Interrupt[Any]) -> object:
        return turn.message_id if isinstance(interrupt.value, dict) else default_reply(turn, interrupt)

    rerun = GraphRerun(builder.compile(checkpointer=saver), finish=close, ask=ask, reply=reply)
    bridge = SessionBridge(repository, rerun)
    first = await bridge.start(7, "t", await rerun.begin(7, "t", {"said": []}), conversation_id="c")
    assert isinstance(first, PreviewShown)
    assert first.payload == "day"
    changed = await bridge.refine(7, first.session.session_id, "other", preview_id="preview-1", message_id="m1")
    assert isinstance(changed, Asked)
    outcome = await bridge.handle(7, "c", "10:00", message_id="m2")
    assert isinstance(outcome, Closed)
    assert (await repository.history(first.session.session_id, user_id=7))[-1].reason == "10:00, m1"


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        ("Day?", AskUser("Day?")),
        ({"question": "Day?"}, AskUser("Day?")),
        ({"missing_info": ["day"], "payload": 1}, AskUser(missing_info=["day"], payload=1)),
        ({"preview_id": "p", "payload": 1}, ShowPreview("p", payload=1)),
        (
            {"type": "tool_approval", "name": "move"},
            AskUser("move?", payload={"type": "tool_approval", "name": "move"}),
        ),
    ],
)
def test_what_an_interrupt_means(value: object, answer: object) -> None:
    """The first interrupt is what is asked, by its value."""
    assert default_ask([Interrupt(value), Interrupt("Time?")]) == answer


@pytest.mark.parametrize("value", [None, 3, {"secret": "Tuesday"}, {"preview_id": 3}, ["Day?"]])
def test_an_interrupt_that_means_nothing(value: object) -> None:
    """It is refused by its kind; the value, which may quote the user, is not shown."""
    with pytest.raises(TypeError, match="give GraphRerun an ask") as refused:
        default_ask([Interrupt(value)])
    assert "Tuesday" not in str(refused.value)


async def test_a_graph_that_stops_at_a_breakpoint(saver: Saver) -> None:
    """A breakpoint asks nobody anything; it is named."""
    builder = StateGraph(Answers)
    builder.add_node("day", lambda _: {"said": ["Tuesday"]})
    builder.add_edge(START, "day")
    rerun = GraphRerun(builder.compile(checkpointer=saver, interrupt_before=["day"]), finish=close)
    with pytest.raises(RuntimeError, match="stopped before day without an interrupt"):
        await rerun.begin(7, "t", {"said": []})


def test_no_decision_is_made_for_the_user() -> None:
    """A text that no decision fits is no answer."""
    turn: Any = type("Turn", (), {"text": "hm"})
    with pytest.raises(NotAnAnswer):
        default_reply(turn, Interrupt({"type": "tool_approval", "name": "move"}))
