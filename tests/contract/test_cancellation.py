"""A call that is cancelled in mid-write: it is finished first, and no claim stands that nobody knows of."""

import asyncio
import logging
from collections import Counter
from datetime import timedelta
from itertools import pairwise
from random import Random
from typing import Any, Final

import pytest

from sessions import (
    ApplyClaim,
    ConflictReason,
    RerunClaim,
    SessionRepository,
    SessionStatus,
    TransitionConflict,
    open_repository,
)
from sessions.domain.lifecycle import CALLS, LIFECYCLE, CallName, LeaseKind
from sessions.repository.engine import CANCELLED_REASON
from sessions.store.clients import connect, disconnect
from sessions.testing import Backend, CommandCounter, MovedClock, SessionMaker, StoredDocument
from tests.support.fail_points import failing
from tests.support.ready_call import ReadyCall, ready_call

ROUNDS: Final = 6
BOUND: Final = 20.0
CASES: Final = [
    *((CallName(name), None) for name in ("create", "get_or_create")),
    *((name, None) for name, rule in CALLS.items() if not rule.held),
    *((name, kind) for name, rule in CALLS.items() for kind in LeaseKind if kind in rule.held),
]
BLOCKED: Final[dict[str, Any]] = {"blockConnection": True, "blockTimeMS": 200}
"""The server waits before it carries a command out."""


async def cancelled_somewhere(call: Any, random: Random, *, is_real: bool) -> object:
    """Cancel the call at a random moment of its way; its answer, where it came first."""
    running = asyncio.ensure_future(call)
    if is_real and random.random() < 0.7:
        await asyncio.sleep(random.uniform(0, 0.004))
    else:
        for _ in range(random.randrange(12)):
            await asyncio.sleep(0)
    running.cancel()
    try:
        return await running
    except asyncio.CancelledError:
        return None


def assert_whole(ready: ReadyCall, before: dict[str, Any] | None, after: dict[str, Any] | None) -> bool:
    """The session is as it was, or as the call leaves it; whether a claim was given back on the way."""
    if after is None or after == before:
        assert after == before
        return False
    came_from = before["revision"] if before is not None else 0
    known = len(before["history"]) if before is not None else 0
    steps = [SessionStatus(entry["to_status"]) for entry in after["history"]]
    assert all(there in LIFECYCLE[here].leads_to for here, there in pairwise(steps))
    assert steps[-1] == after["status"]
    if ready.name not in CALLS or not CALLS[ready.name].is_claim:
        assert after["revision"] == came_from + 1
        assert len(after["history"]) - known <= 1
        return False
    assert before is not None
    assert after["revision"] == came_from + 2
    assert after["fencing_token"] == before["fencing_token"] + 1
    kept = ("status", "attempts", "state", "current_preview_id", "answered_reply_ids")
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert "lease" not in after
    if ready.name is not CallName.CLAIM_APPLY:
        assert after["history"][-1]["reason"] == CANCELLED_REASON
    return True


@pytest.mark.parametrize(("name", "kind"), CASES)
async def test_a_cancelled_call_has_happened_or_not(
    repository: SessionRepository,
    make_session: SessionMaker,
    stored: StoredDocument,
    backend: Backend,
    name: CallName,
    kind: LeaseKind | None,
) -> None:
    """Cancelled at random moments: before or after, never half; a claim that was won is given back; nothing follows."""
    random = Random(f"{name} {kind}")
    given_back = Counter[bool]()
    seen: list[tuple[str, dict[str, Any] | None]] = []
    for _ in range(ROUNDS):
        ready = await ready_call(make_session, name, kind=kind)
        before = await stored(ready.session_id)
        answer = await cancelled_somewhere(ready(repository), random, is_real=backend.is_real)
        after = await stored(ready.session_id)
        seen.append((ready.session_id, after))
        if isinstance(answer, RerunClaim | ApplyClaim) and CALLS[name].is_claim:
            # The answer came first: the caller has the claim.
            assert after is not None
            assert after["lease"]["operation_id"] == answer.operation_id
            continue
        given_back[assert_whole(ready, before, after)] += 1
    assert [(session_id, await stored(session_id)) for session_id, _ in seen] == seen


