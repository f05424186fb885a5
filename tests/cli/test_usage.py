"""The command used wrongly: a line that says what to do, no trace, no password."""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

from sessions import SessionRepository, __main__
from sessions.cli import lookups
from sessions.cli.ending import DONE, FOUND, STOPPED, USAGE_OR_UNREACHABLE
from tests.support.index_command import ROOT
from tests.support.sessions_command import Operator, run_here

PASSWORD: Final = "hunter2-never-shown"  # noqa: S105 - of no server
SOMEWHERE: Final = ("--uri", "mongodb://127.0.0.1:1/x")
STATUSES: Final = (DONE, FOUND, USAGE_OR_UNREACHABLE, STOPPED)
WRONG: Final[dict[str, Sequence[str]]] = {
    "unknown command": (f"mongodb://someone:{PASSWORD}@127.0.0.1/x",),
    "no server named": ("counts", "--database", "x"),
    "no database named": ("counts", "--uri", f"mongodb://someone:{PASSWORD}@127.0.0.1:1/"),
    "unescaped password": ("counts", "--uri", f"mongodb://someone:a@{PASSWORD}@127.0.0.1/x"),
    "port is none": ("counts", "--uri", f"mongodb://someone:a@127.0.0.1:{PASSWORD}/x"),
    "unreachable": (*("counts", "--uri", f"mongodb://someone:{PASSWORD}@127.0.0.1:1/x?serverSelectionTimeoutMS=300"),),
    "an id that is none": ("show", " padded", *SOMEWHERE),
    "a user that is none": ("route", "0", "c", *SOMEWHERE),
    "a status that is none": ("list", "--status", "open", *SOMEWHERE),
    "an age without unit": ("list", "--older-than", "30", *SOMEWHERE),
    "a moment without zone": ("purge", "--ended-before", "2026-01-01", *SOMEWHERE),
    "a moment that is none": ("purge", "--ended-before", "yesterday", *SOMEWHERE),
    "a moment out of range": ("purge", "--ended-before", "0001-01-01T00:00+14:00", *SOMEWHERE),
    "no such file": ("import", "/nowhere/rows.jsonl", *SOMEWHERE),
    "rejects in the rows": ("import", __file__, "--rejected", __file__, *SOMEWHERE),
    "a file that exists": ("export", __file__, *SOMEWHERE),
}


@pytest.mark.parametrize("wrong", list(WRONG))
def test_wrong_usage_is_a_line_and_status_two(wrong: str) -> None:
    """Whoever mistypes reads one line, and no password."""
    told = run_here(*WRONG[wrong])
    assert (told.status, told.out) == (2, ""), told.err
    assert len(told.err.splitlines()) == 1
    assert PASSWORD not in told.err
    assert "127.0.0.1" not in told.err


def test_each_command_explains_itself() -> None:
    """Help fits 80 columns, names the exit statuses, and gives each command a line that is not cut."""
    told = run_here("--help")
    assert told.status == 0
    assert max(map(len, told.out.splitlines())) <= 80
    assert "Exit status: 0 done" in told.out
    assert "..." not in told.out.replace("[ARGS]...", "")
    for line in told.out.partition("Commands:\n")[2].partition("\n\n")[0].splitlines():
        assert run_here(line.split()[0], "--help").status == 0


def test_the_documentation_names_each_command_and_status() -> None:
    """The page has what the command has, and no more."""
    page = (ROOT / "docs" / "operator.md").read_text()
    told = page.partition("| command | |\n")[2].partition("\n\n")[0]
    named = {word for row in told.splitlines() for word in re.findall(r"`(\w+)[ `]", row.split("|")[1])}
    helped = run_here("--help").out.partition("Commands:\n")[2].partition("\n\n")[0]
    assert named == {line.split()[0] for line in helped.splitlines()}
    statuses = page.partition("| exit status |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| (\d+) ", statuses, flags=re.MULTILINE) == list(map(str, STATUSES))


def command(operator: Operator, *arguments: str, **variables: str) -> "subprocess.Popen[str]":
    """A command in a process of its own."""
    uri = operator.uri.replace("/?", f"/{operator.database}?")
    return subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-m", "sessions", *arguments],
        cwd=ROOT,
        env={**os.environ, "MONGODB_URI": uri, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


async def test_a_reader_that_has_seen_enough(operator: Operator, sessions: SessionRepository) -> None:
    """``sessions list | head`` ends without a trace."""
    for number in range(300):
        await sessions.create(1, f"trigger-{number}-{'x' * 100}", preview_id="p")
    process = command(operator, "list", "--json", "--limit", "1000")
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout as out:
        await asyncio.to_thread(out.readline)
    with process.stderr as err:
        said = await asyncio.to_thread(err.read)
    assert (await asyncio.to_thread(process.wait), said) == (1, "")


async def test_a_log_without_these_letters(operator: Operator, sessions: SessionRepository) -> None:
    """Where the encoding lacks a letter its number is printed, and bars are made of what there is."""
    await sessions.create(1, "t", conversation_id="Zürich", pending_question="?")
    for name, part in (("list", "Z\\xfcrich"), ("counts", "######"), ("doctor", "to \\xb1")):
        process = command(operator, name, PYTHONIOENCODING="ascii")
        out, err = await asyncio.to_thread(process.communicate)
        assert (process.returncode, err) == (0, "")
        assert part in out


def test_a_signal_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says that what was done stays."""

    def stop(*_: object, **__: object) -> None:
        raise asyncio.CancelledError

    monkeypatch.setattr(lookups, "at_desk", stop)
    told = run_here("counts")
    assert (told.status, told.out, told.err) == (130, "", "python -m sessions: stopped; what was done stays\n")


def test_without_typer_it_names_the_extra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The library works without the extra, its command says which one it needs."""
    for name in [name for name in sys.modules if name.startswith("sessions.cli")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("sessions.cli", raising=False)
    monkeypatch.setitem(sys.modules, "typer", None)
    assert __main__.main(["counts"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "The command line needs typer: pip install 'active-schedule-sessions[cli]'"
    ]


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"FORCE_COLOR": "1"}, {"COLUMNS": "20"}])
def test_a_log_file_is_plain(operator: Operator, tmp_path: Path, variables: dict[str, str]) -> None:
    """No code of a terminal, whatever the environment says, and nothing is wrapped for a terminal that is not there."""
    log = tmp_path / "log"
    with log.open("w") as opened:
        subprocess.run(
            [sys.executable, "-m", "sessions", "counts"],
            cwd=ROOT,
            env={**os.environ, "MONGODB_URI": operator.uri.replace("/?", f"/{operator.database}?"), **variables},
            stdout=opened,
            stderr=subprocess.STDOUT,
            check=True,
        )
    printed = log.read_text()
    assert "\x1b" not in printed
    assert len(printed.splitlines()) == 2 + 7 + 1
