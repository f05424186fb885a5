"""A graph that hangs, blocks, is cancelled or loses its lease: how each ends, and what stands afterwards."""

import asyncio
import random
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest
import pytest_asyncio

from sessions import (
    ActiveScheduleSessionSnapshot,
    Asked,
    AskUser,
    Held,
    RerunClaim,
    RerunFailed,
    SessionBridge,
    SessionRepository,
    SessionStatus,
    StoreUnavailable,
    Superseded,
    TimedOut,
    TransitionConflict,
    Turn,
    open_repository,
)
from sessions.domain.errors import SessionRef, WriteOutcome
from sessions.store.clients import connect_double
from sessions.testing import MovedClock

if TYPE_CHECKING:
    from sessions.store.clients import Database

LEASE: Final = timedelta(seconds=2)


async def asked(repository: SessionRepository) -> ActiveScheduleSessionSnapshot:
    """A session of user 1 that asks in conversation ``c``."""
    return await repository.create(1, "t", conversation_id="c", pending_question="Which day?")


@pytest_asyncio.fixture(loop_scope="session")
async def brief(repository: SessionRepository, database: "Database") -> AsyncIterator[SessionRepository]:
    """The same sessions by the real clock, under a short lease."""
    del repository  # it has created the indexes
    async with open_repository(database, lease=LEASE) as opened:
        yield opened


