"""Every order of the round trips of two and three calls on one session; each comes to what some serial order does.

The calls are the table's own, from every situation that a session can be in. What one of them answers in the end is
what it answers in that serial order too, or a typed refusal, after which it has changed nothing.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from itertools import chain, combinations_with_replacement, permutations
from random import Random
from typing import Any, Final, NamedTuple
from uuid import uuid4

from sessions import ApplyClaim, RerunClaim, SessionError, SessionRepository, SessionStatus, open_repository
from sessions.domain.lifecycle import CALLS, CallName, LeaseKind
from sessions.domain.models import ActiveScheduleSessionSnapshot
from sessions.store.clients import connect_double, disconnect
from sessions.store.document import COLLECTION
from sessions.testing import MovedClock, SessionMaker
from tests.contract.test_random_calls import assert_legal_history, told
from tests.faults.campaign import Form, Setting, Tally
from tests.faults.turns import ACTOR, Call, Turns, next_plan, scheduled

START: Final = datetime(2026, 1, 1, tzinfo=UTC)
MAX_ATTEMPTS: Final = 2
Claim = RerunClaim | ApplyClaim
Documents = list[dict[str, Any]]


class Size(NamedTuple):
    """How much one form plays."""

    pairs: int
    """Of so many pairs in their situations one is played."""
    triples: int
    most: int
    """Orders of one triple; of a pair all are played."""


SIZES: Final[Mapping[Form, Size]] = {Form.SHORT: Size(24, 20, 60), Form.LONG: Size(1, 66, 200)}


class Situation(NamedTuple):
    """Where a session stands when the calls begin."""

    session: ActiveScheduleSessionSnapshot
    claim: Claim | None
    """What a worker of it holds, or held."""


Making = Callable[[SessionMaker, MovedClock], Awaitable[Situation]]


def _stands(status: SessionStatus, *, ends: int | None = None) -> Making:
    async def made(make: SessionMaker, clock: MovedClock) -> Situation:
        session = await make(status, expires_at=None if ends is None else clock() + timedelta(seconds=ends))
        if ends is not None:
            clock.advance(seconds=ends)
        return Situation(session, None)

    return made


def _held(kind: LeaseKind, *, lapsed: bool = False, times: int = 1) -> Making:
    async def made(make: SessionMaker, clock: MovedClock) -> Situation:
        makers: Mapping[LeaseKind, Callable[[], Awaitable[Claim]]] = {
            LeaseKind.REPLY: make.claim,
            LeaseKind.REFINEMENT: make.refinement,
            LeaseKind.APPLY: make.apply_claim,
        }
        claim = await makers[kind]()
        for number in range(1, times):
            clock.at = claim.expires_at
            session, reply_id = claim.session, f"again-{number}"
            claim = await make.repository.claim_rerun(session.session_id, user_id=session.user_id, reply_id=reply_id)
        if lapsed:
            clock.at = claim.expires_at
        return Situation(claim.session, claim)

    return made


SITUATIONS: Final[Mapping[str, Making]] = {
    "it waits": _stands(SessionStatus.WAITING_USER_REPLY),
    "it waited too long": _stands(SessionStatus.WAITING_USER_REPLY, ends=5),
    "a preview is ready": _stands(SessionStatus.READY_PREVIEW),
    "it has ended": _stands(SessionStatus.IGNORED),
    "a reply is worked on": _held(LeaseKind.REPLY),
    "a reply's worker died": _held(LeaseKind.REPLY, lapsed=True),
    "a reply has killed its workers": _held(LeaseKind.REPLY, lapsed=True, times=MAX_ATTEMPTS),
    "a change is worked on": _held(LeaseKind.REFINEMENT),
    "a change's worker died": _held(LeaseKind.REFINEMENT, lapsed=True),
    "a confirmation is written": _held(LeaseKind.APPLY),
    "a confirmation's writer died": _held(LeaseKind.APPLY, lapsed=True),
}
PARTICULAR: Final[Mapping[CallName, Mapping[str, Any]]] = {
    CallName.CREATE: {"pending_question": "Which?"},
    CallName.GET_OR_CREATE: {"pending_question": "Which?"},
    CallName.ASK_AGAIN: {"pending_question": "And?"},
    CallName.PRESENT_PREVIEW: {"preview_id": "fresh"},
    CallName.FAIL_RERUN: {"reason": "it broke"},
    CallName.FAIL_APPLY: {"reason": "it broke"},
    CallName.FAIL: {"reason": "it broke"},
    CallName.POSTPONE: {"after": timedelta(seconds=3)},
}
NAMES_A_PREVIEW: Final = frozenset({CallName.CLAIM_REFINEMENT, CallName.CLAIM_APPLY, CallName.APPLY})
WITHOUT_ID: Final = frozenset(
    {CallName.BIND_CONVERSATION, CallName.RECORD_NOTIFICATION, CallName.RENEW, CallName.POSTPONE}
)
SWEEPS: Final = frozenset({CallName.EXPIRE_DUE, CallName.RECOVER_STALLED})
REPLACING: Final = " that replaces"
LABELS: Final = (
    *(name.value for name in CallName),
    *(f"{name}{REPLACING}" for name, rule in CALLS.items() if rule.replaces is not None),
    "purge",
)
"""Every call of the table; a claim also as the newer message."""


def arguments_of(label: str, situation: Situation, actor: int) -> dict[str, Any] | None:
    """What an actor calls by; None if the situation has nothing to call it with."""
    if label == "purge":
        return {"ended_before": START + timedelta(days=1)}
    name, session = CallName(label.removesuffix(REPLACING)), situation.session
    if name in SWEEPS:
        return {}
    given = dict(PARTICULAR.get(name, {}))
    if name not in WITHOUT_ID:
        given["operation_id"] = f"{name}-{actor}"
    if name in (CallName.CREATE, CallName.GET_OR_CREATE):
        return {**given, "user_id": session.user_id, "trigger_id": session.trigger_id}
    if (held := CALLS[name].held) and (situation.claim is None or situation.claim.kind not in held):
        return None
    if held:
        return {**given, "claim": situation.claim}
    if label.endswith(REPLACING):
        if session.lease is None or session.lease.kind is not CALLS[name].replaces:
            return None
        given["replaces"] = session.lease
    return given | _on_a_session(name, session, actor)


def _on_a_session(name: CallName, session: ActiveScheduleSessionSnapshot, actor: int) -> dict[str, Any]:
    """What anybody's call names; each actor has ids of its own."""
    given: dict[str, Any] = {"session_id": session.session_id, "user_id": session.user_id}
    if CALLS[name].is_claim and name is not CallName.CLAIM_APPLY:
        given["reply_id"] = f"m{actor}"
    if name in NAMES_A_PREVIEW:
        given["preview_id"] = session.current_preview_id or "none"
    if name is CallName.BIND_CONVERSATION:
        given["conversation_id"] = f"c{actor}"
    if name is CallName.RECORD_NOTIFICATION:
        given["notification_id"] = f"n{actor}"
    return given