@pytest.mark.parametrize("seed", range(3))
async def test_a_cancelled_sweep_has_swept_whole_sessions(
    repository: SessionRepository,
    make_session: SessionMaker,
    session_clock: MovedClock,
    stored: StoredDocument,
    backend: Backend,
    seed: int,
) -> None:
    """What a sweep was ending when it was cancelled is ended; the next sweep does what is left, once each."""
    random = Random(seed)
    ends = session_clock() + timedelta(seconds=1)
    made = [await make_session(expires_at=ends) for _ in range(5)]
    made += [(await make_session.claim()).session for _ in range(5)]
    session_clock.advance(minutes=2)
    for sweep in (repository.expire_due, repository.recover_stalled):
        await cancelled_somewhere(sweep(), random, is_real=backend.is_real)
        await sweep()
    for session in made:
        document = await stored(session.session_id)
        assert document is not None
        assert document["revision"] == session.revision + 1
    session_clock.advance(minutes=2)
    await cancelled_somewhere(repository.purge(ended_before=session_clock()), random, is_real=backend.is_real)
    await repository.purge(ended_before=session_clock())
    assert [await stored(session.session_id) is None for session in made] == [True] * 5 + [False] * 5


async def until_sent(counter: CommandCounter, command: str) -> None:
    """Wait until the driver has sent one."""
    async with asyncio.timeout(BOUND):
        while not any(command in sent for sent in counter.commands):  # noqa: ASYNC110 - the driver announces nothing
            await asyncio.sleep(0.005)


@pytest.mark.needs("server")
@pytest.mark.parametrize(("name", "kind"), CASES)
async def test_what_was_on_its_way_is_finished(
    repository: SessionRepository,
    make_session: SessionMaker,
    stored: StoredDocument,
    database: Any,
    command_counter: CommandCounter,
    name: CallName,
    kind: LeaseKind | None,
) -> None:
    """While the server has the write the cancellation waits, however often it comes; then it leaves."""
    ready = await ready_call(make_session, name, kind=kind)
    before = await stored(ready.session_id)
    command = "insert" if before is None else "findAndModify"
    async with failing(database, command, **BLOCKED):
        with command_counter.counting():
            running = asyncio.ensure_future(ready(repository))
            await until_sent(command_counter, command)
        for _ in range(3):
            running.cancel()
            await asyncio.sleep(0)
            assert not running.done()
        with pytest.raises(asyncio.CancelledError):
            await running
    after = await stored(ready.session_id)
    assert after != before
    assert assert_whole(ready, before, after) is (name in CALLS and CALLS[name].is_claim)


