"""For tests: what the fixtures of the pytest plugin give, and a kit that finds the races of a worker.

The plugin is loaded by its entry point, with fixtures whose names begin with ``sessions_``. With
``pytest_plugins = ["sessions.testing"]`` the same ones have short names too.
"""

import pytest

from sessions.public_names import carry_module_name
from sessions.repository import SessionRepository
from sessions.store.clients import Database
from sessions.testing.backends import BACKENDS, Backend, StoredDocument, reader_of
from sessions.testing.clocks_apart import repositories_apart
from sessions.testing.commands import CommandCounter
from sessions.testing.deliveries import Handler, deliver_together
from sessions.testing.double import DoubleShowsNoRace
from sessions.testing.legal_history import assert_legal_history
from sessions.testing.lost_answers import lost_acknowledgements
from sessions.testing.maker import Given, MovedClock, SessionMaker
from sessions.testing.stops import stop_at_each_await

__all__ = [
    "BACKENDS",
    "Backend",
    "CommandCounter",
    "DoubleShowsNoRace",
    "Given",
    "Handler",
    "MovedClock",
    "SessionMaker",
    "StoredDocument",
    "assert_legal_history",
    "deliver_together",
    "lost_acknowledgements",
    "repositories_apart",
    "stop_at_each_await",
]

carry_module_name(globals())

pytest_plugins = ["sessions_pytest"]  # where the entry point has not loaded it


@pytest.fixture
def backend(sessions_backend: Backend) -> Backend:
    """Each backend in turn; one that lacks what the test ``needs`` is skipped by name."""
    return sessions_backend


@pytest.fixture(scope="session")
def mongod_uri(sessions_mongod_uri: str) -> str:
    """A real server for the run: MONGODB_URI, else a ``mongod`` of the run's own, else a skip that says so."""
    return sessions_mongod_uri


@pytest.fixture
def session_clock(sessions_clock: MovedClock) -> MovedClock:
    """A clock at the start of 2026, to be moved by the test."""
    return sessions_clock


@pytest.fixture
def command_counter(sessions_command_counter: CommandCounter) -> CommandCounter:
    """Counts the commands of the backend's client."""
    return sessions_command_counter


@pytest.fixture
def database(sessions_database: Database) -> Database:
    """An empty database of the test's own, removed after it."""
    return sessions_database


@pytest.fixture
def repository(sessions_repository: SessionRepository) -> SessionRepository:
    """A repository over an empty database of its own, on each backend in turn, by the moved clock."""
    return sessions_repository


@pytest.fixture
def stored(database: Database) -> StoredDocument:
    """Reads a session's document as it is stored, by its id."""
    return reader_of(database)


@pytest.fixture
def make_session(repository: SessionRepository, session_clock: MovedClock) -> SessionMaker:
    """Sessions in any status, each with a legal history."""
    return SessionMaker(repository, session_clock)
