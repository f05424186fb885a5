"""Leases: who may work on a session, how long, and who may write afterwards."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from sessions import (
    ConflictReason,
    ConversationBusy,
    InvalidSessionInput,
    InvalidTransition,
    LeaseLost,
    RerunClaim,
    SessionRepository,
    SessionStatus,
    StalePreview,
    StaleReply,
    TransitionConflict,
    open_repository,
)
from sessions.store.document import COLLECTION
from sessions.testing import MovedClock, SessionMaker, StoredDocument

if TYPE_CHECKING:
    from sessions.store.clients import Database


async def test_a_claim_hands_out_a_lease(repository: SessionRepository, make_session: SessionMaker) -> None:
    """The claim carries what the worker needs, and the session is rerunning with its question as it was."""
    session = await make_session(conversation_id="c")
    claim = await repository.claim_rerun(
        session.session_id, user_id=1, reply_id="m1", lease=timedelta(seconds=5), operation_id="op"
    )
    assert claim.session.status is SessionStatus.RERUNNING
    assert claim.session.state == session.state
    assert (claim.token, claim.attempt, claim.operation_id, claim.reply_id) == (1, 1, "op", "m1")
    assert claim.expires_at == session.updated_at + timedelta(seconds=5)
    assert claim.idempotency_key == f"{session.key_prefix}:m1"


async def test_ten_claims_at_once_have_one_winner(repository: SessionRepository, make_session: SessionMaker) -> None:
    """Exactly one claim is handed out; the others learn that a rerun is in progress."""
    session = await make_session()
    results = await asyncio.gather(
        *(repository.claim_rerun(session.session_id, user_id=1, reply_id=f"m{number}") for number in range(10)),
        return_exceptions=True,
    )
    assert sum(isinstance(result, RerunClaim) for result in results) == 1
    refusals = [result for result in results if isinstance(result, TransitionConflict)]
    assert len(refusals) == 9
    assert {(refusal.reason, refusal.status) for refusal in refusals} == {
        (ConflictReason.IN_PROGRESS, SessionStatus.RERUNNING)
    }
    entries = await repository.history(session.session_id, user_id=1)
    assert [entry.to_status for entry in entries].count(SessionStatus.RERUNNING) == 1


async def test_a_lapsed_reply_is_taken_over_and_its_old_holder_fenced_off(
    repository: SessionRepository, make_session: SessionMaker, session_clock: MovedClock, stored: StoredDocument
) -> None:
    """A take-over raises the token; every write of the worker before it is then refused and changes nothing."""
    old = await make_session.claim()
    session_clock.at = old.expires_at
    new = await repository.claim_rerun(old.session.session_id, user_id=1, reply_id="another")
    assert (new.token, new.attempt) == (old.token + 1, 2)
    before = await stored(old.session.session_id)
    for write in (
        repository.renew(old),
        repository.release(old),
        repository.ask_again(old, pending_question="late"),
        repository.present_preview(old, preview_id="late"),
        repository.close_rerun(old),
        repository.fail_rerun(old, reason="late"),
    ):
        with pytest.raises(LeaseLost) as refusal:
            await write
        assert refusal.value.status is SessionStatus.RERUNNING
    assert await stored(old.session.session_id) == before
    entries = await repository.history(old.session.session_id, user_id=1)
    assert [entry.to_status for entry in entries][-2:] == [SessionStatus.RERUNNING] * 2


async def test_a_lapsed_holder_that_nobody_replaced_may_still_write(
    repository: SessionRepository, make_session: SessionMaker, session_clock: MovedClock
) -> None:
    """The token says who may write, never a clock."""
    claim = await make_session.claim()
    session_clock.advance(hours=1)
    renewed = await repository.renew(claim)
    assert renewed.expires_at == session_clock() + claim.lease
    session_clock.advance(hours=1)
    assert (await repository.ask_again(claim, pending_question="And?")).status is SessionStatus.WAITING_USER_REPLY


async def test_renewing_never_brings_the_expiry_forward(
    repository: SessionRepository, make_session: SessionMaker, session_clock: MovedClock
) -> None:
    """A clock that was set back shortens no lease."""
    claim = await make_session.claim()
    session_clock.advance(seconds=-30)
    assert (await repository.renew(claim)).expires_at == claim.expires_at


@pytest.mark.parametrize("count_attempt", [False, True])
async def test_release_gives_back_exactly_what_was_there(
    repository: SessionRepository, make_session: SessionMaker, *, count_attempt: bool
) -> None:
    """Question and preview stand as before the claim; the attempt is taken off unless it counts."""
    for claim in (await make_session.claim(), await make_session.refinement()):
        back = await repository.release(claim, count_attempt=count_attempt)
        waiting = SessionStatus.WAITING_USER_REPLY
        expected = waiting if claim.kind.value == "reply" else SessionStatus.READY_PREVIEW
        assert back.status is expected
        assert back.lease is None
        assert back.attempts == int(count_attempt)
        kept = ("state", "question_number", "current_preview_id", "answered_reply_ids")
        assert [getattr(back, name) for name in kept] == [getattr(claim.session, name) for name in kept]
        again = repository.claim_rerun if claim.kind.value == "reply" else None
        if again is not None:
            assert (await again(back.session_id, user_id=1, reply_id=claim.reply_id)).token == claim.token + 1


async def test_exhausted_attempts_end_the_session(database: "Database", session_clock: MovedClock) -> None:
    """A reply that kills every worker ends its session as failed, with a reason, and frees the chat."""
    repository = await open_repository(
        database,
        create_indexes=True,
        clock=session_clock,
        max_attempts=2,
    )
    session = await repository.create(1, "t", conversation_id="c", pending_question="Which?")
    for attempt in (1, 2):
        claim = await repository.claim_rerun(session.session_id, user_id=1, reply_id="m")
        assert claim.attempt == attempt
        session_clock.at = claim.expires_at
    for operation_id in ("op", "op"):
        with pytest.raises(TransitionConflict) as refusal:
            await repository.claim_rerun(session.session_id, user_id=1, reply_id="m", operation_id=operation_id)
        assert refusal.value.reason is ConflictReason.ATTEMPTS_EXHAUSTED
        assert refusal.value.status is SessionStatus.FAILED
    ended = await repository.get(session.session_id, user_id=1)
    assert ended.status is SessionStatus.FAILED
    assert "2 attempts" in ended.state.failed_reason
    with pytest.raises(InvalidTransition):
        await repository.claim_rerun(session.session_id, user_id=1, reply_id="m")


async def test_recovery_fails_exhausted_replies_and_puts_refinements_back(
    database: "Database", session_clock: MovedClock
) -> None:
    """Recovery of a reply lease honours ``max_attempts``; a lapsed refinement is always put back."""
    repository = await open_repository(
        database,
        create_indexes=True,
        clock=session_clock,
        max_attempts=1,
    )
    asked = await repository.create(1, "asked", pending_question="Which?")
    ready = await repository.create(1, "ready", preview_id="p")
    await repository.claim_rerun(asked.session_id, user_id=1, reply_id="m")
    await repository.claim_refinement(ready.session_id, user_id=1, preview_id="p", reply_id="m")
    assert await repository.recover_stalled() == 0
    session_clock.advance(seconds=60)
    assert await repository.recover_stalled() == 2
    assert (await repository.get(asked.session_id, user_id=1)).status is SessionStatus.FAILED
    put_back = await repository.get(ready.session_id, user_id=1)
    assert (put_back.status, put_back.current_preview_id) == (SessionStatus.READY_PREVIEW, "p")
    with pytest.raises(TransitionConflict) as refusal:
        await repository.claim_refinement(ready.session_id, user_id=1, preview_id="p", reply_id="m2")
    assert refusal.value.reason is ConflictReason.ATTEMPTS_EXHAUSTED
    assert await repository.get(ready.session_id, user_id=1) == put_back


async def test_a_recorded_outcome_resets_the_attempts(
    repository: SessionRepository, make_session: SessionMaker, session_clock: MovedClock
) -> None:
    """Attempts count reruns since the last recorded outcome, and the question number moves on."""
    claim = await make_session.claim()
    session_clock.at = claim.expires_at
    taken_over = await repository.claim_rerun(claim.session.session_id, user_id=1, reply_id="m")
    asked = await repository.ask_again(taken_over, missing_info=["a room"])
    assert (asked.attempts, asked.question_number) == (0, claim.session.question_number + 1)
    assert asked.answered_reply_ids == ("m",)
    assert asked.state.pending_question == ""
    assert asked.state.missing_info == ("a room",)


async def test_a_recorded_reply_never_runs_again(repository: SessionRepository, make_session: SessionMaker) -> None:
    """A message delivered again after its outcome was recorded is told so, for a rerun and a refinement alike."""
    claim = await make_session.claim()
    asked = await repository.ask_again(claim, pending_question="And?")
    with pytest.raises(TransitionConflict) as refusal:
        await repository.claim_rerun(asked.session_id, user_id=1, reply_id=claim.reply_id)
    assert refusal.value.reason is ConflictReason.ALREADY_ANSWERED
    second = await repository.claim_rerun(asked.session_id, user_id=1, reply_id="next")
    await repository.present_preview(second, preview_id="p")
    for seen in (claim.reply_id, "next"):
        with pytest.raises(TransitionConflict) as refusal:
            await repository.claim_refinement(asked.session_id, user_id=1, preview_id="p", reply_id=seen)
        assert refusal.value.reason is ConflictReason.ALREADY_ANSWERED


async def test_a_reply_names_the_question_that_it_answers(
    repository: SessionRepository, make_session: SessionMaker
) -> None:
    """A reply to an earlier question is refused and says which one stands; to the present one it is taken."""
    claim = await make_session.claim()
    asked = await repository.ask_again(claim, pending_question="And?")
    with pytest.raises(StaleReply) as refusal:
        await repository.claim_rerun(asked.session_id, user_id=1, reply_id="m", question_number=1)
    assert refusal.value.current_question_number == 2
    second = await repository.claim_rerun(asked.session_id, user_id=1, reply_id="m", question_number=2)
    ready = await repository.present_preview(second, preview_id="p")
    with pytest.raises(StaleReply) as refusal:
        await repository.claim_rerun(ready.session_id, user_id=1, reply_id="m2", question_number=2)
    assert refusal.value.current_question_number is None


async def test_a_changed_preview_has_a_new_id(repository: SessionRepository, make_session: SessionMaker) -> None:
    """A refinement that presents the preview it was given is refused; another id is taken."""
    claim = await make_session.refinement()
    current = claim.session.current_preview_id
    assert current is not None
    with pytest.raises(InvalidSessionInput) as refusal:
        await repository.present_preview(claim, preview_id=current)
    assert refusal.value.argument == "preview_id"
    changed = await repository.present_preview(claim, preview_id="changed")
    assert changed.current_preview_id == "changed"


async def test_a_refinement_cannot_enter_a_busy_conversation(
    repository: SessionRepository, make_session: SessionMaker, stored: StoredDocument
) -> None:
    """A ready session leaves the conversation free; while another governs it, it cannot be refined."""
    ready = await make_session(SessionStatus.READY_PREVIEW, conversation_id="c")
    governor = await make_session(conversation_id="c")
    before = await stored(ready.session_id)
    assert ready.current_preview_id is not None
    with pytest.raises(ConversationBusy) as refusal:
        await repository.claim_refinement(
            ready.session_id, user_id=1, preview_id=ready.current_preview_id, reply_id="m"
        )
    assert refusal.value.governing_session_id == governor.session_id
    assert await stored(ready.session_id) == before


@pytest.mark.parametrize("way", ["expired", "refinement"])
async def test_what_has_lapsed_does_not_keep_a_conversation(
    repository: SessionRepository, make_session: SessionMaker, session_clock: MovedClock, way: str
) -> None:
    """An expired session is ended, a lapsed refinement put back, by whoever needs its conversation."""
    if way == "expired":
        old = await make_session(conversation_id="c", expires_at=session_clock() + timedelta(seconds=1))
    else:
        old = (await make_session.refinement(conversation_id="c")).session
    session_clock.advance(seconds=60)
    new = await make_session(conversation_id="c")
    route = await repository.route(1, "c")
    assert route.session == new
    swept = await repository.get(old.session_id, user_id=1)
    assert swept.status is (SessionStatus.EXPIRED if way == "expired" else SessionStatus.READY_PREVIEW)


async def test_applying_puts_a_lapsed_refinement_back_first(
    repository: SessionRepository, make_session: SessionMaker, session_clock: MovedClock
) -> None:
    """A lapsed refinement counts as its preview, with the caller's expected revision too; the history stays legal."""
    claim = await make_session.refinement()
    session_clock.at = claim.expires_at
    preview_id = claim.session.current_preview_id
    assert preview_id is not None
    applied = await repository.apply(
        claim.session.session_id, user_id=1, preview_id=preview_id, expected_revision=claim.session.revision
    )
    assert applied.status is SessionStatus.APPLIED
    steps = [entry.to_status for entry in await repository.history(applied.session_id, user_id=1)]
    assert steps == ["ready_preview", "rerunning", "ready_preview", "applied"]


