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
from urllib.parse import quote_plus

import trustme
from pymongo.errors import PyMongoError

from sessions.mongod import scratch_folder
from sessions.store.clients import connect, disconnect

PASSWORD: Final = "pa55-never-shown"  # noqa: S105 - of a server that lives for one module
_UP_WITHIN_SECONDS: Final = 60


@dataclass(frozen=True, slots=True)
class Secured:
    """The server; its first user, ``root``, has every right."""

    port: int
    authority: Path | None = None
    """The certificate that signs the server's, if it speaks TLS only."""

    def uri(self, user: str, *, database: str = "admin") -> str:
        """The connection string of a user, who is kept in that database."""
        tls = "" if self.authority is None else f"&tls=true&tlsCAFile={quote_plus(str(self.authority))}"
        return f"mongodb://{user}:{PASSWORD}@127.0.0.1:{self.port}/?replicaSet=rs&authSource={database}{tls}"


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


def _certificates(home: Path) -> list[str]:
    """The server's options for TLS; the authority's certificate stands beside its own."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(home / "authority.pem")
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(home / "server.pem")
    certificate, trusted = str(home / "server.pem"), str(home / "authority.pem")
    return [
        *("--tlsMode", "requireTLS", "--tlsCertificateKeyFile", certificate, "--tlsCAFile", trusted),
        "--tlsAllowConnectionsWithoutCertificates",
    ]


@asynccontextmanager
async def running_secured(binary: Path, *, tls: bool = False) -> AsyncIterator[Secured]:
    """Run it on a free loopback port, by TLS only if asked for; leaves nothing behind its block."""
    port = _free_port()
    with tempfile.TemporaryDirectory(
        prefix="sessions-mongod-", dir=scratch_folder(), ignore_cleanup_errors=True
    ) as home:
        key = Path(home) / "key"
        key.write_text("k" * 64)
        key.chmod(0o600)
        command = [
            *(str(binary), "--auth", "--keyFile", str(key), "--replSet", "rs", "--bind_ip", "127.0.0.1"),
            *("--port", str(port), "--dbpath", home, "--logpath", str(Path(home) / "mongod.log")),
            *("--unixSocketPrefix", home, "--wiredTigerCacheSizeGB", "0.25", "--journalCommitInterval", "10"),
            *("--setParameter", "enableTestCommands=1"),
            *(_certificates(Path(home)) if tls else ()),
        ]
        running = Secured(port, Path(home) / "authority.pem" if tls else None)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)  # noqa: ASYNC220, S603 - our own binary
        try:
            # Until a user exists, a connection from the same machine may initiate the set and create the first one.
            trusting = f"&tls=true&tlsCAFile={quote_plus(str(running.authority))}" if tls else ""
            direct = f"mongodb://127.0.0.1:{port}/?directConnection=true&serverSelectionTimeoutMS=500{trusting}"
            client: Any = connect(direct)
            async with asyncio.timeout(_UP_WITHIN_SECONDS):
                members = [{"_id": 0, "host": f"127.0.0.1:{port}"}]
                await _repeat(client.admin, {"replSetInitiate": {"_id": "rs", "members": members}})
                await _repeat(client.admin, {"createUser": "root", "pwd": PASSWORD, "roles": ["root"]})
            await disconnect(client)
            yield running
        finally:
            process.kill()
            await asyncio.to_thread(process.wait)