class Outcome(NamedTuple):
    """What came of some calls: what each answered, and what is stored."""

    answers: tuple[object, ...]
    stored: Documents

    def __str__(self) -> str:
        steps = [[(entry["call"], entry["to_status"]) for entry in document["history"]] for document in self.stored]
        return f"{[str(answer)[:120] for answer in self.answers]}, {steps}"


def _kind_of(answer: object) -> object:
    """A refusal by its kind alone: what it tells of the session depends on when it looked."""
    assert not isinstance(answer, BaseException) or isinstance(answer, SessionError), f"no typed error: {answer!r}"
    return type(answer).__name__ if isinstance(answer, SessionError) else told(answer)


class Stage:
    """One repository on the double with its scheduler, whose store is put back before each run."""

    def __init__(self, repository: SessionRepository, collection: Any, clock: MovedClock) -> None:
        self.clock = clock
        self._repository = repository
        self._collection = collection
        self._turns: Turns = scheduled(repository)
        self._before: Documents = []
        self._sweeps: list[Call | None] = [None]

    async def stored(self) -> Documents:
        """All documents."""
        found: Documents = await self._collection.find({}).sort("_id", 1).to_list(None)
        return found

    async def begin_with(self, making: Making) -> Situation:
        """Make the situation that every run begins with."""
        await self._collection.delete_many({})
        self.clock.at = START
        situation = await making(SessionMaker(self._repository, self.clock), self.clock)
        self._before = await self.stored()
        self._sweeps = [None, *self._sweeps_of(situation)]
        return situation

    def _sweeps_of(self, situation: Situation) -> list[Call]:
        """What has lapsed may be swept at any moment, by whoever meets it: by a call before it is tried again, too."""
        session, repository = situation.session, self._repository
        sweeps: list[Call] = []
        if session.state.expires_at is not None:
            sweeps.append(repository.expire_due)
        if session.lease is not None and session.lease.expires_at <= self.clock.at:
            sweeps += [
                repository.recover_stalled,
                lambda: repository.interrupt(session.session_id, user_id=session.user_id),
            ]
        return sweeps

    async def forget(self) -> None:
        """Begin every run before the session was made."""
        self._before, self._sweeps = [], [None]

    def call(self, label: str, arguments: Mapping[str, Any]) -> Call:
        """One actor's call."""
        return lambda: getattr(self._repository, label.removesuffix(REPLACING))(**arguments)

    async def _begin(self) -> None:
        await self._collection.delete_many({})
        if self._before:
            await self._collection.insert_many(deepcopy(self._before))

    async def in_sequence(self, calls: Sequence[Call], order: Sequence[int], *, first: Call | None = None) -> Outcome:
        """What the calls come to, one after another; whoever is not in the order does not call.

        Args:
            calls: The actors' calls.
            order: Whose turn it is.
            first: What somebody else does before them.
        """
        await self._begin()
        if first is not None:
            with suppress(SessionError):
                await first()
        answers: list[object] = [None] * len(calls)
        for actor in order:
            (answer,) = await asyncio.gather(calls[actor](), return_exceptions=True)
            answers[actor] = _kind_of(answer)
        return Outcome(tuple(answers), await self.stored())

    async def interleaved(
        self, calls: Sequence[Call], plan: Sequence[int]
    ) -> tuple[Outcome, list[int] | None, set[int]]:
        """What they come to by a plan; the plan after it; and who was refused."""
        await self._begin()
        answers, choices = await self._turns.play(calls, plan)
        refused = {actor for actor, answer in enumerate(answers) if isinstance(answer, SessionError)}
        return Outcome(tuple(map(_kind_of, answers)), await self.stored()), next_plan(choices), refused

    async def explore(self, calls: Sequence[Call], *, most: int | None = None) -> int:
        """Play every order, or so many; each has to come to what some serial order comes to. How many there were."""
        actors = range(len(calls))
        orders = list(chain.from_iterable(permutations(actors, some) for some in range(len(calls) + 1)))
        serial = [
            (order, await self.in_sequence(calls, order, first=first)) for first in self._sweeps for order in orders
        ]
        plan: list[int] | None = []
        played = 0
        while plan is not None and (most is None or played < most):
            outcome, following, refused = await self.interleaved(calls, plan)
            played += 1
            for document in outcome.stored:
                assert_legal_history(document)
            wins = [actor for actor in actors if actor not in refused]
            fits = any(
                outcome.stored == each.stored and all(outcome.answers[win] == each.answers[win] for win in wins)
                for order, each in serial
                if set(wins) <= set(order)
            )
            possible = "\n".join(f"{order}: {each}" for order, each in serial)
            assert fits, f"after the order {plan}:\n{outcome}\nno serial order comes to that:\n{possible}"
            plan = following
        return played


