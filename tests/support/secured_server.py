"""A replica set of one with authentication, for tests of rights."""

import asyncio
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pymongo.errors import PyMongoError

from sessions.store.clients import connect, disconnect

PASSWORD: Final = "pa55-never-shown"  # noqa: S105 - of a server that lives for one module
_UP_WITHIN_SECONDS: Final = 60


@dataclass(frozen=True, slots=True)
class Secured:
    """The server; its first user, ``root``, has every right."""

    port: int

    def uri(self, user: str, *, database: str = "admin") -> str:
        """The connection string of a user, who is kept in that database."""
        return f"mongodb://{user}:{PASSWORD}@127.0.0.1:{self.port}/?replicaSet=rs&authSource={database}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def _repeat(admin: Any, command: dict[str, Any]) -> None:
    while True:
        try:
            await admin.command(command)
        except PyMongoError:
            await asyncio.sleep(0.05)
        else:
            return


@asynccontextmanager
async def running_secured(binary: Path) -> AsyncIterator[Secured]:
    """Run it on a free loopback port; leaves nothing behind its block."""
    port = _free_port()
    with tempfile.TemporaryDirectory(prefix="sessions-mongod-", ignore_cleanup_errors=True) as home:
        key = Path(home) / "key"
        key.write_text("k" * 64)
        key.chmod(0o600)
        command = [
            *(str(binary), "--auth", "--keyFile", str(key), "--replSet", "rs", "--bind_ip", "127.0.0.1"),
            *("--port", str(port), "--dbpath", home, "--logpath", str(Path(home) / "mongod.log")),
            *("--unixSocketPrefix", home, "--wiredTigerCacheSizeGB", "0.25"),
        ]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)  # noqa: ASYNC220, S603 - our own binary
        try:
            # Until a user exists, a connection from the same machine may initiate the set and create the first one.
            client: Any = connect(f"mongodb://127.0.0.1:{port}/?directConnection=true&serverSelectionTimeoutMS=500")
            async with asyncio.timeout(_UP_WITHIN_SECONDS):
                members = [{"_id": 0, "host": f"127.0.0.1:{port}"}]
                await _repeat(client.admin, {"replSetInitiate": {"_id": "rs", "members": members}})
                await _repeat(client.admin, {"createUser": "root", "pwd": PASSWORD, "roles": ["root"]})
            await disconnect(client)
            yield Secured(port)
        finally:
            process.kill()
            await asyncio.to_thread(process.wait)
