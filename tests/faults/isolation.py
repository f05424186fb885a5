"""What one user's calls answer, store and send, with another user's data there and without: there is no difference.

The methods and their arguments are read from the classes, so that a new one cannot be forgotten. The other user's
sessions have the same triggers, conversations, previews, messages and operations; the caller guesses all of them.
"""

import inspect
import logging
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import FunctionType
from typing import Any, Final, NamedTuple
from uuid import uuid4

from pymongo import WriteConcern

from sessions import (
    ActiveScheduleSessionSnapshot,
    ApplyClaim,
    AskUser,
    RerunClaim,
    SessionBridge,
    SessionError,
    SessionRepository,
    SessionStatus,
    Turn,
    WhileRunning,
    open_repository,
)
from sessions.domain.lifecycle import CALLS, CallName, LeaseKind
from sessions.mongod import find_mongod, running_mongod
from sessions.store.clients import connect, connect_double, disconnect
from sessions.store.document import COLLECTION
from sessions.store.requests import Request
from sessions.testing import CommandCounter, MovedClock, SessionMaker
from tests.faults.campaign import Form, Setting, Tally, Unable
from tests.faults.model_world import shown

START: Final = datetime(2026, 1, 1, tzinfo=UTC)
OWNER: Final = 1
STRANGER: Final = 2
NOT_SENT_ALIKE: Final = frozenset({"lsid", "$clusterTime", "$db", "maxTimeMS", "txnNumber"})
_DRAWN: Final = re.compile(r"\b[0-9a-f]{32}\b")
Documents = list[dict[str, Any]]
Held = RerunClaim | ApplyClaim | None


class Size(NamedTuple):
    """Of so many situations of the other user's session one is tried with each method."""

    on_the_double: int
    on_a_server: int


SIZES: Final[Mapping[Form, Size]] = {Form.SHORT: Size(3, 9), Form.LONG: Size(1, 1)}


class Theirs(NamedTuple):
    """A session, and the claim on it if it is worked on."""

    session: ActiveScheduleSessionSnapshot
    claim: Held


def methods() -> dict[str, Callable[..., Any]]:
    """The public methods that a user's request makes: those that name the user, or a claim of theirs."""
    return {
        name: method
        for of in (SessionRepository, SessionBridge)
        for name, method in inspect.getmembers(of, inspect.iscoroutinefunction)
        if not name.startswith("_") and {"user_id", "claim"} & inspect.signature(method).parameters.keys()
    }


def of_nobody() -> set[str]:
    """The public methods of upkeep and operation: they name no user, and a user's request never makes them."""
    return {
        name
        for of in (SessionRepository, SessionBridge)
        for name, method in inspect.getmembers(of)
        if isinstance(method, FunctionType) and not name.startswith("_") and name not in methods()
    }


Guess = Callable[[Theirs, ActiveScheduleSessionSnapshot], Any]
GUESSES: Final[Mapping[str, Guess]] = {
    "user_id": lambda *_: STRANGER,
    "session_id": lambda _, target: target.session_id,
    "conversation_id": lambda theirs, _: theirs.session.conversation_id,
    "conversation_ids": lambda theirs, _: [theirs.session.conversation_id, "another"],
    "trigger_id": lambda theirs, _: theirs.session.trigger_id,
    "preview_id": lambda theirs, _: theirs.session.current_preview_id or "preview-1",
    "reply_id": lambda *_: "reply-1",
    "message_id": lambda *_: "reply-1",
    "candidate_id": lambda *_: "candidate",
    "notification_id": lambda *_: "notification",
    "operation_id": lambda theirs, _: "theirs" if theirs.claim is None else theirs.claim.operation_id,
    "pending_question": lambda *_: "Which?",
    "missing_info": lambda *_: ["room"],
    "reason": lambda *_: "because",
    "expires_at": lambda *_: START + timedelta(days=9),
    "ignored": lambda *_: False,
    "expected_revision": lambda _, target: target.revision,
    "question_number": lambda _, target: target.question_number,
    "question_id": lambda _, target: target.question_id,
    "replaces": lambda theirs, _: "theirs" if theirs.claim is None else theirs.claim.operation_id,
    "lease": lambda *_: timedelta(seconds=5),
    "count_attempt": lambda *_: True,
    "statuses": lambda *_: list(SessionStatus),
    "limit": lambda *_: 2,
    "after": lambda *_: None,
    "client_session": lambda *_: None,
    "text": lambda *_: "Tuesday",
    "result": lambda *_: AskUser("Which?"),
    "redelivered": lambda *_: True,
    "has_attachment": lambda *_: False,
    "while_running": lambda *_: WhileRunning.REPLACE,
    "wait": lambda *_: timedelta(0),
}
"""What each argument would be, were the other's session one's own: the most tempting guess."""
PARTICULAR: Final[Mapping[tuple[str, str], object]] = {
    ("postpone", "after"): timedelta(seconds=5),
    ("present_preview", "preview_id"): "fresh",
    **{(name, "preview_id"): None for name in ("create", "get_or_create")},
}


