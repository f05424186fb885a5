"""``import`` and ``export`` on a server: what goes in, what is refused, and that it may be begun again."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest

from sessions import RouteAction, SessionRepository, SessionStatus
from sessions.cli import rendering
from sessions.cli.importer import Importer
from sessions.domain.models import derive_session_id
from sessions.store import across_users, reads
from sessions.store.document import COLLECTION
from tests.support.index_command import ROOT
from tests.support.sessions_command import Operator
from tests.support.table_rows import BAD, row, rows, write_csv, write_jsonl

MANY: Final = 100_000
FEW: Final = 2_000
MOST_GROWTH: Final = 16  # MB of memory, from two thousand rows to a hundred thousand

Rejected = list[tuple[int, str]]


def rejected(path: Path) -> Rejected:
    """Line and reason of each row that was not imported."""
    told = [json.loads(line) for line in path.read_text().splitlines()]
    return sorted((each["line"], each["reason"]) for each in told)


def names_in(folder: Path, part: str) -> list[str]:
    """The files whose name holds it."""
    return [path.name for path in folder.iterdir() if part in path.name]


async def test_what_was_imported_is_routed_claimed_and_confirmed(
    operator: Operator, sessions: SessionRepository, tmp_path: Path
) -> None:
    """An imported session is one like any other: its question is answered, its preview confirmed."""
    rerun = row(3, "rerunning", user_id=7, conversation_id="chat-rerun")
    made = [
        row(1, "waiting_user_reply", user_id=7, conversation_id="chat-asked"),
        row(2, "ready_preview", user_id=7, conversation_id="chat-shown"),
        rerun,
    ]
    told = await operator("import", str(write_jsonl(tmp_path / "rows.jsonl", made)))
    assert told.status == 0, told.err
    assert told.out.splitlines() == [
        "3 rows imported, 0 there already, 0 rejected.",
        "Of these 1 were rerunning, or held what their status has no use for.",
    ]
    assert not names_in(tmp_path, "rejected")
    for chat in ("chat-asked", "chat-rerun"):
        found = await sessions.route(7, chat)
        assert found.action is RouteAction.RESUME
        assert found.session is not None
        claim = await sessions.claim_rerun(found.session.session_id, user_id=7, reply_id="m", question_number=1)
        shown = await sessions.present_preview(claim, preview_id="new")
        writing = await sessions.claim_apply(shown.session_id, user_id=7, preview_id="new")
        assert (await sessions.complete_apply(writing)).status is SessionStatus.APPLIED
    assert (await sessions.route(7, "chat-shown")).action is RouteAction.FREE_CHAT
    done = await sessions.apply(made[1]["session_id"], user_id=7, preview_id="preview-2")
    assert done.status is SessionStatus.APPLIED
    assert [entry.call for entry in await sessions.history(done.session_id, user_id=7)] == ["import", "apply"]
    # Begun again after the sessions have gone on, it changes nothing.
    told = await operator("import", str(tmp_path / "rows.jsonl"), "--json")
    assert told.objects[0]["present"] == 3
    assert (await sessions.get(done.session_id, user_id=7)) == done


@pytest.mark.parametrize("write", [write_jsonl, write_csv], ids=["jsonl", "csv"])
async def test_each_bad_row_is_told_and_every_good_one_is_in(
    operator: Operator, shared: Any, tmp_path: Path, write: Any
) -> None:
    """All ways to be bad at once; run again it says the same, and what is exported is what was imported."""
    number = 50 * len(BAD)
    source = write(tmp_path / f"rows.{'csv' if write is write_csv else 'jsonl'}", rows(number, len(BAD)))
    first = await operator("import", str(source), "--rejected", str(tmp_path / "bad"))
    assert first.status == 1
    told = rejected(tmp_path / "bad")
    assert first.out.splitlines()[0] == f"{number} rows imported, 0 there already, {len(BAD)} rejected."
    assert len({reason for _, reason in told}) == len(BAD)
    assert (tmp_path / "bad").stat().st_mode & 0o077 == 0
    again = await operator("import", str(source), "--rejected", str(tmp_path / "bad"), "--json")
    assert again.objects == [
        {
            "imported": 0,
            "changed": 0,
            "present": number,
            "rejected": len(BAD),
            "rejected_file": str(tmp_path / "bad"),
        }
    ]
    assert rejected(tmp_path / "bad") == told
    target = tmp_path / f"out{source.suffix}"
    told_export = await operator("export", str(target))
    assert (told_export.status, told_export.out) == (0, f"{number} rows written to {target}.\n")
    assert sorted(target.read_text().splitlines()) == sorted(
        write(tmp_path / "good", rows(number, 0)).read_text().splitlines()
    )
    assert await shared[COLLECTION].count_documents({}) == number


async def test_the_first_of_two_is_kept(operator: Operator, sessions: SessionRepository, tmp_path: Path) -> None:
    """One id, one trigger and one conversation of a user have one session each, within a batch too."""
    made = [
        row(1, "waiting_user_reply", user_id=1, conversation_id="c"),
        row(2, "waiting_user_reply", user_id=1, conversation_id="c"),
        row(3, "applied", user_id=1, trigger_id="trigger-1"),
        row(1, "waiting_user_reply", user_id=2, conversation_id="c"),
        row(1, "failed", user_id=1, conversation_id="c"),
        row(1, "waiting_user_reply", user_id=1, conversation_id="c"),
        row(1, "waiting_user_reply", user_id=1, conversation_id="c", created_at="2025-01-01T00:00:00Z"),
    ]
    for _ in range(2):
        await operator("import", str(write_jsonl(tmp_path / "rows", made)))
        assert rejected(tmp_path / "rows.rejected.jsonl") == [
            (2, "session session-0000001 governs its conversation"),
            (3, "its user's trigger has made session session-0000001 already"),
            (4, "the session_id belongs to another user's session"),
            (5, "a session of this id, user and trigger is there, untouched, and says something else"),
            (7, "the session_id belongs to another session of this user"),
        ]
    (only,) = (await sessions.list_sessions(1)).sessions
    assert only.session_id == "session-0000001"


async def test_what_is_past_its_end_stands_in_nobodys_way(
    operator: Operator, sessions: SessionRepository, tmp_path: Path
) -> None:
    """A session that counts as expired gives way to a live one, whichever comes first."""
    over = json.dumps({"pending_question": "?", "expires_at": "2026-01-02T00:00:00Z"})
    made = [
        row(1, "waiting_user_reply", user_id=1, conversation_id="over first", state_json=over),
        row(2, "waiting_user_reply", user_id=1, conversation_id="over first"),
        row(3, "waiting_user_reply", user_id=1, conversation_id="over last"),
        row(4, "waiting_user_reply", user_id=1, conversation_id="over last", state_json=over),
    ]
    for imported in (4, 0):
        told = await operator("import", str(write_jsonl(tmp_path / "rows", made)), "--json")
        assert (told.objects[0]["imported"], told.objects[0]["rejected"]) == (imported, 0)
    stored = {session.session_id: session.status for session in (await sessions.list_sessions(1)).sessions}
    assert [stored[each["session_id"]] for each in made] == [
        *("expired", "waiting_user_reply", "waiting_user_reply", "expired")
    ]


async def test_what_the_database_refuses_is_told(
    operator: Operator, sessions: SessionRepository, shared: Any, tmp_path: Path
) -> None:
    """A validator, a foreign unique index and a damaged governor each refuse their row, and no other."""
    await shared[COLLECTION].create_index([("current_preview_id", -1)], name="theirs", unique=True, sparse=True)
    await sessions.create(1, "t", conversation_id="c", pending_question="?")
    damage = {"$set": {"attempts": "x"}}
    await shared[COLLECTION].update_one({"conversation_id": "c"}, damage)
    await shared.command({"collMod": COLLECTION, "validator": {"user_id": {"$ne": 9}}})
    made = [
        row(1, "waiting_user_reply", user_id=1, conversation_id="c", current_preview_id="a"),
        row(2, "applied", user_id=9, current_preview_id="b"),
        row(3, "applied", current_preview_id="same"),
        row(4, "applied", current_preview_id="same"),
        row(5, "applied", current_preview_id="other"),
    ]
    await operator("import", str(write_jsonl(tmp_path / "rows", made)))
    told = dict(rejected(tmp_path / "rows.rejected.jsonl"))
    assert told.keys() == {1, 2, 4}
    assert "damaged" in told[1] or "foreign unique index" in told[1]
    assert told[2] == "the server refuses it with code 121"
    assert told[4] == "a foreign unique index on current_preview_id refuses it"


async def test_a_session_that_exists_is_never_overwritten(
    operator: Operator, sessions: SessionRepository, tmp_path: Path
) -> None:
    """The application may be at work already: what it has made of a trigger stays."""
    mine = await sessions.create(1, "trigger-1", conversation_id="c", pending_question="?")
    made = [row(1, user_id=1, session_id=derive_session_id(1, "trigger-1")), row(1, user_id=1)]
    await operator("import", str(write_jsonl(tmp_path / "rows", made)))
    assert len(rejected(tmp_path / "rows.rejected.jsonl")) == 2
    assert (await sessions.list_sessions(1)).sessions == (mine,)


async def test_a_race_is_told_and_lost(
    operator: Operator, sessions: SessionRepository, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whoever stores a session between the look and the insert was first, be it this very one."""
    held = json.dumps({"pending_question": "?"})
    made = [
        row(number, "waiting_user_reply", user_id=1, conversation_id=f"c{number}", state_json=held)
        for number in (1, 2, 3)
    ]
    await operator("import", str(write_jsonl(tmp_path / "rows", made[:2])))
    blind = [True]
    look = Importer._without_present

    async def see(importer: Importer, batch: Any) -> Any:
        if blind.pop() if blind else False:
            return list(batch)
        return await look(importer, batch)

    monkeypatch.setattr(Importer, "_without_present", see)
    monkeypatch.setattr(Importer, "_without_taken_triggers", lambda _, batch: asyncio.sleep(0, batch))
    told = await operator("import", str(write_jsonl(tmp_path / "rows", made)), "--json")
    assert (told.objects[0]["imported"], told.objects[0]["present"]) == (1, 2)
    blind[:] = [True, True, True, True]
    told = await operator("import", str(tmp_path / "rows"), "--json")
    assert told.objects[0]["rejected"] == 3
    assert all("is gone: import it again" in reason for _, reason in rejected(tmp_path / "rows.rejected.jsonl"))
    blind.clear()
    rival = row(9, "waiting_user_reply", user_id=1, conversation_id="c1")
    monkeypatch.setattr(reads, "governor", lambda *_: across_users.by_id("nobody"))
    told = await operator("import", str(write_jsonl(tmp_path / "rows", [rival])), "--json")
    assert "changes at this moment" in rejected(tmp_path / "rows.rejected.jsonl")[0][1]


