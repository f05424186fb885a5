"""`GraphRerun`: a message resumes the graph once, and what a run did that nobody recorded leaves no trace."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from itertools import chain
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.channels import DeltaChannel
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt

from sessions import (
    ActiveScheduleSessionSnapshot,
    AlreadyHandled,
    Asked,
    AskUser,
    Close,
    Closed,
    Deferred,
    FreeChat,
    NotAnAnswer,
    PreviewShown,
    RerunFailed,
    SessionBridge,
    SessionRepository,
    SessionStatus,
    ShowPreview,
    Stopped,
    Superseded,
    TimedOut,
    TryAgain,
    Turn,
    WhileRunning,
)
from sessions.langgraph import GraphRerun
from sessions.testing import MovedClock
from tests.support.held_graph import HeldGraph, Lesson

Saver = BaseCheckpointSaver[Any]
TUESDAY = ["look lesson-1", "find Tuesday", "check Tuesday"]


async def begun(graph: HeldGraph, bridge: SessionBridge, trigger_id: str = "t") -> ActiveScheduleSessionSnapshot:
    """The trigger's session, asked in conversation ``c``."""
    result = await graph.rerun.begin(7, trigger_id, {"lesson": "lesson-1"})
    started = await bridge.start(7, trigger_id, result, conversation_id="c")
    assert isinstance(started, Asked)
    return started.session


async def stored(saver: Saver) -> dict[str, list[Any]]:
    """All that the checkpointer holds, by its threads."""
    threads: dict[str, list[Any]] = {}
    async for each in saver.alist(None):
        kept = (each.config, each.checkpoint["channel_values"], each.metadata, each.pending_writes)
        threads.setdefault(each.config["configurable"]["thread_id"], []).append(kept)
    return threads


def thread_of(session: ActiveScheduleSessionSnapshot, token: int) -> str:
    """The thread of a claim's run."""
    return f"{session.key_prefix}:{token}"


async def test_a_conversation(repository: SessionRepository, saver: Saver) -> None:
    """Each message resumes the graph: to the next question, to the preview, to a changed preview."""
    graph = HeldGraph(saver)
    bridge = SessionBridge(repository, graph.rerun)
    session = await begun(graph, bridge)
    assert session.state.pending_question == "Which day?"
    asked = await bridge.handle(7, "c", "Tuesday", message_id="m1")
    assert isinstance(asked, Asked)
    assert (asked.session.state.pending_question, asked.session.state.missing_info) == (
        "Tuesday, at what time?",
        ("time",),
    )
    shown = await bridge.handle(7, "c", "10:00", message_id="m2")
    assert isinstance(shown, PreviewShown)
    assert (shown.session.current_preview_id, shown.payload) == ("preview-m2", "Tuesday at 10:00")
    changed = await bridge.refine(7, session.session_id, "11:00", preview_id="preview-m2", message_id="m3")
    assert isinstance(changed, PreviewShown)
    assert (changed.session.current_preview_id, changed.payload) == ("preview-m3", "Tuesday at 11:00")
    assert graph.effects == [*TUESDAY, "book Tuesday 10:00", "book Tuesday 11:00"]


async def test_a_graph_that_ends(repository: SessionRepository, saver: Saver) -> None:
    """A graph that has come to its end is asked by ``finish`` what that means."""
    graph = HeldGraph(saver)
    bridge = SessionBridge(repository, graph.rerun)
    await begun(graph, bridge)
    closed = await bridge.handle(7, "c", "never", message_id="m1")
    assert isinstance(closed, Closed)
    assert (await repository.history(closed.session.session_id, user_id=7))[-1].reason == "no lesson on never"