def arguments_of(name: str, theirs: Theirs, target: Theirs, *, every: bool) -> dict[str, Any] | None:
    """The arguments of a method, all or the required ones; None if there is no claim for it to hold."""
    given: dict[str, Any] = {}
    for argument, parameter in inspect.signature(methods()[name]).parameters.items():
        if argument == "self" or (parameter.default is not parameter.empty and not every):
            continue
        if argument == "claim":
            if target.claim is None or target.claim.kind not in CALLS[CallName(name)].held:
                return None
            # With the user exchanged: of their own session it is the claim that they have.
            session = target.claim.session.model_copy(update={"user_id": STRANGER})
            given[argument] = replace(target.claim, session=session)
        elif (name, argument) in PARTICULAR:
            given[argument] = PARTICULAR[name, argument]
        else:
            given[argument] = GUESSES[argument](theirs, target.session)
    if name in ("create", "get_or_create") and not every:
        given["pending_question"] = "Which?"
    return given


class Recorder:
    """The requests of a repository on the double, each noted."""

    def __init__(self, requests: Any, sent: list[Any]) -> None:
        self._requests = requests
        self._sent = sent

    def __getattr__(self, name: str) -> Callable[..., Request[Any]]:
        def made(*given: Any, **named: Any) -> Request[Any]:
            self._sent.append((name, deepcopy(given), {**named}))
            request: Request[Any] = getattr(self._requests, name)(*given, **named)
            return request

        return made


class Side(NamedTuple):
    """One database, and what a caller sees of it."""

    repository: SessionRepository
    bridge: SessionBridge
    collection: Any
    sent: Callable[[], list[Any]]
    """What was sent since it was last asked."""

    async def put(self, documents: Documents) -> None:
        """Hold these, and nothing else."""
        await self.collection.delete_many({})
        if documents:
            await self.collection.insert_many(deepcopy(documents))
        self.sent()

    async def stored(self, user_id: int) -> Documents:
        """What a user has."""
        found: Documents = await self.collection.find({"user_id": user_id}).sort("_id", 1).to_list(None)
        return found

    async def called(self, name: str, given: Mapping[str, Any]) -> tuple[Any, ...]:
        """All that there is to see of a call: answer or error, what was sent, what the caller has afterwards."""
        self.sent()
        of = self.bridge if hasattr(SessionBridge, name) else self.repository
        seen: Any
        try:
            seen = shown(await getattr(of, name)(**given))
        except SessionError as error:
            seen = type(error).__name__, str(error), {each: shown(value) for each, value in vars(error).items()}
        return seen, self.sent(), await self.stored(STRANGER)


def alike(seen: object, known: frozenset[str]) -> str:
    """A text to compare, in which the ids that were drawn are numbered as they come."""
    drawn: dict[str, str] = {}

    def numbered(found: re.Match[str]) -> str:
        return found[0] if found[0] in known else drawn.setdefault(found[0], f"<drawn {len(drawn)}>")

    return _DRAWN.sub(numbered, repr(seen))


def _noted(side_of: Any, counter: CommandCounter | None, repository: SessionRepository) -> Callable[[], list[Any]]:
    """How to learn what was sent."""
    if counter is None:
        noted: list[Any] = []
        handles = repository._collection._handles
        setattr(handles, "_methods", Recorder(handles.requests(None), noted))  # noqa: B010 - only the double has them

        def told() -> list[Any]:
            sent, noted[:] = list(noted), []
            return sent

        return told
    counting = counter.counting()
    counting.__enter__()
    side_of.append(counting)

    def told_by_commands() -> list[Any]:
        sent = [
            {name: value for name, value in command.items() if name not in NOT_SENT_ALIKE}
            for command in counter.commands
        ]
        counter.commands = []
        return sent

    return told_by_commands