async def test_a_line_tells_how_far_it_is_in_a_log(
    operator: Operator, shared: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where there is no terminal, on standard error; a line that is no row is told, and the next is read."""
    monkeypatch.setattr(rendering, "_SAY_EVERY", 0.0)
    source = write_jsonl(tmp_path / "rows", rows(1000, 0))
    with source.open("a") as opened:
        opened.write("{\n")
    told = await operator("import", str(source))
    assert told.out.splitlines()[0] == "1,000 rows imported, 0 there already, 1 rejected."
    assert told.err.splitlines()[0].startswith("importing: 500 rows, 0 rejected (")


async def test_export(operator: Operator, sessions: SessionRepository, shared: Any, tmp_path: Path) -> None:
    """The file has its name when it is whole, replaces none, and leaves out what is damaged, by name."""
    soon = datetime.now(UTC) + timedelta(hours=1)
    asked = await sessions.create(1, "t", conversation_id="c", pending_question="Zürich?\n", expires_at=soon)
    hurt = await sessions.create(1, "t2", preview_id="p")
    target = tmp_path / "rows.jsonl"
    assert (await operator("export", str(target), "--json")).objects == [{"written": 2, "damaged": 0}]
    assert target.stat().st_mode & 0o077 == 0
    assert (await operator("export", str(target))).status == 2
    assert (await operator("import", str(target), "--json")).objects[0]["present"] == 2
    await shared[COLLECTION].update_one({"_id": hurt.session_id}, {"$set": {"revision": "secret"}})
    told = await operator("export", str(target), "--overwrite")
    assert (told.status, told.out) == (1, f"1 row written to {target}.\n")
    assert f"left out: session {hurt.session_id}" in told.err
    assert "secret" not in told.err
    (written,) = [json.loads(line) for line in target.read_text().splitlines()]
    assert json.loads(written["state_json"])["pending_question"] == "Zürich?"
    told = await operator("export", "-", "--format", "csv")
    assert told.out.splitlines()[0].startswith("session_id,user_id,")
    assert asked.session_id in told.out
    assert "1 row written." in told.err
    assert (await operator("export", str(tmp_path / "nowhere" / "rows"))).status == 2
    assert not names_in(tmp_path, "unfinished")


def moving(operator: Operator, *arguments: str) -> "subprocess.Popen[str]":
    """The command in a process of its own, which prints the most memory that it had."""
    # Not `ru_maxrss`: that begins at the memory of the process that started this one.
    source = (
        "import re, sys; from sessions.__main__ import main; status = main();"
        r"print(int(re.search(r'VmHWM:\s+(\d+)', open('/proc/self/status').read())[1]) // 1024); sys.exit(status)"
    )
    return subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-c", source, *arguments, "--json", "--uri", operator.uri, "--database", operator.database],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


async def ended(process: "subprocess.Popen[str]") -> tuple[dict[str, Any], int]:
    """What it told, and the memory in MB."""
    out, err = await asyncio.to_thread(process.communicate, timeout=600)
    assert process.returncode in (0, 1), err
    told, memory = out.splitlines()
    return json.loads(told), int(memory)


async def rows_in(shared: Any, number: int) -> None:
    """Wait until so many rows are in."""
    async with asyncio.timeout(300):
        while await shared[COLLECTION].count_documents({}) < number:  # noqa: ASYNC110 - another process is at work
            await asyncio.sleep(0.1)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the memory of a process is read as Linux tells it")
async def test_a_hundred_thousand_rows_killed_on_the_way(operator: Operator, shared: Any, tmp_path: Path) -> None:
    """Killed and stopped half-way and run again: all good ones are in, fifty are told, memory does not grow."""
    few = write_jsonl(tmp_path / "few.jsonl", rows(FEW, 0))
    told, memory_of_few = await ended(moving(operator, "import", str(few)))
    assert told["imported"] == FEW
    await shared[COLLECTION].delete_many({})
    source, bad = write_jsonl(tmp_path / "rows.jsonl", rows(MANY, 50)), tmp_path / "bad.jsonl"
    command = ("import", str(source), "--rejected", str(bad))
    for end, after in ((signal.SIGKILL, 20_000), (signal.SIGTERM, 60_000)):
        process = moving(operator, *command)
        await rows_in(shared, after)
        process.send_signal(end)
        await asyncio.to_thread(process.communicate)
        assert process.returncode == (-signal.SIGKILL if end is signal.SIGKILL else 130)
    told, memory = await ended(moving(operator, *command))
    assert told["imported"] + told["present"] == MANY
    assert told["present"] >= 60_000
    assert told["rejected"] == 50
    assert await shared[COLLECTION].count_documents({}) == MANY
    lines = rejected(bad)
    assert [line for line, _ in lines] == [(which + 1) * MANY // 50 + which + 1 for which in range(50)]
    told, _ = await ended(moving(operator, *command))
    assert (told["imported"], told["present"], told["rejected"]) == (0, MANY, 50)
    assert rejected(bad) == lines
    process = moving(operator, "export", str(tmp_path / "out.jsonl"))
    told, memory_of_export = await ended(process)
    assert told == {"written": MANY, "damaged": 0}
    good = write_jsonl(tmp_path / "good.jsonl", rows(MANY, 0))
    assert (tmp_path / "out.jsonl").read_bytes() == good.read_bytes()
    print(f"import: {memory_of_few} MB for {FEW:,} rows, {memory} MB for {MANY:,}; export: {memory_of_export} MB")  # noqa: T201
    assert max(memory, memory_of_export) - memory_of_few <= MOST_GROWTH
