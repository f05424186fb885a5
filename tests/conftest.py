"""The suite uses the fixtures that the library ships; at the end it says how much ran on which backend."""

import os
from collections import Counter
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
import pytest_asyncio

from sessions import open_repository
from sessions.store.clients import connect, disconnect

if TYPE_CHECKING:
    from sessions.store.clients import Database

pytest_plugins = ["sessions.testing", "pytester"]


def pytest_xdist_auto_num_workers() -> int:
    """How many processes share the suite; each starts a server of its own, whose fail points are for the whole server.

    On the one server of ``MONGODB_URI`` two processes would disturb each other.
    """
    return 1 if os.environ.get("MONGODB_URI") else 4


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Count per backend, so that a suite that was skipped on one of them does not read as passed."""
    for backend in ("double", "motor", "pymongo"):
        counted = Counter(
            outcome
            for outcome in ("passed", "failed", "skipped")
            for report in terminalreporter.stats.get(outcome, ())
            if f"[{backend}" in report.nodeid or f"-{backend}" in report.nodeid
        )
        terminalreporter.write_line(
            f"{backend}: {counted['passed']} ran and passed, {counted['failed']} failed, {counted['skipped']} skipped"
        )


@pytest_asyncio.fixture(loop_scope="session")
async def shared(mongod_uri: str) -> AsyncIterator["Database"]:
    """A database on the real server with its indexes, for this process and its workers."""
    client: Any = connect(mongod_uri)
    database = client[f"sessions_race_{uuid4().hex[:16]}"]
    async with open_repository(database, create_indexes=True):
        yield database
    await client.drop_database(database.name)
    await disconnect(client)
