"""A repository whose writing calls are written down, those that a bridge makes too."""

import asyncio
import hashlib
import inspect
import random
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final
from uuid import uuid4

from sessions import SessionError, SessionRepository, StoreUnavailable, WriteOutcome
from tests.faults.evidence import CLAIMS, CREATIONS, HOLDERS, WRITES
from tests.faults.journal import Answer, Journal

Make = Callable[..., Awaitable[Any]]
_TOLD: Final = ("user_id", "conversation_id", "preview_id", "notification_id", "reply_id", "question_number")
_WITHOUT_ID: Final = frozenset({"renew", "postpone", "bind_conversation", "record_notification"})
_REPEATED: Final = 64


def answer_to(error: BaseException) -> Answer:
    """What a failed call's caller knows of it."""
    if isinstance(error, StoreUnavailable):
        return Answer.NOT_WRITTEN if error.outcome is WriteOutcome.NOT_WRITTEN else Answer.UNKNOWN
    return Answer.REFUSED if isinstance(error, SessionError) else Answer.UNKNOWN


class Recorder:
    """Stands in front of a repository's writing methods.

    Args:
        repository: Its methods are replaced, so that a bridge above it is written down as well.
        journal: Where to.
        chance: Chooses which claims are given an operation id, and which make one of their own.
    """

    def __init__(self, repository: SessionRepository, journal: Journal, chance: random.Random) -> None:
        self._journal = journal
        self._chance = chance
        self.made: deque[tuple[str, Make, inspect.BoundArguments]] = deque(maxlen=_REPEATED)
        """The last calls, to be repeated as a network repeats what it had delayed."""
        for name in WRITES:
            setattr(repository, name, self._recorded(name, getattr(repository, name)))

    def _recorded(self, name: str, make: Make) -> Make:
        signature = inspect.signature(make)

        async def recorded(*args: Any, **kwargs: Any) -> Any:
            given = signature.bind(*args, **kwargs)
            # Half of the claims go without, for the library to name them itself.
            is_named = name not in _WITHOUT_ID and (name not in CLAIMS or self._chance.random() < 0.5)
            if is_named and given.arguments.get("operation_id") is None:
                given.arguments["operation_id"] = uuid4().hex
            if given.arguments.get("operation_id") is not None:
                self.made.append((name, make, given))
            return await self._make(name, make, given)

        return recorded

    async def repeat(self) -> None:
        """Make one of the last calls once more, under its operation id."""
        if self.made:
            await self._make(*self._chance.choice(self.made))

    async def _make(self, name: str, make: Make, given: inspect.BoundArguments) -> Any:
        number = self._journal.begin(name, _told(name, given.arguments))
        try:
            returned = await make(*given.args, **given.kwargs)
        except BaseException as error:
            found = {"error": type(error).__name__, "reason": getattr(error, "reason", None)}
            self._journal.end(number, answer_to(error), found)
            raise
        self._journal.end(number, Answer.ACKNOWLEDGED, _found(name, returned))
        return returned


def _told(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    told = {each: given[each] for each in _TOLD if given.get(each) is not None and _is_plain(given[each])}
    if given.get("operation_id") is not None:
        told["operation_id"] = given["operation_id"]
    if given.get("replaces") is not None:
        told["replaces"] = True
    if name in HOLDERS:
        claim = given["claim"]
        named = {"session_id": claim.session.session_id, "token": claim.token, "kind": claim.kind.value}
        return {**told, **named, "reply_id": claim.reply_id}
    if name in CREATIONS:
        # As the design derives it, for a creation that is not answered.
        derived = hashlib.sha256(f"{given['user_id']}:{given['trigger_id']}".encode()).hexdigest()[:32]
        return {**told, "session_id": derived}
    return {**told, "session_id": given["session_id"]}


def _is_plain(value: object) -> bool:
    return isinstance(value, str | int)


def _found(name: str, returned: Any) -> dict[str, Any]:
    created = True
    if name == "get_or_create":
        returned, created = returned
    session = getattr(returned, "session", returned)
    found = {
        "session_id": session.session_id,
        "revision": session.revision,
        "status": session.status.value,
        "token": session.fencing_token,
        "question_number": session.question_number,
        "question": session.state.pending_question,
        "preview_id": session.current_preview_id,
        "created": created,
        "ends_at": None if session.state.expires_at is None else session.state.expires_at.timestamp(),
    }
    if session is returned:
        return found
    return found | {
        "token": returned.token,
        "operation_id": returned.operation_id if name in CLAIMS else None,
        "expires_at": returned.expires_at.timestamp(),
        "lease": returned.lease.total_seconds(),
        "attempt": returned.attempt,
    }


async def unless_refused(call: Awaitable[Any]) -> Any:
    """What a call returns; None if it was refused or failed in one of the library's ways."""
    try:
        return await call
    except SessionError:
        return None


async def pause(chance: random.Random, longest: float) -> None:
    """Let a random time pass."""
    await asyncio.sleep(chance.uniform(0, longest))
