"""Pytest fixtures: a repository on each backend, a ``mongod`` per run, a clock to move, sessions in any status."""

import os
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from inspect import iscoroutinefunction
from typing import Any, Final
from uuid import uuid4

import pytest
import pytest_asyncio
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent

from sessions.mongod import find_mongod, running_mongod
from sessions.public_names import carry_module_name
from sessions.repository import SessionRepository, open_repository
from sessions.store.clients import Client, Database, connect, connect_double, disconnect
from sessions.store.document import COLLECTION, INDEXES
from sessions.testing.maker import Given, MovedClock, SessionMaker

__all__ = ["BACKENDS", "Backend", "CommandCounter", "Given", "MovedClock", "SessionMaker", "StoredDocument"]

carry_module_name(globals())


class CommandCounter(CommandListener):
    """Counts what the driver sends, by command name; `counting` limits it to a stretch of a test."""

    _UNRELATED: Final = frozenset({"hello", "ismaster", "ping", "endSessions", "killCursors"})

    def __init__(self) -> None:
        self._counts: Counter[str] | None = None
        self.commands: list[Mapping[str, Any]] = []

    @contextmanager
    def counting(self) -> Iterator[Counter[str]]:
        """The commands sent within the block."""
        counts: Counter[str] = Counter()
        self._counts, self.commands = counts, []
        try:
            yield counts
        finally:
            self._counts = None

    def started(self, event: CommandStartedEvent) -> None:
        """Count one."""
        if self._counts is not None and event.command_name not in self._UNRELATED:
            self._counts[event.command_name] += 1
            self.commands.append(event.command)

    def succeeded(self, event: CommandSucceededEvent) -> None:
        """Counted when it was sent."""

    def failed(self, event: CommandFailedEvent) -> None:
        """Counted when it was sent."""


_BEANIE_2: Final = not version("beanie").startswith("1.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """One store that the suite runs on, and what it cannot show."""

    name: str
    gaps: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_real(self) -> bool:
        """Whether a server answers."""
        return self.name != "double"


BACKENDS: Final[Mapping[str, Backend]] = {
    "double": Backend(
        name="double",
        gaps={
            "server": "mongomock-motor is no server: neither plans nor commands nor atomicity can be seen on it",
            "transactions": "mongomock-motor has none",
            "change_streams": "mongomock-motor has no change streams",
            "beanie": "Beanie 2 does not start on mongomock-motor" if _BEANIE_2 else "",
        },
    ),
    "motor": Backend(name="motor", gaps={"beanie": "Beanie 2 refuses a Motor client" if _BEANIE_2 else ""}),
    "pymongo": Backend(name="pymongo"),
}


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
    needs = ", ".join(BACKENDS["double"].gaps)
    config.addinivalue_line(
        "markers", f"needs(capability): skipped, with the reason, on a backend that lacks it, one of {needs}"
    )
    if unknown := set(config.getini(_CHOSEN)) - BACKENDS.keys():
        raise pytest.UsageError(f"{_CHOSEN} names {', '.join(sorted(unknown))}; there are {', '.join(BACKENDS)}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the backends that were not chosen."""
    left_out = BACKENDS.keys() - set(config.getini(_CHOSEN))
    dropped = [item for item in items if _backend_of(item) in left_out]
    if dropped:
        items[:] = [item for item in items if _backend_of(item) not in left_out]
        config.hook.pytest_deselected(items=dropped)


def _backend_of(item: pytest.Item) -> object:
    called = getattr(item, "callspec", None)  # of a parametrized test
    return None if called is None else called.params.get("backend")


def _refuse_another_loop(request: pytest.FixtureRequest) -> None:
    """Say what is missing if the test would run on another event loop than the clients of the run."""
    marker = request.node.get_closest_marker("asyncio")
    scope = marker.kwargs.get("loop_scope") if marker is not None else None
    if (scope or request.config.getini("asyncio_default_test_loop_scope")) != "session" and iscoroutinefunction(
        request.function
    ):
        pytest.fail(
            'the clients of a run live on one event loop: set asyncio_default_test_loop_scope = "session" in the '
            "configuration of pytest",
            pytrace=False,
        )


@pytest.fixture
def session_clock() -> MovedClock:
    """A clock at the start of 2026, to be moved by the test."""
    return MovedClock(datetime(2026, 1, 1, tzinfo=UTC))


@pytest.fixture(scope="session")
def _clients() -> dict[str, tuple[Client, CommandCounter]]:
    return {}


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def mongod_uri(_clients: dict[str, tuple[Client, CommandCounter]]) -> AsyncIterator[str]:
    """A real server for the run: MONGODB_URI, else a ``mongod`` of the run's own, else a skip that says so."""
    async with AsyncExitStack() as stack:
        if given := os.environ.get("MONGODB_URI"):
            uri = given
        elif binary := find_mongod():
            uri = await stack.enter_async_context(running_mongod(binary))
        else:
            pytest.skip("no MONGODB_URI, no mongod on PATH, and the `server` extra has none for this platform")
        yield uri
        # Before the server goes: a client that is closed later waits for it in vain.
        for client, _ in _clients.values():
            await disconnect(client)


@pytest.fixture(params=list(BACKENDS))
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each backend in turn; one that lacks what the test ``needs`` is skipped by name."""
    found = BACKENDS[request.param]
    for need in request.node.iter_markers("needs"):
        if reason := found.gaps.get(need.args[0]):
            pytest.skip(f"{found.name}: {reason}")
    return found


@pytest.fixture
def _client(
    backend: Backend, request: pytest.FixtureRequest, _clients: dict[str, tuple[Client, CommandCounter]]
) -> tuple[Client, CommandCounter]:
    counter = CommandCounter()
    if not backend.is_real:
        return connect_double(), counter
    _refuse_another_loop(request)
    uri: str = request.getfixturevalue("mongod_uri")
    if backend.name not in _clients:
        _clients[backend.name] = (connect(uri, driver=backend.name, listeners=[counter]), counter)
    return _clients[backend.name]


@pytest.fixture
def command_counter(_client: tuple[Client, CommandCounter]) -> CommandCounter:
    """Counts the commands of the backend's client."""
    return _client[1]


@pytest_asyncio.fixture(loop_scope="session")
async def database(_client: tuple[Client, CommandCounter]) -> AsyncIterator[Database]:
    """An empty database of the test's own, removed after it."""
    client: Any = _client[0]
    name = f"sessions_test_{uuid4().hex[:16]}"
    yield client[name]
    await client.drop_database(name)


@pytest_asyncio.fixture(loop_scope="session")
async def repository(
    backend: Backend, database: Database, session_clock: MovedClock
) -> AsyncIterator[SessionRepository]:
    """A repository over an empty database of its own, on each backend in turn, by the moved clock."""
    if backend.is_real:  # all in one command, half the work; the double would lose their partial filters
        collection: Any = database[COLLECTION]
        await collection.create_indexes(list(INDEXES))
    async with open_repository(database, create_indexes=not backend.is_real, clock=session_clock) as opened:
        yield opened


StoredDocument = Callable[[str], Awaitable[dict[str, Any] | None]]


@pytest.fixture
def stored(database: Database) -> StoredDocument:
    """Reads a session's document as it is stored, by its id."""

    async def read(session_id: str) -> dict[str, Any] | None:
        collection: Any = database[COLLECTION]
        found: dict[str, Any] | None = await collection.find_one({"_id": session_id})
        return found

    return read


@pytest.fixture
def make_session(repository: SessionRepository, session_clock: MovedClock) -> SessionMaker:
    """Sessions in any status, each with a legal history."""
    return SessionMaker(repository, session_clock)