async def test_five_replies_at_once_resume_once(repository: SessionRepository, saver: Saver) -> None:
    """Of five replies to one question, one of them delivered twice, one resumes the graph."""
    graph = HeldGraph(saver)
    bridge = SessionBridge(repository, graph.rerun)
    session = await begun(graph, bridge)
    deliveries = [
        bridge.handle(7, "c", "Tuesday", message_id=message_id, question_id=session.question_id)
        for message_id in ("m1", "m1", "m2", "m3", "m4")
    ]
    outcomes = await asyncio.gather(*deliveries, return_exceptions=True)
    assert sum(isinstance(outcome, Asked) for outcome in outcomes) == 1
    assert {type(outcome).__name__ for outcome in outcomes} <= {"Asked", "Held", "AlreadyHandled", "StaleReply"}
    assert graph.effects == TUESDAY


# --- stopped, replaced, taken over, retried ---------------------------------------------------------------------


async def stopped_midway(
    graph: HeldGraph, bridge: SessionBridge, node: str = "check", *, by_button: str | None = None
) -> None:
    """Message ``m1`` is claimed, and cancelled before this node does its work; ``by_button`` is its session's id."""
    async with graph.holding(node) as reached:
        running = asyncio.create_task(bridge.handle(7, "c", "Tuesday", message_id="m1"))
        await reached.wait()
        if by_button is not None:
            assert isinstance(await bridge.stop(7, by_button), Stopped)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running


@pytest.mark.parametrize("by_button", [True, False], ids=["by the button", "cancelled"])
@pytest.mark.parametrize("node", ["find", "check"])
async def test_a_stopped_message_that_comes_again(
    repository: SessionRepository, saver: Saver, node: str, *, by_button: bool
) -> None:
    """The same message goes on where it was stopped: no node that had ended runs twice."""
    graph = HeldGraph(saver)
    bridge = SessionBridge(repository, graph.rerun)
    session = await begun(graph, bridge)
    await stopped_midway(graph, bridge, node, by_button=session.session_id if by_button else None)
    again = HeldGraph(saver, graph.effects)
    outcome = await SessionBridge(repository, again.rerun).handle(7, "c", "Tuesday", message_id="m1")
    assert isinstance(outcome, Asked)
    assert outcome.session.state.pending_question == "Tuesday, at what time?"
    assert graph.effects == TUESDAY


async def test_a_stopped_message_that_another_follows(repository: SessionRepository, saver: Saver) -> None:
    """Another message goes on from where the session stands: of the stopped one it meets nothing."""
    graph = HeldGraph(saver)
    bridge = SessionBridge(repository, graph.rerun)
    await begun(graph, bridge)
    await stopped_midway(graph, bridge)
    outcome = await bridge.handle(7, "c", "Friday", message_id="m2")
    assert isinstance(outcome, Asked)
    assert outcome.session.state.pending_question == "Friday, at what time?"
    assert graph.effects == ["look lesson-1", "find Tuesday", "find Friday", "check Friday"]
    shown = await bridge.handle(7, "c", "10:00", message_id="m3")
    assert isinstance(shown, PreviewShown)
    assert shown.payload == "Friday at 10:00"


async def test_a_message_that_replaces_the_run(repository: SessionRepository, saver: Saver) -> None:
    """It meets nothing of the run that it replaces, which is in the middle of a node, and ends without effect."""
    older, graph = HeldGraph(saver), HeldGraph(saver)
    older_bridge, bridge = (SessionBridge(repository, each.rerun) for each in (older, graph))
    await begun(older, older_bridge)
    async with older.holding("check") as reached:
        running = asyncio.create_task(older_bridge.handle(7, "c", "Tuesday", message_id="m1"))
        await reached.wait()
        outcome = await bridge.handle(7, "c", "Friday", message_id="m2", while_running=WhileRunning.REPLACE)
    assert isinstance(outcome, Asked)
    assert outcome.session.state.pending_question == "Friday, at what time?"
    assert isinstance(await running, Superseded)
    assert graph.effects == ["find Friday", "check Friday"]
    shown = await bridge.handle(7, "c", "10:00", message_id="m3")
    assert isinstance(shown, PreviewShown)
    assert shown.payload == "Friday at 10:00"


