"""A server of one's own: by a call, by a command, and what is said where there is none."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
from pymongo import MongoClient

from sessions import mongod
from sessions.mongod import NO_MONGOD, MongodFailed, running_mongod
from sessions.testing import backends
from sessions.testing.backends import server_of_the_run

SECRET: Final = "pa55"  # noqa: S105 - of nobody


async def test_without_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what to install, rather than that there is no file ``None``."""
    monkeypatch.setattr(mongod, "find_mongod", lambda: None)
    with pytest.raises(MongodFailed, match=NO_MONGOD):
        async with running_mongod():
            pytest.fail("nothing runs")


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.skipif(mongod.find_mongod() is None, reason=NO_MONGOD)
def test_the_command_runs_one_until_it_is_stopped(stop: signal.Signals) -> None:
    """It prints the URI of a server that answers; neither the server nor its data outlive it."""
    command = [sys.executable, "-m", "sessions.mongod"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:  # noqa: S603 - our own
        assert running.stdout is not None
        assert running.stderr is not None
        uri = running.stdout.readline().strip()
        with MongoClient[dict[str, object]](uri) as client:
            home = Path(client.admin.command("getCmdLineOpts")["parsed"]["storage"]["dbPath"])
        assert home.is_dir()
        running.send_signal(stop)
        assert running.wait(timeout=30) == 0
        assert running.stderr.read() == ""
    assert not home.exists()


@pytest.mark.parametrize(
    "uri",
    [
        pytest.param(f"mongodb://me:{SECRET}@127.0.0.1:1/", id="nobody listens"),
        pytest.param(f"mongodb://me:{SECRET}@127.0.0.1:{SECRET}/", id="no port"),
    ],
)
def test_a_server_that_does_not_answer(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run is told once, by the variable's name, and without what the variable holds."""
    monkeypatch.setenv("MONGODB_URI", uri)
    monkeypatch.setattr(backends, "_ANSWERS_WITHIN_MS", 300)
    with pytest.raises(pytest.fail.Exception, match="MONGODB_URI does not answer") as failed, server_of_the_run():
        pytest.fail("it is used")
    assert SECRET not in str(failed.value)
