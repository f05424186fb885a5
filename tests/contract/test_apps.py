"""The example applications: one without any framework, one behind a task queue, one whose graph is LangGraph's."""

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from unittest.mock import AsyncMock

import lesson_worker
import pytest
from langgraph.types import Command
from lesson_chat import Again, LessonChat, deliver, play
from lesson_graph import LessonGraph
from pymongo.errors import AutoReconnect

from sessions import (
    ActiveScheduleSessionSnapshot,
    Asked,
    FreeChat,
    PreviewShown,
    SessionBridge,
    SessionRef,
    SessionRepository,
    StoreUnavailable,
    WriteOutcome,
)
from sessions.testing import CommandCounter

if TYPE_CHECKING:
    from sessions.store.clients import Database


@pytest.fixture
def chat(database: "Database", repository: SessionRepository) -> LessonChat:
    """The application without a framework."""
    return LessonChat(database, repository)


async def test_a_conversation(chat: LessonChat) -> None:
    """A side question, a wrong day, a day, a time, a change and two clicks: one entry in the schedule."""
    said = await play(chat)
    assert [line for line in said if not line.startswith("user")] == [
        "notification: /assistant/chat-42",
        "assistant: It is sunny. But first: Your lesson falls on a holiday: which day suits you?",
        "assistant: Which day from Monday to Friday?",
        "assistant: At what time?",
        "assistant: lesson-12 on Tuesday at 10:00: is that right?",
        "assistant: lesson-12 on Tuesday at 11:00: is that right?",
        "assistant: Done.",
        "assistant: Done.",
    ]
    written = [entry async for entry in chat.schedule.find()]
    assert [entry["entry"] for entry in written] == ["lesson-12 on Tuesday at 11:00"]
    assert await chat.notifications.count_documents({}) == 1


async def test_what_the_transport_delivers_twice(chat: LessonChat) -> None:
    """A trigger and a late answer delivered again change nothing; a message is told what stands, if it still does."""
    assert await chat.on_trigger(7, "t", "c") == await chat.on_trigger(7, "t", "c") == "/assistant/c"
    session = await chat.sessions.latest(7, "c")
    assert session is not None
    assert await chat.on_message(7, "c", "Tuesday", message_id="m1") == "At what time?"
    assert await chat.on_message(7, "c", "Tuesday", message_id="m1", redelivered=True) == "At what time?"
    assert await chat.on_trigger(7, "t", "c") is None
    late = await chat.on_message(7, "c", "Monday", message_id="m0", question_id=session.question_id)
    assert late == "That was another question. At what time?"
    assert await chat.on_message(7, "c", "never mind", message_id="m2") == "All right, it stays where it was."
    assert await chat.on_message(7, "c", "Tuesday", message_id="m1", redelivered=True) is None
    assert await chat.on_message(7, "c", "never mind", message_id="m2", redelivered=True) is None
    assert await chat.on_message(7, "c", "hello", message_id="m3") == "It is sunny."


async def test_a_message_that_the_transport_keeps(chat: LessonChat) -> None:
    """Held or put off, it comes again with the question it was written to: its answer, ordinary chat, or a notice."""
    comes_to = {"will it rain?": "At what time?", "never mind": "It is sunny.", "Monday": "That was another question."}
    for conversation, (first, then) in enumerate(comes_to.items()):
        await chat.on_trigger(7, f"t{conversation}", f"c{conversation}")
        session = await chat.sessions.latest(7, f"c{conversation}")
        assert session is not None
        working = await chat.sessions.claim_rerun(session.session_id, user_id=7, reply_id="m1")
        held = await chat.on_message(7, f"c{conversation}", "Tuesday", message_id="m2")
        assert held == Again(session.question_id)
        await chat.sessions.release(working)
        await chat.on_message(7, f"c{conversation}", first, message_id="m1")
        how: Any = {"message_id": "m2", "question_id": session.question_id, "redelivered": True}
        said = await chat.on_message(7, f"c{conversation}", "Tuesday", **how)
        assert isinstance(said, str)
        assert said.startswith(then)


