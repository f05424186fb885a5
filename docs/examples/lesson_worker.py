"""The lesson chat behind a task queue: the web process enqueues, workers run the graph.

``python docs/examples/lesson_worker.py`` plays one conversation on taskiq's in-memory broker. With a broker of your own
in its place, ``taskiq worker lesson_worker:broker`` starts a worker, and any number of them may run.
"""

import asyncio
import os
import sys
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any, Final

from lesson_chat import Again, LessonChat
from pymongo import AsyncMongoClient
from taskiq import InMemoryBroker, TaskiqEvents, TaskiqState

from sessions import ConversationBusy, StoreUnavailable, open_repository
from sessions.mongod import MongodFailed, running_mongod

broker: Final = InMemoryBroker()
BUSY_FOR: Final = timedelta(seconds=1)
"""How long a trigger waits for a conversation that another session governs."""
AWAY_FOR: Final = timedelta(seconds=1)
"""How long a task waits for a database that does not answer."""


@broker.on_event(TaskiqEvents.WORKER_STARTUP)
async def open_sessions(state: TaskiqState) -> None:
    """Each worker opens the sessions once, and takes part in the upkeep for as long as it runs."""
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(AsyncMongoClient[dict[str, Any]](os.environ["MONGODB_URI"]))
        database = client["lesson_worker"]
        # In production `python -m indexes apply` has made the indexes.
        sessions = await stack.enter_async_context(open_repository(database, create_indexes=True))
        state.chat = LessonChat(database, sessions)
        state.said = database["said"]
        await stack.enter_async_context(state.chat.bridge.upkeep())
        state.stack = stack.pop_all()


@broker.on_event(TaskiqEvents.WORKER_SHUTDOWN)
async def close_sessions(state: TaskiqState) -> None:
    """What still runs gives its claim back; the queue delivers it again."""
    await state.stack.aclose()


# --- the tasks: each may be delivered more than once, and is acknowledged when it has ended ------------------------


@broker.task
async def on_trigger(user_id: int, trigger_id: str, conversation_id: str) -> None:
    """A lesson has to move."""
    chat: LessonChat = broker.state.chat
    try:
        await chat.on_trigger(user_id, trigger_id, conversation_id)
    except (ConversationBusy, StoreUnavailable) as error:
        if isinstance(error, StoreUnavailable) and not error.may_pass:
            raise
        pause = BUSY_FOR if isinstance(error, ConversationBusy) else AWAY_FOR
        await asyncio.sleep(pause.total_seconds())
        await on_trigger.kiq(user_id, trigger_id, conversation_id)


@broker.task
async def on_message(
    user_id: int, conversation_id: str, text: str, message_id: str, question_id: str | None = None
) -> None:
    """A chat message; what the assistant says to it is kept where the page looks for it."""
    chat: LessonChat = broker.state.chat
    said: str | Again | None
    try:
        # A queue never knows whether it delivers for the first time, so each delivery counts as a second one.
        said = await chat.on_message(
            user_id, conversation_id, text, message_id=message_id, question_id=question_id, redelivered=True
        )
    except StoreUnavailable as error:
        if not error.may_pass:
            raise
        said = Again(question_id, AWAY_FOR)
    if isinstance(said, Again):
        # Not consumed. This task ends, and so is acknowledged, only when the next one is in the queue.
        await asyncio.sleep(said.after.total_seconds())
        await on_message.kiq(user_id, conversation_id, text, message_id, said.question_id)
    elif said is not None:
        told = {"$setOnInsert": {"conversation_id": conversation_id, "text": said}}
        await broker.state.said.update_one({"_id": message_id}, told, upsert=True)


# --- the web process ----------------------------------------------------------------------------------------------


async def answer_to(message_id: str) -> str:
    """What the page does: wait until an answer stands; a change stream of your own tells it sooner."""
    while (found := await broker.state.said.find_one({"_id": message_id})) is None:  # noqa: ASYNC110 - a worker elsewhere sets no event
        await asyncio.sleep(0.05)
    text: str = found["text"]
    return text


async def play() -> list[str]:
    """One conversation; each task is enqueued twice, as a queue may deliver it."""
    for _ in range(2):
        await on_trigger.kiq(7, "lesson-12", "chat-42")
    chat: LessonChat = broker.state.chat
    while await chat.sessions.latest(7, "chat-42") is None:  # noqa: ASYNC110 - seen in the store only
        await asyncio.sleep(0.05)
    lines = []
    for number, text in enumerate(["will it rain?", "Tuesday", "10:00"]):
        for _ in range(2):
            await on_message.kiq(7, "chat-42", text, f"m{number}")
        lines += [f"user: {text}", f"assistant: {await answer_to(f'm{number}')}"]
    session = await chat.sessions.latest(7, "chat-42")
    if session is not None and session.current_preview_id is not None:
        # A button is pressed in the web process: it waits for its answer, and a lease keeps two of them apart.
        done = await chat.on_confirm(7, session.session_id, preview_id=session.current_preview_id)
        lines += ["user presses: yes", f"assistant: {done}"]
    return lines


async def main() -> None:
    """Play it on the server of ``MONGODB_URI``, or on one of its own."""
    async with AsyncExitStack() as stack:
        if "MONGODB_URI" not in os.environ:
            os.environ["MONGODB_URI"] = await stack.enter_async_context(running_mongod())
        await broker.startup()
        stack.push_async_callback(broker.shutdown)
        print(*await play(), sep="\n")
        for _ in range(2):  # what was held is in the queue once more
            await broker.wait_all()
        stores: Any = broker.state.chat.schedule
        print("written:", [entry["entry"] async for entry in stores.find()])
        await stores.database.client.drop_database("lesson_worker")


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except MongodFailed as failed:
        sys.exit(f"{failed}; MONGODB_URI may name one")
