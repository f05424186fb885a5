"""A graph or a write-back that cannot do its work now: nothing ends by it, until it never recovers."""

import asyncio
import pickle
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest

from sessions import (
    Applied,
    ApplyClaim,
    ApplyFailed,
    Asked,
    AskUser,
    Deferred,
    FreeChat,
    Held,
    InvalidSessionInput,
    NotAnAnswer,
    RerunFailed,
    SessionBridge,
    SessionRepository,
    SessionStatus,
    TryAgain,
    Turn,
    Upkeep,
    open_repository,
)
from sessions.testing import MovedClock, SessionMaker

if TYPE_CHECKING:
    from sessions.store.clients import Database

PRIVATE: Final = "my doctor's name"
AFTER: Final = timedelta(seconds=7)


def wrapped(error: Exception, *, how: str) -> BaseException:
    """An error three levels down."""

    def behind(inner: BaseException) -> RuntimeError:
        outer = RuntimeError(PRIVATE)
        outer.__cause__ = inner
        return outer

    def within(inner: BaseException) -> BaseException:
        return BaseExceptionGroup(PRIVATE, [ValueError(PRIVATE), inner])

    deeper = {"cause": behind, "group": within}[how]
    return deeper(deeper(deeper(error)))


class Flaky:
    """A graph, or a write-back, that raises what it is given, then works."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.turns: list[Turn] = []
        self.claims: list[ApplyClaim] = []
        self.effects: set[str] = set()

    async def rerun(self, turn: Turn) -> AskUser:
        """Raise, or ask."""
        self.turns.append(turn)
        if self.errors:
            raise self.errors.pop(0)
        return AskUser("And which time?")

    async def write_back(self, claim: ApplyClaim) -> None:
        """Raise, or write."""
        self.claims.append(claim)
        if self.errors:
            raise self.errors.pop(0)
        self.effects.add(claim.idempotency_key)


async def no_run(turn: Turn) -> AskUser:
    """A graph that is not asked."""
    raise NotImplementedError


async def test_a_graph_that_recovers(repository: SessionRepository) -> None:
    """Twice put off, then answered: one recorded run, under one key, each attempt counted."""
    session = await repository.create(1, "t", conversation_id="c", pending_question="Which day?")
    graph = Flaky(TryAgain(AFTER), TryAgain())
    bridge = SessionBridge(repository, graph.rerun)
    for attempt, after in ((1, AFTER), (2, timedelta(seconds=5))):
        put_off = await bridge.handle(1, "c", "Tuesday", message_id="m1")
        assert isinstance(put_off, Deferred)
        assert (put_off.after, put_off.question_id) == (after, session.question_id)
        now = put_off.session
        assert (now.status, now.attempts, now.lease) == (SessionStatus.WAITING_USER_REPLY, attempt, None)
        assert (now.state, now.question_id, now.answered_reply_ids) == (session.state, session.question_id, ())
    outcome = await bridge.handle(1, "c", "Tuesday", message_id="m1", redelivered=True)
    assert isinstance(outcome, Asked)
    assert outcome.session.answered_reply_ids == ("m1",)
    assert [turn.attempt for turn in graph.turns] == [1, 2, 3]
    assert len({turn.idempotency_key for turn in graph.turns}) == 1


async def test_a_graph_that_never_recovers(
    database: "Database", session_clock: MovedClock, caplog: pytest.LogCaptureFixture
) -> None:
    """After `max_attempts` its session fails, as if its workers had died; a preview stands where its changes did."""
    async with open_repository(database, create_indexes=True, clock=session_clock, max_attempts=3) as few:
        await few.create(1, "t", conversation_id="c", pending_question="Which day?")
        bridge = SessionBridge(few, Flaky(*(TryAgain() for _ in range(9))).rerun)
        outcomes = [await bridge.handle(1, "c", "Tuesday", message_id="m1") for _ in range(4)]
        assert [type(outcome) for outcome in outcomes] == [Deferred] * 3 + [RerunFailed]
        shown = await few.create(1, "u", conversation_id="d", preview_id="p")
        changes = [await bridge.refine(1, shown.session_id, "No", preview_id="p", message_id="m2") for _ in range(4)]
        assert [type(change) for change in changes] == [Deferred] * 3 + [RerunFailed]
        assert isinstance(changes[0], Deferred)
        assert changes[0].question_id is None
        assert changes[-1].session is not None
        (ended,) = [told for told in caplog.records if getattr(told, "event", "") == "sessions.attempts_spent"]
        assert outcomes[-1].session is not None
        assert vars(ended)["session_id"] == outcomes[-1].session.session_id  # that of the preview has not ended
        assert changes[-1].session.status is SessionStatus.READY_PREVIEW


@pytest.mark.parametrize("how", ["cause", "group"])
async def test_errors_that_the_application_names(
    repository: SessionRepository, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Wherever they stand; any other error ends the session, and no text of one is kept."""
    await repository.create(1, "t", conversation_id="c", pending_question="Which day?")
    errors = [wrapped(error, how=how) for error in (ConnectionResetError(PRIVATE), TryAgain(AFTER), KeyError(PRIVATE))]
    bridge = SessionBridge(repository, Flaky(*errors).rerun, retry_on=(ConnectionError,))
    afters = []
    for _ in range(2):
        put_off = await bridge.handle(1, "c", "Tuesday", message_id="m1")
        assert isinstance(put_off, Deferred)
        afters.append(put_off.after)
    assert afters == [timedelta(seconds=5), AFTER]
    failed = await bridge.handle(1, "c", "Tuesday", message_id="m1")
    assert isinstance(failed, RerunFailed)
    history = await repository.history(failed.session.session_id, user_id=1)
    assert any("ConnectionResetError" in entry.reason for entry in history)
    assert PRIVATE not in f"{history}{caplog.text}{failed.session}"