class Hanging:
    """A graph that waits for ever, and says when it was stopped."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.stopped_after = -1.0

    async def __call__(self, turn: Turn) -> AskUser:
        """Hang."""
        began = asyncio.get_running_loop().time()
        self.started.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.stopped_after = asyncio.get_running_loop().time() - began
        return AskUser(turn.text)


def as_before(now: ActiveScheduleSessionSnapshot, before: ActiveScheduleSessionSnapshot, *, attempts: int = 0) -> bool:
    """Whether a claim was given back: the question as it was, nothing consumed."""
    return (now.status, now.state, now.question_id, now.answered_reply_ids, now.lease, now.attempts) == (
        before.status,
        before.state,
        before.question_id,
        before.answered_reply_ids,
        None,
        attempts,
    )


# --- it takes too long -----------------------------------------------------------------------------------------


async def test_a_graph_that_hangs(repository: SessionRepository) -> None:
    """At `max_rerun` it is cancelled, the question stands, and its attempt counts."""
    before = await asked(repository)
    graph = Hanging()
    bridge = SessionBridge(repository, graph, max_rerun=timedelta(milliseconds=20))
    for attempt in (1, 2):
        outcome = await bridge.handle(1, "c", "Tuesday", message_id="m1")
        assert isinstance(outcome, TimedOut)
        assert as_before(outcome.session, before, attempts=attempt)
        assert graph.stopped_after >= 0


async def test_a_graph_that_hangs_each_time(database: "Database", repository: SessionRepository) -> None:
    """A message on which every run hangs ends its session after `max_attempts`; it holds the conversation no longer."""
    await asked(repository)
    few = await open_repository(database, max_attempts=1)
    bridge = SessionBridge(few, Hanging(), max_rerun=timedelta(milliseconds=20))
    assert isinstance(await bridge.handle(1, "c", "Tuesday", message_id="m1"), TimedOut)
    assert isinstance(await bridge.handle(1, "c", "Tuesday", message_id="m1"), RerunFailed)
    await few.close()


async def test_a_graph_that_tidies_up(database: "Database", session_clock: MovedClock) -> None:
    """While the lease is renewed a stopped graph is given the time to end in order: it is cancelled once."""
    brief = await open_repository(database, create_indexes=True, clock=session_clock, lease=timedelta(seconds=1))
    await asked(brief)
    cancelled: list[str] = []

    async def careful(turn: Turn) -> AskUser:
        try:
            await asyncio.Event().wait()
        finally:
            try:
                await asyncio.sleep(0.4)
                cancelled.append("once")
            except asyncio.CancelledError:
                cancelled.append("again")
        raise AssertionError(turn)

    bridge = SessionBridge(brief, careful, max_rerun=timedelta(milliseconds=20))
    assert isinstance(await bridge.handle(1, "c", "Tuesday", message_id="m1"), TimedOut)
    assert cancelled == ["once"]
    await brief.close()


@pytest.mark.slow
async def test_a_graph_that_cannot_be_stopped(brief: SessionRepository, caplog: pytest.LogCaptureFixture) -> None:
    """It is left to itself: the call returns, the question stands, and whatever it comes to is thrown away."""
    before = await asked(brief)
    let_go = asyncio.Event()
    ended = asyncio.Event()

    async def stubborn(turn: Turn) -> AskUser:
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                continue
        ended.set()
        raise ValueError(turn.text)

    bridge = SessionBridge(brief, stubborn, max_rerun=timedelta(milliseconds=20))
    outcome = await asyncio.wait_for(bridge.handle(1, "c", "private words", message_id="m1"), 10)
    assert isinstance(outcome, TimedOut)
    let_go.set()
    await ended.wait()
    await asyncio.sleep(0)
    assert as_before(await brief.get(before.session_id, user_id=1), before, attempts=1)
    assert "ignores its cancellation" in caplog.text
    assert "private words" not in caplog.text


# --- its caller is cancelled -----------------------------------------------------------------------------------


async def test_a_cancelled_caller(repository: SessionRepository) -> None:
    """The graph is cancelled, the claim given back, the question stands; the cancellation reaches the caller."""
    before = await asked(repository)
    graph = Hanging()
    handling = asyncio.create_task(SessionBridge(repository, graph).handle(1, "c", "Tuesday", message_id="m1"))
    await graph.started.wait()
    handling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await handling
    assert graph.stopped_after >= 0
    assert as_before(await repository.get(before.session_id, user_id=1), before)


async def test_a_caller_cancelled_again_and_again(repository: SessionRepository) -> None:
    """A caller that is cancelled on every turn of the loop still gives its claim back before it leaves."""
    before = await asked(repository)
    graph = Hanging()
    handling = asyncio.create_task(SessionBridge(repository, graph).handle(1, "c", "Tuesday", message_id="m1"))
    await graph.started.wait()
    while not handling.done():
        handling.cancel()
        await asyncio.sleep(0)
    assert handling.cancelled()
    assert as_before(await repository.get(before.session_id, user_id=1), before)


async def test_a_caller_out_of_time(repository: SessionRepository) -> None:
    """A caller's own time limit ends as its time limit, with the claim given back."""
    before = await asked(repository)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await SessionBridge(repository, Hanging()).handle(1, "c", "Tuesday", message_id="m1")
    assert as_before(await repository.get(before.session_id, user_id=1), before)


async def test_cancelled_at_any_moment(repository: SessionRepository) -> None:
    """Wherever a cancellation hits, the message was either not consumed or is recorded; nothing stays claimed."""
    before = await asked(repository)

    async def quick(turn: Turn) -> AskUser:
        await asyncio.sleep(0)
        return AskUser(f"{turn.attempt}?")

    bridge = SessionBridge(repository, quick)
    chance = random.Random(5)
    number = before.question_number
    for turns in range(60):
        handling = asyncio.create_task(bridge.handle(1, "c", "Tuesday", message_id=f"m{turns}"))
        for _ in range(turns):
            await asyncio.sleep(0)
        if turns % 3 == 0:  # a real server takes more turns of the loop than these
            await asyncio.sleep(chance.uniform(0, 0.02))
        handling.cancel()
        await asyncio.wait({handling})
        now = await repository.get(before.session_id, user_id=1)
        assert now.status is SessionStatus.WAITING_USER_REPLY, turns
        assert now.lease is None
        recorded = f"m{turns}" in now.answered_reply_ids
        assert now.question_number == number + recorded
        number = now.question_number


