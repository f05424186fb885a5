"""A real ``mongod`` of one's own, for tests and the demo: found, started on free loopback ports, stopped again.

``python -m sessions.mongod`` runs one until Ctrl-C, and prints its URI.
"""

import asyncio
import contextlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from sessions.store.clients import connect, disconnect

_REPLICA_SET: Final = "sessions"
NO_MONGOD: Final = "no mongod on PATH, and none of the extra `server`, which has one for Linux on x86-64 only"
_UP_WITHIN_SECONDS: Final = 90.0  # a busy machine; a process that has ended is noticed at once
_ELECTION_TIMEOUT_MS: Final = 1000
_PRIMARY, _SECONDARY = 1, 2  # states in the answer of replSetGetStatus


class MongodFailed(RuntimeError):
    """There is no program to start, or the server did not come up: then the text carries the end of its log."""


def find_mongod() -> Path | None:
    """The ``mongod`` on PATH, else the one that the ``server`` extra installs, else None."""
    if on_path := shutil.which("mongod"):
        return Path(on_path)
    # Found without importing it: only the binary is wanted.
    packaged = find_spec("fiftyone")
    for place in (packaged.submodule_search_locations or ()) if packaged else ():
        binary = Path(place) / "db" / "bin" / "mongod"
        if binary.is_file():
            return binary
    return None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def scratch_folder() -> str | None:
    """Where a server keeps what nobody needs after it: in memory if the machine offers it, else None."""
    # Every write here waits for the journal.
    return "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - a fresh directory of its own is made in it


class Member:
    """One ``mongod`` process; its data outlive it, so that it can be killed and started again.

    Args:
        binary: What `find_mongod` found.
        home: A folder for its data, to be made.
        host: The address that it listens on.
        before: What stands before its command, such as another network or another clock to start it in.

    Attributes:
        address: Host and port, as the replica set names it.
    """

    def __init__(self, binary: Path, home: Path, *, host: str = "127.0.0.1", before: Sequence[str] = ()) -> None:
        home.mkdir()
        port = _free_port()
        self.address = f"{host}:{port}"
        self._log = home / "mongod.log"
        self._log.touch()
        self._command = [
            *(*before, str(binary), "--bind_ip", host, "--port", str(port), "--dbpath", str(home)),
            *("--replSet", _REPLICA_SET, "--logpath", str(self._log), "--logappend"),
            # Dropping a database waits for the journal's next turn: 10 ms rather than 100.
            *("--journalCommitInterval", "10"),
            *("--wiredTigerCacheSizeGB", "0.5", "--setParameter", "enableTestCommands=1"),
            *("--unixSocketPrefix", str(home)),
        ]
        self.start()

    def start(self) -> None:
        """Start the process, for the first time or after `kill`."""
        self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)  # noqa: S603 - our own binary

    async def kill(self) -> None:
        """End the process at once, as a crash would; a frozen one too."""
        # Killed rather than asked: a primary told to stop lingers for its clients.
        self._process.kill()
        await asyncio.to_thread(self._process.wait)

    def freeze(self) -> None:
        """Stop the process where it is: its connections stay open, and nothing answers."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen process go on."""
        self._process.send_signal(signal.SIGCONT)

    def has_ended(self) -> bool:
        """Whether the process is gone."""
        return self._process.poll() is not None

    def log_end(self) -> str:
        """The last of what it logged."""
        return self._log.read_text()[-2000:]

    async def ask(self, command: str, argument: object = 1) -> dict[str, Any] | None:
        """What this very member answers to an administrative command; None if it does not answer."""
        times = "&".join(f"{name}TimeoutMS=500" for name in ("serverSelection", "connect", "socket"))
        client: Any = connect(f"mongodb://{self.address}/?directConnection=true&{times}")
        try:
            with contextlib.suppress(Exception):  # not listening, not initiated, frozen
                answer: dict[str, Any] = await client.admin.command(command, argument)
                return answer
            return None
        finally:
            await disconnect(client)