async def test_a_writer_who_outlives_expires_at_revives_the_session(
    repository: SessionRepository, make_session: SessionMaker, session_clock: MovedClock
) -> None:
    """An end that has passed is cleared by the holder's outcome, one still ahead stays."""
    ends = session_clock() + timedelta(seconds=10)
    revived, kept = await make_session.claim(expires_at=ends), await make_session.claim(expires_at=ends)
    assert (await repository.ask_again(kept, pending_question="And?")).state.expires_at == ends
    session_clock.advance(hours=1)
    asked = await repository.ask_again(revived, pending_question="And?")
    assert asked.state.expires_at is None
    assert asked.status is SessionStatus.WAITING_USER_REPLY


async def test_a_passed_end_is_refused(
    repository: SessionRepository, make_session: SessionMaker, session_clock: MovedClock
) -> None:
    """Creation and outcomes take an end that is still ahead only, and None clears it."""
    claim = await make_session.claim(expires_at=session_clock() + timedelta(hours=1))
    for call in (
        repository.create(1, "late", pending_question="?", expires_at=session_clock()),
        repository.ask_again(claim, pending_question="?", expires_at=session_clock()),
        repository.present_preview(claim, preview_id="p", expires_at=session_clock()),
    ):
        with pytest.raises(InvalidSessionInput) as refusal:
            await call
        assert refusal.value.argument == "expires_at"
    asked = await repository.ask_again(claim, pending_question="?", expires_at=None)
    assert asked.state.expires_at is None


