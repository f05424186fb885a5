"""Both sides of the model check: one store with its repository and bridges, and the model; each call goes to both.

What they answer is compared call by call, and after each one what is stored, histories included.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any, Final
from uuid import uuid4

from pydantic import BaseModel

from sessions import (
    AskUser,
    Close,
    Fail,
    FreeChat,
    GraphResult,
    NotAnAnswer,
    SessionBridge,
    SessionError,
    ShowPreview,
    TryAgain,
    Turn,
    open_repository,
)
from sessions.bridge.outcomes import Outcome
from sessions.domain.models import HeldClaim, Page, Route
from sessions.store.clients import Client, disconnect
from sessions.store.document import COLLECTION
from sessions.testing import MovedClock
from tests.faults.bridge_model import Answer, BridgeModel
from tests.faults.lifecycle_calls import RepositoryModel
from tests.faults.lifecycle_model import EPOCH, STATE, AnyOf, Claim, Fresh, Refusal, Seen

START: Final = datetime(2026, 1, 1, tzinfo=UTC)
LEASE: Final = timedelta(seconds=10)
MAX_ATTEMPTS: Final = 2
LOOKUPS: Final = frozenset(
    {
        *("route", "route_many", "get", "history", "latest", "find_by_trigger", "find_by_preview", "find_by_reply"),
        *("list_sessions", "count_by_status", "present_status", "interrupted_applies"),
    }
)
AS_GIVEN: Final = {"AskUser": AskUser, "ShowPreview": ShowPreview, "Close": Close, "Fail": Fail}
_DRAWN: Final = 32
_HEX: Final = frozenset("0123456789abcdef")


@dataclass(frozen=True)
class Both:
    """An argument that is one thing for the library and another for the model."""

    real: Any
    model: Any


def shown(answer: object) -> Any:
    """What the library answers, as plain values of the model's shape."""
    match answer:
        case HeldClaim():
            names = (*("session", "kind", "token", "operation_id", "reply_id", "attempt", "expires_at", "lease"),)
            return {name: shown(getattr(answer, name)) for name in (*names, "idempotency_key")}
        case BaseModel():
            return {name: shown(value) for name, value in answer}
        case Route():
            return {"action": answer.action.value, "session": shown(answer.session)}
        case Page():
            return {"sessions": shown(answer.sessions), "more": answer.after is not None}
        case Outcome() | FreeChat():
            told = {"outcome": type(answer).__name__, "session": shown(answer.session), "payload": answer.payload}
            more = {name: getattr(answer, name) for name in ("question_id", "after") if hasattr(answer, name)}
            return {**told, **more}
        case Enum():
            return answer.value
        case dict():
            return {shown(name): shown(value) for name, value in answer.items()}
        case list():
            return [shown(item) for item in answer]
        case tuple():
            return tuple(shown(item) for item in answer)
    return answer


def document_of(raw: dict[str, Any]) -> Seen:
    """A stored document in the model's shape: what is left out of it is there as its default."""

    def told(value: Any) -> Any:
        match value:
            case datetime():
                return value.replace(tzinfo=UTC)
            case list():
                return tuple(told(item) for item in value)
            case dict():
                return {name: told(item) for name, item in value.items()}
        return value

    found: Seen = {"session_id": raw["_id"], "lease": None, "replaced_reply_ids": (), **told(raw)}
    del found["_id"]
    empty = {"pending_question": "", "missing_info": (), "failed_reason": ""}
    found["state"] = {name: empty.get(name) for name in STATE} | found["state"]
    if found["lease"] is not None:
        found["lease"] = {"reply_id": None, "attempt": None, "traceparent": None, **found["lease"]}
    found["history"] = list(found["history"])
    return found


def same(expected: Any, actual: Any) -> bool:
    """Whether the library's answer is the model's; an id that was drawn becomes known by it."""
    if type(expected) is type(actual) and expected == actual:
        return True
    match expected:
        case Fresh(value=None):
            is_drawn = isinstance(actual, str) and len(actual) == _DRAWN and set(actual) <= _HEX
            expected.value = actual if is_drawn else None
            return is_drawn
        case Fresh():
            return bool(expected == actual)
        case AnyOf():
            return any(same(each, actual) for each in expected)
        case Claim():
            return same(vars(expected), actual)
        case dict():
            return (
                isinstance(actual, dict)
                and expected.keys() == actual.keys()
                and all(same(value, actual[name]) for name, value in expected.items())
            )
        case list() | tuple():
            return len(expected) == len(actual) and all(map(same, expected, actual))
    return type(expected) is type(actual) and bool(expected == actual)