@pytest.mark.parametrize("message_id", ["m1", "m2"], ids=["the same message", "another message"])
async def test_a_worker_that_lives_on(
    repository: SessionRepository, session_clock: MovedClock, saver: Saver, message_id: str
) -> None:
    """What a worker still does whose lease was taken over changes nothing of what the newer run sees, or left."""
    late, graph = HeldGraph(saver), HeldGraph(saver)
    late_bridge, bridge = (SessionBridge(repository, each.rerun) for each in (late, graph))
    await begun(late, late_bridge)
    async with graph.holding("check") as newer_reached:
        async with late.holding("check") as reached:
            running = asyncio.create_task(late_bridge.handle(7, "c", "Tuesday", message_id="m1"))
            await reached.wait()
            session_clock.advance(seconds=61)
            text = "Tuesday" if message_id == "m1" else "Friday"
            newer = asyncio.create_task(bridge.handle(7, "c", text, message_id=message_id))
            await newer_reached.wait()
        # The late one goes on to its next question while the newer one is in the middle.
        assert isinstance(await running, Superseded)
    outcome = await newer
    assert isinstance(outcome, Asked)
    assert late.effects == TUESDAY
    assert graph.effects == (["check Tuesday"] if message_id == "m1" else ["find Friday", "check Friday"])
    shown = await bridge.handle(7, "c", "10:00", message_id="m3")
    assert isinstance(shown, PreviewShown)
    assert shown.payload == f"{text} at 10:00"


async def test_a_worker_that_ends_after_the_session_went_on(
    repository: SessionRepository, session_clock: MovedClock, saver: Saver
) -> None:
    """A message that was taken over and recorded stands as it was recorded, whatever its first worker writes later."""
    late, graph = HeldGraph(saver), HeldGraph(saver)
    late_bridge, bridge = (SessionBridge(repository, each.rerun) for each in (late, graph))
    session = await begun(late, late_bridge)
    async with late.holding("check") as reached:
        running = asyncio.create_task(late_bridge.handle(7, "c", "Tuesday", message_id="m1"))
        await reached.wait()
        session_clock.advance(seconds=61)
        assert isinstance(await bridge.handle(7, "c", "Friday", message_id="m2"), Asked)
        before = await stored(saver)
    assert isinstance(await running, Superseded)
    assert late.effects == TUESDAY
    after = await stored(saver)
    assert [thread for thread in after if after[thread] != before.get(thread)] == [thread_of(session, token=1)]
    assert isinstance(await late_bridge.handle(7, "c", "Tuesday", message_id="m2"), AlreadyHandled)
    shown = await bridge.handle(7, "c", "10:00", message_id="m3")
    assert isinstance(shown, PreviewShown)
    assert shown.payload == "Friday at 10:00"


async def test_a_worker_that_died_before_it_could_record(
    repository: SessionRepository, session_clock: MovedClock, saver: Saver
) -> None:
    """The graph stood at its next question, its answer was not recorded: the message again runs no node."""
    graph = HeldGraph(saver)
    bridge = SessionBridge(repository, graph.rerun)
    session = await begun(graph, bridge)
    dead = await repository.claim_rerun(session.session_id, user_id=7, reply_id="m1", lease=timedelta(seconds=1))
    turn = Turn(session=dead.session, text="Tuesday", message_id="m1", attempt=1)
    assert await graph.rerun(turn) == AskUser("Tuesday, at what time?", ["time"])
    session_clock.at = dead.expires_at
    outcome = await bridge.handle(7, "c", "Tuesday", message_id="m1")
    assert isinstance(outcome, Asked)
    assert outcome.session.state.pending_question == "Tuesday, at what time?"
    assert graph.effects == TUESDAY
    assert isinstance(await bridge.handle(7, "c", "Tuesday", message_id="m1"), AlreadyHandled)


async def test_a_run_that_took_too_long(repository: SessionRepository, saver: Saver) -> None:
    """Retried after `TimedOut` the message goes on where it was."""
    graph = HeldGraph(saver)
    bridge = SessionBridge(repository, graph.rerun, max_rerun=timedelta(seconds=1))
    await begun(graph, bridge)
    async with graph.holding("check"):
        assert isinstance(await bridge.handle(7, "c", "Tuesday", message_id="m1"), TimedOut)
    assert isinstance(await bridge.handle(7, "c", "Tuesday", message_id="m1"), Asked)
    assert graph.effects == TUESDAY