async def test_both_token_and_operation_name_the_holder(
    repository: SessionRepository, make_session: SessionMaker, stored: StoredDocument
) -> None:
    """A claim with another token, or of another call, writes nothing."""
    claim = await make_session.claim()
    before = await stored(claim.session.session_id)
    for forged in (replace(claim, token=claim.token + 1), replace(claim, operation_id="another")):
        for write in (
            repository.renew(forged),
            repository.release(forged),
            repository.ask_again(forged, pending_question="And?"),
        ):
            with pytest.raises(LeaseLost):
                await write
    assert await stored(claim.session.session_id) == before


async def test_entering_a_status_clears_what_it_has_no_use_for(
    repository: SessionRepository, make_session: SessionMaker
) -> None:
    """A preview stands without a question, a question without a preview."""
    claim = await make_session.claim()
    ready = await repository.present_preview(claim, preview_id="p", candidate_id="ca")
    assert (ready.state.pending_question, ready.state.missing_info) == ("", ())
    assert ready.state.last_candidate_id == "ca"
    refinement = await repository.claim_refinement(ready.session_id, user_id=1, preview_id="p", reply_id="m")
    asked = await repository.ask_again(refinement, pending_question="And?", candidate_id=None)
    assert (asked.current_preview_id, asked.state.last_candidate_id) == (None, None)


