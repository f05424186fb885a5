"""What people and workers do in the campaigns: whole sessions by the bridge, and calls that get in their way.

Any number of tasks in any number of processes act on the same conversations; each looks for itself what stands there.
"""

import asyncio
import itertools
import random
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final
from uuid import uuid4

from pymongo.errors import PyMongoError

from sessions import (
    ActiveScheduleSessionSnapshot,
    ApplyClaim,
    AskUser,
    CachedRouter,
    Close,
    Deferred,
    Fail,
    GraphResult,
    Held,
    NotAnAnswer,
    RerunClaim,
    Route,
    RouteAction,
    SessionBridge,
    SessionError,
    SessionRepository,
    SessionStatus,
    ShowPreview,
    StaleReply,
    StoreUnavailable,
    Superseded,
    TryAgain,
    Turn,
    WhileRunning,
)
from tests.faults.journal import Answer, Journal
from tests.faults.recorded import Recorder, pause, unless_refused

USER: Final = 1
QUESTIONS: Final = 3
DELIVERIES: Final = 6
LONGEST_RUN: Final = 0.06
LONGEST_WRITE: Final = 3.0
HUNG_LEASE: Final = timedelta(milliseconds=60)
RUSH: Final = 4
MOST_ATTEMPTS: Final = 5
_REMEMBERED: Final = 32
_AGAIN: Final = (Held, Deferred, Superseded)
_SOON: Final = timedelta(milliseconds=30)

Claim = RerunClaim | ApplyClaim


class Office:
    """The application of one process: its graph, and the schedule into which it writes.

    Args:
        effects: The collection that stands for the schedule; an effect is made once for each idempotency key.
        chance: Chooses what the graph answers, and how long it takes.
        names: Makes names that no other process makes.
    """

    def __init__(self, effects: Any, chance: random.Random, names: "Names") -> None:
        self._effects = effects
        self._chance = chance
        self._names = names

    async def rerun(self, turn: Turn) -> GraphResult:
        """Go on with one message."""
        await pause(self._chance, LONGEST_RUN)
        (answer,) = self._chance.choices(tuple(ANSWERS), weights=tuple(ANSWERS.values()))
        return answer(turn, self._names.next("preview"))

    async def write_back(self, claim: ApplyClaim) -> None:
        """Write a preview into the schedule, at some time or other."""
        await pause(self._chance, LONGEST_RUN)
        if self._chance.random() < 0.1:
            raise TryAgain(_SOON)
        await self._effects.update_one({"_id": claim.idempotency_key}, {"$inc": {"tries": 1}}, upsert=True)


def _ask_or_show(turn: Turn, preview_id: str) -> GraphResult:
    if turn.session.current_preview_id is None and turn.session.question_number < QUESTIONS:
        return AskUser(f"Question {turn.session.question_number + 1} of {turn.session.trigger_id}?")
    return ShowPreview(preview_id)


def _put_off(turn: Turn, preview_id: str) -> GraphResult:
    raise TryAgain(_SOON)


ANSWERS: Final[Mapping[Callable[[Turn, str], GraphResult], int]] = {
    _ask_or_show: 80,
    _put_off: 8,
    lambda _turn, _preview_id: NotAnAnswer(): 6,
    lambda _turn, _preview_id: Close("nothing to do"): 3,
    lambda _turn, _preview_id: Fail("it cannot go on"): 3,
}
"""What the graph answers, by weight."""


class Names:
    """Names that no other worker makes."""

    def __init__(self, worker: str) -> None:
        self._worker = worker
        self._numbers = itertools.count()

    def next(self, of: str) -> str:
        """The next name of something."""
        return f"{of}-{self._worker}-{next(self._numbers)}"