@asynccontextmanager
async def side(client: Any, counter: CommandCounter | None, clock: MovedClock) -> AsyncIterator[Side]:
    """A repository on a database of its own."""

    async def rerun(_: Turn) -> AskUser:
        return AskUser("And?")

    database, counting = client[f"sessions_isolated_{uuid4().hex[:12]}"], list[Any]()
    async with open_repository(database, create_indexes=True, clock=clock) as repository:
        sent = _noted(counting, counter, repository)
        # Whatever the client's concern: these writes are the test's own.
        collection = database.get_collection(COLLECTION, write_concern=WriteConcern(1))
        yield Side(repository, SessionBridge(repository, rerun), collection, sent)
        for each in counting:
            each.__exit__(None, None, None)
    await client.drop_database(database.name)


def _situations() -> Iterator[SessionStatus | LeaseKind]:
    yield from SessionStatus
    yield from (LeaseKind.REFINEMENT, LeaseKind.APPLY)


async def _made(make: SessionMaker, situation: SessionStatus | LeaseKind, user_id: int) -> Theirs:
    given: dict[str, Any] = {"user_id": user_id, "conversation_id": "c"}
    if situation is SessionStatus.RERUNNING:
        claim: Held = await make.claim(**given)
    elif isinstance(situation, LeaseKind):
        claim = await (make.refinement if situation is LeaseKind.REFINEMENT else make.apply_claim)(**given)
    else:
        return Theirs(await make(situation, **given), None)
    assert claim is not None
    return Theirs(claim.session, claim)


class Differences(NamedTuple):
    """What was found on one backend."""

    calls: Counter[str]
    told: list[str]


async def compared(with_them: Side, without: Side, clock: MovedClock, *, one_in: int) -> Differences:
    """Call each method as a stranger on both sides, aimed at the other's session and at their own."""
    calls, wrong = Counter[str](), list[str]()
    for number, situation in enumerate(_situations()):
        clock.at = START
        await without.put([])
        mine = await _made(SessionMaker(without.repository, clock), situation, STRANGER)
        own = await without.stored(STRANGER)
        await with_them.put([])
        clock.at = START
        theirs = await _made(SessionMaker(with_them.repository, clock), situation, OWNER)
        others = await with_them.stored(OWNER)
        known = frozenset({mine.session.session_id, theirs.session.session_id})
        for place, name in enumerate(methods()):
            # A holder's call has few situations, so it is tried in each.
            if (number + place) % one_in and "claim" not in inspect.signature(methods()[name]).parameters:
                continue
            for target in (theirs, mine):
                for every in (False, True):
                    given = arguments_of(name, theirs, target, every=every)
                    if given is None:
                        continue
                    await with_them.put([*others, *own])
                    await without.put(own)
                    one, other = await with_them.called(name, given), await without.called(name, given)
                    calls[name] += 1
                    if alike(one, known) != alike(other, known):
                        wrong.append(f"{name}, {situation}: {one} is not {other}")
                    if await with_them.stored(OWNER) != others:
                        wrong.append(f"{name}, {situation}: the owner's documents have changed")
    return Differences(calls, wrong)


async def on(setting: Setting, uri: str = "") -> Differences:
    """All of it on one backend: on the double, or on the server of a URI."""
    clock, counter = MovedClock(START), CommandCounter() if uri else None
    client: Any = connect_double() if counter is None else connect(uri, driver=setting.driver, listeners=[counter])
    logger = logging.getLogger("sessions")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        async with side(client, counter, clock) as with_them, side(client, counter, clock) as without:
            size = SIZES[setting.form]
            return await compared(with_them, without, clock, one_in=size.on_a_server if uri else size.on_the_double)
    finally:
        logger.setLevel(level)
        await disconnect(client)


async def run(setting: Setting) -> Tally:
    """On the double, and on a server of its own, whose commands are compared."""
    if (binary := find_mongod()) is None:
        raise Unable("no mongod on PATH, and the `server` extra has none for this platform")
    double = await on(setting)
    async with running_mongod(binary) as uri:
        real = await on(setting, uri)
    wrong = [*double.told, *real.told]
    if wrong:
        raise AssertionError("\n".join(wrong))
    return {"pairs of calls": (double.calls + real.calls).total(), "methods": len(double.calls), "illegal": len(wrong)}
