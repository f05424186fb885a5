"""Workers as applications write them: some with the bugs that a race brings out, one on the bridge."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from pymongo.errors import PyMongoError

from sessions import (
    Handled,
    PreviewShown,
    RouteAction,
    SessionBridge,
    SessionRepository,
    ShowPreview,
    TransitionConflict,
    Turn,
    open_repository,
)
from sessions.store.clients import connect, disconnect

PREVIEW = "preview"


@dataclass(frozen=True, slots=True)
class Message:
    """What a transport delivers."""

    conversation_id: str
    message_id: str = "message-1"
    text: str = "Tuesday"
    redelivered: bool = False


async def send(database: Any, message: Message) -> None:
    """What the user gets to see."""
    await database["sent"].insert_one({"conversation_id": message.conversation_id})


async def times_sent(database: Any, message: Message) -> int:
    """How often the user has seen the answer."""
    found: int = await database["sent"].count_documents({"conversation_id": message.conversation_id})
    return found


@dataclass(frozen=True, slots=True)
class WithoutAClaim:
    """Routes, works, then writes: between the first and the last anybody may do the same."""

    sessions: SessionRepository
    database: Any

    async def __call__(self, message: Message) -> str | None:
        """Show a preview, if the message is an answer."""
        route = await self.sessions.route(1, message.conversation_id)
        if route.session is None or route.action is not RouteAction.RESUME:
            return None
        await send(self.database, message)
        shown = {"status": "ready_preview", "current_preview_id": f"preview-{message.message_id}"}
        await self.database["active_schedule_sessions"].update_one({"_id": route.session.session_id}, {"$set": shown})
        return PREVIEW


@dataclass(frozen=True, slots=True)
class SendsBeforeItRecords:
    """Claims, and gives the claim back; stopped after it has sent and before it has recorded, it sends twice."""

    sessions: SessionRepository
    database: Any

    async def __call__(self, message: Message) -> str | None:
        """Show a preview, if the message is an answer."""
        route = await self.sessions.route(1, message.conversation_id)
        if route.session is None or route.action is not RouteAction.RESUME:
            return None
        try:
            claim = await self.sessions.claim_rerun(route.session.session_id, user_id=1, reply_id=message.message_id)
        except TransitionConflict:
            return None
        try:
            await send(self.database, message)
            await asyncio.sleep(0)
            await self.sessions.present_preview(claim, preview_id=f"preview-{message.message_id}")
        except asyncio.CancelledError:
            await self.sessions.release(claim)
            raise
        return PREVIEW


@dataclass(frozen=True, slots=True)
class KeepsItsClaim:
    """Claims, and when it is stopped gives nothing back: the message waits for the lease."""

    sessions: SessionRepository

    async def __call__(self, message: Message) -> str:
        """Show a preview."""
        route = await self.sessions.route(1, message.conversation_id)
        assert route.session is not None
        claim = await self.sessions.claim_rerun(route.session.session_id, user_id=1, reply_id=message.message_id)
        await asyncio.sleep(0)
        await self.sessions.present_preview(claim, preview_id=f"preview-{message.message_id}")
        return PREVIEW


@dataclass(frozen=True, slots=True)
class BeginsAnew:
    """Takes each error of the database for a write that was not carried out."""

    database: Any

    async def __call__(self, message: Message) -> str:
        """Send, until no error comes."""
        while True:
            try:
                await send(self.database, message)
            except PyMongoError:
                continue
            return PREVIEW


@dataclass(frozen=True, slots=True)
class OnTheBridge:
    """The bridge claims, records and gives back; what the graph does elsewhere is done once for each of its keys."""

    sessions: SessionRepository
    database: Any

    async def __call__(self, message: Message) -> Handled:
        """Handle it; the answer is the outcome's to show."""
        bridge = SessionBridge(self.sessions, self.rerun)
        return await bridge.handle(
            1,
            message.conversation_id,
            message.text,
            message_id=message.message_id,
            redelivered=message.redelivered,
        )

    async def rerun(self, turn: Turn) -> ShowPreview:
        """The graph."""
        once = {"$setOnInsert": {"text": turn.text, "conversation_id": turn.session.conversation_id}}
        await self.database["previews"].update_one({"_id": turn.idempotency_key}, once, upsert=True)
        await asyncio.sleep(0.01)
        return ShowPreview(f"preview-{turn.message_id}")


@dataclass(slots=True)
class InItsOwnProcess:
    """`OnTheBridge` with a connection that is opened where it is entered."""

    uri: str
    database: str
    driver: str
    _open: AsyncExitStack = field(default_factory=AsyncExitStack, init=False)

    def __reduce__(self) -> tuple[type[Self], tuple[str, str, str]]:
        """Without the connection."""
        return type(self), (self.uri, self.database, self.driver)

    async def __aenter__(self) -> OnTheBridge:
        client: Any = connect(self.uri, driver=self.driver)
        self._open.push_async_callback(disconnect, client)
        database = client[self.database]
        return OnTheBridge(await self._open.enter_async_context(open_repository(database, timeout=30)), database)

    async def __aexit__(self, *error: object) -> None:
        await self._open.aclose()


class CannotConnect(AbstractAsyncContextManager[Callable[[Message], Awaitable[None]]]):
    """A handler whose connection fails in one process of several."""

    def __init__(self, first: Path) -> None:
        self._first = first

    async def __aenter__(self) -> Callable[[Message], Awaitable[None]]:
        try:
            self._first.touch(exist_ok=False)
        except FileExistsError:
            return self._ignore
        raise ConnectionError("no server there")

    async def __aexit__(self, *error: object) -> None: ...

    async def _ignore(self, message: Message) -> None: ...


def is_shown(answer: object) -> bool:
    """Whether this delivery has shown the preview."""
    return isinstance(answer, PreviewShown)
