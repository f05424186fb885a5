"""A chat back end without any framework: a lesson moves, the assistant asks, its user answers, changes and confirms.

Run it with ``python docs/examples/lesson_chat.py``: it plays one conversation and prints what it leaves behind.
"""

import asyncio
import os
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from pymongo import AsyncMongoClient
from pymongo.errors import ConnectionFailure

from sessions import (
    ActiveScheduleSessionSnapshot,
    AlreadyHandled,
    Applied,
    ApplyClaim,
    ApplyFailed,
    Asked,
    AskUser,
    Close,
    Closed,
    Database,
    Deferred,
    FreeChat,
    Held,
    NotAnAnswer,
    PreviewShown,
    RerunFailed,
    SessionBridge,
    SessionRepository,
    ShowPreview,
    StaleReply,
    Turn,
    action_url,
    open_repository,
)
from sessions.mongod import MongodFailed, running_mongod

DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday")


@dataclass(frozen=True, slots=True)
class Again:
    """A message that is not consumed: the transport delivers it again, with ``redelivered`` and this question."""

    question_id: str | None
    after: timedelta = timedelta(seconds=1)


class LessonChat:
    """The application: its own collections, a small graph of plain Python, and what its entry points do."""

    def __init__(self, database: Database, sessions: SessionRepository) -> None:
        stores: Any = database
        self.sessions = sessions
        self.drafts = stores["drafts"]
        self.previews = stores["previews"]
        self.schedule = stores["schedule"]
        self.notifications = stores["notifications"]
        # Of what breaks on the way to the application's own collections this passes by itself.
        self.bridge = SessionBridge(sessions, self.rerun, write_back=self.write_back, retry_on=(ConnectionFailure,))

    # --- the graph: each step may be run again for the same message, and then comes to the same -----------------

    async def rerun(self, turn: Turn) -> AskUser | ShowPreview | Close | NotAnAnswer:
        """Go on with one message."""
        words = turn.text.strip()
        if words.endswith("?"):
            return NotAnAnswer()
        if words.lower() == "never mind":
            return Close("the user does not want it moved", payload="All right, it stays where it was.")
        if turn.session.current_preview_id is None and "day" in turn.session.state.missing_info:
            if words.capitalize() not in DAYS:
                return AskUser("Which day from Monday to Friday?", missing_info=["day"])
            await self._draft(turn, day=words.capitalize())
            return AskUser("At what time?", missing_info=["time"])
        return await self._preview(turn, await self._draft(turn, time=words))

    async def _draft(self, turn: Turn, **known: str) -> dict[str, str]:
        key = {"_id": turn.session.session_id}
        await self.drafts.update_one(key, {"$set": known}, upsert=True)
        draft: dict[str, str] = await self.drafts.find_one(key)
        return draft

    async def _preview(self, turn: Turn, draft: dict[str, str]) -> ShowPreview:
        preview_id = f"preview-{turn.message_id}"  # a changed preview is a new one
        shown = f"{turn.session.trigger_id} on {draft['day']} at {draft['time']}"
        await self.previews.replace_one({"_id": preview_id}, {"shown": shown}, upsert=True)
        return ShowPreview(preview_id, payload=f"{shown}: is that right?")

    async def write_back(self, claim: ApplyClaim) -> None:
        """Write the confirmed preview into the schedule, once for its key, however often this is called."""
        preview = await self.previews.find_one({"_id": claim.session.current_preview_id})
        entry = {"user_id": claim.session.user_id, "entry": preview["shown"]}
        await self.schedule.update_one({"_id": claim.idempotency_key}, {"$setOnInsert": entry}, upsert=True)

    # --- the entry points ---------------------------------------------------------------------------------------

    async def on_trigger(self, user_id: int, trigger_id: str, conversation_id: str) -> str | None:
        """A lesson has to move: ask, and only then notify; delivered twice it is one session and one notification."""
        notification_id = f"n-{trigger_id}"
        question = AskUser("Your lesson falls on a holiday: which day suits you?", missing_info=["day"])
        started = await self.bridge.start(
            user_id, trigger_id, question, conversation_id=conversation_id, notification_id=notification_id
        )
        if isinstance(started, AlreadyHandled):
            return None
        notice = {"url": action_url(started.session)}
        await self.notifications.update_one({"_id": notification_id}, {"$setOnInsert": notice}, upsert=True)
        return action_url(started.session)

    async def on_message(
        self,
        user_id: int,
        conversation_id: str,
        text: str,
        *,
        message_id: str,
        question_id: str | None = None,
        redelivered: bool = False,
    ) -> str | Again | None:
        """What to say to the user; None where nothing is to be said (any more)."""
        try:
            outcome = await self.bridge.handle(
                user_id, conversation_id, text, message_id=message_id, question_id=question_id, redelivered=redelivered
            )
        except StaleReply as stale:
            standing = stale.session.state.pending_question if stale.current_question_number and stale.session else ""
            return f"That was another question. {standing}".strip()
        match outcome:
            case FreeChat(session):
                answer = "It is sunny."  # ordinary chat's own answer
                return f"{answer} But first: {session.state.pending_question}" if session else answer
            case Asked(session):
                return session.state.pending_question
            case PreviewShown(session, payload=None):  # told again: whoever waited for it may not have seen it
                preview = await self.previews.find_one({"_id": session.current_preview_id})
                return f"{preview['shown']}: is that right?"
            case AlreadyHandled() | Closed(payload=None):
                return None
            case PreviewShown(payload=shown) | Closed(payload=shown):
                return str(shown)
            case RerunFailed():
                return "Something broke; please move the lesson by hand."
            case Held(question_id=asked):
                return Again(asked)
            case Deferred(question_id=asked, after=after):
                return Again(asked, after)
            case _:
                return "That took too long; please say it again."

    async def on_change(self, user_id: int, session_id: str, text: str, *, preview_id: str, message_id: str) -> str:
        """The user wants the preview changed."""
        outcome = await self.bridge.refine(user_id, session_id, text, preview_id=preview_id, message_id=message_id)
        return str(outcome.payload) if isinstance(outcome, PreviewShown) else "The preview stays as it is."

    async def on_confirm(self, user_id: int, session_id: str, *, preview_id: str) -> str:
        """The user pressed the button, once or twice."""
        match await self.bridge.confirm(user_id, session_id, preview_id=preview_id):
            case Applied():
                return "Done."
            case ApplyFailed():
                return "Something broke; please move the lesson by hand."
            case _:
                return "One moment."  # being written; the upkeep finishes what was interrupted

    # --- the audit chain ----------------------------------------------------------------------------------------

    async def chain(self, session: ActiveScheduleSessionSnapshot | None) -> list[str]:
        """From what set the graph off to what came of it; any one lookup of the repository leads here."""
        if session is None:
            return ["no such session"]
        links = {
            "trigger": session.trigger_id,
            "session": session.session_id,
            "conversation": session.conversation_id,
            "notification": session.state.last_notification_id,
            "preview": session.current_preview_id,
            "outcome": session.status.value,
        }
        steps = await self.sessions.history(session.session_id, user_id=session.user_id)
        told = [f"{name:<14}{value or '-'}" for name, value in links.items()]
        return [*told, *(f"{step.at:%H:%M:%S}      {step.to_status} by {step.call}" for step in steps)]


