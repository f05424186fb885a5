import asyncio
import contextlib
import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest
from pymongo.errors import PyMongoError
from rich.console import Console

from sessions import IndexesMissing, LeaseLost, RouteAction, SessionNotFound, __main__
from sessions.console import console_for
from sessions.demo import command, story
from sessions.demo.story import STORY, DemoClock, Play, Step, StepError, check, refused
from sessions.domain.errors import SessionRef
from sessions.domain.lifecycle import SessionStatus
from sessions.mongod import MongodFailed, find_mongod
from sessions.repository import open_repository
from sessions.store.clients import connect, connect_double, disconnect

ROOT = Path(__file__).parents[2]
UNREACHABLE = "mongodb://someone:secret@127.0.0.1:1/?serverSelectionTimeoutMS=300"

needs_mongod = pytest.mark.skipif(find_mongod() is None, reason="no mongod on PATH and none from the `server` extra")


def run_as_command(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """The command line in a process of its own; FORCE_COLOR is set, since it must not reach a log."""
    inherited = {name: value for name, value in os.environ.items() if name != "MONGODB_URI"}
    return subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-m", "sessions", *arguments],
        cwd=ROOT,
        env={**inherited, "FORCE_COLOR": "1", "COLUMNS": "200", "PYTHONUTF8": "1", **environment},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )


@contextlib.asynccontextmanager
async def client_of(uri: str) -> AsyncIterator[Any]:
    """A client of the server, closed again."""
    client: Any = connect(uri)
    try:
        yield client
    finally:
        await disconnect(client)


async def is_there(uri: str, name: str) -> bool:
    """Whether the server holds a database of that name."""
    async with client_of(uri) as client:
        return name in await client.list_database_names()


@pytest.fixture
def printed() -> io.StringIO:
    """What the demo prints where it is no terminal."""
    return io.StringIO()


def console_on(printed: io.StringIO) -> Console:
    """The demo's console on it."""
    return console_for(printed, width_elsewhere=command.WIDTH, widest=command.WIDTH)


@pytest.fixture
def without_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has no server."""
    monkeypatch.delenv("MONGODB_URI", raising=False)
    monkeypatch.setattr(command, "find_mongod", lambda: None)


async def do_nothing(_play: Play) -> str:
    """A step that says it was well."""
    return "Nothing happens."


async def raise_value_error(_play: Play) -> str:
    """A step with a bug."""
    raise ValueError("of all things")


async def fail_its_check(_play: Play) -> str:
    """A step that ends otherwise."""
    raise StepError("it was accepted")


BROKEN: Final = Step("A step that is broken.", RouteAction.HOLD, RouteAction.HOLD, fail_its_check)


@pytest.mark.slow
@needs_mongod
def test_on_its_own_server_it_ends_well_and_is_a_plain_log() -> None:
    """The demo's main path: exit 0, every step ok, no escape code, nothing wider than 80 columns."""
    ended = run_as_command("demo")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stderr == ""
    assert "real mongod" in ended.stdout
    assert "\x1b" not in ended.stdout
    lines = ended.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert len([line for line in lines if line.startswith("    route: ") and line.endswith(" ok")]) == len(STORY)
    assert [int(line[:2]) for line in lines if re.match(r"[ \d]\d\. ", line)] == list(range(1, len(STORY) + 1))
    assert lines[-1].startswith(f"All {len(STORY)} steps ended as they say")


@pytest.mark.slow
async def test_on_the_users_server_it_leaves_nothing(mongod_uri: str) -> None:
    """With MONGODB_URI it runs in a database of its own, removes it, and never prints the URI."""
    ended = await asyncio.to_thread(run_as_command, "demo", MONGODB_URI=mongod_uri)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    name = re.search(r"sessions_demo_[0-9a-f]{8}\b", ended.stdout)
    assert name is not None
    assert mongod_uri not in ended.stdout + ended.stderr
    assert not await is_there(mongod_uri, name[0])


async def test_a_broken_step_leaves_nothing_either(
    mongod_uri: str, monkeypatch: pytest.MonkeyPatch, printed: io.StringIO
) -> None:
    """A story that fails half-way still removes its database from the user's server."""
    monkeypatch.setenv("MONGODB_URI", mongod_uri)
    assert await command.run(console_on(printed), [*STORY[:4], BROKEN]) == 1
    name = re.search(r"sessions_demo_[0-9a-f]{8}\b", printed.getvalue())
    assert name is not None
    assert not await is_there(mongod_uri, name[0])