@dataclass(slots=True)
class Scene:
    """What the tasks of one process act by."""

    repository: SessionRepository
    office: Office
    bridge: SessionBridge
    router: CachedRouter
    recorder: Recorder
    journal: Journal
    chance: random.Random
    names: Names
    claims: deque[Claim] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))
    """What somebody held once, to be used too late."""

    async def route(self, conversation_id: str) -> Route:
        """The cached route, written down."""
        number = self.journal.begin("cached_route", {"user_id": USER, "conversation_id": conversation_id})
        try:
            route = await self.router.route(USER, conversation_id)
        except StoreUnavailable:
            self.journal.end(number, Answer.NOT_WRITTEN, {})
            raise
        session = route.session
        found = {} if session is None else {"session_id": session.session_id, "revision": session.revision}
        self.journal.end(number, Answer.ACKNOWLEDGED, found)
        return route

    async def waiting(self, conversation_id: str) -> ActiveScheduleSessionSnapshot | None:
        """The session that governs a conversation; if none does, one that is begun now."""
        session = (await self.route(conversation_id)).session
        return session or await unless_refused(self.begin(conversation_id))

    async def begin(self, conversation_id: str, **more: Any) -> ActiveScheduleSessionSnapshot:
        """A new session of a conversation, by the repository."""
        trigger_id = self.names.next("trigger")
        question = f"Question 1 of {trigger_id}?"
        return await self.repository.create(
            USER, trigger_id, conversation_id=conversation_id, pending_question=question, **more
        )

    async def ready(self, conversation_id: str) -> ActiveScheduleSessionSnapshot | None:
        """The latest session of a conversation if its preview can be confirmed; else one that is begun so."""
        latest = await self.repository.latest(USER, conversation_id)
        if latest is not None and latest.status is SessionStatus.READY_PREVIEW:
            return latest
        made: ActiveScheduleSessionSnapshot | None = await unless_refused(
            self.repository.create(
                USER,
                self.names.next("trigger"),
                conversation_id=conversation_id,
                preview_id=self.names.next("preview"),
            )
        )
        return made


# --- what people do, by the bridge ------------------------------------------------------------------------------


async def chat(scene: Scene, conversation_id: str) -> None:
    """Look who governs, and begin, answer or confirm accordingly."""
    route = await scene.route(conversation_id)
    if route.action is not RouteAction.FREE_CHAT:
        await write(scene, conversation_id)
        return
    latest = await scene.repository.latest(USER, conversation_id)
    if latest is None or latest.status is not SessionStatus.READY_PREVIEW or latest.current_preview_id is None:
        result = AskUser("Question 1?") if scene.chance.random() < 0.8 else ShowPreview(scene.names.next("preview"))
        await scene.bridge.start(USER, scene.names.next("trigger"), result, conversation_id=conversation_id)
    elif scene.chance.random() < 0.4:
        await scene.bridge.refine(
            USER,
            latest.session_id,
            "another day",
            preview_id=latest.current_preview_id,
            message_id=scene.names.next("message"),
            while_running=scene.chance.choice(list(WhileRunning)),
        )
    else:
        await scene.bridge.confirm(USER, latest.session_id, preview_id=latest.current_preview_id)


async def write(scene: Scene, conversation_id: str) -> None:
    """Send one message until it is consumed, or its sender gives up."""
    message_id, question_id = scene.names.next("message"), None
    while_running = scene.chance.choice(list(WhileRunning))
    for delivery in range(DELIVERIES):
        number = scene.journal.begin("message", {"user_id": USER, "conversation_id": conversation_id})
        try:
            outcome = await scene.bridge.handle(
                USER,
                conversation_id,
                "an answer",
                message_id=message_id,
                question_id=question_id,
                redelivered=delivery > 0,
                while_running=while_running,
                wait=timedelta(seconds=scene.chance.choice((0.0, 0.2))),
            )
        except StaleReply:
            scene.journal.end(number, Answer.REFUSED, {})
            return
        except SessionError:
            scene.journal.end(number, Answer.UNKNOWN, {})
            await pause(scene.chance, 0.3)
            continue
        found = {"outcome": type(outcome).__name__}
        if isinstance(outcome, Held) and outcome.session.lease is not None:
            found |= {"held_by": outcome.session.lease.operation_id, "session_id": outcome.session.session_id}
        scene.journal.end(number, Answer.ACKNOWLEDGED, found)
        if not isinstance(outcome, _AGAIN):
            return
        question_id = (outcome.question_id if isinstance(outcome, Held) else None) or question_id
        await pause(scene.chance, 0.1)


async def stop(scene: Scene, conversation_id: str) -> None:
    """Press the Stop button while something runs."""
    session = (await scene.route(conversation_id)).session
    if session is not None:
        await scene.bridge.stop(USER, session.session_id)


