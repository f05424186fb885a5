"""Applying: one caller at a time writes a confirmed preview back, and a yes survives the death of its writer."""

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from sessions import (
    ApplyClaim,
    ConflictReason,
    InvalidTransition,
    LeaseLost,
    RouteAction,
    SessionRepository,
    SessionStatus,
    StalePreview,
    TransitionConflict,
    open_repository,
)
from sessions.testing import MovedClock, SessionMaker, StoredDocument

if TYPE_CHECKING:
    from sessions.store.clients import Database

READY = SessionStatus.READY_PREVIEW


async def taken_over(repository: SessionRepository, clock: MovedClock, claim: ApplyClaim) -> ApplyClaim:
    """The claim of the next writer, once this one's lease has lapsed."""
    clock.at = max(clock.at, claim.expires_at)
    preview_id = claim.session.current_preview_id or ""
    return await repository.claim_apply(claim.session.session_id, user_id=1, preview_id=preview_id)


async def test_a_claim_hands_out_a_lease_and_leaves_chat_free(
    repository: SessionRepository, make_session: SessionMaker, stored: StoredDocument
) -> None:
    """The claim carries what the writer needs; the session stays ready, and its history tells of nothing."""
    session = await make_session(READY, conversation_id="c")
    before = await repository.history(session.session_id, user_id=1)
    claim = await repository.claim_apply(
        session.session_id, user_id=1, preview_id="preview-1", lease=timedelta(seconds=5), operation_id="op"
    )
    assert (claim.kind, claim.token, claim.operation_id, claim.attempt) == ("apply", 1, "op", 1)
    assert (claim.reply_id, claim.lease) == (None, timedelta(seconds=5))
    assert claim.expires_at == session.updated_at + timedelta(seconds=5)
    assert claim.idempotency_key == f"{session.key_prefix}:preview-1"
    assert (claim.session.status, claim.session.attempts) == (READY, 0)
    assert claim.session.revision == session.revision + 1
    assert (await repository.route(1, "c")).action is RouteAction.FREE_CHAT
    assert await repository.history(session.session_id, user_id=1) == before
    document = await stored(session.session_id)
    assert document is not None
    assert {name: document["lease"][name] for name in ("kind", "operation_id", "attempt")} == {
        "kind": "apply",
        "operation_id": "op",
        "attempt": 1,
    }


async def test_ten_confirmations_at_once_have_one_writer(
    repository: SessionRepository, make_session: SessionMaker
) -> None:
    """A double click and a second tab do not write twice: the others learn that it is in progress."""
    session = await make_session(READY)
    results = await asyncio.gather(
        *(repository.claim_apply(session.session_id, user_id=1, preview_id="preview-1") for _ in range(10)),
        return_exceptions=True,
    )
    assert sum(isinstance(result, ApplyClaim) for result in results) == 1
    refusals = [result for result in results if isinstance(result, TransitionConflict)]
    assert len(refusals) == 9
    assert {(refusal.reason, refusal.status) for refusal in refusals} == {(ConflictReason.IN_PROGRESS, READY)}
    assert (await repository.get(session.session_id, user_id=1)).fencing_token == 1


async def test_a_lapsed_lease_is_taken_over_under_the_same_key(
    repository: SessionRepository, make_session: SessionMaker, session_clock: MovedClock, stored: StoredDocument
) -> None:
    """The target can tell a repetition; the writer that was replaced can record nothing any more."""
    old = await make_session.apply_claim()
    new = await taken_over(repository, session_clock, old)
    assert (new.token, new.attempt) == (old.token + 1, 2)
    assert new.idempotency_key == old.idempotency_key
    assert new.operation_id != old.operation_id
    before = await stored(old.session.session_id)
    for write in (
        repository.renew(old),
        repository.release(old),
        repository.complete_apply(old),
        repository.fail_apply(old, reason="late"),
    ):
        with pytest.raises(LeaseLost) as refusal:
            await write
        assert refusal.value.status is READY
    assert await stored(old.session.session_id) == before
    assert (await repository.complete_apply(new)).status is SessionStatus.APPLIED
    steps = [entry.to_status for entry in await repository.history(old.session.session_id, user_id=1)]
    assert steps == ["ready_preview", "applied"]


async def test_a_lapsed_writer_that_nobody_replaced_may_still_record(
    repository: SessionRepository, make_session: SessionMaker, session_clock: MovedClock
) -> None:
    """The token says who may write, never a clock; a renewal keeps kind and attempt."""
    claim = await make_session.apply_claim()
    session_clock.advance(hours=1)
    renewed = await repository.renew(claim)
    assert isinstance(renewed, ApplyClaim)
    assert renewed.expires_at == session_clock() + claim.lease
    assert (renewed.attempt, renewed.token, renewed.idempotency_key) == (1, claim.token, claim.idempotency_key)
    session_clock.advance(hours=1)
    assert (await repository.complete_apply(claim)).status is SessionStatus.APPLIED