@pytest.mark.parametrize("error", [TryAgain(), ConnectionError()], ids=lambda error: type(error).__name__)
async def test_a_node_that_cannot_work_now(repository: SessionRepository, saver: Saver, error: Exception) -> None:
    """The message again goes on before the node that raised: none that had ended runs twice."""
    graph = HeldGraph(saver)
    bridge = SessionBridge(repository, graph.rerun, retry_on=(ConnectionError,))
    await begun(graph, bridge)
    graph.broken["check"] = error
    assert isinstance(await bridge.handle(7, "c", "Tuesday", message_id="m1"), Deferred)
    outcome = await bridge.handle(7, "c", "Tuesday", message_id="m1")
    assert isinstance(outcome, Asked)
    assert graph.effects == TUESDAY


async def test_an_error_of_the_graph(repository: SessionRepository, saver: Saver) -> None:
    """It ends the session as the bridge has it."""
    graph = HeldGraph(saver)
    bridge = SessionBridge(repository, graph.rerun)
    await begun(graph, bridge)
    graph.broken["check"] = ValueError("Tuesday")
    outcome = await bridge.handle(7, "c", "Tuesday", message_id="m1")
    assert isinstance(outcome, RerunFailed)
    assert outcome.session.status is SessionStatus.FAILED
    assert outcome.session.state.failed_reason == "the graph raised ValueError"


async def test_a_side_question(repository: SessionRepository, saver: Saver) -> None:
    """`NotAnAnswer` raised in a node: ordinary chat answers, the question stands, the next message meets no trace."""
    graph = HeldGraph(saver)
    bridge = SessionBridge(repository, graph.rerun)
    session = await begun(graph, bridge)
    for number in range(3):
        outcome = await bridge.handle(7, "c", "will it rain?", message_id=f"side-{number}")
        assert isinstance(outcome, FreeChat)
        assert outcome.payload == "will it rain?"
        assert outcome.session is not None
        assert outcome.session.question_id == session.question_id
    assert isinstance(await bridge.handle(7, "c", "Tuesday", message_id="m1"), Asked)
    assert graph.effects == TUESDAY


async def test_a_change_that_a_graph_does_not_wait_for(repository: SessionRepository, saver: Saver) -> None:
    """A graph that has ended cannot change its preview: the preview stands."""
    builder = StateGraph(Lesson)
    builder.add_node("look", lambda _: {"day": "Tuesday"})
    builder.add_edge(START, "look")
    rerun = GraphRerun(builder.compile(checkpointer=saver), finish=lambda values: ShowPreview("p", payload=values))
    bridge = SessionBridge(repository, rerun)
    shown = await bridge.start(7, "t", await rerun.begin(7, "t", {"lesson": "1"}))
    assert isinstance(shown, PreviewShown)
    assert shown.payload == {"lesson": "1", "day": "Tuesday"}
    outcome = await bridge.refine(7, shown.session.session_id, "later", preview_id="p", message_id="m1")
    assert isinstance(outcome, FreeChat)
    assert outcome.session is not None
    assert outcome.session.current_preview_id == "p"


@pytest.mark.parametrize("token", [1, 2])
async def test_checkpoints_that_are_gone(repository: SessionRepository, saver: Saver, token: int) -> None:
    """A session whose checkpoints were deleted ends and says so; it never goes on from an older one."""
    graph = HeldGraph(saver)
    bridge = SessionBridge(repository, graph.rerun)
    session = await begun(graph, bridge)
    await bridge.handle(7, "c", "Tuesday", message_id="m1")
    await bridge.handle(7, "c", "10:00", message_id="m2")
    await saver.adelete_thread(thread_of(session, token))
    changed = await bridge.refine(7, session.session_id, "11:00", preview_id="preview-m2", message_id="m3")
    assert isinstance(changed, PreviewShown if token == 1 else RerunFailed)
    assert graph.effects == [*TUESDAY, "book Tuesday 10:00", *(["book Tuesday 11:00"] if token == 1 else [])]


