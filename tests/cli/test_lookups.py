"""The commands that only look: over all users, without a text unless it is asked for."""

import asyncio
from datetime import timedelta
from typing import Any, Final

import pytest

from sessions import ActiveScheduleSessionSnapshot, SessionRepository
from sessions.domain.lifecycle import ALL
from sessions.store.document import COLLECTION
from tests.support.sessions_command import Operator

QUESTION: Final = "Which day suits Anna Meier?"
REASON: Final = "her calendar was closed"


async def ask(sessions: SessionRepository, user_id: int, number: int) -> ActiveScheduleSessionSnapshot:
    """A session that asks its user something."""
    trigger, chat = f"trigger-{number}", f"chat-{number}"
    return await sessions.create(user_id, trigger, conversation_id=chat, pending_question=QUESTION)


async def test_counts(operator: Operator, sessions: SessionRepository) -> None:
    """Each status has its line and its number, also one without sessions; the longest bar is the most frequent."""
    for number in range(3):
        await ask(sessions, 1, number)
    await sessions.create(2, "t", preview_id="p")
    told = await operator("counts")
    assert (told.status, told.err) == (0, "")
    cells = {line.split()[0]: line.split()[2:] for line in told.out.splitlines() if line.split()[0] in set(ALL)}
    assert cells.keys() == set(ALL)
    assert cells["waiting_user_reply"] == ["3", "█" * 30]
    assert cells["ready_preview"] == ["1", "█" * 10]
    assert "4 sessions in all." in told.out
    expected = dict.fromkeys(map(str, ALL), 0) | {"waiting_user_reply": 3, "ready_preview": 1}
    assert (await operator("counts", "--json")).objects == [expected]


async def test_list_shows_all_users_newest_first(operator: Operator, sessions: SessionRepository) -> None:
    """By status, user, conversation and age; no text of a user leaves it unless it is asked for."""
    made = [await ask(sessions, user, number) for number, user in enumerate((1, 2, 1, 3))]
    await sessions.fail(made[0].session_id, user_id=1, reason=REASON)
    told = await operator("list")
    shown = [line.split()[0] for line in told.out.splitlines()[2:-1]]
    assert shown == [made[place].session_id for place in (0, 3, 2, 1)]
    assert told.out.endswith("4 sessions.\n")
    assert QUESTION not in told.out
    assert QUESTION in (await operator("list", "--show-text")).out
    for wanted, places in (
        (("--user", "1"), (0, 2)),
        (("--conversation", "chat-1"), (1,)),
        (("--status", "failed", "--status", "applied"), (0,)),
        (("--user", "1", "--conversation", "chat-2"), (2,)),
        (("--limit", "2"), (0, 3)),
        (("--older-than", "1h"), ()),
        (("--newer-than", "1h"), (0, 3, 2, 1)),
    ):
        told = await operator("list", "--json", *wanted)
        assert [each["session_id"] for each in told.objects] == [made[place].session_id for place in places], wanted
        assert QUESTION not in told.out
        assert REASON not in told.out
    (failed,) = (await operator("list", "--json", "--show-text", "--status", "failed")).objects
    assert failed["state"] == {"pending_question": QUESTION, "failed_reason": REASON}
    assert "there may be more" in (await operator("list", "--limit", "2")).out


async def test_a_long_list_misses_none_of_one_millisecond(
    operator: Operator, sessions: SessionRepository, shared: Any
) -> None:
    """Batches go on behind sessions that changed at the same moment, as those of an import have."""
    made = [await ask(sessions, 1, number) for number in range(20)]
    pattern = await shared[COLLECTION].find_one({"_id": made[0].session_id})
    copies = [{**pattern, "_id": f"copy-{number}", "conversation_id": None} for number in range(330)]
    await shared[COLLECTION].insert_many(copies)
    told = await operator("list", "--json", "--limit", "1000")
    found = [each["session_id"] for each in told.objects]
    assert len(found) == len(set(found)) == 350
    assert len((await operator("list", "--json", "--limit", "250")).objects) == 250


async def test_show(operator: Operator, sessions: SessionRepository) -> None:
    """State, lease, and the history as a timeline; texts only if they are asked for."""
    session = await ask(sessions, 7, 1)
    await sessions.claim_rerun(session.session_id, user_id=7, reply_id="reply-1")
    await sessions.interrupt(session.session_id, user_id=7, reason=REASON)
    await sessions.claim_rerun(session.session_id, user_id=7, reply_id="reply-1")
    told = await operator("show", session.session_id)
    assert told.status == 0
    for part in ("chat-1", "trigger-1", "reply, 5", "claim_rerun", "interrupt", "(--show-text)"):
        assert part in told.out
    assert QUESTION not in told.out
    assert REASON not in told.out
    told = await operator("show", session.session_id, "--show-text")
    assert QUESTION in told.out
    assert REASON in told.out
    (values,) = (await operator("show", session.session_id, "--json")).objects
    assert [entry["to_status"] for entry in values["history"]] == [
        *("waiting_user_reply", "rerunning", "waiting_user_reply", "rerunning")
    ]
    assert QUESTION not in str(values)
    assert REASON not in str(values)
    (values,) = (await operator("show", session.session_id, "--json", "--show-text")).objects
    assert values["history"][2]["reason"] == REASON


