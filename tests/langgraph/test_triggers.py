"""`GraphRerun.begin`: a trigger's first run, once, however often it is delivered; and a session's end."""

import asyncio
from typing import Any

import pytest
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import START, StateGraph
from langgraph.types import Interrupt

from sessions import (
    AlreadyHandled,
    Asked,
    AskUser,
    Close,
    Closed,
    Fail,
    InvalidSessionInput,
    PreviewShown,
    RerunFailed,
    SessionBridge,
    SessionRepository,
    Turn,
)
from sessions.langgraph import GraphRerun
from sessions.testing import MovedClock
from tests.support.held_graph import HeldGraph, Lesson

Saver = BaseCheckpointSaver[Any]
ASKED = AskUser("Which day?")
INPUT = {"lesson": "lesson-1"}


async def stored(saver: Saver) -> list[Any]:
    """All that the checkpointer holds."""
    return [
        (each.config["configurable"], each.checkpoint["channel_versions"], each.metadata, each.pending_writes)
        async for each in saver.alist(None)
    ]


async def test_delivered_again(saver: Saver) -> None:
    """It runs nothing, gives the same answer and writes nothing."""
    graph = HeldGraph(saver)
    assert await graph.rerun.begin(7, "t", INPUT) == ASKED
    before = await stored(saver)
    again = HeldGraph(saver, graph.effects)
    assert await again.rerun.begin(7, "t", INPUT) == ASKED
    assert graph.effects == ["look lesson-1"]
    assert await stored(saver) == before


async def test_delivered_twice_at_once(saver: Saver) -> None:
    """In one process one of them runs the graph, and both give its answer."""
    graph = HeldGraph(saver)
    async with graph.holding("look") as reached:
        both = [asyncio.create_task(graph.rerun.begin(7, "t", INPUT)) for _ in range(2)]
        await reached.wait()
    assert await asyncio.gather(*both) == [ASKED, ASKED]
    assert graph.effects == ["look lesson-1"]


async def test_delivered_twice_at_once_and_one_is_cancelled(saver: Saver) -> None:
    """The one that waits goes on where the cancelled one was stopped."""
    graph = HeldGraph(saver)
    async with graph.holding("look") as reached:
        first, second = (asyncio.create_task(graph.rerun.begin(7, "t", INPUT)) for _ in range(2))
        await reached.wait()
        first.cancel()
        await asyncio.wait({first})
        assert first.cancelled()
    assert await second == ASKED
    assert graph.effects == ["look lesson-1"]


async def test_delivered_to_two_workers_at_once(repository: SessionRepository, saver: Saver) -> None:
    """Both may run; the answer of whichever ends first is that of both, and what the session goes on from."""
    late, graph = HeldGraph(saver), HeldGraph(saver)
    late.question = "Which day, I ask too late?"
    async with late.holding("look") as reached:
        running = asyncio.create_task(late.rerun.begin(7, "t", INPUT))
        await reached.wait()
        answer = await graph.rerun.begin(7, "t", INPUT)
    assert await running == answer == ASKED
    assert late.effects == graph.effects == ["look lesson-1"]
    bridge = SessionBridge(repository, graph.rerun)
    started = await bridge.start(7, "t", answer, conversation_id="c")
    assert isinstance(started, Asked)
    claim = await repository.claim_rerun(started.session.session_id, user_id=7, reply_id="m1")
    asked: list[str] = []

    def reply(turn: Turn, interrupt: Interrupt[Any]) -> object:
        asked.append(interrupt.value)
        return turn.text

    rerun = GraphRerun(late.graph, finish=lambda _: Close(), reply=reply)
    await rerun(Turn(session=claim.session, text="Tuesday", message_id="m1", attempt=1))
    assert asked == ["Which day?"]


@pytest.mark.parametrize("node", ["look", "second"])
async def test_whose_worker_died(saver: Saver, node: str) -> None:
    """Delivered again it goes on where the dead worker was."""
    effects: list[str] = []

    def worker() -> HeldGraph:
        graph = HeldGraph(saver, effects)
        builder = StateGraph(Lesson)

        async def second(state: Lesson) -> Lesson:
            await graph.do("second")
            return {}

        builder.add_node("look", graph.look)
        builder.add_node("second", second)
        builder.add_node("ask_day", graph.ask_day)
        builder.add_edge(START, "look")
        builder.add_edge("look", "second")
        builder.add_edge("second", "ask_day")
        graph.rerun = GraphRerun(builder.compile(checkpointer=saver), finish=lambda _: Close())
        return graph

    dead = worker()
    async with dead.holding(node) as reached:
        running = asyncio.create_task(dead.rerun.begin(7, "t", INPUT))
        await reached.wait()
        running.cancel()
        await asyncio.wait({running})
    assert await worker().rerun.begin(7, "t", INPUT) == ASKED
    assert effects == ["look lesson-1", "second"]