async def test_without_a_server_it_says_so(without_server: None, printed: io.StringIO) -> None:
    """On the in-memory double the same story ends well, and the reader is told that it is no server."""
    assert await command.run(console_on(printed)) == 0
    text = " ".join(printed.getvalue().split())
    assert "it runs on the in-memory double" in text
    assert f"All {len(STORY)} steps ended as they say" in text


async def test_a_broken_step_is_printed_and_exits_1(without_server: None, printed: io.StringIO) -> None:
    """A step that does not end as it says can't pass for one that does, and the story stops there."""
    assert await command.run(console_on(printed), [*STORY[:4], BROKEN, *STORY[4:]]) == 1
    assert "FAILED: it was accepted" in printed.getvalue()
    assert " 6. " not in printed.getvalue()
    assert "All " not in printed.getvalue()


@pytest.mark.parametrize(
    ("step", "told"),
    [
        (Step("a", RouteAction.HOLD, RouteAction.HOLD, do_nothing), "the route is free_chat before it"),
        (Step("b", RouteAction.FREE_CHAT, RouteAction.HOLD, do_nothing), "the route is free_chat after it"),
        (Step("c", RouteAction.FREE_CHAT, RouteAction.FREE_CHAT, raise_value_error), "ValueError: of all things"),
    ],
    ids=["route before", "route after", "another error"],
)
async def test_a_step_fails_for_what_it_does_not_say(step: Step, told: str, printed: io.StringIO) -> None:
    """A wrong route, before or after, and an error that nobody expected are failures too."""
    client: Any = connect_double()
    async with open_repository(client["demo"], create_indexes=True) as repository:
        assert not await command.tell(Play(repository, DemoClock()), console_on(printed), [step])
    assert f"FAILED: {told}" in printed.getvalue()


async def test_another_history_is_not_the_storys(printed: io.StringIO) -> None:
    """The last step reads the history back, and one that ended early fails it."""
    client: Any = connect_double()
    async with open_repository(client["demo"], create_indexes=True) as repository:
        play = Play(repository, DemoClock())
        assert not await command.tell(play, console_on(printed), [*STORY[:2], STORY[-1]])
    assert "FAILED: the statuses were waiting_user_reply" in printed.getvalue()


async def test_check_and_refused() -> None:
    """What is checked is really checked: nothing refused, and refused with another error, are not the refusal."""
    check(True, "no")  # noqa: FBT003 - a check that holds
    with pytest.raises(StepError, match="no"):
        check(False, "no")  # noqa: FBT003 - one that does not

    async def end(error: Exception | None) -> None:
        if error is not None:
            raise error

    lost = LeaseLost(SessionRef(status=SessionStatus.APPLIED))
    assert await refused(end(lost), LeaseLost) is lost
    with pytest.raises(StepError, match="should have been refused with LeaseLost"):
        await refused(end(None), LeaseLost)
    with pytest.raises(SessionNotFound):
        await refused(end(SessionNotFound(SessionRef())), LeaseLost)


