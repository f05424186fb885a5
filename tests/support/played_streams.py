"""Streams that a test plays, for what reads them: their answers, and what was asked for."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from sessions import StoreUnavailable
from sessions.changes.events import Event
from sessions.changes.feed import Follower
from sessions.domain.errors import SessionRef, WriteOutcome

AT: Final = datetime(2026, 1, 1, tzinfo=UTC)
PATIENCE: Final = 60.0


def lost(cause: str = "played") -> StoreUnavailable:
    """What a stream raises that another one can replace."""
    return StoreUnavailable(SessionRef(), outcome=WriteOutcome.NOT_WRITTEN, cause=cause)


def change(number: int, *, session_id: str | None = None, revision: int | None = None) -> dict[str, Any]:
    """A change as the server tells it."""
    session_id = session_id or f"s{number}"
    document = {
        "_id": session_id,
        "user_id": 1,
        "conversation_id": "c",
        "trigger_id": "t",
        "status": "waiting_user_reply",
        "revision": number,
        "created_at": AT,
        "updated_at": AT,
    }
    return {
        "_id": {"_data": f"{number:04x}"},
        "operationType": "update",
        "wallTime": AT,
        "documentKey": {"_id": session_id},
        "fullDocument": document,
        "updateDescription": {"updatedFields": {"revision": number if revision is None else revision}},
    }


class PlayedStream:
    """What the test puts in comes out; without anything a read waits."""

    def __init__(self, token: str) -> None:
        self.token: str | None = token
        self.answers: asyncio.Queue[dict[str, Any] | list[dict[str, Any]] | Exception | None] = asyncio.Queue()
        self.is_closed = False

    async def next_batch(self) -> list[dict[str, Any]]:
        """The next of what was put in: a batch, a change alone, or none."""
        answer = await self.answers.get()
        if isinstance(answer, Exception):
            raise answer
        if answer is None:
            return []
        batch = answer if isinstance(answer, list) else [answer]
        self.token = batch[-1]["_id"]["_data"]
        return batch

    async def close(self) -> None:
        """Noted."""
        self.is_closed = True


class PlayedSource:
    """Streams for the feed, and what it asked for."""

    def __init__(self) -> None:
        self.present: object = "first"
        self.streams: list[PlayedStream] = []
        self.asked: list[tuple[str | None, float]] = []
        self.refusals: list[Exception] = []
        self.opened = asyncio.Event()

    async def changes(self, resume_after: str | None, *, wait: float) -> PlayedStream:
        """A stream, or the next refusal."""
        self.asked.append((resume_after, wait))
        if self.refusals:
            raise self.refusals.pop(0)
        self.streams.append(PlayedStream(resume_after or "0000"))
        self.opened.set()
        return self.streams[-1]

    async def check_token(self, token: str) -> None:  # noqa: ARG002 - the protocol's
        """The next refusal, if the test has one."""
        if self.refusals:
            raise self.refusals.pop(0)

    async def confirm_primary(self) -> None:
        """It is."""

    def primary(self) -> object:
        """What the test says."""
        return self.present


class Recorder(Follower):
    """Keeps what it was told."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def joined(self, token: str | None) -> None:
        """Kept."""
        self.told.append(("joined", token))

    def opened(self) -> None:
        """Kept."""
        self.told.append("opened")

    def lost(self) -> None:
        """Kept."""
        self.told.append("lost")

    def happened(self, events: Sequence[Event]) -> None:
        """Kept."""
        self.told.extend(event.token for event in events)

    def quiet(self, since: float) -> None:  # noqa: ARG002 - the protocol's
        """Kept."""
        self.told.append("quiet")

    def ended(self, error: Exception | None) -> None:
        """Kept."""
        self.told.append(error)


async def until(holds: Callable[[], object]) -> None:
    """Let the feed go on until something holds."""
    async with asyncio.timeout(PATIENCE):
        while not holds():  # noqa: ASYNC110 - the feed announces nothing to the test
            await asyncio.sleep(0.001)
