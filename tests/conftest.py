"""The suite uses the fixtures that the library ships; at the end it says how much ran on which backend."""

import os
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import pytest
import pytest_asyncio

from sessions import open_repository
from sessions.mongod import running_mongod
from sessions.store.clients import connect, default_driver, disconnect
from tests.support.least_rights import running_with_least_rights

if TYPE_CHECKING:
    from sessions.store.clients import Database

pytest_plugins = ["sessions.testing", "pytester"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """How the run's server is set up."""
    told = "on a server with authentication and TLS, as a user with the rights of sessions.store.rights only"
    parser.addoption("--least-rights", action="store_true", help=told)


def pytest_configure(config: pytest.Config) -> None:
    """Refuse what would run with all rights and not say so."""
    if config.option.least_rights and os.environ.get("MONGODB_URI"):
        raise pytest.UsageError("--least-rights starts a server of its own: unset MONGODB_URI")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """How many processes share the suite; each starts a server of its own, whose fail points are for the whole server.

    On the one server of ``MONGODB_URI`` two processes would disturb each other. The quick lane waits for less, and is
    done before a fourth process would have paid for its start.
    """
    if os.environ.get("MONGODB_URI"):
        return 1
    return 3 if config.option.markexpr == "not slow" else 4


# What the quick lane leaves out whole: several processes, killed servers, large collections, thousands of calls.
# Single tests elsewhere carry the mark themselves.
SLOW: Final = (
    "tests/failover/",
    "tests/faults/",
    "tests/race/",
    "tests/web/",
    "tests/cli/test_doctor.py",
    "tests/cli/test_plans.py",
    "tests/contract/test_acknowledged.py",
    "tests/contract/test_ambiguous_outcomes.py",
    "tests/contract/test_cancelled_reads.py",
    "tests/contract/test_damaged.py",
    "tests/contract/test_deadlines.py",
    "tests/contract/test_fixtures.py",
    "tests/contract/test_following_rights.py",
    "tests/contract/test_least_rights.py",
    "tests/contract/test_no_growth.py",
    "tests/contract/test_plans.py",
    "tests/contract/test_random_calls.py",
    "tests/contract/test_testing_page.py",
    "tests/contract/test_unavailable.py",
    "tests/indexes/test_apply_killed.py",
    "tests/indexes/test_building.py",
    "tests/indexes/test_collection_kinds.py",
    "tests/indexes/test_command.py",
    "tests/indexes/test_conflicts.py",
    "tests/indexes/test_drift.py",
    "tests/indexes/test_explain.py",
    "tests/indexes/test_lock.py",
    "tests/indexes/test_refusals.py",
    "tests/indexes/test_replica_set.py",
    "tests/indexes/test_rights.py",
    "tests/indexes/test_several_documents.py",
    "tests/indexes/test_text_and_wildcard.py",
    "tests/indexes/test_two_at_once.py",
    "tests/indexes/test_under_load.py",
    "tests/langgraph/test_random.py",
)
# What it plays on the double only: the bridge, which knows no server, and what is tried with every call there is.
SLOW_ON_SERVERS: Final = (
    "tests/contract/test_bridge_",
    "tests/contract/test_cancellation.py",
    "tests/contract/test_every_call.py",
    "tests/langgraph/test_killed.py",
)


NOT_BY_LEAST_RIGHTS: Final = {
    "tests/indexes/": "the index tool has rights of its own: tests/indexes/test_rights.py",
    **dict.fromkeys(
        ("tests/failover/", "tests/faults/", "tests/benchmarks/", "tests/contract/test_acknowledged.py"),
        "it starts servers of its own",
    ),
    "tests/contract/test_ambiguous_outcomes.py": "it reads what passes between driver and server, which TLS hides",
}


def is_slow(item: pytest.Item) -> bool:
    """Whether the quick lane leaves it out; of the two drivers it keeps the one that Beanie uses here."""
    called = getattr(item, "callspec", None)  # of a parametrized test
    backend = "double" if called is None else called.params.get("sessions_backend", "double")
    kept = ("double",) if item.nodeid.startswith(SLOW_ON_SERVERS) else ("double", default_driver())
    return item.nodeid.startswith(SLOW) or backend not in kept


@pytest.hookimpl(tryfirst=True)  # before pytest takes out what ``-m`` leaves out
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark as slow what the quick lane leaves out, and skip what has rights or servers of its own."""
    for item in filter(is_slow, items):
        item.add_marker(pytest.mark.slow)
    for place, reason in NOT_BY_LEAST_RIGHTS.items() if config.option.least_rights else ():
        for item in items:
            if item.nodeid.startswith(place):
                item.add_marker(pytest.mark.skip(reason=reason))


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


@pytest.fixture(scope="session")
def sessions_mongod_uri(request: pytest.FixtureRequest) -> Iterator[str]:
    """The library's own fixture, or a server on which nobody has more rights than the library asks for."""
    from sessions.testing.backends import server_of_the_run  # noqa: PLC0415 - pytest rewrites its asserts first

    running = running_with_least_rights if request.config.option.least_rights else running_mongod
    with server_of_the_run(running) as uri:
        yield uri
