"""The commands that change sessions: each says how many it would be, then does it."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sessions import ActiveScheduleSessionSnapshot, SessionRepository, SessionStatus
from sessions.cli import upkeep
from sessions.store.document import COLLECTION, ROUTING_INDEX
from tests.support.sessions_command import Operator

SHORT = timedelta(milliseconds=1)


async def ask(sessions: SessionRepository, number: int, **given: Any) -> ActiveScheduleSessionSnapshot:
    """A session that asks its user something."""
    return await sessions.create(
        1, f"trigger-{number}", conversation_id=f"chat-{number}", pending_question="?", **given
    )


async def statuses(sessions: SessionRepository) -> list[SessionStatus]:
    """Of the user's sessions."""
    return sorted(session.status for session in (await sessions.list_sessions(1)).sessions)


async def test_expire(operator: Operator, sessions: SessionRepository, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is past its end has ended, in as many batches as it takes; what is not has not."""
    monkeypatch.setattr(upkeep, "_BATCH", 2)
    soon = datetime.now(UTC) + timedelta(seconds=0.5)
    for number in range(5):
        await ask(sessions, number, expires_at=soon)
    await ask(sessions, 5)
    await asyncio.sleep(1)
    told = await operator("expire", "--dry-run")
    assert (told.status, told.out) == (0, "5 sessions would be ended as expired.\n")
    assert await statuses(sessions) == [SessionStatus.WAITING_USER_REPLY] * 6
    told = await operator("expire", "--json")
    assert told.objects == [{"command": "expire", "dry_run": False, "sessions": 5}]
    assert await statuses(sessions) == [SessionStatus.EXPIRED] * 5 + [SessionStatus.WAITING_USER_REPLY]
    assert (await operator("expire")).out == "0 sessions ended as expired.\n"


async def test_recover(operator: Operator, sessions: SessionRepository) -> None:
    """A dead worker's session waits for its user again."""
    session = await ask(sessions, 1)
    await sessions.claim_rerun(session.session_id, user_id=1, reply_id="r", lease=SHORT)
    await asyncio.sleep(0.05)
    assert (await operator("recover", "--dry-run")).out == "1 session would be given back or ended.\n"
    assert await statuses(sessions) == [SessionStatus.RERUNNING]
    assert (await operator("recover")).out == "1 session given back or ended.\n"
    assert await statuses(sessions) == [SessionStatus.WAITING_USER_REPLY]


@pytest.mark.parametrize(("most", "status"), [("2", SessionStatus.WAITING_USER_REPLY), ("1", SessionStatus.FAILED)])
async def test_recover_counts_attempts_as_the_application_does(
    operator: Operator, sessions: SessionRepository, most: str, status: SessionStatus
) -> None:
    """An application that allows more attempts loses no session to the command."""
    session = await ask(sessions, 1)
    await sessions.claim_rerun(session.session_id, user_id=1, reply_id="r", lease=SHORT)
    await asyncio.sleep(0.05)
    assert (await operator("recover", "--max-attempts", most)).status == 0
    assert await statuses(sessions) == [status]


async def test_purge(operator: Operator, sessions: SessionRepository) -> None:
    """Ended sessions go, and none that has not ended; without a terminal only by ``--yes``."""
    for number in range(3):
        session = await ask(sessions, number)
        if number:
            await sessions.ignore(session.session_id, user_id=1)
    await asyncio.sleep(0.01)
    for given in ((), ("--older-than", "1h", "--ended-before", "2030-01-01T00:00Z")):
        told = await operator("purge", *given)
        assert (told.status, told.out) == (2, "")
        assert "--ended-before or --older-than" in told.err
    assert (await operator("purge", "--older-than", "1h", "--yes")).out == "0 sessions deleted.\n"
    told = await operator("purge", "--older-than", "0s", "--dry-run")
    assert told.out == "2 sessions would be deleted.\n"
    told = await operator("purge", "--older-than", "0s", typed="y\n")
    assert (told.status, told.out) == (2, "")
    assert "purge asks first" in told.err
    assert len(await statuses(sessions)) == 3
    before = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    told = await operator("purge", "--ended-before", before, "--yes", "--json")
    assert told.objects == [{"command": "purge", "dry_run": False, "sessions": 2}]
    assert await statuses(sessions) == [SessionStatus.WAITING_USER_REPLY]


@pytest.mark.parametrize(("answer", "left"), [("n", 1), ("y", 0)])
async def test_purge_asks(
    operator: Operator, sessions: SessionRepository, monkeypatch: pytest.MonkeyPatch, answer: str, left: int
) -> None:
    """At a terminal it asks, and a no deletes nothing."""
    session = await ask(sessions, 1)
    await sessions.ignore(session.session_id, user_id=1)
    await asyncio.sleep(0.01)
    monkeypatch.setattr(upkeep, "at_terminal", lambda: True)
    told = await operator("purge", "--older-than", "0s", typed=f"{answer}\n")
    assert told.status == 0
    assert "Delete 1 session that ended before" in told.err
    assert ("Nothing was deleted." in told.out) == bool(left)
    assert len(await statuses(sessions)) == left


async def test_stop(operator: Operator, sessions: SessionRepository) -> None:
    """A run under way is given back from outside; where nothing runs that is said; a confirmation is not stopped."""
    session = await ask(sessions, 1)
    told = await operator("stop", session.session_id)
    assert (told.status, told.out) == (
        0,
        f"Nothing was at work on session {session.session_id}: it is waiting_user_reply.\n",
    )
    await sessions.claim_rerun(session.session_id, user_id=1, reply_id="r")
    told = await operator("stop", session.session_id, "--json")
    assert told.objects == [{"session_id": session.session_id, "stopped": True, "status": "waiting_user_reply"}]
    history = await sessions.history(session.session_id, user_id=1)
    assert (history[-1].call, history[-1].reason) == ("interrupt", "an operator stopped it")
    await sessions.claim_rerun(session.session_id, user_id=1, reply_id="r")
    assert "is waiting_user_reply again" in (await operator("stop", session.session_id)).out
    shown = await sessions.create(1, "t", preview_id="p")
    await sessions.claim_apply(shown.session_id, user_id=1, preview_id="p")
    told = await operator("stop", shown.session_id)
    assert (told.status, told.out) == (1, "")
    assert len(told.err.splitlines()) == 1


async def test_without_the_governor_index_nothing_is_changed(
    operator: Operator, sessions: SessionRepository, shared: Any
) -> None:
    """What changes sessions refuses such a database; what only looks does not."""
    await ask(sessions, 1)
    await shared[COLLECTION].drop_index(ROUTING_INDEX)
    for command in (("expire",), ("recover",), ("stop", "x")):
        told = await operator(*command)
        assert (told.status, told.out) == (1, "")
        assert f"index {ROUTING_INDEX} is missing" in told.err
    assert (await operator("counts")).status == 0
    assert (await operator("expire", "--dry-run")).status == 0
    assert (await operator("route", "1", "chat-1")).out.startswith("resume: ")