async def test_what_a_write_back_came_to_is_recorded(repository: SessionRepository, make_session: SessionMaker) -> None:
    """It ends applied or failed, without its lease, and the history names the call and the reason."""
    written, broken = await make_session.apply_claim(), await make_session.apply_claim()
    applied = await repository.complete_apply(written)
    failed = await repository.fail_apply(broken, reason=" no such lesson ")
    assert (applied.status, applied.lease, applied.current_preview_id) == (
        SessionStatus.APPLIED,
        None,
        written.session.current_preview_id,
    )
    assert (failed.status, failed.lease, failed.state.failed_reason) == (SessionStatus.FAILED, None, "no such lesson")
    for session, call, reason in ((applied, "complete_apply", ""), (failed, "fail_apply", "no such lesson")):
        last = (await repository.history(session.session_id, user_id=1))[-1]
        assert (last.from_status, last.to_status, last.call, last.reason) == (READY, session.status, call, reason)


async def test_a_claim_given_back_leaves_the_preview_as_it_was(
    repository: SessionRepository, make_session: SessionMaker
) -> None:
    """Released before its write-back began, the session can be refined, dismissed and confirmed again; no entry."""
    claim = await make_session.apply_claim()
    before = await repository.history(claim.session.session_id, user_id=1)
    back = await repository.release(claim, reason="shutting down", count_attempt=True)
    assert (back.status, back.lease, back.attempts) == (READY, None, 0)
    assert back.current_preview_id == claim.session.current_preview_id
    assert await repository.history(back.session_id, user_id=1) == before
    again = await repository.claim_apply(back.session_id, user_id=1, preview_id=claim.session.current_preview_id or "")
    assert (again.token, again.attempt) == (claim.token + 1, 1)


async def test_a_release_that_was_carried_out_is_repeated_in_vain(
    repository: SessionRepository, make_session: SessionMaker, stored: StoredDocument
) -> None:
    """Its token current, no lease, the preview ready: it has succeeded; with another claim or an end it has not."""
    claim = await make_session.apply_claim()
    back = await repository.release(claim, operation_id="op")
    before = await stored(back.session_id)
    for operation_id in ("op", "other"):
        assert await repository.release(claim, operation_id=operation_id) == back
    assert await stored(back.session_id) == before
    with pytest.raises(LeaseLost):
        await repository.complete_apply(claim)
    preview_id = back.current_preview_id or ""
    again = await repository.claim_apply(back.session_id, user_id=1, preview_id=preview_id)
    with pytest.raises(LeaseLost):
        await repository.release(claim, operation_id="op")
    await repository.complete_apply(again)
    with pytest.raises(LeaseLost) as refusal:
        await repository.release(again)
    assert refusal.value.status is SessionStatus.APPLIED


async def test_a_claim_is_replayed_while_its_lease_is_there(
    repository: SessionRepository, make_session: SessionMaker, session_clock: MovedClock
) -> None:
    """A retry gets the same claim, lapsed or not; once the lease is gone it is a new call."""
    session = await make_session(READY)

    async def claim(operation_id: str = "op") -> ApplyClaim:
        return await repository.claim_apply(
            session.session_id, user_id=1, preview_id="preview-1", operation_id=operation_id
        )

    first = await claim()
    assert await claim() == first
    session_clock.at = first.expires_at
    assert await claim() == first
    await repository.release(first)
    second = await claim()
    assert (second.token, second.attempt) == (first.token + 1, 1)
    session_clock.at = second.expires_at
    other = await claim("another")
    with pytest.raises(TransitionConflict) as refusal:
        await claim()
    assert refusal.value.reason is ConflictReason.IN_PROGRESS
    assert await repository.get(session.session_id, user_id=1) == other.session


async def test_an_id_of_another_call_claims_nothing(
    repository: SessionRepository, make_session: SessionMaker, stored: StoredDocument
) -> None:
    """The id that a rerun was recorded under names that call; the claim's own id ends no session."""
    claim = await make_session.claim()
    ready = await repository.present_preview(claim, preview_id="p", operation_id="op")
    before = await stored(ready.session_id)
    for used in ("op", claim.operation_id):
        with pytest.raises(TransitionConflict) as refusal:
            await repository.claim_apply(ready.session_id, user_id=1, preview_id="p", operation_id=used)
        assert refusal.value.reason is ConflictReason.OPERATION_ID_REUSED
    assert await stored(ready.session_id) == before