async def test_once_the_session_has_moved_on(repository: SessionRepository, saver: Saver) -> None:
    """A trigger that is delivered late disturbs nothing: the next message goes on as if it had not been."""
    graph = HeldGraph(saver)
    bridge = SessionBridge(repository, graph.rerun)
    await bridge.start(7, "t", await graph.rerun.begin(7, "t", INPUT), conversation_id="c")
    await bridge.handle(7, "c", "Tuesday", message_id="m1")
    before = await stored(saver)
    again = await graph.rerun.begin(7, "t", INPUT)
    assert isinstance(await bridge.start(7, "t", again, conversation_id="c"), AlreadyHandled)
    assert await stored(saver) == before
    shown = await bridge.handle(7, "c", "10:00", message_id="m2")
    assert isinstance(shown, PreviewShown)
    assert graph.effects == ["look lesson-1", "find Tuesday", "check Tuesday", "book Tuesday 10:00"]


def ending(saver: Saver, result: Any) -> GraphRerun:
    """A graph that comes to its end at once, and to this."""
    builder = StateGraph(Lesson)
    builder.add_node("look", lambda _: {"day": "Tuesday"})
    builder.add_edge(START, "look")

    async def finish(values: dict[str, Any]) -> Any:
        return result

    return GraphRerun(builder.compile(checkpointer=saver), finish=finish)


async def test_a_first_run_that_fails(repository: SessionRepository, saver: Saver) -> None:
    """There is no session to end as failed: the trigger is kept as ``ignored``, and says why."""
    rerun = ending(saver, Fail("the calendar is closed", payload=1))
    first = await rerun.begin(7, "t", INPUT)
    assert first == Close("the calendar is closed", payload=1)
    closed = await SessionBridge(repository, rerun).start(7, "t", first)
    assert isinstance(closed, Closed)
    assert (await repository.history(closed.session.session_id, user_id=7))[-1].reason == "the calendar is closed"


async def test_a_session_that_was_not_begun(repository: SessionRepository, saver: Saver) -> None:
    """A session that another hand started has no graph to go on with; it says so."""
    bridge = SessionBridge(repository, HeldGraph(saver).rerun)
    await bridge.start(7, "t", ASKED, conversation_id="c")
    outcome = await bridge.handle(7, "c", "Tuesday", message_id="m1")
    assert isinstance(outcome, RerunFailed)
    assert outcome.session.state.failed_reason == "the graph raised RuntimeError"


async def test_a_purged_triggers_second_life(
    repository: SessionRepository, session_clock: MovedClock, saver: Saver
) -> None:
    """It begins at the trigger's first answer, and meets nothing of what was said in its first life."""
    graph = HeldGraph(saver)
    bridge = SessionBridge(repository, graph.rerun)
    for day in ("Tuesday", "Friday"):
        started = await bridge.start(7, "t", await graph.rerun.begin(7, "t", INPUT), conversation_id="c")
        assert isinstance(started, Asked)
        asked = await bridge.handle(7, "c", day, message_id="m1")
        assert isinstance(asked, Asked)
        assert asked.session.state.pending_question == f"{day}, at what time?"
        await bridge.dismiss(7, started.session.session_id)
        session_clock.advance(days=1)
        assert await repository.purge(ended_before=session_clock()) == 1
    assert graph.effects == ["look lesson-1", "find Tuesday", "check Tuesday", "find Friday", "check Friday"]


async def test_a_session_that_is_forgotten(repository: SessionRepository, saver: Saver) -> None:
    """Nothing of it is left; its trigger begins anew. What other sessions have stays."""
    graph = HeldGraph(saver)
    bridge = SessionBridge(repository, graph.rerun)
    for trigger_id, conversation_id in (("other", "d"), ("t", "c")):
        result = await graph.rerun.begin(7, trigger_id, INPUT)
        await bridge.start(7, trigger_id, result, conversation_id=conversation_id)
    before = await stored(saver)
    await bridge.handle(7, "c", "Tuesday", message_id="m1")
    shown = await bridge.handle(7, "c", "10:00", message_id="m2")
    assert isinstance(shown, PreviewShown)
    await graph.rerun.forget(shown.session)
    left = {place["thread_id"] for place, *_ in await stored(saver)}
    assert left == {
        place["thread_id"] for place, *_ in before if not place["thread_id"].startswith(shown.session.session_id)
    }
    assert await graph.rerun.begin(7, "t", INPUT) == ASKED
    assert graph.effects.count("look lesson-1") == 3


async def test_threads_are_named_by_the_application(repository: SessionRepository, saver: Saver) -> None:
    """``thread_id`` gives what all of a trigger's threads begin with."""
    held = HeldGraph(saver)
    rerun = GraphRerun(held.graph, finish=lambda _: Close(), thread_id=lambda user_id, trigger: f"u{user_id}-{trigger}")
    bridge = SessionBridge(repository, rerun)
    await bridge.start(7, "t", await rerun.begin(7, "t", INPUT), conversation_id="c")
    await bridge.handle(7, "c", "Tuesday", message_id="m1")
    assert {place["thread_id"].startswith("u7-t") for place, *_ in await stored(saver)} == {True}


async def test_bad_input(saver: Saver) -> None:
    """An id outside its limits is refused before anything is sent; so is a graph without a checkpointer."""
    with pytest.raises(InvalidSessionInput, match="user_id"):
        await HeldGraph(saver).rerun.begin(0, "t", INPUT)
    assert await stored(saver) == []
    builder = StateGraph(Lesson)
    builder.add_node("look", lambda _: {})
    builder.add_edge(START, "look")
    with pytest.raises(InvalidSessionInput, match="checkpointer"):
        GraphRerun(builder.compile(), finish=lambda _: Close())