async def deliver(chat: LessonChat, text: str, *, message_id: str) -> str | None:
    """As the transport does: what is not consumed comes again, with what it was given back with."""
    said = await chat.on_message(7, "chat-42", text, message_id=message_id)
    while isinstance(said, Again):
        await asyncio.sleep(said.after.total_seconds())
        said = await chat.on_message(
            7, "chat-42", text, message_id=message_id, question_id=said.question_id, redelivered=True
        )
    return said


async def play(chat: LessonChat) -> list[str]:
    """One conversation, from its trigger to the second click."""
    said = [f"notification: {await chat.on_trigger(7, 'lesson-12', 'chat-42')}"]
    for number, text in enumerate(["will it rain?", "Sunday", "Tuesday", "10:00"]):
        said += [f"user: {text}", f"assistant: {await deliver(chat, text, message_id=f'm{number}')}"]
    session = await chat.sessions.latest(7, "chat-42")
    if session is None or session.current_preview_id is None:
        return said
    change = await chat.on_change(
        7, session.session_id, "11:00", preview_id=session.current_preview_id, message_id="change-1"
    )
    said += ["user changes: 11:00", f"assistant: {change}"]
    for _ in range(2):
        done = await chat.on_confirm(7, session.session_id, preview_id="preview-change-1")
        said += ["user presses: yes", f"assistant: {done}"]
    return said


async def main() -> None:
    """Play it on the server of ``MONGODB_URI``, or on one of its own, and print the audit chain, found three ways."""
    async with AsyncExitStack() as stack:
        uri = os.environ.get("MONGODB_URI") or await stack.enter_async_context(running_mongod())
        client = await stack.enter_async_context(AsyncMongoClient[dict[str, Any]](uri))
        database = client["lesson_chat"]
        stack.push_async_callback(client.drop_database, "lesson_chat")
        sessions = await stack.enter_async_context(open_repository(database, create_indexes=True))
        chat = LessonChat(database, sessions)
        await stack.enter_async_context(chat.bridge.upkeep())
        print(*await play(chat), sep="\n")
        for way, found in (
            ("trigger", sessions.find_by_trigger("lesson-12", user_id=7)),
            ("preview", sessions.find_by_preview("preview-change-1", user_id=7)),
            ("conversation", sessions.latest(7, "chat-42")),
        ):
            print(f"\nfound by its {way}", *await chat.chain(await found), sep="\n")


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except MongodFailed as failed:
        sys.exit(f"{failed}; MONGODB_URI may name one")