@dataclass(frozen=True, slots=True)
class ReplicaSet:
    """Some `Member` processes that elect one of them primary within about two seconds."""

    members: tuple[Member, ...]

    @property
    def uri(self) -> str:
        """Names all members."""
        return f"mongodb://{','.join(member.address for member in self.members)}/?replicaSet={_REPLICA_SET}"

    async def primary(self) -> Member:
        """The member that takes writes now; waits for an election.

        Raises:
            MongodFailed: None was elected within 90 seconds.
        """
        async with self._patience():
            while True:
                for member in self.members:
                    hello = await member.ask("hello")
                    if hello is not None and hello["isWritablePrimary"]:
                        return member
                await asyncio.sleep(0.05)

    async def until_complete(self) -> None:
        """Wait until one member is primary and all others follow it.

        Raises:
            MongodFailed: They did not within 90 seconds, or a process ended.
        """
        async with self._patience():
            while sorted(await self._states()) != [_PRIMARY, *[_SECONDARY] * (len(self.members) - 1)]:
                await self._pause()

    async def initiate(self) -> None:
        """Make one set of the processes, once they listen."""
        members = [{"_id": number, "host": member.address} for number, member in enumerate(self.members)]
        settings = {"electionTimeoutMillis": _ELECTION_TIMEOUT_MS}
        config = {"_id": _REPLICA_SET, "members": members, "settings": settings}
        async with self._patience():
            while await self.members[0].ask("replSetInitiate", config) is None and not await self._states():
                await self._pause()
        await self.until_complete()

    async def _states(self) -> list[int]:
        for member in self.members:
            if (status := await member.ask("replSetGetStatus")) is not None:
                return [told["state"] for told in status["members"]]
        return []

    async def _pause(self) -> None:
        for member in self.members:
            if member.has_ended():
                raise MongodFailed("mongod did not come up; its log ends:\n" + member.log_end())
        await asyncio.sleep(0.05)

    @contextlib.asynccontextmanager
    async def _patience(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(_UP_WITHIN_SECONDS):
                yield
        except TimeoutError as error:
            ends = "\n".join(member.log_end() for member in self.members)
            raise MongodFailed("mongod did not come up; its log ends:\n" + ends) from error


@contextlib.asynccontextmanager
async def running_replica_set(binary: Path | None = None, *, members: int = 3) -> AsyncIterator[ReplicaSet]:
    """Run a replica set on free loopback ports; leaves nothing behind its block.

    Args:
        binary: The program; None for what `find_mongod` finds.
        members: How many processes.

    Raises:
        MongodFailed: There is no program, or the servers did not come up within 90 seconds.
    """
    if (binary := binary or find_mongod()) is None:
        raise MongodFailed(f"{NO_MONGOD}: install it, or use a server that runs already")
    home = Path(tempfile.mkdtemp(prefix="sessions-mongod-", dir=scratch_folder()))
    running: list[Member] = []
    try:
        running.extend(Member(binary, home / str(number)) for number in range(members))
        replica_set = ReplicaSet(tuple(running))
        await replica_set.initiate()
        yield replica_set
    finally:
        for member in running:
            await member.kill()
        shutil.rmtree(home, ignore_errors=True)


@contextlib.asynccontextmanager
async def running_mongod(binary: Path | None = None) -> AsyncIterator[str]:
    """Run a replica set of one on a free loopback port; gives its URI, and leaves nothing behind its block.

    Args:
        binary: The program; None for what `find_mongod` finds.

    Raises:
        MongodFailed: There is no program, or the server did not come up within 90 seconds.
    """
    async with running_replica_set(binary, members=1) as replica_set:
        yield replica_set.uri


async def _run_until_stopped() -> None:
    serving = asyncio.current_task()
    with contextlib.suppress(NotImplementedError):  # on Windows
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: serving and serving.cancel())
    async with running_mongod() as uri:
        print(f"{uri}\nCtrl-C ends it, and its data go with it.", flush=True)  # noqa: T201 - it is a command
        await asyncio.Event().wait()


if __name__ == "__main__":
    try:
        asyncio.run(_run_until_stopped())
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(0)
    except MongodFailed as failed:
        sys.exit(str(failed))