async def dismiss(scene: Scene, conversation_id: str) -> None:
    """Dismiss whatever there is."""
    session = await scene.repository.latest(USER, conversation_id)
    if session is not None and not session.status.is_final:
        await scene.bridge.dismiss(USER, session.session_id)


# --- what gets in their way, by the repository ------------------------------------------------------------------


async def rush(scene: Scene, conversation_id: str) -> None:
    """Several take one session at once; the winner gives it back, or asks again."""
    session = await scene.waiting(conversation_id)
    if session is None:
        return

    async def one() -> None:
        claim = await unless_refused(
            scene.repository.claim_rerun(session.session_id, user_id=USER, reply_id=scene.names.next("message"))
        )
        if claim is not None:
            scene.claims.append(claim)
            await pause(scene.chance, LONGEST_RUN)
            await unless_refused(_give_back_or_ask(scene, claim))

    await asyncio.gather(*(one() for _ in range(RUSH)))


def _give_back_or_ask(scene: Scene, claim: RerunClaim) -> Awaitable[Any]:
    if scene.chance.random() < 0.5:
        return scene.repository.release(claim, reason="given back")
    return scene.repository.ask_again(claim, pending_question=f"Question {claim.session.question_number + 1}?")


async def crowd(scene: Scene, conversation_id: str) -> None:
    """Several triggers begin a session in one conversation at once."""
    await asyncio.gather(*(unless_refused(scene.begin(conversation_id)) for _ in range(RUSH)))


async def replace_by_hand(scene: Scene, conversation_id: str) -> None:
    """A message takes another one's place, whose holder notices when it writes."""
    session = await scene.waiting(conversation_id)
    if session is None:
        return
    first, second = scene.names.next("message"), scene.names.next("message")
    claim = await scene.repository.claim_rerun(session.session_id, user_id=USER, reply_id=first)
    newer = await scene.repository.claim_rerun(
        session.session_id, user_id=USER, reply_id=second, replaces=claim.session.lease
    )
    await unless_refused(scene.repository.ask_again(claim, pending_question="Too late?"))
    scene.claims.append(newer)
    await unless_refused(_give_back_or_ask(scene, newer))
    await _answer(scene, session.session_id, first)


async def _answer(scene: Scene, session_id: str, reply_id: str) -> None:
    claim = await scene.repository.claim_rerun(session_id, user_id=USER, reply_id=reply_id)
    await scene.repository.ask_again(claim, pending_question="And then?")


async def answer_twice(scene: Scene, conversation_id: str) -> None:
    """A message is delivered to somebody who does not look whether it was answered."""
    session, reply = await scene.waiting(conversation_id), scene.names.next("message")
    if session is not None:
        await _answer(scene, session.session_id, reply)
        await _answer(scene, session.session_id, reply)


async def stop_by_hand(scene: Scene, conversation_id: str) -> None:
    """A run is stopped, and its holder writes all the same."""
    session = await scene.waiting(conversation_id)
    if session is None:
        return
    claim = await scene.repository.claim_rerun(session.session_id, user_id=USER, reply_id=scene.names.next("message"))
    await scene.repository.interrupt(session.session_id, user_id=USER)
    await unless_refused(scene.repository.ask_again(claim, pending_question="Too late?"))
    await unless_refused(scene.repository.renew(claim))


async def hang(scene: Scene, conversation_id: str) -> None:
    """A holder sleeps past its short lease; another one may take over; then both write."""
    session = await scene.waiting(conversation_id)
    if session is None:
        return
    reply = scene.names.next("message")
    claim = await scene.repository.claim_rerun(session.session_id, user_id=USER, reply_id=reply, lease=HUNG_LEASE)
    await asyncio.sleep(HUNG_LEASE.total_seconds() * scene.chance.choice((0.3, 1.5)))
    other = scene.names.next("message")
    taken = await unless_refused(scene.repository.claim_rerun(session.session_id, user_id=USER, reply_id=other))
    await unless_refused(scene.repository.renew(claim))
    await unless_refused(scene.repository.ask_again(claim, pending_question="By the first?"))
    if taken is not None:
        scene.claims.append(taken)
        await unless_refused(scene.repository.ask_again(taken, pending_question="By the second?"))