async def test_route(operator: Operator, sessions: SessionRepository) -> None:
    """The three answers, each with the session that governs."""
    session = await ask(sessions, 7, 1)
    assert "free_chat" in (await operator("route", "7", "nobody's")).out
    told = await operator("route", "7", "chat-1")
    assert told.out == f"resume: session {session.session_id}, waiting_user_reply.\n"
    await sessions.claim_rerun(session.session_id, user_id=7, reply_id="reply-1")
    assert "hold: " in (await operator("route", "7", "chat-1", "--show-text")).out
    (told_json,) = (await operator("route", "7", "chat-1", "--json")).objects
    assert (told_json["action"], told_json["session"]["session_id"]) == ("hold", session.session_id)
    assert (await operator("route", "8", "chat-1", "--json")).objects == [{"action": "free_chat", "session": None}]


async def test_stalled(operator: Operator, sessions: SessionRepository) -> None:
    """Reruns and write-backs whose lease has lapsed, and none that is still held."""
    asked, live = await ask(sessions, 7, 1), await ask(sessions, 8, 2)
    short = timedelta(milliseconds=1)
    await sessions.claim_rerun(asked.session_id, user_id=7, reply_id="r", lease=short)
    await sessions.claim_rerun(live.session_id, user_id=8, reply_id="r")
    shown = await sessions.create(9, "t", preview_id="p")
    await sessions.claim_apply(shown.session_id, user_id=9, preview_id="p", lease=short)
    await asyncio.sleep(0.05)
    told = await operator("stalled")
    assert told.out.splitlines()[-1] == "2 sessions stalled."
    assert live.session_id not in told.out
    kinds = {each["session_id"]: each["lease"]["kind"] for each in (await operator("stalled", "--json")).objects}
    assert kinds == {asked.session_id: "reply", shown.session_id: "apply"}
    assert "there may be more" in (await operator("stalled", "--limit", "1")).out


async def test_damaged(operator: Operator, sessions: SessionRepository, shared: Any) -> None:
    """Every document is looked at; ids and fields are told, never what they hold."""
    told = await operator("damaged")
    assert (told.status, told.out) == (0, "0 documents damaged.\n")
    made = [await ask(sessions, 7, number) for number in range(4)]
    for session, damage in zip(
        made, ({"revision": "secret"}, {"history": ["secret"]}, {"state": "secret"}), strict=False
    ):
        await shared[COLLECTION].update_one({"_id": session.session_id}, {"$set": damage})
    await shared[COLLECTION].insert_one({"status": "secret"})
    told = await operator("damaged")
    assert told.status == 1
    assert "secret" not in told.out + told.err
    assert told.out.splitlines()[-1] == "4 documents damaged."
    fields = {each["session_id"]: each["fields"] for each in (await operator("damaged", "--json")).objects}
    expected: dict[str | None, list[str]] = {
        session.session_id: [field] for session, field in zip(made, ("revision", "history", "state"), strict=False)
    }
    assert fields == {**expected, None: ["_id"]}
    told = await operator("show", made[0].session_id)
    assert (told.status, told.out) == (1, "")
    assert "damaged in revision" in told.err
    assert "secret" not in (await operator("list")).out


async def test_ids_are_printed_as_they_are(operator: Operator, sessions: SessionRepository) -> None:
    """Anybody may name a conversation: an id is no markup, no emoji and no code of a terminal."""
    name = "[red]oops[/x] :key: \x1b[31m\u202e"
    await sessions.create(1, "t", conversation_id=name, pending_question="?")
    told = await operator("list")
    assert "[red]oops[/x] :key: \\x1b[31m\\u202e" in told.out
    assert "\x1b" not in told.out + (await operator("list", "--json")).out


@pytest.mark.parametrize("command", ["show", "stop"])
async def test_no_such_session(operator: Operator, command: str) -> None:
    """It is told in a line, and is no success."""
    told = await operator(command, "nobody")
    assert (told.status, told.out) == (1, "")
    assert told.err == "python -m sessions: there is no session nobody\n"
