"""Operation ids: a retry of one call writes nothing and gets the same answer; another call's id is refused."""

from collections.abc import Awaitable, Callable
from itertools import pairwise

import pytest

from sessions import (
    ActiveScheduleSessionSnapshot,
    ApplyClaim,
    ConflictReason,
    LeaseLost,
    RerunClaim,
    SessionExists,
    SessionRepository,
    SessionStatus,
    TransitionConflict,
)
from sessions.domain.lifecycle import CallName
from sessions.testing import MovedClock, SessionMaker, StoredDocument

Ending = Callable[[SessionRepository, ActiveScheduleSessionSnapshot, str], Awaitable[ActiveScheduleSessionSnapshot]]
OutcomeOfAnApply = Callable[[SessionRepository, ApplyClaim, str], Awaitable[ActiveScheduleSessionSnapshot]]
Outcome = Callable[[SessionRepository, RerunClaim, str], Awaitable[ActiveScheduleSessionSnapshot]]

ENDINGS: dict[CallName, Ending] = {
    CallName.APPLY: lambda r, s, op: r.apply(
        s.session_id, user_id=1, preview_id=s.current_preview_id or "", operation_id=op
    ),
    CallName.IGNORE: lambda r, s, op: r.ignore(s.session_id, user_id=1, operation_id=op),
    CallName.FAIL: lambda r, s, op: r.fail(s.session_id, user_id=1, reason="broken", operation_id=op),
}
OUTCOMES_OF_AN_APPLY: dict[CallName, OutcomeOfAnApply] = {
    CallName.COMPLETE_APPLY: lambda r, c, op: r.complete_apply(c, operation_id=op),
    CallName.FAIL_APPLY: lambda r, c, op: r.fail_apply(c, reason="broken", operation_id=op),
}
OUTCOMES: dict[CallName, Outcome] = {
    CallName.RELEASE: lambda r, c, op: r.release(c, operation_id=op),
    CallName.ASK_AGAIN: lambda r, c, op: r.ask_again(c, pending_question="And?", operation_id=op),
    CallName.PRESENT_PREVIEW: lambda r, c, op: r.present_preview(c, preview_id="fresh", operation_id=op),
    CallName.CLOSE_RERUN: lambda r, c, op: r.close_rerun(c, operation_id=op),
    CallName.FAIL_RERUN: lambda r, c, op: r.fail_rerun(c, reason="broken", operation_id=op),
}


@pytest.mark.parametrize("call", list(ENDINGS))
async def test_an_ending_is_replayed_not_repeated(
    repository: SessionRepository, make_session: SessionMaker, stored: StoredDocument, call: CallName
) -> None:
    """The retry of an ending returns the session as it stands; without the id it is refused."""
    session = await make_session(SessionStatus.READY_PREVIEW)
    first = await ENDINGS[call](repository, session, "op")
    before = await stored(session.session_id)
    assert await ENDINGS[call](repository, session, "op") == first
    assert await stored(session.session_id) == before


@pytest.mark.parametrize("call", list(OUTCOMES))
async def test_an_outcome_is_replayed_not_lost(
    repository: SessionRepository, make_session: SessionMaker, stored: StoredDocument, call: CallName
) -> None:
    """The retry of an outcome whose first try was written is no lost lease; another id is."""
    claim = await make_session.claim()
    first = await OUTCOMES[call](repository, claim, "op")
    before = await stored(first.session_id)
    assert await OUTCOMES[call](repository, claim, "op") == first
    with pytest.raises(LeaseLost):
        await OUTCOMES[call](repository, claim, "other")
    assert await stored(first.session_id) == before


@pytest.mark.parametrize("call", list(OUTCOMES_OF_AN_APPLY))
async def test_an_outcome_of_a_write_back_is_replayed_not_lost(
    repository: SessionRepository, make_session: SessionMaker, stored: StoredDocument, call: CallName
) -> None:
    """The retry of what a write-back came to writes nothing; the claim's own id is another call's."""
    claim = await make_session.apply_claim()
    with pytest.raises(TransitionConflict) as refusal:
        await OUTCOMES_OF_AN_APPLY[call](repository, claim, claim.operation_id)
    assert refusal.value.reason is ConflictReason.OPERATION_ID_REUSED
    first = await OUTCOMES_OF_AN_APPLY[call](repository, claim, "op")
    before = await stored(first.session_id)
    assert await OUTCOMES_OF_AN_APPLY[call](repository, claim, "op") == first
    with pytest.raises(LeaseLost):
        await OUTCOMES_OF_AN_APPLY[call](repository, claim, "other")
    assert await stored(first.session_id) == before


