"""Where several refusals hold at once, the first of the design's order is raised."""

from datetime import timedelta

import pytest

from sessions import (
    ConflictReason,
    ConversationBusy,
    InvalidTransition,
    LeaseLost,
    SessionNotFound,
    SessionRepository,
    SessionStatus,
    StalePreview,
    StaleReply,
    TransitionConflict,
)
from sessions.testing import MovedClock, SessionMaker, StoredDocument


async def test_an_answered_reply_comes_before_a_stale_preview(
    repository: SessionRepository, make_session: SessionMaker
) -> None:
    """A message that was handled is told so, whatever else it names."""
    claim = await make_session.claim()
    await repository.present_preview(claim, preview_id="p")
    with pytest.raises(TransitionConflict) as refusal:
        await repository.claim_refinement(
            claim.session.session_id, user_id=1, preview_id="other", reply_id=claim.reply_id
        )
    assert refusal.value.reason is ConflictReason.ALREADY_ANSWERED


async def test_an_answered_reply_comes_before_a_stale_question(
    repository: SessionRepository, make_session: SessionMaker
) -> None:
    """So does one that names an old question."""
    claim = await make_session.claim()
    await repository.ask_again(claim, pending_question="And?")
    with pytest.raises(TransitionConflict) as refusal:
        await repository.claim_rerun(claim.session.session_id, user_id=1, reply_id=claim.reply_id, question_number=1)
    assert refusal.value.reason is ConflictReason.ALREADY_ANSWERED


async def test_a_stale_preview_comes_before_a_live_lease(
    repository: SessionRepository, make_session: SessionMaker
) -> None:
    """Who names a preview that is gone sees the new one first, not that somebody works."""
    claim = await make_session.refinement()
    with pytest.raises(StalePreview):
        await repository.claim_refinement(claim.session.session_id, user_id=1, preview_id="other", reply_id="m")
    with pytest.raises(TransitionConflict) as refusal:
        await repository.claim_refinement(
            claim.session.session_id, user_id=1, preview_id=claim.session.current_preview_id or "", reply_id="m"
        )
    assert refusal.value.reason is ConflictReason.IN_PROGRESS


async def test_a_stale_question_comes_before_a_live_lease(
    repository: SessionRepository, make_session: SessionMaker
) -> None:
    """Under a reply lease its question still stands; under a refinement none does."""
    reply, refinement = await make_session.claim(), await make_session.refinement()
    with pytest.raises(TransitionConflict) as refusal:
        await repository.claim_rerun(reply.session.session_id, user_id=1, reply_id="m", question_number=1)
    assert refusal.value.reason is ConflictReason.IN_PROGRESS
    for claim, number in ((reply, 9), (refinement, 0)):
        with pytest.raises(StaleReply) as stale:
            await repository.claim_rerun(claim.session.session_id, user_id=1, reply_id="m", question_number=number)
        assert stale.value.status is SessionStatus.RERUNNING


async def test_a_live_lease_comes_before_the_status(
    repository: SessionRepository, make_session: SessionMaker, session_clock: MovedClock
) -> None:
    """While a refinement runs a reply is told to wait; once it has lapsed the status is the reason."""
    claim = await make_session.refinement()
    with pytest.raises(TransitionConflict) as conflict:
        await repository.claim_rerun(claim.session.session_id, user_id=1, reply_id="m")
    assert conflict.value.reason is ConflictReason.IN_PROGRESS
    session_clock.at = claim.expires_at
    with pytest.raises(InvalidTransition) as refusal:
        await repository.claim_rerun(claim.session.session_id, user_id=1, reply_id="m")
    assert refusal.value.status is SessionStatus.READY_PREVIEW


async def test_a_busy_conversation_comes_before_the_revision(
    repository: SessionRepository, make_session: SessionMaker, stored: StoredDocument
) -> None:
    """Binding with an old revision into a busy conversation names the governor; without one, the revision."""
    governor = await make_session(conversation_id="busy")
    session = await make_session()
    before = await stored(session.session_id)
    with pytest.raises(ConversationBusy) as refusal:
        await repository.bind_conversation(session.session_id, "busy", user_id=1, expected_revision=9)
    assert refusal.value.governing_session_id == governor.session_id
    with pytest.raises(TransitionConflict) as conflict:
        await repository.bind_conversation(session.session_id, "free", user_id=1, expected_revision=9)
    assert conflict.value.reason is ConflictReason.REVISION_CHANGED
    assert await stored(session.session_id) == before


async def test_the_status_comes_before_the_revision(repository: SessionRepository, make_session: SessionMaker) -> None:
    """An ended session is ended, whatever revision was expected."""
    session = await make_session(SessionStatus.IGNORED)
    with pytest.raises(InvalidTransition):
        await repository.ignore(session.session_id, user_id=1, expected_revision=99)


async def test_the_revision_comes_before_the_binding(repository: SessionRepository, make_session: SessionMaker) -> None:
    """A session bound elsewhere says first that it has changed, where a revision was expected."""
    session = await make_session(conversation_id="mine")
    for expected, reason in ((9, ConflictReason.REVISION_CHANGED), (None, ConflictReason.ALREADY_BOUND)):
        with pytest.raises(TransitionConflict) as refusal:
            await repository.bind_conversation(session.session_id, "other", user_id=1, expected_revision=expected)
        assert refusal.value.reason is reason


async def test_a_lost_lease_comes_before_a_used_id(repository: SessionRepository, make_session: SessionMaker) -> None:
    """A holder that lost its lease learns that first."""
    claim = await make_session.claim()
    await repository.release(claim, operation_id="op")
    with pytest.raises(LeaseLost):
        await repository.ask_again(claim, pending_question="late", operation_id="op")


async def test_a_purged_session_is_not_found_even_for_its_holder(
    repository: SessionRepository, make_session: SessionMaker, session_clock: MovedClock
) -> None:
    """Absence comes before the lease."""
    claim = await make_session.claim()
    await repository.ignore(claim.session.session_id, user_id=1)
    session_clock.advance(seconds=1)
    assert await repository.purge(ended_before=session_clock()) == 1
    with pytest.raises(SessionNotFound):
        await repository.renew(claim)


async def test_what_was_ended_while_a_worker_ran_loses_its_lease(
    repository: SessionRepository, make_session: SessionMaker
) -> None:
    """An ending is allowed under a live lease; the worker then meets a lost lease with the status now."""
    for status in (SessionStatus.IGNORED, SessionStatus.FAILED):
        claim = await make_session.claim(lease=timedelta(minutes=5))
        if status is SessionStatus.IGNORED:
            await repository.ignore(claim.session.session_id, user_id=1)
        else:
            await repository.fail(claim.session.session_id, user_id=1, reason="broken")
        with pytest.raises(LeaseLost) as refusal:
            await repository.ask_again(claim, pending_question="late")
        assert refusal.value.status is status