def disagreement(expected: object, actual: object) -> str:
    """How an answer differs from the model's; empty if it does not."""
    if isinstance(expected, Refusal):
        if type(actual).__name__ != expected.kind:
            return f"the model refuses: {expected.kind}, {expected.seen}; the library: {actual!r}"
        wrong = {name for name, value in expected.seen.items() if not same(value, shown(getattr(actual, name)))}
        if not wrong:
            return ""
        told = {name: (expected.seen[name], getattr(actual, name)) for name in wrong}
        return f"the {expected.kind} differs: {told}"
    if isinstance(actual, SessionError):
        return f"the model: {expected}; the library refuses: {actual!r}"
    return "" if same(expected, shown(actual)) else f"the model: {expected}\nthe library: {shown(actual)}"


class World:
    """One store for a whole campaign; `begin` empties it for the next example.

    Attributes:
        counted: How often each public method was called, and how often it was not refused.
        claims: Those that were won, by both names.
    """

    def __init__(self, client: Client, *, name: str, told: Callable[[], None] = lambda: None) -> None:
        named: Any = client
        self.is_real = name != "double"
        self.counted: Counter[str] = Counter()
        self.succeeded: Counter[str] = Counter()
        self.clock = MovedClock(START)
        self._client = client
        self._database = named[f"sessions_model_{uuid4().hex[:12]}"]
        self._told = told
        self._users = 0
        self._graph: Callable[[Turn], Awaitable[GraphResult]] | None = None
        self._writer: Callable[[Any], Awaitable[None]] | None = None
        self._closing = AsyncExitStack()

    async def open(self) -> None:
        """Open the repository and its bridges, with few attempts and short leases, so that both run out often."""
        opening = open_repository(
            self._database, create_indexes=True, clock=self.clock, lease=LEASE, max_attempts=MAX_ATTEMPTS
        )
        self.repository = await self._closing.enter_async_context(opening)
        self._collection = self._database[COLLECTION]

        async def rerun(turn: Turn) -> GraphResult:
            assert self._graph is not None, "a graph runs that the model has not let run"
            return await self._graph(turn)

        async def write_back(claim: Any) -> None:
            assert self._writer is not None, "a write-back runs that the model has not let run"
            await self._writer(claim)

        self.bridge = SessionBridge(self.repository, rerun, write_back=write_back)
        self.plain_bridge = SessionBridge(self.repository, rerun)
        tiny = timedelta(milliseconds=1)
        self.hasty_bridge = SessionBridge(self.repository, rerun, write_back=write_back, max_rerun=tiny)

    async def close(self) -> None:
        """Leave nothing behind."""
        await self._closing.aclose()
        await self._client.drop_database(self._database.name)
        await disconnect(self._client)

    async def begin(self) -> None:
        """An empty store and an empty model; users of its own, so that no stream mixes up two examples."""
        await self._collection.delete_many({})
        self.model = RepositoryModel(self.clock.at, lease=LEASE, max_attempts=MAX_ATTEMPTS)
        self.bridge_model = BridgeModel(self.model)
        self.claims: list[Both] = []
        self._users += 2
        self.users = (self._users - 1, self._users)

    def move(self, to: datetime) -> None:
        """Move both clocks on."""
        self.clock.at = self.model.now = max(to, self.clock.at)

    async def agree(self) -> None:
        """What is stored is what the model holds."""
        found = {raw["_id"]: document_of(raw) for raw in await self._collection.find({}).to_list(None)}
        expected = {session.session_id: session.document() for session in self.model.sessions.values()}
        assert same(expected, found), f"stored is\n{found}\nand in the model\n{expected}"

    async def play(self, name: str, *given: Any, **named: Any) -> Any:
        """One call of the repository, to both; its answer by the library, an error if it is refused."""
        real, model = _parted(given, named)
        expected: Any
        try:
            expected = getattr(self.model, name)(*model[0], **model[1])
        except Refusal as refusal:
            expected = refusal
        actual = await self._answered(name, self.repository, *real[0], **real[1])
        self._agree_on(name, given, named, expected, actual)
        if name not in LOOKUPS:  # what one of them changed is seen after the next call
            await self.agree()
        if isinstance(expected, Claim):
            self.claims.append(Both(actual, expected))
        return actual

    async def _answered(self, name: str, of: object, *given: Any, **named: Any) -> Any:
        """What the library answers or raises; counted."""
        self.counted[name] += 1
        self._told()
        try:
            answer = getattr(of, name)(*given, **named)
            answer = await answer if isinstance(answer, Awaitable) else answer
        except SessionError as error:
            return error
        self.succeeded[name] += 1
        return answer

    def _agree_on(self, name: str, given: object, named: object, expected: object, actual: object) -> None:
        wrong = disagreement(expected, actual)
        assert not wrong, f"{name}{given}{named} at {self.clock.at}:\n{wrong}"

    def result_of(self, answer: Answer) -> GraphResult:
        """What a graph answers."""
        if answer.kind == "NotAnAnswer":
            return NotAnAnswer(answer.payload)
        result: GraphResult = AS_GIVEN[answer.kind](**answer.given, payload=answer.payload)
        return result

    # --- the bridge -----------------------------------------------------------------------------------------------

    async def press(self, name: str, modelled: Callable[[], Any], *given: Any, **named: Any) -> None:
        """A call of the bridge under which no graph runs."""
        bridge = named.pop("on", self.bridge)
        self._graph = self._writer = None
        expected = _told_by(modelled)
        self._agree_on(name, given, named, expected, await self._answered(name, bridge, *given, **named))
        await self.agree()

    async def run(
        self,
        name: str,
        begun: Callable[[], Any],
        answer: Answer,
        meanwhile: Callable[[Both], Awaitable[None]],
        *given: Any,
        **named: Any,
    ) -> None:
        """A call of the bridge under which a graph or a write-back may run.

        Args:
            name: The method.
            begun: The model's first half: a claim, or what comes of the call without one.
            answer: What graph or write-back come to.
            meanwhile: What others do while it runs.
            given: The method's arguments.
            named: The method's arguments.
        """
        expected = _told_by(begun)
        claim = expected if isinstance(expected, Claim) else None
        ran = False
        broken: list[BaseException] = []

        async def works(held: Both) -> None:
            nonlocal ran
            try:
                assert not ran, "it ran twice"
                ran = True
                if answer.kind == "TooLate":  # it may be stopped at any moment from now on
                    await asyncio.Event().wait()
                await self.agree()
                await meanwhile(held)
            except AssertionError as error:
                broken.append(error)  # the bridge would make an outcome of it
                raise
            if answer.kind == "TryAgain" and answer.after is not None:
                raise TryAgain(answer.after)
            if answer.kind == "ValueError":
                raise ValueError("a text that no history may show")

        async def graph(turn: Turn) -> GraphResult:
            assert claim is not None
            wrong = disagreement(_turn_of(claim), _shown_turn(turn))
            assert not wrong, wrong
            await works(Both(None, claim))
            return self.result_of(answer)

        async def writer(held: Any) -> None:
            wrong = disagreement(claim, held)
            assert not wrong, wrong
            await works(Both(held, claim))

        self._graph, self._writer = (graph, writer) if claim is not None else (None, None)
        bridge = self.hasty_bridge if answer.kind == "TooLate" else self.bridge
        actual = await self._answered(name, bridge, *given, **named)
        if broken:
            raise broken[0]
        if claim is not None:
            assert ran, f"{name} ran nothing: {actual!r}"
            ended = self.bridge_model.wrote if name == "confirm" else self.bridge_model.ran
            expected = ended(claim, answer)
        self._agree_on(name, given, (named, answer), expected, actual)
        await self.agree()

    async def keep_up(self) -> None:
        """One round of the upkeep: in the end what is stored is what the model holds."""

        async def writer(_: Any) -> None:
            """Written at once."""

        self._writer = writer
        self.bridge_model.upkeep()
        self.counted["upkeep"] += 1
        async with self.bridge.upkeep(every=timedelta(minutes=5)):
            for _ in range(400):
                try:
                    await self.agree()
                except AssertionError:
                    await asyncio.sleep(0.005)
                else:
                    break
        await self.agree()
        self.succeeded["upkeep"] += 1

    async def watch(self, token: str | None, change: Callable[[], Awaitable[str]]) -> str | None:
        """Follow a change: every snapshot is one that the model had, revisions increase, and the last one comes."""
        self.counted["watch"] += 1
        newest: dict[str, int] = {}
        async with self.repository.watch(user_id=self.users[0], resume_after=token) as watch, asyncio.timeout(20):
            changed = await change()
            wanted = max(revision for key, revision in self.model.versions if key == changed)
            while newest.get(changed) != wanted:
                snapshot = (await anext(watch)).snapshot
                key = f"{snapshot.session_id}:{(snapshot.created_at - EPOCH) // timedelta(milliseconds=1)}"
                assert snapshot.revision > newest.get(key, 0), "a revision came twice"
                newest[key] = snapshot.revision
                assert same(self.model.versions[key, snapshot.revision], shown(snapshot)), snapshot
            self.succeeded["watch"] += 1
            return watch.token


def _parted(given: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """The arguments for the library, and those for the model."""
    return [
        (
            [getattr(each, side) if isinstance(each, Both) else each for each in given],
            {name: getattr(each, side) if isinstance(each, Both) else each for name, each in named.items()},
        )
        for side in ("real", "model")
    ]


def _told_by(modelled: Callable[[], Any]) -> Any:
    try:
        return modelled()
    except Refusal as refusal:
        return refusal


def _turn_of(claim: Claim) -> Seen:
    session = claim.session
    replaced = session["replaced_reply_ids"][len(session["replaced_reply_ids"]) - session["replacements"] :]
    told = {"message_id": claim.reply_id, "attempt": claim.attempt, "idempotency_key": claim.idempotency_key}
    return {"session": session, "replaces": replaced, **told}


def _shown_turn(turn: Turn) -> Seen:
    names = ("session", "replaces", "message_id", "attempt", "idempotency_key")
    return {name: shown(getattr(turn, name)) for name in names}