def test_a_loop_that_shuts_down() -> None:
    """At a shutdown every task is cancelled at once, the graph's too: the question stands, nothing has failed."""
    found: list[ActiveScheduleSessionSnapshot] = []

    async def serve() -> None:
        repository = await open_repository(database, create_indexes=True)
        graph = Hanging()
        await asked(repository)
        handling.append(asyncio.create_task(SessionBridge(repository, graph).handle(1, "c", "x", message_id="m1")))
        await graph.started.wait()

    async def look() -> None:
        repository = await open_repository(database)
        found.append((await repository.route(1, "c")).session or pytest.fail("nobody governs any more"))

    def in_a_thread() -> None:
        asyncio.run(serve())
        asyncio.run(look())

    handling: list[asyncio.Task[Any]] = []
    client: Any = connect_double()
    database = client["shutdown"]
    thread = threading.Thread(target=in_a_thread)
    thread.start()
    thread.join()
    assert handling[0].cancelled()
    assert (found[0].status, found[0].lease, found[0].attempts) == (SessionStatus.WAITING_USER_REPLY, None, 0)


# --- its lease -------------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_lease_is_renewed_while_the_graph_runs(brief: SessionRepository) -> None:
    """A graph that needs longer than a lease keeps its session: everybody else is held until it has answered."""
    await asked(brief)

    started = asyncio.Event()

    async def slow(turn: Turn) -> AskUser:
        started.set()
        await asyncio.sleep(1.4 * LEASE.total_seconds())
        return AskUser(turn.text)

    bridge = SessionBridge(brief, slow)
    first = asyncio.create_task(bridge.handle(1, "c", "And?", message_id="m1"))
    await started.wait()
    others = []
    while not first.done():
        others.append(await bridge.handle(1, "c", "me too", message_id="m2", question_id=None))
        await asyncio.sleep(0.1)
    assert isinstance(await first, Asked)
    assert [type(other) for other in others[:-1]] == [Held] * (len(others) - 1)


async def test_a_lease_that_is_lost(brief: SessionRepository) -> None:
    """When a renewal finds the session ended, or another's, the graph is cancelled and its result thrown away."""
    session = await asked(brief)
    graph = Hanging()
    bridge = SessionBridge(brief, graph)
    handling = asyncio.create_task(bridge.handle(1, "c", "Tuesday", message_id="m1"))
    await graph.started.wait()
    dismissed = await bridge.dismiss(1, session.session_id)
    outcome = await asyncio.wait_for(handling, 10)
    assert isinstance(outcome, Superseded)
    assert outcome.session == dismissed.session
    assert graph.stopped_after >= 0


async def test_a_lease_that_was_taken_over(repository: SessionRepository, session_clock: MovedClock) -> None:
    """A worker whose message was taken over ends superseded: only the other's answer is stored."""
    session = await asked(repository)
    gate = asyncio.Event()
    started = asyncio.Event()

    async def slow(turn: Turn) -> AskUser:
        started.set()
        await gate.wait()
        return AskUser(f"late {turn.text}")

    async def quick(turn: Turn) -> AskUser:
        return AskUser(f"quick {turn.text}")

    first = asyncio.create_task(SessionBridge(repository, slow).handle(1, "c", "x", message_id="m1"))
    await started.wait()
    session_clock.advance(seconds=61)
    assert isinstance(await SessionBridge(repository, quick).handle(1, "c", "x", message_id="m1"), Asked)
    gate.set()
    assert isinstance(await first, Superseded)
    assert (await repository.get(session.session_id, user_id=1)).state.pending_question == "quick x"


async def unavailable(claim: RerunClaim) -> RerunClaim:
    """A renewal that the store refuses."""
    raise StoreUnavailable(SessionRef(), outcome=WriteOutcome.NOT_WRITTEN, cause=f"made so for {claim.kind}")