@pytest.mark.parametrize("call", list(OUTCOMES))
async def test_a_holder_may_not_use_the_id_of_its_claim(
    repository: SessionRepository, make_session: SessionMaker, call: CallName
) -> None:
    """An id names one call: the claim's own is refused for its outcome, and nothing is lost by that."""
    claim = await make_session.claim()
    with pytest.raises(TransitionConflict) as refusal:
        await OUTCOMES[call](repository, claim, claim.operation_id)
    assert refusal.value.reason is ConflictReason.OPERATION_ID_REUSED
    assert (await repository.get(claim.session.session_id, user_id=1)) == claim.session


async def test_a_claim_is_replayed_while_its_lease_is_current(
    repository: SessionRepository, make_session: SessionMaker, session_clock: MovedClock
) -> None:
    """The retry gets the same claim, lapsed or not; once the lease is gone it is lost."""
    session = await make_session()
    claim = await repository.claim_rerun(session.session_id, user_id=1, reply_id="m", operation_id="op")
    session_clock.at = claim.expires_at
    assert await repository.claim_rerun(session.session_id, user_id=1, reply_id="m", operation_id="op") == claim
    await repository.release(claim)
    with pytest.raises(LeaseLost) as refusal:
        await repository.claim_rerun(session.session_id, user_id=1, reply_id="m", operation_id="op")
    assert refusal.value.status is SessionStatus.WAITING_USER_REPLY


async def test_a_refinement_is_replayed_while_its_lease_is_current(
    repository: SessionRepository, make_session: SessionMaker
) -> None:
    """A refinement's claim is replayed like a reply's, and is no reply's."""
    session = await make_session(SessionStatus.READY_PREVIEW)
    preview_id = session.current_preview_id or ""

    async def claim() -> RerunClaim:
        return await repository.claim_refinement(
            session.session_id, user_id=1, preview_id=preview_id, reply_id="m", operation_id="op"
        )

    assert await claim() == await claim()
    with pytest.raises(TransitionConflict) as refusal:
        await repository.claim_rerun(session.session_id, user_id=1, reply_id="m", operation_id="op")
    assert refusal.value.reason is ConflictReason.IN_PROGRESS


async def test_another_calls_id_is_refused(repository: SessionRepository, make_session: SessionMaker) -> None:
    """The id of a claim does not end a session, and the session stays as it is."""
    claim = await make_session.claim()
    back = await repository.release(claim, operation_id="op")
    for refused in (
        repository.ignore(back.session_id, user_id=1, operation_id="op"),
        repository.fail(back.session_id, user_id=1, reason="broken", operation_id=claim.operation_id),
        repository.claim_rerun(back.session_id, user_id=1, reply_id="m", operation_id="op"),
    ):
        with pytest.raises(TransitionConflict) as refusal:
            await refused
        assert refusal.value.reason is ConflictReason.OPERATION_ID_REUSED
    assert await repository.get(back.session_id, user_id=1) == back


async def test_a_creation_is_replayed(repository: SessionRepository) -> None:
    """The retry of a creation returns its session, as it stands now; another creation of the trigger is refused."""
    made = await repository.create(1, "t", pending_question="Which?", operation_id="op")
    assert await repository.create(1, "t", pending_question="Which?", operation_id="op") == made
    with pytest.raises(SessionExists) as refusal:
        await repository.create(1, "t", pending_question="Which?")
    assert refusal.value.session == made
    other, created = await repository.get_or_create(1, "u", preview_id="p", operation_id="op")
    assert created
    assert await repository.get_or_create(1, "u", preview_id="p", operation_id="op") == (other, True)
    assert await repository.get_or_create(1, "u", pending_question="ignored") == (other, False)


async def test_the_history_keeps_the_last_32_and_replays_reach_as_far(
    repository: SessionRepository, make_session: SessionMaker
) -> None:
    """History and answered replies are bounded; what they still hold is recognised, each change in order."""
    session = await make_session()
    for number in range(40):
        claim = await repository.claim_rerun(session.session_id, user_id=1, reply_id=f"m{number}")
        session = await repository.ask_again(claim, pending_question=f"Question {number}?", operation_id=f"op{number}")
    history = await repository.history(session.session_id, user_id=1)
    assert len(history) == 32
    assert history[0].from_status is None
    assert all(entry.from_status is before.to_status for before, entry in pairwise(history))
    assert session.answered_reply_ids == tuple(f"m{number}" for number in range(8, 40))
    with pytest.raises(TransitionConflict) as refusal:
        await repository.claim_rerun(session.session_id, user_id=1, reply_id="m8")
    assert refusal.value.reason is ConflictReason.ALREADY_ANSWERED