async def test_a_write_back_that_kills_its_writers_ends_the_session(
    database: "Database", session_clock: MovedClock
) -> None:
    """At ``max_attempts`` the next claim ends it as failed and says why; a replay of that claim says the same."""
    repository = await open_repository(database, create_indexes=True, clock=session_clock, max_attempts=2)
    session = await repository.create(1, "t", preview_id="p")
    for attempt in (1, 2):
        claim = await repository.claim_apply(session.session_id, user_id=1, preview_id="p")
        assert claim.attempt == attempt
        session_clock.at = claim.expires_at
    assert (await repository.renew(claim)).attempt == 2
    session_clock.advance(minutes=5)
    for operation_id in ("op", "op"):
        with pytest.raises(TransitionConflict) as refusal:
            await repository.claim_apply(session.session_id, user_id=1, preview_id="p", operation_id=operation_id)
        assert refusal.value.reason is ConflictReason.ATTEMPTS_EXHAUSTED
        assert refusal.value.status is SessionStatus.FAILED
    ended = await repository.get(session.session_id, user_id=1)
    assert (ended.status, ended.lease) == (SessionStatus.FAILED, None)
    assert "2 attempts" in ended.state.failed_reason
    assert await repository.interrupted_applies() == []
    with pytest.raises(InvalidTransition):
        await repository.claim_apply(session.session_id, user_id=1, preview_id="p")


async def test_reruns_do_not_count_against_a_write_back(database: "Database", session_clock: MovedClock) -> None:
    """Attempts at the graph and attempts at the target are counted apart."""
    repository = await open_repository(database, create_indexes=True, clock=session_clock, max_attempts=1)
    session = await repository.create(1, "t", preview_id="p")
    claim = await repository.claim_refinement(session.session_id, user_id=1, preview_id="p", reply_id="m")
    back = await repository.release(claim, count_attempt=True)
    assert back.attempts == 1
    assert (await repository.claim_apply(session.session_id, user_id=1, preview_id="p")).attempt == 1


async def test_a_yes_does_not_expire(
    repository: SessionRepository, make_session: SessionMaker, session_clock: MovedClock
) -> None:
    """Said in time, it is applied whenever the write-back ends; said too late, or taken back, it is refused."""
    ends = session_clock() + timedelta(seconds=10)
    claim, given_back = await make_session.apply_claim(expires_at=ends), await make_session.apply_claim(expires_at=ends)
    late = await make_session(READY, expires_at=ends)
    session_clock.advance(hours=1)
    back = await repository.release(given_back)
    for session in (late, back):
        with pytest.raises(InvalidTransition) as refusal:
            await repository.claim_apply(session.session_id, user_id=1, preview_id=session.current_preview_id or "")
        assert refusal.value.status is SessionStatus.EXPIRED
    new = await taken_over(repository, session_clock, claim)
    assert await repository.expire_due() == 2
    assert await repository.recover_stalled() == 0
    assert (await repository.complete_apply(new)).status is SessionStatus.APPLIED


async def test_a_confirmation_names_the_preview_that_was_seen(
    repository: SessionRepository, make_session: SessionMaker, session_clock: MovedClock
) -> None:
    """Another preview is not applied by it, live refinements keep it off, and a lapsed one is put back first."""
    claim = await make_session.refinement()
    session_id, preview_id = claim.session.session_id, claim.session.current_preview_id or ""
    with pytest.raises(StalePreview):
        await repository.claim_apply(session_id, user_id=1, preview_id="another")
    with pytest.raises(TransitionConflict) as refusal:
        await repository.claim_apply(session_id, user_id=1, preview_id=preview_id)
    assert refusal.value.reason is ConflictReason.IN_PROGRESS
    session_clock.at = claim.expires_at
    confirmed = await repository.claim_apply(session_id, user_id=1, preview_id=preview_id)
    with pytest.raises(StalePreview):
        await repository.claim_apply(session_id, user_id=1, preview_id="another")
    await repository.complete_apply(confirmed)
    steps = [entry.to_status for entry in await repository.history(session_id, user_id=1)]
    assert steps == ["ready_preview", "rerunning", "ready_preview", "applied"]


async def test_what_was_interrupted_is_found(
    repository: SessionRepository, make_session: SessionMaker, session_clock: MovedClock
) -> None:
    """Lapsed apply leases of all users, the longest first; neither live ones nor lapsed reruns nor released ones."""
    first = await make_session.apply_claim(lease=timedelta(seconds=2))
    second = await make_session.apply_claim(user_id=2, lease=timedelta(seconds=1))
    await make_session.apply_claim(lease=timedelta(minutes=5))
    await make_session.refinement(lease=timedelta(seconds=1))
    await repository.release(await make_session.apply_claim(lease=timedelta(seconds=1)))
    assert await repository.interrupted_applies() == []
    session_clock.advance(seconds=3)
    assert await repository.interrupted_applies() == [second.session, first.session]
    assert await repository.interrupted_applies(limit=1) == [second.session]
    await taken_over(repository, session_clock, first)
    assert await repository.interrupted_applies() == [second.session]