async def unanswered(claim: RerunClaim) -> RerunClaim:
    """A renewal that the store does not answer."""
    await asyncio.Event().wait()
    return claim


async def at_a_loss(claim: RerunClaim) -> RerunClaim:
    """A renewal that finds the session gone."""
    raise TypeError(claim.kind)


@pytest.mark.parametrize(
    ("renew", "error"), [(unavailable, StoreUnavailable), (unanswered, StoreUnavailable), (at_a_loss, TypeError)]
)
async def test_a_lease_that_cannot_be_renewed(
    brief: SessionRepository,
    monkeypatch: pytest.MonkeyPatch,
    renew: Callable[[RerunClaim], Awaitable[RerunClaim]],
    error: type[Exception],
) -> None:
    """The graph is cancelled before the lease lapses, and the claim given back where the store lets it."""
    before = await asked(brief)
    graph = Hanging()
    monkeypatch.setattr(brief, "renew", renew)
    with pytest.raises(error) as failure:
        await asyncio.wait_for(SessionBridge(brief, graph).handle(1, "c", "Tuesday", message_id="m1"), 10)
    if renew is unanswered:
        # The claim's own revision: one more than before it.
        assert getattr(failure.value, "revision", None) == before.revision + 1
    assert 0 <= graph.stopped_after < LEASE.total_seconds()
    assert as_before(await brief.get(before.session_id, user_id=1), before)


@pytest.mark.slow
async def test_a_renewal_that_fails_once(brief: SessionRepository, monkeypatch: pytest.MonkeyPatch) -> None:
    """One failed renewal stops nothing: it is tried again while the lease holds."""
    await asked(brief)
    renew = brief.renew
    fails = iter([True])

    async def once(claim: RerunClaim) -> RerunClaim:
        return await (unavailable(claim) if next(fails, False) else renew(claim))

    monkeypatch.setattr(brief, "renew", once)

    async def slow(turn: Turn) -> AskUser:
        await asyncio.sleep(1.4 * LEASE.total_seconds())
        return AskUser(turn.text)

    assert isinstance(await SessionBridge(brief, slow).handle(1, "c", "And?", message_id="m1"), Asked)
    assert next(fails, None) is None