async def refine_by_hand(scene: Scene, conversation_id: str) -> None:
    """A change to a preview is claimed, and recorded, given back, stopped, or left behind; then others begin there."""
    own = scene.names.next(conversation_id)  # else another session governs, and no preview can be changed
    session = await scene.ready(own)
    if session is None or session.current_preview_id is None:
        return
    claim = await scene.repository.claim_refinement(
        session.session_id,
        user_id=USER,
        preview_id=session.current_preview_id,
        reply_id=scene.names.next("message"),
        lease=scene.chance.choice((HUNG_LEASE, None)),
    )
    scene.claims.append(claim)
    ends: tuple[Callable[[], Awaitable[Any]], ...] = (
        lambda: scene.repository.present_preview(claim, preview_id=scene.names.next("preview")),
        lambda: scene.repository.release(claim),
        lambda: scene.repository.interrupt(session.session_id, user_id=USER),
        lambda: asyncio.sleep(HUNG_LEASE.total_seconds()),
    )
    await unless_refused(scene.chance.choice(ends)())
    await unless_refused(scene.begin(own))


async def apply_by_hand(scene: Scene, conversation_id: str) -> None:
    """A preview is confirmed by several at once, some of which die; meanwhile it is dismissed and changed."""
    session = await scene.ready(scene.names.next(conversation_id))  # where no other session is in the way
    if session is None or session.current_preview_id is None:
        return
    preview_id = session.current_preview_id

    async def one() -> None:
        claim = await unless_refused(
            scene.repository.claim_apply(session.session_id, user_id=USER, preview_id=preview_id, lease=HUNG_LEASE)
        )
        if claim is not None:
            scene.claims.append(claim)
            await pause(scene.chance, HUNG_LEASE.total_seconds() * 2)
            if scene.chance.random() < 0.3:
                with suppress(TryAgain, PyMongoError, TimeoutError):
                    async with asyncio.timeout(LONGEST_WRITE):
                        await scene.office.write_back(claim)  # and dies
            # One that was taken over may have been written by whoever held it before.
            elif claim.attempt == 1 and scene.chance.random() < 0.5:
                await unless_refused(scene.repository.release(claim))

    async def end() -> None:
        await pause(scene.chance, HUNG_LEASE.total_seconds())
        change = partial(scene.repository.claim_refinement, preview_id=preview_id, reply_id=scene.names.next("message"))
        ways: tuple[Callable[[], Awaitable[Any]], ...] = (
            lambda: change(session.session_id, user_id=USER, lease=HUNG_LEASE),
            lambda: scene.repository.ignore(session.session_id, user_id=USER),
            lambda: scene.repository.apply(session.session_id, user_id=USER, preview_id=preview_id),
        )
        for way in scene.chance.sample(ways, len(ways)):
            await unless_refused(way())

    await asyncio.gather(one(), one(), end(), one())


async def arrive_twice(scene: Scene, conversation_id: str) -> None:
    """A claim arrives once more, after it was given back."""
    session = await scene.waiting(conversation_id)
    if session is None:
        return
    claim = partial(
        scene.repository.claim_rerun,
        session.session_id,
        user_id=USER,
        reply_id=scene.names.next("message"),
        operation_id=uuid4().hex,
    )
    await scene.repository.release(await claim())
    scene.claims.append(await claim())


async def repeat(scene: Scene, conversation_id: str) -> None:
    """A call arrives once more, long after it was answered."""
    await scene.recorder.repeat()


async def write_late(scene: Scene, conversation_id: str) -> None:
    """Somebody who held a session once writes what its work came to."""
    if not scene.claims:
        return
    claim = scene.chance.choice(scene.claims)
    if isinstance(claim, ApplyClaim):
        await unless_refused(scene.repository.fail_apply(claim, reason="too late"))
        return
    late: tuple[Callable[[], Awaitable[Any]], ...] = (
        lambda: scene.repository.ask_again(claim, pending_question="Too late?"),
        lambda: scene.repository.present_preview(claim, preview_id=scene.names.next("preview")),
        lambda: scene.repository.close_rerun(claim),
        lambda: scene.repository.renew(claim),
        lambda: scene.repository.release(claim),
    )
    await scene.chance.choice(late)()