# --- what it reads ------------------------------------------------------------------------------------------------


class Looping(TypedDict, total=False):
    """Whatever was said."""

    said: list[str]


def reading(saver: Saver, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of the checkpoints that are read from now on."""
    read: list[str] = []
    listing, getting = saver.alist, saver.aget_tuple

    async def alist(*given: Any, **named: Any) -> AsyncIterator[CheckpointTuple]:
        async for each in listing(*given, **named):
            read.append(each.checkpoint["id"])
            yield each

    async def aget_tuple(config: RunnableConfig) -> CheckpointTuple | None:
        if (found := await getting(config)) is not None:
            read.append(found.checkpoint["id"])
        return found

    monkeypatch.setattr(saver, "alist", alist)
    monkeypatch.setattr(saver, "aget_tuple", aget_tuple)
    return read


async def test_a_long_history(repository: SessionRepository, saver: Saver, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fortieth message reads as few checkpoints as the second, and one more after forty side questions."""
    read = reading(saver, monkeypatch)

    def ask(state: Looping) -> Looping:
        said: str = interrupt("And then?")
        if said.endswith("?"):
            raise NotAnAnswer
        return {"said": [*state.get("said", []), said]}

    builder = StateGraph(Looping)
    builder.add_node("ask", ask)
    builder.add_edge(START, "ask")
    builder.add_edge("ask", "ask")
    rerun = GraphRerun(builder.compile(checkpointer=saver), finish=lambda _: Close())
    bridge = SessionBridge(repository, rerun)
    await bridge.start(7, "t", await rerun.begin(7, "t", {"said": []}), conversation_id="c")

    async def reads(message_id: str, text: str, kind: type) -> int:
        read.clear()
        assert isinstance(await bridge.handle(7, "c", text, message_id=message_id), kind)
        return len(read)

    counts = [await reads(f"m{number}", "this", Asked) for number in range(40)]
    assert set(counts[1:]) == {5}  # two of the run before, its state, the graph's own, the new state
    for number in range(40):
        await reads(f"side-{number}", "what?", FreeChat)
    assert await reads("m40", "that", Asked) == 6
    state = await rerun.begin(7, "t", {"said": []})
    assert state == AskUser("And then?")
    every = [each.checkpoint async for each in saver.alist(None)]
    newest = max(every, key=lambda checkpoint: checkpoint["id"])
    assert newest["channel_values"]["said"] == ["this"] * 40 + ["that"]


class Collected(TypedDict):
    """A channel that is stored as its changes."""

    said: Annotated[list[str], DeltaChannel(lambda said, writes: [*said, *chain.from_iterable(writes)], 5)]


async def test_a_channel_that_is_stored_as_its_changes(repository: SessionRepository, saver: Saver) -> None:
    """Of a DeltaChannel the copy has what its value is read from."""

    def ask(state: Collected) -> Collected:
        return {"said": [interrupt(f"After {len(state['said'])}?")]}

    builder = StateGraph(Collected)
    builder.add_node("ask", ask)
    builder.add_edge(START, "ask")
    builder.add_conditional_edges("ask", lambda state: END if len(state["said"]) > 13 else "ask")
    rerun = GraphRerun(builder.compile(checkpointer=saver), finish=lambda values: Close(" ".join(values["said"])))
    bridge = SessionBridge(repository, rerun)
    first = await rerun.begin(7, "t", {"said": ["a"]})
    session = (await bridge.start(7, "t", first, conversation_id="c")).session
    for number, letter in enumerate("bcdefghijklmn"):
        outcome = await bridge.handle(7, "c", letter, message_id=f"m{number}")
    assert isinstance(outcome, Closed), outcome
    assert (await repository.history(session.session_id, user_id=7))[-1].reason == " ".join("abcdefghijklmn")