async def test_an_answer_that_cannot_be_recorded(
    repository: SessionRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller learns that the store is unavailable; the claim is given back, so that the message can come again."""
    before = await asked(repository)

    async def refuse(*_: object, **__: object) -> ActiveScheduleSessionSnapshot:
        raise StoreUnavailable(SessionRef(), outcome=WriteOutcome.UNKNOWN, cause="made so")

    async def graph(turn: Turn) -> AskUser:
        return AskUser(turn.text)

    monkeypatch.setattr(repository, "ask_again", refuse)
    with pytest.raises(StoreUnavailable, match="made so"):
        await SessionBridge(repository, graph).handle(1, "c", "And?", message_id="m1")
    assert as_before(await repository.get(before.session_id, user_id=1), before)
    monkeypatch.undo()
    assert isinstance(await SessionBridge(repository, graph).handle(1, "c", "And?", message_id="m1"), Asked)


async def test_a_claim_that_cannot_be_given_back(
    repository: SessionRepository,
    session_clock: MovedClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A store that fails on the way out too hides no cancellation: the lease lapses, and the message can come again."""
    await asked(repository)
    graph = Hanging()
    handling = asyncio.create_task(SessionBridge(repository, graph).handle(1, "c", "Tuesday", message_id="m1"))
    await graph.started.wait()

    async def refuse(*_: object, **__: object) -> None:
        raise StoreUnavailable(SessionRef(), outcome=WriteOutcome.NOT_WRITTEN, cause="made so")

    monkeypatch.setattr(repository, "release", refuse)
    handling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await handling
    assert "left to lapse" in caplog.text
    monkeypatch.undo()

    async def quick(turn: Turn) -> AskUser:
        return AskUser(turn.text)

    session_clock.advance(seconds=60)
    assert isinstance(await SessionBridge(repository, quick).handle(1, "c", "And?", message_id="m1"), Asked)


# --- it blocks the event loop ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("goes_on", [False, True])
async def test_a_graph_that_blocks_the_loop(brief: SessionRepository, *, goes_on: bool) -> None:
    """It cannot be cancelled; when it comes back after its lease, and nobody took over, its answer is recorded."""
    await asked(brief)

    async def blocking(turn: Turn) -> AskUser:
        time.sleep(1.2 * LEASE.total_seconds())  # noqa: ASYNC251 - the mistake that is shown
        if goes_on:
            await asyncio.sleep(LEASE.total_seconds() / 2)
        return AskUser(turn.text)

    bridge = SessionBridge(brief, blocking, max_rerun=timedelta(seconds=5))
    outcome = await bridge.handle(1, "c", "And?", message_id="m1")
    assert isinstance(outcome, Asked)
    assert outcome.session.state.pending_question == "And?"


@pytest.mark.slow
async def test_a_graph_that_blocks_during_a_renewal(brief: SessionRepository, monkeypatch: pytest.MonkeyPatch) -> None:
    """A renewal whose answer could not be read in time for the blocked loop has not failed."""
    await asked(brief)
    renew = brief.renew
    sent = asyncio.Event()

    async def renewing(claim: RerunClaim) -> RerunClaim:
        sent.set()
        await asyncio.sleep(0.01)
        return await renew(claim)

    async def blocking(turn: Turn) -> AskUser:
        await sent.wait()
        time.sleep(1.2 * LEASE.total_seconds())  # noqa: ASYNC251 - the mistake that is shown
        await asyncio.sleep(LEASE.total_seconds() / 2)
        return AskUser(turn.text)

    monkeypatch.setattr(brief, "renew", renewing)
    assert isinstance(await SessionBridge(brief, blocking).handle(1, "c", "And?", message_id="m1"), Asked)


async def test_a_graph_that_blocks_past_its_time(brief: SessionRepository) -> None:
    """What has ended when the loop comes back counts as ended, however late: its answer is recorded."""
    await asked(brief)

    async def blocking(turn: Turn) -> AskUser:
        time.sleep(0.1)  # noqa: ASYNC251 - the mistake that is shown
        return AskUser(turn.text)

    bridge = SessionBridge(brief, blocking, max_rerun=timedelta(milliseconds=10))
    assert isinstance(await bridge.handle(1, "c", "And?", message_id="m1"), Asked)


@pytest.mark.slow
async def test_a_graph_that_blocks_and_is_taken_over(brief: SessionRepository) -> None:
    """A worker that blocked past its lease, and whose session another claimed meanwhile, records nothing."""
    session = await asked(brief)
    taking_over: list[asyncio.Task[bool]] = []

    async def take_over() -> bool:
        try:
            claim = await brief.claim_rerun(session.session_id, user_id=1, reply_id="m2")
        except TransitionConflict:
            return False  # the renewal was first, as it may be while nobody has taken the session over
        await brief.ask_again(claim, pending_question="of the other")
        return True

    async def blocking(turn: Turn) -> AskUser:
        has_lost = False
        while not has_lost:
            time.sleep(1.2 * LEASE.total_seconds())  # noqa: ASYNC251 - the mistake that is shown
            # The other is nobody whom this graph's cancellation reaches.
            taking_over.append(asyncio.create_task(take_over()))
            has_lost = await asyncio.shield(taking_over[-1])
        return AskUser(turn.text)

    outcome = await SessionBridge(brief, blocking).handle(1, "c", "And?", message_id="m1")
    assert await taking_over[-1]
    assert isinstance(outcome, Superseded)
    assert (await brief.get(session.session_id, user_id=1)).state.pending_question == "of the other"