async def answer_old_question(scene: Scene, conversation_id: str) -> None:
    """A reply names a question that stands no more, a confirmation a preview."""
    session = await scene.waiting(conversation_id)
    if session is not None and session.question_number:
        await unless_refused(
            scene.repository.claim_rerun(
                session.session_id,
                user_id=USER,
                reply_id=scene.names.next("message"),
                question_number=session.question_number - 1,
                lease=HUNG_LEASE,
            )
        )
    ready = await scene.ready(scene.names.next(conversation_id))
    if ready is None:
        return
    another, reply = scene.names.next("preview"), scene.names.next("message")
    for call in (
        scene.repository.claim_rerun(ready.session_id, user_id=USER, reply_id=reply, lease=HUNG_LEASE),
        scene.repository.claim_refinement(
            ready.session_id, user_id=USER, preview_id=another, reply_id=reply, lease=HUNG_LEASE
        ),
        scene.repository.apply(ready.session_id, user_id=USER, preview_id=another),
    ):
        await unless_refused(call)


async def bind(scene: Scene, conversation_id: str) -> None:
    """A session is made first, and its conversation after."""
    session = await scene.repository.create(USER, scene.names.next("trigger"), pending_question="Question 1?")
    await scene.repository.record_notification(session.session_id, scene.names.next("notification"), user_id=USER)
    bound = await unless_refused(scene.repository.bind_conversation(session.session_id, conversation_id, user_id=USER))
    await unless_refused(scene.repository.bind_conversation(session.session_id, "elsewhere", user_id=USER))
    if bound is None or scene.chance.random() < 0.5:
        await scene.repository.ignore(session.session_id, user_id=USER)


async def expire(scene: Scene, conversation_id: str) -> None:
    """A question that stands for a moment only."""
    ends = datetime.now(UTC) + timedelta(seconds=0.2)
    session = await scene.begin(conversation_id, expires_at=ends)
    await asyncio.sleep(scene.chance.choice((0.1, 0.3)))
    await _answer(scene, session.session_id, scene.names.next("message"))


async def die_often(scene: Scene, conversation_id: str) -> None:
    """A reply whose workers die, again and again."""
    session = await scene.begin(scene.names.next(conversation_id))  # where no outcome comes in between
    reply = scene.names.next("message")
    for _ in range(MOST_ATTEMPTS + 1):
        claim = await unless_refused(
            scene.repository.claim_rerun(session.session_id, user_id=USER, reply_id=reply, lease=HUNG_LEASE)
        )
        if claim is None:
            return
        await asyncio.sleep(HUNG_LEASE.total_seconds() * 1.2)


Action = Callable[[Scene, str], Awaitable[None]]
CHATTING: Final[Mapping[Action, int]] = {chat: 80, stop: 12, dismiss: 3, repeat: 5}
"""What people do, by weight."""
GETTING_IN_THE_WAY: Final[Mapping[Action, int]] = {
    chat: 20,
    write: 10,
    stop: 5,
    dismiss: 4,
    rush: 6,
    crowd: 6,
    replace_by_hand: 6,
    stop_by_hand: 6,
    hang: 6,
    refine_by_hand: 6,
    apply_by_hand: 6,
    repeat: 10,
    write_late: 10,
    answer_old_question: 6,
    bind: 4,
    expire: 4,
    answer_twice: 6,
    arrive_twice: 6,
    die_often: 3,
}
MIXED: Final[Mapping[Action, int]] = {
    **GETTING_IN_THE_WAY,
    **{action: GETTING_IN_THE_WAY.get(action, 0) + 2 * weight for action, weight in CHATTING.items()},
}
PLAYS: Final[Mapping[str, Mapping[Action, int]]] = {
    "chatting": CHATTING,
    "getting in the way": GETTING_IN_THE_WAY,
    "mixed": MIXED,
}


async def act_until(over: asyncio.Event, scene: Scene, conversation_id: str, play: Mapping[Action, int]) -> None:
    """One action after the other, whatever is refused or fails."""
    actions, weights = tuple(play), tuple(play.values())
    while not over.is_set():
        (action,) = scene.chance.choices(actions, weights=weights)
        try:
            await action(scene, conversation_id)
        except StoreUnavailable:
            await pause(scene.chance, 0.2)
        except SessionError:
            pass  # somebody was first
        await pause(scene.chance, 0.02)