async def test_a_message_while_the_database_is_away(chat: LessonChat, monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph could not keep its draft: the message is put off, nothing ends by it, and it comes again."""
    await chat.on_trigger(7, "t", "chat-42")
    session = await chat.sessions.latest(7, "chat-42")
    assert session is not None
    with monkeypatch.context() as away:
        away.setattr(chat, "_draft", AsyncMock(side_effect=AutoReconnect("the primary steps down")))
        put_off = await chat.on_message(7, "chat-42", "Tuesday", message_id="m1")
        assert put_off == Again(session.question_id, timedelta(seconds=5))
    assert await deliver(chat, "Tuesday", message_id="m1") == "At what time?"


async def test_the_audit_chain(chat: LessonChat, command_counter: CommandCounter) -> None:
    """Trigger, session, conversation, notification, preview and outcome: found by any of three, each in one lookup."""
    await play(chat)
    lookups = (
        chat.sessions.find_by_trigger("lesson-12", user_id=7),
        chat.sessions.find_by_preview("preview-change-1", user_id=7),
        chat.sessions.latest(7, "chat-42"),
    )
    chains = []
    for lookup in lookups:
        with command_counter.counting() as counts:
            found = await lookup
        assert counts.total() <= 1  # the double sends no commands
        chains.append(await chat.chain(found))
    assert chains[0] == chains[1] == chains[2]
    told = dict(line.split(maxsplit=1) for line in chains[0][:6])
    assert told == {
        "trigger": "lesson-12",
        "session": told["session"],
        "conversation": "chat-42",
        "notification": "n-lesson-12",
        "preview": "preview-change-1",
        "outcome": "applied",
    }
    assert [line.split(maxsplit=1)[1] for line in chains[0][6:]][-1] == "applied by complete_apply"
    assert await chat.chain(None) == ["no such session"]


# --- behind a task queue ---------------------------------------------------------------------------------------


@pytest.fixture
def worker(chat: LessonChat, database: "Database", monkeypatch: pytest.MonkeyPatch) -> LessonChat:
    """The application, as a worker of the task queue has it."""
    stores: Any = database
    pause = timedelta(milliseconds=10)
    for name in ("AWAY_FOR", "BUSY_FOR"):
        monkeypatch.setattr(lesson_worker, name, pause)
    lesson_worker.broker.state.update(chat=chat, said=stores["said"])
    return chat


async def until_idle() -> None:
    """Until the queue is empty: a task that comes again is in it before the one that sends it has ended."""
    for _ in range(10):
        await lesson_worker.broker.wait_all()


async def test_a_conversation_behind_a_queue(worker: LessonChat) -> None:
    """Each task is delivered twice: one session, one answer to each message, one entry in the schedule."""
    said = await lesson_worker.play()
    await until_idle()
    assert [line for line in said if not line.startswith("user")] == [
        "assistant: It is sunny. But first: Your lesson falls on a holiday: which day suits you?",
        "assistant: At what time?",
        "assistant: lesson-12 on Tuesday at 10:00: is that right?",
        "assistant: Done.",
    ]
    assert await worker.schedule.count_documents({}) == 1
    assert await worker.notifications.count_documents({}) == 1


async def test_a_task_that_cannot_be_done_now_comes_again(worker: LessonChat, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a held message, nor a busy conversation, nor a database that is away loses a task."""
    governing = await worker.sessions.create(7, "busy", conversation_id="c1", pending_question="Which day?")
    await lesson_worker.on_trigger.kiq(7, "t", "c1")
    held = await worker.sessions.create(7, "held", conversation_id="c2", pending_question="Which day?")
    working = await worker.sessions.claim_rerun(held.session_id, user_id=7, reply_id="m1")
    await lesson_worker.on_message.kiq(7, "c2", "Tuesday", "m2")
    away = StoreUnavailable(SessionRef(), outcome=WriteOutcome.NOT_WRITTEN, cause="no primary")
    with monkeypatch.context() as patched:
        patched.setattr(worker.bridge, "handle", AsyncMock(side_effect=away))
        await lesson_worker.on_message.kiq(7, "c3", "hello", "m3")
        await asyncio.sleep(0.05)
    await worker.sessions.close_rerun(working)
    await worker.sessions.ignore(governing.session_id, user_id=7)
    assert await lesson_worker.answer_to("m2") == await lesson_worker.answer_to("m3") == "It is sunny."
    async with asyncio.timeout(10):
        while await worker.sessions.find_by_trigger("t", user_id=7) is None:  # noqa: ASYNC110 - seen in the store only
            await asyncio.sleep(0.01)
    await until_idle()


# --- LangGraph -------------------------------------------------------------------------------------------------


async def started(bridge: SessionBridge, lesson: LessonGraph) -> ActiveScheduleSessionSnapshot:
    """The trigger's session, asked in conversation ``c``."""
    return (await bridge.start(7, "t", await lesson.rerun.begin(7, "t", {}), conversation_id="c")).session


async def test_a_langgraph_conversation(repository: SessionRepository) -> None:
    """Each message resumes the graph's interrupt; its next interrupt is the next question, or the preview."""
    lesson = LessonGraph()
    bridge = SessionBridge(repository, lesson.rerun)
    session = await started(bridge, lesson)
    again = await lesson.rerun.begin(7, "t", {})
    assert await bridge.start(7, "t", again, conversation_id="c") == Asked(session)
    assert session.state.pending_question == "Which day suits you?"
    assert isinstance(await bridge.handle(7, "c", "will it rain?", message_id="m0"), FreeChat)
    asked = await bridge.handle(7, "c", "Sunday", message_id="m1")
    assert isinstance(asked, Asked)
    assert asked.session.state.pending_question == "Which day from Monday to Friday?"
    assert isinstance(await bridge.handle(7, "c", "Tuesday", message_id="m2"), Asked)
    shown = await bridge.handle(7, "c", "10:00", message_id="m3")
    assert isinstance(shown, PreviewShown)
    assert (shown.session.current_preview_id, shown.payload) == ("preview-m3", "Tuesday at 10:00")
    changed = await bridge.refine(7, session.session_id, "11:00", preview_id="preview-m3", message_id="m4")
    assert isinstance(changed, PreviewShown)
    assert (changed.session.current_preview_id, changed.payload) == ("preview-m4", "Tuesday at 11:00")
    assert lesson.executions == ["ask_day", "ask_day", "ask_time", "propose"]


async def test_five_replies_resume_an_interrupt_once(repository: SessionRepository) -> None:
    """Five concurrent replies resume a bare graph five times; through the bridge they resume it once."""
    bare = LessonGraph()
    thread: Any = {"configurable": {"thread_id": "t"}}
    await bare.graph.ainvoke({}, thread)
    resumes: list[Command[Any]] = [Command(resume="Tuesday") for _ in range(5)]
    await asyncio.gather(*(bare.graph.ainvoke(resume, thread) for resume in resumes))
    assert bare.executions == ["ask_day"] * 5

    lesson = LessonGraph()
    bridge = SessionBridge(repository, lesson.rerun)
    session = await started(bridge, lesson)
    named = session.question_id
    deliveries = [
        bridge.handle(7, "c", "Tuesday", message_id=message_id, question_id=named)
        for message_id in ("m1", "m1", "m2", "m3", "m4")
    ]
    outcomes = await asyncio.gather(*deliveries, return_exceptions=True)
    assert lesson.executions == ["ask_day"]
    assert sum(isinstance(outcome, Asked) for outcome in outcomes) == 1
    assert {type(outcome).__name__ for outcome in outcomes} <= {"Asked", "Held", "AlreadyHandled", "StaleReply"}