async def test_a_stale_confirmation_changes_nothing(
    repository: SessionRepository, make_session: SessionMaker, stored: StoredDocument
) -> None:
    """A confirmation names the preview that its sender saw; another one on offer is not applied by it."""
    session = await make_session(SessionStatus.READY_PREVIEW)
    before = await stored(session.session_id)
    with pytest.raises(StalePreview) as refusal:
        await repository.apply(session.session_id, user_id=1, preview_id="seen-before")
    assert refusal.value.current_preview_id == session.current_preview_id
    assert await stored(session.session_id) == before


async def test_a_yes_that_was_said_stands(
    repository: SessionRepository,
    make_session: SessionMaker,
    session_clock: MovedClock,
    database: "Database",
    stored: StoredDocument,
) -> None:
    """Under an apply lease, live or lapsed, nothing else ends or claims the session, and it does not expire."""
    session = await make_session(
        SessionStatus.READY_PREVIEW, conversation_id="c", expires_at=session_clock() + timedelta(seconds=1)
    )
    lease = {"kind": "apply", "operation_id": "yes", "attempt": 1, "expires_at": session_clock() + timedelta(minutes=1)}
    collection: Any = database[COLLECTION]
    await collection.update_one({"_id": session.session_id}, {"$set": {"lease": lease}})
    before = await stored(session.session_id)
    preview_id = session.current_preview_id or ""
    for minutes in (0, 2):
        session_clock.advance(minutes=minutes)
        assert await repository.expire_due() == 0
        assert await repository.recover_stalled() == 0
        for call in (
            repository.ignore(session.session_id, user_id=1),
            repository.fail(session.session_id, user_id=1, reason="broken"),
            repository.apply(session.session_id, user_id=1, preview_id=preview_id),
        ):
            with pytest.raises(TransitionConflict) as refusal:
                await call
            assert refusal.value.reason is ConflictReason.APPLYING
        with pytest.raises(TransitionConflict) as refusal:
            await repository.claim_refinement(session.session_id, user_id=1, preview_id=preview_id, reply_id="m")
        live = minutes == 0
        assert refusal.value.reason is (ConflictReason.IN_PROGRESS if live else ConflictReason.APPLYING)
    assert await stored(session.session_id) == before