@pytest.mark.parametrize("uri", [UNREACHABLE, "mongodb://someone:secret@host:port/"], ids=["unreachable", "malformed"])
def test_a_server_that_cannot_be_used_is_one_line_and_exits_2(
    uri: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody reads a traceback, or a password, for a server that is down."""
    monkeypatch.setenv("MONGODB_URI", uri)
    assert __main__.main(["demo"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1
    assert "secret" not in printed.err


async def test_a_database_that_cannot_be_opened(
    without_server: None, monkeypatch: pytest.MonkeyPatch, printed: io.StringIO
) -> None:
    """A server that refuses to serve is told apart from a step that failed."""

    async def refuse(_database: object, **_options: object) -> None:
        raise IndexesMissing(("index x is missing",))

    monkeypatch.setattr(command, "open_repository", refuse)
    with pytest.raises(command.NoStoreError, match="cannot be opened: index x is missing"):
        await command.run(console_on(printed))


async def test_a_database_that_cannot_be_removed_is_named(
    mongod_uri: str, monkeypatch: pytest.MonkeyPatch, printed: io.StringIO
) -> None:
    """Whoever lends the demo a server learns what it had to leave there."""

    async def refuse(_client: object, _name: str) -> None:
        raise PyMongoError

    monkeypatch.setenv("MONGODB_URI", mongod_uri)
    async with client_of(mongod_uri) as client:
        with monkeypatch.context() as patched:
            patched.setattr(type(client), "drop_database", refuse)
            with pytest.raises(
                command.NoStoreError, match=r"^Database sessions_demo_\w{8} could not be removed: PyMongo"
            ):
                await command.run(console_on(printed), STORY[:1])
        for name in re.findall(r"sessions_demo_[0-9a-f]{8}\b", printed.getvalue()):
            await client.drop_database(name)


@pytest.mark.slow
@needs_mongod
async def test_in_this_process_it_runs_on_its_own_server(monkeypatch: pytest.MonkeyPatch, printed: io.StringIO) -> None:
    """Without MONGODB_URI a server is started and used."""
    monkeypatch.delenv("MONGODB_URI", raising=False)
    assert await command.run(console_on(printed), STORY[:2]) == 0
    assert "real mongod of its own" in printed.getvalue()


def test_the_command_ends_with_the_storys_status(without_server: None, capsys: pytest.CaptureFixture[str]) -> None:
    """What the story found is the exit status of the command."""
    assert __main__.main(["demo"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("All ")


def test_a_stopped_demo_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C ends in a line, not in a traceback."""

    async def stop(_console: object) -> int:
        raise asyncio.CancelledError

    monkeypatch.setattr(command, "run", stop)
    assert __main__.main(["demo"]) == 130
    assert "stopped" in capsys.readouterr().err


async def test_a_mongod_that_does_not_start(monkeypatch: pytest.MonkeyPatch, printed: io.StringIO) -> None:
    """A binary that is no server ends the demo in one line."""
    monkeypatch.delenv("MONGODB_URI", raising=False)
    monkeypatch.setattr(command, "find_mongod", lambda: Path("mongod"))

    def fail(_binary: Path) -> Any:
        raise MongodFailed("its log ends:\nmany\nlines")

    monkeypatch.setattr(command, "running_mongod", fail)
    with pytest.raises(command.NoStoreError, match=r"^mongod did not start; .*\.$"):
        await command.run(console_on(printed))


@pytest.mark.slow
@needs_mongod
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM handlers")
async def test_stopped_half_way_it_removes_its_database(mongod_uri: str) -> None:
    """A job that is cancelled leaves no database behind."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-u", "-m", "sessions", "demo"),
        cwd=ROOT,
        env={**os.environ, "MONGODB_URI": mongod_uri, "PYTHONUTF8": "1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    text = ""
    while " 1. " not in text:
        text += (await process.stdout.readline()).decode()
    process.send_signal(signal.SIGTERM)
    rest, said = await process.communicate()
    name = re.search(r"sessions_demo_[0-9a-f]{8}\b", text)
    assert name is not None
    # It may have been quicker than the signal.
    assert process.returncode in (130, 0), rest + said
    assert not await is_there(mongod_uri, name[0])


def test_without_a_command_it_prints_help(capsys: pytest.CaptureFixture[str]) -> None:
    """``python -m sessions`` alone shows what there is, and is not taken for a success."""
    assert __main__.main([]) == 2
    assert "demo" in capsys.readouterr().out


def test_a_missing_extra_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without ``rich`` the demo names the pip command."""

    def no_rich() -> int:
        raise ModuleNotFoundError("No module named 'rich'", name="rich")

    monkeypatch.setattr(command, "main", no_rich)
    assert __main__.main(["demo"]) == 2
    said = capsys.readouterr().err
    assert said.splitlines() == ["The demo needs rich: pip install 'active-schedule-sessions[demo]'"]


def test_the_story_moves_the_clock_past_the_lease() -> None:
    """The dead worker's lease lapses by the demo's clock, without waiting."""
    clock = DemoClock()
    before = clock()
    clock.advance(story.LEASE)
    assert clock() - before >= story.LEASE


def test_another_missing_module_is_no_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug of ours is not blamed on the set-up."""

    def no_other() -> int:
        raise ModuleNotFoundError("No module named 'other'", name="other")

    monkeypatch.setattr(command, "main", no_other)
    with pytest.raises(ModuleNotFoundError):
        __main__.main(["demo"])
