"""A real ``mongod`` of one's own, for tests and the demo: found, started on a free loopback port, stopped again."""

import asyncio
import contextlib
import shutil
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from sessions.driver import connect, disconnect

_REPLICA_SET: Final = "sessions"
_UP_WITHIN_SECONDS: Final = 30.0


class MongodFailed(RuntimeError):
    """The server did not come up; the text carries the end of its log."""


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


def _scratch() -> str | None:
    # In memory where the machine offers it: every write here waits for the journal.
    return "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - a fresh directory of its own is made in it


async def _initiate(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    client: Any = connect(f"mongodb://127.0.0.1:{port}/?directConnection=true&serverSelectionTimeoutMS=500")
    member = {"_id": 0, "host": f"127.0.0.1:{port}"}
    ends = asyncio.get_running_loop().time() + _UP_WITHIN_SECONDS
    try:
        while True:
            if process.poll() is not None or asyncio.get_running_loop().time() > ends:
                raise MongodFailed("mongod did not come up; its log ends:\n" + log.read_text()[-2000:])  # noqa: ASYNC240 - on the way out
            with contextlib.suppress(Exception):  # not listening yet, initiated already, or not yet primary
                hello = await client.admin.command("hello")
                if hello["isWritablePrimary"]:
                    return
                if "setName" not in hello:
                    await client.admin.command("replSetInitiate", {"_id": _REPLICA_SET, "members": [member]})
            await asyncio.sleep(0.05)
    finally:
        await disconnect(client)


@contextlib.asynccontextmanager
async def running_mongod(binary: Path) -> AsyncIterator[str]:
    """Run a replica set of one on a free loopback port; gives its URI, and leaves nothing behind.

    Args:
        binary: What `find_mongod` found.

    Raises:
        MongodFailed: The server did not come up within 30 seconds.
    """
    home = Path(tempfile.mkdtemp(prefix="sessions-mongod-", dir=_scratch()))
    log = home / "mongod.log"
    log.touch()
    port = _free_port()
    command = [
        *(str(binary), "--bind_ip", "127.0.0.1", "--port", str(port), "--dbpath", str(home)),
        *("--replSet", _REPLICA_SET, "--logpath", str(log), "--wiredTigerCacheSizeGB", "0.5"),
        *("--setParameter", "enableTestCommands=1", "--unixSocketPrefix", str(home)),
    ]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)  # noqa: S603, ASYNC220 - our own binary; it returns at once
    try:
        await _initiate(process, port, log)
        yield f"mongodb://127.0.0.1:{port}/?replicaSet={_REPLICA_SET}"
    finally:
        # Killed rather than asked: a primary told to stop lingers for its clients, and its data goes anyway.
        process.kill()
        await asyncio.to_thread(process.wait)
        shutil.rmtree(home, ignore_errors=True)
