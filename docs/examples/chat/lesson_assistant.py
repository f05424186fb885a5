"""What the chat application keeps, and what it is about: a lesson that has to move.

Messages, drafts, previews and the schedule are the application's own collections; the sessions hold no text of these.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any, Final

import pymongo

from sessions import (
    ActiveScheduleSessionSnapshot,
    AlreadyHandled,
    ApplyClaim,
    Asked,
    AskUser,
    Close,
    Closed,
    Database,
    Deferred,
    Fail,
    FreeChat,
    Handled,
    Held,
    NotAnAnswer,
    PreviewShown,
    RerunFailed,
    ShowPreview,
    Superseded,
    TimedOut,
    TryAgain,
    Turn,
)

DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday")
_LONG: Final = 30.0
"""Seconds that the graph thinks about an answer that begins with "slowly", in its first attempt."""
_TRIES_AGAIN: Final = timedelta(seconds=3)
"""For an answer that begins with "flaky", after its first attempt: the model behind the graph is overloaded, say."""
_ANSWERED_WITHIN: Final = 3.0
"""Seconds; by themselves the drivers wait half a minute for a server that is down, and for a frozen one for ever."""


class _Store:
    """A collection, each call of which ends soon, whether the server answers or not."""

    def __init__(self, collection: Any) -> None:
        self._collection = collection

    def __getattr__(self, name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        call = getattr(self._collection, name)

        async def bounded(*arguments: Any, **options: Any) -> Any:
            with pymongo.timeout(_ANSWERED_WITHIN):
                return await call(*arguments, **options)

        return bounded

    async def latest(self, wanted: dict[str, Any], *, most: int) -> list[dict[str, Any]]:
        """The latest of what is wanted, newest first."""
        with pymongo.timeout(_ANSWERED_WITHIN):
            cursor = self._collection.find(wanted).sort([("at", -1), ("_id", -1)]).limit(most)
            found: list[dict[str, Any]] = await cursor.to_list(most)
            return found


class Assistant:
    """The application's stores and its graph; nothing is kept in the process."""

    def __init__(self, database: Database) -> None:
        stores: Any = database
        self.conversations = _Store(stores["conversations"])
        self.messages = _Store(stores["messages"])
        self.drafts = _Store(stores["drafts"])
        self.previews = _Store(stores["previews"])
        self.schedule = _Store(stores["schedule"])

    async def prepare(self) -> None:
        """Make what a conversation's history needs to be read quickly."""
        await self.messages.create_index([("user_id", 1), ("conversation_id", 1), ("at", 1)])

    # --- conversations and their messages -----------------------------------------------------------------------

    async def begin(self, user_id: int, conversation_id: str, title: str) -> None:
        """Make a conversation; again it changes nothing."""
        made = {"user_id": user_id, "title": title, "at": time.time_ns()}
        await self.conversations.update_one({"_id": conversation_id}, {"$setOnInsert": made}, upsert=True)

    async def conversation(self, user_id: int, conversation_id: str) -> dict[str, Any] | None:
        """A conversation of this user; another's counts as missing."""
        found: dict[str, Any] | None = await self.conversations.find_one({"_id": conversation_id, "user_id": user_id})
        return found

    async def title(self, user_id: int, conversation_id: str) -> str:
        """A conversation's title."""
        found = await self.conversation(user_id, conversation_id)
        return found["title"] if found else ""

    async def conversations_of(self, user_id: int) -> list[dict[str, Any]]:
        """The latest fifty of a user."""
        return await self.conversations.latest({"user_id": user_id}, most=50)

    async def say(
        self, user_id: int, conversation_id: str, message_id: str, *, role: str, text: str
    ) -> dict[str, Any] | None:
        """Store a message, once however often it is delivered.

        Returns:
            What was stored of it before; None where it is new.
        """
        key = f"{user_id}/{conversation_id}/{role}/{message_id}"
        said = {"user_id": user_id, "conversation_id": conversation_id, "role": role, "text": text}
        made = {"$setOnInsert": {**said, "at": time.time_ns()}}
        before: dict[str, Any] | None = await self.messages.find_one_and_update({"_id": key}, made, upsert=True)
        return before

    async def mark(self, user_id: int, conversation_id: str, message_id: str, fate: str | None) -> None:
        """Keep what every window shows beside a user's message; None for one that was handled."""
        wanted: dict[str, Any] = {"_id": f"{user_id}/{conversation_id}/user/{message_id}"}
        if fate in ("held", "deferred"):
            wanted["fate"] = {"$ne": "stopped"}  # a delivery that began before the user stopped it
        await self.messages.update_one(wanted, {"$set": {"fate": fate}})

    async def unsay(self, user_id: int, conversation_id: str, message_id: str) -> None:
        """Take a user's message back that answered nothing."""
        await self.messages.delete_one({"_id": f"{user_id}/{conversation_id}/user/{message_id}"})

    async def said(self, user_id: int, conversation_id: str) -> list[dict[str, str | None]]:
        """The last two hundred messages of a conversation, oldest first."""
        wanted = {"user_id": user_id, "conversation_id": conversation_id}
        latest = await self.messages.latest(wanted, most=200)
        return [
            {"id": each["_id"], "role": each["role"], "text": each["text"], "fate": each.get("fate")}
            for each in reversed(latest)
        ]

    async def preview_of(self, session: ActiveScheduleSessionSnapshot) -> dict[str, Any] | None:
        """What the session's preview shows."""
        if session.current_preview_id is None:
            return None
        found = await self.previews.find_one({"_id": session.current_preview_id})
        return found and {"id": found["_id"], "lesson": found["lesson"], "day": found["day"], "time": found["time"]}

    # --- the graph: each step may be run again for the same message, and then comes to the same -----------------

    def first_question(self) -> AskUser:
        """What the trigger's own run comes to."""
        return AskUser("Your lesson falls on a holiday. Which day suits you instead?", missing_info=["day"])

    async def rerun(self, turn: Turn) -> AskUser | ShowPreview | Close | Fail | NotAnAnswer:
        """Go on with one message."""
        words = turn.text.strip()
        first, _, rest = words.partition(" ")
        if (manner := first.lower()) in ("slowly", "flaky"):
            words = rest.strip()
            if turn.attempt == 1 and manner == "slowly":
                await asyncio.sleep(_LONG)
            if turn.attempt == 1 and manner == "flaky":
                raise TryAgain(after=_TRIES_AGAIN)
        if words.endswith("?"):
            return NotAnAnswer()
        if words.lower() == "never mind":
            return Close("the user does not want it moved", payload="All right, the lesson stays where it was.")
        if words.lower() == "break":
            return Fail("The calendar did not let us in.")
        if turn.session.current_preview_id is None and "day" in turn.session.state.missing_info:
            if words.capitalize() not in DAYS:
                return AskUser("Which day from Monday to Friday?", missing_info=["day"])
            await self._draft(turn, day=words.capitalize())
            return AskUser(f"{words.capitalize()} it is. At what time?", missing_info=["time"])
        return await self._preview(turn, await self._draft(turn, time=words))

    async def _draft(self, turn: Turn, **known: str) -> dict[str, str]:
        key = {"_id": turn.session.session_id}
        await self.drafts.update_one(key, {"$set": known}, upsert=True)
        draft: dict[str, str] = await self.drafts.find_one(key)
        return draft

    async def _preview(self, turn: Turn, draft: dict[str, str]) -> ShowPreview:
        preview_id = f"preview-{turn.message_id}"[:64]  # a changed preview is a new one
        shown = {"lesson": turn.session.trigger_id, "day": draft["day"], "time": draft["time"]}
        await self.previews.replace_one({"_id": preview_id}, shown, upsert=True)
        return ShowPreview(preview_id, payload=f"I can move it to {draft['day']} at {draft['time']}. Is that right?")

    async def write_back(self, claim: ApplyClaim) -> None:
        """Write the confirmed preview into the schedule, once for its key, however often this is called."""
        preview = await self.previews.find_one({"_id": claim.session.current_preview_id})
        entry = {"user_id": claim.session.user_id, **{name: preview[name] for name in ("lesson", "day", "time")}}
        await self.schedule.update_one({"_id": claim.idempotency_key}, {"$setOnInsert": entry}, upsert=True)

    def answer_to(self, outcome: Handled) -> str | None:
        """What the assistant says in chat; None where it says nothing."""
        match outcome:
            case FreeChat(session):
                free = "It is sunny, and nothing of your schedule waits for you."  # ordinary chat's own answer
                return f"It is sunny. But first: {session.state.pending_question}" if session else free
            case Asked(session):
                return session.state.pending_question
            case PreviewShown(payload=None):  # told again: whoever waited for it may not have seen it
                return "My proposal stands. Is that right?"
            case Closed(payload=None):
                return "That is settled."
            case PreviewShown(payload=shown) | Closed(payload=shown):
                return str(shown)
            case RerunFailed():
                return "I could not go on. Please move the lesson by hand."
            case TimedOut():
                return "That took too long. Please say it again."
            case _:
                return None


def fate_of(outcome: Handled, message_id: str) -> str | None:
    """What the page says beside a message that nothing came of, or nothing yet."""
    match outcome:
        case Held():
            return "held"
        case Deferred():
            return "deferred"
        case Superseded(session) | AlreadyHandled(session) if message_id in session.replaced_reply_ids:
            return "replaced"
        case Superseded(session):
            # Unless another process goes on with it, since this one stood still for longer than its lease.
            goes_on = message_id in (*session.answered_reply_ids, session.lease and session.lease.reply_id)
            return None if goes_on else "stopped"
        case _:
            return None
