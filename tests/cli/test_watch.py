"""``watch`` in a process of its own: a line for each change, until it is stopped."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import pytest

from sessions import Change, SessionRepository
from tests.support.index_command import ROOT
from tests.support.sessions_command import Operator

QUESTION: Final = "Which day suits Anna Meier?"


@asynccontextmanager
async def watching(operator: Operator, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A watch that has begun."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sessions", "watch", *arguments, "--uri", operator.uri),
        *("--database", operator.database),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(60):
            assert b"Following changes" in await process.stderr.readline()
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def line_of(process: asyncio.subprocess.Process) -> str:
    """The next line."""
    assert process.stdout is not None
    async with asyncio.timeout(30):
        return (await process.stdout.readline()).decode().rstrip("\n")


@pytest.mark.parametrize("signalled", [signal.SIGINT, signal.SIGTERM])
async def test_each_change_is_a_line_at_once(
    operator: Operator, sessions: SessionRepository, signalled: signal.Signals
) -> None:
    """Changes of the chosen users and statuses are told as they happen, without texts; a signal ends it."""
    async with watching(operator, "--user", "7", "--status", "waiting_user_reply") as process:
        await sessions.create(8, "t", conversation_id="c", pending_question=QUESTION)
        session = await sessions.create(7, "t", conversation_id="c", pending_question=QUESTION)
        line = await line_of(process)
        assert session.session_id in line
        assert line.endswith("waiting_user_reply  user 7, c")
        process.send_signal(signalled)
        async with asyncio.timeout(30):
            out, err = await process.communicate()
    assert (process.returncode, out) == (130, b"")
    assert err.decode() == "python -m sessions: stopped; what was done stays\n"


async def test_a_program_goes_on_where_it_was(operator: Operator, sessions: SessionRepository) -> None:
    """The token of a line goes on behind it, and ``--show-text`` brings the question."""
    async with watching(operator, "--json") as process:
        session = await sessions.create(7, "t", conversation_id="c", pending_question=QUESTION)
        told = json.loads(await line_of(process))
        assert told["session"]["state"] == {}
    await sessions.claim_rerun(session.session_id, user_id=7, reply_id="r")
    async with watching(operator, "--resume-after", told["token"], "--show-text") as process:
        line = await line_of(process)
        assert line.endswith("rerunning  user 7, c (reply)")
        assert (await line_of(process)).strip() == f"question: {QUESTION}"


async def test_it_ends_with_its_changes(
    operator: Operator, sessions: SessionRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is printed of a change, with and without a conversation, a lease and texts."""
    asked = await sessions.create(7, "t", conversation_id="c", pending_question=QUESTION)
    shown = await sessions.create(8, "t", preview_id="p")
    claim = await sessions.claim_rerun(asked.session_id, user_id=7, reply_id="r")

    class Changes:
        """A watch that ends."""

        async def __aenter__(self) -> AsyncIterator[Change]:
            return aiter(self)

        async def __aexit__(self, *_: object) -> None:
            """Nothing runs."""

        async def __aiter__(self) -> AsyncIterator[Change]:
            for session in (asked, shown, claim.session):
                yield Change(session, "token")

    monkeypatch.setattr(SessionRepository, "watch", lambda *_, **__: Changes())
    told = await operator("watch", "--show-text", "--status", "waiting_user_reply", "--status", "ready_preview")
    first, text, second = told.out.splitlines()
    assert first.endswith(f"{asked.session_id}  waiting_user_reply  user 7, c")
    assert text.strip() == f"question: {QUESTION}"
    assert second.endswith(f"{shown.session_id}  ready_preview  user 8")
    told = await operator("watch", "--json")
    assert [each["session"]["status"] for each in told.objects] == ["waiting_user_reply", "ready_preview", "rerunning"]
    assert QUESTION not in told.out
    assert (await operator("watch")).out.splitlines()[-1].endswith("rerunning  user 7, c (reply)")


async def test_a_token_that_is_none(operator: Operator, sessions: SessionRepository) -> None:
    """It is told in a line."""
    await sessions.create(7, "t", preview_id="p")
    told = await operator("watch", "--resume-after", "nonsense")
    assert (told.status, told.out) == (2, "")
    assert len(told.err.splitlines()) == 1