@pytest.mark.needs("server")
@pytest.mark.parametrize("name", [name for name, rule in CALLS.items() if rule.is_claim])
async def test_a_claim_on_its_way_when_the_loop_shuts_down(
    database: Any,
    make_session: SessionMaker,
    session_clock: MovedClock,
    stored: StoredDocument,
    backend: Backend,
    mongod_uri: str,
    name: CallName,
) -> None:
    """A shutdown cancels every task at once, the one that finishes the claim too: it is given back all the same."""
    ready = await ready_call(make_session, name)
    before = await stored(ready.session_id)
    claiming: list[asyncio.Task[Any]] = []

    async def close_last(client: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.wait(claiming)
            await disconnect(client)

    async def serve() -> None:
        counter = CommandCounter()
        client: Any = connect(mongod_uri, driver=backend.name, listeners=[counter])
        own = await open_repository(client[database.name], verify_indexes=False, clock=session_clock)
        claiming.append(asyncio.create_task(ready(own)))
        closing = asyncio.create_task(close_last(client))
        with counter.counting():
            await until_sent(counter, "findAndModify")
        assert not closing.done()

    async with failing(database, "findAndModify", **BLOCKED):
        await asyncio.to_thread(asyncio.run, serve())
    assert claiming[0].cancelled()
    assert assert_whole(ready, before, await stored(ready.session_id))


@pytest.mark.needs("server")
async def test_a_lookup_is_let_go_at_once(
    repository: SessionRepository, make_session: SessionMaker, database: Any, command_counter: CommandCounter
) -> None:
    """A read changes nothing, so nobody waits for one that is cancelled."""
    await make_session(conversation_id="c")
    async with failing(database, "find", **BLOCKED):
        with command_counter.counting():
            running = asyncio.ensure_future(repository.route(1, "c"))
            await until_sent(command_counter, "find")
        running.cancel()
        for _ in range(50):
            await asyncio.sleep(0)
        assert running.cancelled()


async def test_a_time_limit_of_the_callers_own_is_kept(
    repository: SessionRepository, make_session: SessionMaker, stored: StoredDocument
) -> None:
    """``asyncio.timeout`` and a task group see the cancellation that they sent, and no claim is left standing."""
    session = await make_session()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await repository.claim_rerun(session.session_id, user_id=1, reply_id="m")
    document = await stored(session.session_id)
    assert document is not None
    assert "lease" not in document
    assert (await repository.claim_rerun(session.session_id, user_id=1, reply_id="m")).attempt == 1


@pytest.mark.needs("server")
async def test_a_claim_that_cannot_be_given_back_lapses(
    repository: SessionRepository,
    make_session: SessionMaker,
    session_clock: MovedClock,
    database: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The cancellation leaves all the same; the log says when the lease lapses, and the next message takes over."""
    session = await make_session()
    # The claim's write passes, its release is refused.
    async with failing(database, "findAndModify", mode={"skip": 1}, errorCode=13):
        running = asyncio.ensure_future(repository.claim_rerun(session.session_id, user_id=1, reply_id="m"))
        await asyncio.sleep(0)
        running.cancel()
        with caplog.at_level(logging.WARNING, logger="sessions"), pytest.raises(asyncio.CancelledError):
            await running
    assert "lapses at" in caplog.text
    session_clock.advance(minutes=2)
    assert (await repository.claim_rerun(session.session_id, user_id=1, reply_id="m")).attempt == 2


async def test_a_write_back_that_was_taken_over_is_not_given_back(
    repository: SessionRepository, make_session: SessionMaker, session_clock: MovedClock
) -> None:
    """Whoever held it before may have written: the confirmation stands, and may be taken over at once."""
    dead = await make_session.apply_claim()
    session_id, preview_id = dead.session.session_id, dead.session.current_preview_id
    assert preview_id is not None
    session_clock.at = dead.expires_at
    await repository._give_back(await repository.claim_apply(session_id, user_id=1, preview_id=preview_id))
    with pytest.raises(TransitionConflict) as refusal:
        await repository.ignore(session_id, user_id=1)
    assert refusal.value.reason is ConflictReason.APPLYING
    session_clock.advance(milliseconds=1)
    assert (await repository.claim_apply(session_id, user_id=1, preview_id=preview_id)).attempt == 3


async def test_an_ended_session_needs_no_giving_back(
    repository: SessionRepository, make_session: SessionMaker, caplog: pytest.LogCaptureFixture
) -> None:
    """Where somebody ended it meanwhile the cancelled claim holds nothing: that is no trouble worth a warning."""
    claim = await make_session.claim()
    await repository.ignore(claim.session.session_id, user_id=1)
    with caplog.at_level(logging.WARNING, logger="sessions"):
        await repository._give_back(claim)
    assert caplog.text == ""
    assert (await repository.get(claim.session.session_id, user_id=1)).status is SessionStatus.IGNORED


async def test_a_refusal_that_nobody_waits_for_is_silent(
    repository: SessionRepository, make_session: SessionMaker, caplog: pytest.LogCaptureFixture
) -> None:
    """A cancelled call that would have been refused leaves neither a trace nor a complaint of the event loop."""
    session = await make_session(SessionStatus.APPLIED)
    running = asyncio.ensure_future(repository.ignore(session.session_id, user_id=1))
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert caplog.text == ""
    assert await repository.get(session.session_id, user_id=1) == session
