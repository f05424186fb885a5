"""What a call does when the session changes under its hands: tries again, three times at most, then says so."""

from typing import TYPE_CHECKING, Any

import pytest

from sessions import (
    ConflictReason,
    SessionRepository,
    SessionStatus,
    StoreUnavailable,
    TransitionConflict,
    open_repository,
)
from sessions.store.collection import StoreCall
from sessions.store.document import COLLECTION
from sessions.store.updates import RawDocument
from sessions.store.writes import Write
from sessions.testing import MovedClock, SessionMaker

if TYPE_CHECKING:
    from sessions.store.clients import Database


def losing(monkeypatch: pytest.MonkeyPatch, *, times: int) -> list[Write]:
    """Let the next guarded writes miss as if somebody had been faster, who then undid it."""
    lost: list[Write] = []
    real = StoreCall.find_one_and_update

    async def miss(self: StoreCall, write: Write, **about: Any) -> RawDocument | None:
        if len(lost) < times:
            lost.append(write)
            return None
        return await real(self, write, **about)

    monkeypatch.setattr(StoreCall, "find_one_and_update", miss)
    return lost


async def test_a_call_whose_obstacle_has_gone_is_tried_again(
    repository: SessionRepository, make_session: SessionMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three misses that nothing explains are three more tries, and the fourth try counts."""
    session = await make_session()
    lost = losing(monkeypatch, times=3)
    ended = await repository.ignore(session.session_id, user_id=1)
    assert len(lost) == 3
    assert (ended.status, ended.revision) == (SessionStatus.IGNORED, session.revision + 1)


async def test_a_call_that_always_loses_says_so(
    repository: SessionRepository, make_session: SessionMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After three more tries the caller learns that it was raced, and nothing was written."""
    session = await make_session()
    lost = losing(monkeypatch, times=100)
    with pytest.raises(TransitionConflict) as refusal:
        await repository.ignore(session.session_id, user_id=1)
    assert refusal.value.reason is ConflictReason.RACED
    assert refusal.value.session == session
    assert len(lost) == 4
    assert await repository.get(session.session_id, user_id=1) == session


async def test_exhaustion_is_decided_anew_when_somebody_was_faster(
    database: "Database", session_clock: MovedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The write that ends an exhausted session is guarded by its revision; a miss is looked at again."""
    repository = await open_repository(database, create_indexes=True, clock=session_clock, max_attempts=1)
    session = await repository.create(1, "t", pending_question="Which?")
    claim = await repository.claim_rerun(session.session_id, user_id=1, reply_id="m")
    session_clock.at = claim.expires_at
    lost = losing(monkeypatch, times=2)
    with pytest.raises(TransitionConflict) as refusal:
        await repository.claim_rerun(session.session_id, user_id=1, reply_id="m")
    assert refusal.value.reason is ConflictReason.ATTEMPTS_EXHAUSTED
    assert len(lost) == 2
    assert len(await repository.history(session.session_id, user_id=1)) == 3


async def test_a_governor_index_with_a_reversed_twin_is_recognised(
    database: "Database", session_clock: MovedClock
) -> None:
    """A duplicate key is recognised by the fields of its index, whatever their directions and its name."""
    collection: Any = database[COLLECTION]
    await collection.create_index(
        [("user_id", -1), ("conversation_id", -1)],
        name="twin",
        unique=True,
        partialFilterExpression={
            "status": {"$in": ["waiting_user_reply", "rerunning"]},
            "conversation_id": {"$type": "string"},
        },
    )
    repository = await open_repository(database, verify_indexes=False, clock=session_clock)
    governor = await repository.create(1, "t", conversation_id="c", pending_question="?")
    with pytest.raises(Exception, match="governs the conversation") as refusal:
        await repository.create(1, "u", conversation_id="c", pending_question="?")
    assert getattr(refusal.value, "governing_session_id", None) == governor.session_id


@pytest.mark.needs("server")
async def test_a_foreign_unique_index_is_named(
    repository: SessionRepository, make_session: SessionMaker, database: "Database"
) -> None:
    """A unique index that the library does not declare refuses a write by its fields, not as a busy conversation."""
    collection: Any = database[COLLECTION]
    await collection.create_index([("user_id", 1), ("status", 1)], name="foreign", unique=True)
    await make_session()
    with pytest.raises(StoreUnavailable, match="status, user_id"):
        await make_session()
