"""The entry point of the pytest plugin: loaded by every run of pytest, so it imports nothing until a test asks.

The fixtures are documented in docs/testing.md. ``pytest_plugins = ["sessions.testing"]`` adds them under short names.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from sessions import Database, SessionRepository
    from sessions.testing import Backend, CommandCounter, MovedClock, SessionMaker, StoredDocument

BACKENDS: Final = ("double", "motor", "pymongo")
CAPABILITIES: Final = ("server", "transactions", "change_streams", "beanie")
_CHOSEN: Final = "sessions_backends"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Which backends an application has."""
    parser.addini(
        _CHOSEN,
        f"each test that uses the sessions' fixtures runs on each of these: {', '.join(BACKENDS)} (default: all)",
        type="args",
        default=list(BACKENDS),
    )


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker, and refuse a backend that there is not."""
    config.addinivalue_line(
        "markers",
        "needs(capability): skipped, with the reason, where the sessions' backend lacks it, "
        f"one of {', '.join(CAPABILITIES)}",
    )
    if unknown := set(config.getini(_CHOSEN)) - set(BACKENDS):
        raise pytest.UsageError(f"{_CHOSEN} names {', '.join(sorted(unknown))}; there are {', '.join(BACKENDS)}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the backends that were not chosen."""
    left_out = set(BACKENDS) - set(config.getini(_CHOSEN))
    dropped = [item for item in items if _backend_of(item) in left_out]
    if dropped:
        items[:] = [item for item in items if _backend_of(item) not in left_out]
        config.hook.pytest_deselected(items=dropped)


def _backend_of(item: pytest.Item) -> object:
    called = getattr(item, "callspec", None)  # of a parametrized test
    return None if called is None else called.params.get("sessions_backend")


@pytest.fixture(params=BACKENDS)
def sessions_backend(request: pytest.FixtureRequest) -> "Backend":
    """Each backend in turn; one that lacks what the test ``needs`` is skipped by name."""
    from sessions.testing import backends  # noqa: PLC0415 - not before a test asks; below too

    found = backends.BACKENDS[request.param]
    for need in request.node.iter_markers("needs"):
        for capability in need.args:
            if reason := found.gaps.get(capability):
                pytest.skip(f"{found.name}: {reason}")
    return found


@pytest.fixture(scope="session")
def sessions_mongod_uri() -> Iterator[str]:
    """A real server for the run: MONGODB_URI, else a ``mongod`` of the run's own, else a skip that says so."""
    from sessions.testing import backends  # noqa: PLC0415

    with backends.server_of_the_run() as uri:
        yield uri


@pytest.fixture
def sessions_clock() -> "MovedClock":
    """A clock at the start of 2026, to be moved by the test."""
    from sessions.testing import maker  # noqa: PLC0415

    return maker.MovedClock(maker.START)


@pytest.fixture
def _sessions_client(request: pytest.FixtureRequest, sessions_backend: "Backend") -> Any:
    from sessions.testing import on_loops  # noqa: PLC0415

    return on_loops.client_of(request, sessions_backend)


@pytest.fixture
def sessions_command_counter(_sessions_client: Any) -> "CommandCounter":
    """Counts the commands of the backend's client."""
    counter: CommandCounter = _sessions_client[1]
    return counter


@pytest.fixture
def sessions_database(request: pytest.FixtureRequest, _sessions_client: Any) -> "Database":
    """An empty database of the test's own, removed after it."""
    from sessions.testing import on_loops  # noqa: PLC0415

    database: Database = on_loops.on_the_loop(request, "database")
    return database


@pytest.fixture
def sessions_repository(
    request: pytest.FixtureRequest,
    sessions_backend: "Backend",  # noqa: ARG001 - asked for by name, on the loop; the next two too
    sessions_database: "Database",  # noqa: ARG001
    sessions_clock: "MovedClock",  # noqa: ARG001
) -> "SessionRepository":
    """A repository over an empty database of its own, on each backend in turn, by the moved clock."""
    from sessions.testing import on_loops  # noqa: PLC0415

    repository: SessionRepository = on_loops.on_the_loop(request, "repository")
    return repository


@pytest.fixture
def sessions_maker(sessions_repository: "SessionRepository", sessions_clock: "MovedClock") -> "SessionMaker":
    """Sessions in any status, each with a legal history."""
    from sessions.testing import maker  # noqa: PLC0415

    return maker.SessionMaker(sessions_repository, sessions_clock)


@pytest.fixture
def sessions_stored(sessions_database: "Database") -> "StoredDocument":
    """Reads a session's document as it is stored, by its id."""
    from sessions.testing import backends  # noqa: PLC0415

    return backends.reader_of(sessions_database)