async def test_a_side_question_is_raised_too(repository: SessionRepository) -> None:
    """From anywhere in the graph, a group of its tasks too; the question stands, and the attempt does not count."""
    await repository.create(1, "t", conversation_id="c", pending_question="Which day?")
    raised = (NotAnAnswer("a card"), ExceptionGroup("of tasks", [NotAnAnswer("a card")]))
    bridge = SessionBridge(repository, Flaky(*raised).rerun, retry_on=(Exception,))
    for _ in raised:
        outcome = await bridge.handle(1, "c", "What does it cost?", message_id="m1")
        assert isinstance(outcome, FreeChat)
        assert outcome.payload == "a card"
        assert outcome.session is not None
        assert outcome.session.attempts == 0


async def test_a_write_back_that_recovers(
    repository: SessionRepository, make_session: SessionMaker, session_clock: MovedClock
) -> None:
    """The yes stands, held for so long; the next `confirm` goes on under the same key, and one effect comes of it."""
    session = await make_session(SessionStatus.READY_PREVIEW)
    named: Any = {"preview_id": session.current_preview_id}
    target = Flaky(TryAgain(AFTER), wrapped(ConnectionError(), how="cause"))
    bridge = SessionBridge(repository, no_run, write_back=target.write_back, retry_on=(ConnectionError,))
    for after in (AFTER, timedelta(seconds=5)):
        put_off = await bridge.confirm(1, session.session_id, **named)
        assert isinstance(put_off, Deferred)
        assert put_off.after == after
        assert put_off.session.lease is not None
        assert put_off.session.lease.expires_at == session_clock() + after
        assert isinstance(await bridge.confirm(1, session.session_id, **named), Held)
        assert isinstance(await bridge.dismiss(1, session.session_id), Held)
        session_clock.advance(seconds=after.total_seconds())
    applied = await bridge.confirm(1, session.session_id, **named)
    assert isinstance(applied, Applied)
    assert len(target.effects) == 1
    assert len({claim.idempotency_key for claim in target.claims}) == 1
    assert [claim.attempt for claim in target.claims] == [1, 2, 3]
    steps = await repository.history(session.session_id, user_id=1)
    assert [step.to_status for step in steps].count(SessionStatus.APPLIED) == 1


async def test_a_write_back_that_never_recovers(database: "Database", session_clock: MovedClock) -> None:
    """After `max_attempts` the session fails."""
    async with open_repository(database, create_indexes=True, clock=session_clock, max_attempts=2) as few:
        session = await few.create(1, "t", preview_id="p")
        target = Flaky(*(TryAgain() for _ in range(9)))
        bridge = SessionBridge(few, no_run, write_back=target.write_back)
        outcomes = []
        for _ in range(3):
            outcomes.append(type(await bridge.confirm(1, session.session_id, preview_id="p")))
            session_clock.advance(seconds=6)
        assert outcomes == [Deferred, Deferred, ApplyFailed]


@pytest.mark.parametrize("of_the_bridge", [True, False])
async def test_upkeep_goes_on(
    repository: SessionRepository, make_session: SessionMaker, session_clock: MovedClock, *, of_the_bridge: bool
) -> None:
    """A write-back that was put off is finished by the upkeep, which puts it off again as the bridge does."""
    session = await make_session(SessionStatus.READY_PREVIEW)
    target = Flaky(TryAgain(AFTER), ConnectionError(PRIVATE))
    bridge = SessionBridge(repository, no_run, write_back=target.write_back, retry_on=(ConnectionError,))
    preview_id = session.current_preview_id
    assert preview_id is not None
    assert isinstance(await bridge.confirm(1, session.session_id, preview_id=preview_id), Deferred)
    every: Any = {"every": timedelta(milliseconds=10)}
    own = Upkeep(repository, **every, write_back=target.write_back, retry_on=(ConnectionError,))
    async with bridge.upkeep(**every) if of_the_bridge else own, asyncio.timeout(20):
        while (await repository.get(session.session_id, user_id=1)).status is not SessionStatus.APPLIED:
            session_clock.advance(seconds=3)
            await asyncio.sleep(0.05)
    assert len(target.effects) == 1
    assert len(target.claims) == 3


def test_try_again_is_a_value_of_its_limits() -> None:
    """It pickles, for graphs that run in other processes; how long it waits is bounded."""
    error = TryAgain(AFTER)
    assert pickle.loads(pickle.dumps(error)).after == AFTER  # noqa: S301 - our own bytes
    answer = pickle.loads(pickle.dumps(NotAnAnswer("a card")))  # noqa: S301 - our own bytes
    assert answer == NotAnAnswer("a card")
    bad: Any
    for bad in (timedelta(0), timedelta(days=8), 5, None):
        with pytest.raises(InvalidSessionInput, match="after"):
            TryAgain(bad)


@pytest.mark.parametrize("bad", [ConnectionError, [ConnectionError], ("ConnectionError",), (KeyboardInterrupt,), None])
async def test_what_can_be_tried_again(repository: SessionRepository, bad: Any) -> None:
    """Only kinds of exceptions: a cancellation is none."""
    for make in (lambda: SessionBridge(repository, no_run, retry_on=bad), lambda: Upkeep(repository, retry_on=bad)):
        with pytest.raises(InvalidSessionInput, match="retry_on"):
            make()