def cases(situation: Situation, actors: int) -> Iterator[tuple[str, ...]]:
    """The calls that can be made at once; each with itself too, as two processes make it."""
    callable_ = [label for label in LABELS if arguments_of(label, situation, 0) is not None]
    return combinations_with_replacement(callable_, actors)


async def explored(setting: Setting) -> Counter[str]:
    """Play one form; what was counted."""
    size, random = SIZES[setting.form], Random(setting.seed)
    clock, client = MovedClock(START), connect_double()
    named: Any = client
    database = named[f"sessions_turns_{uuid4().hex[:12]}"]
    found: Counter[str] = Counter()
    assert ACTOR.get() is None
    async with open_repository(database, create_indexes=True, clock=clock, max_attempts=MAX_ATTEMPTS) as repository:
        stage = Stage(repository, database[COLLECTION], clock)
        for name, making in SITUATIONS.items():
            situation = await stage.begin_with(making)
            pairs, triples = list(cases(situation, 2)), list(cases(situation, 3))
            some = random.sample(pairs, max(1, len(pairs) // size.pairs))
            several = random.sample(triples, max(1, size.triples // len(SITUATIONS)))
            for labels in (*some, *several):
                found.update(await _played(stage, name, situation, labels, most=size.most))
                setting.advance()
        await stage.begin_with(SITUATIONS["it waits"])
        await stage.forget()
        for labels in combinations_with_replacement(("create", "get_or_create"), 2):
            found.update(await _played(stage, "there is none", situation, labels, most=size.most))
    await disconnect(client)
    return found


async def _played(stage: Stage, name: str, situation: Situation, labels: Sequence[str], *, most: int) -> Counter[str]:
    given = [arguments_of(label, situation, actor) for actor, label in enumerate(labels)]
    calls = [stage.call(label, arguments or {}) for label, arguments in zip(labels, given, strict=True)]
    pair = len(labels) == len(("first", "second"))
    try:
        orders = await stage.explore(calls, most=None if pair else most)
    except AssertionError as error:
        raise AssertionError(f"{name}: {', '.join(labels)}: {error}") from error
    return Counter({"pairs" if pair else "triples": 1, "interleavings": orders, **dict.fromkeys(labels, 1)})


async def run(setting: Setting) -> Tally:
    """On the double: a server has locks of its own, which nothing outside can take turns with."""
    found = await explored(setting)
    return {
        "pairs": found["pairs"],
        "triples": found["triples"],
        "interleavings": found["interleavings"],
        "calls": sum(label in found for label in LABELS),
        "illegal": 0,
    }
