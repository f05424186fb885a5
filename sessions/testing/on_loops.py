"""The fixtures that need an event loop, on the loop that the test runs on: each library for async tests has its own.

They are made for a loop when the first test on such a loop asks, so that nobody imports what they do not use.
"""

from collections.abc import AsyncIterator, Callable
from functools import partial
from types import ModuleType
from typing import Any, Final, TypeAlias
from uuid import uuid4

import pytest

from sessions.repository import SessionRepository, open_repository
from sessions.store.clients import Client, Database, connect, connect_double, disconnect
from sessions.store.document import COLLECTION, INDEXES
from sessions.testing.backends import Backend
from sessions.testing.commands import CommandCounter
from sessions.testing.maker import MovedClock

_ANYIO: Final = "anyio"
_Counted: TypeAlias = tuple[Client, CommandCounter]
_Decorating: TypeAlias = Callable[..., Callable[[Callable[..., AsyncIterator[Any]]], object]]


def client_of(request: pytest.FixtureRequest, backend: Backend) -> _Counted:
    """The backend's client on the test's loop, as long as that loop lives, and what counts its commands."""
    counter = CommandCounter()
    if not backend.is_real:
        return connect_double(), counter
    # Before the clients, so that it goes after them: a client that is closed later waits for its server in vain.
    uri: str = request.getfixturevalue("sessions_mongod_uri")
    clients: dict[str, _Counted] = on_the_loop(request, "clients")
    if backend.name not in clients:
        clients[backend.name] = (connect(uri, driver=backend.name, listeners=[counter]), counter)
    return clients[backend.name]


def on_the_loop(request: pytest.FixtureRequest, what: str) -> Any:
    """What one of the fixtures below gives on the test's loop: ``clients``, ``database`` or ``repository``."""
    loop = _loop_of(request)
    plugins, name = request.config.pluginmanager, f"sessions.testing on {loop}"
    if not plugins.hasplugin(name):
        plugins.register(_fixtures_on(loop), name)
    return request.getfixturevalue(_name(what, loop))


def _loop_of(request: pytest.FixtureRequest) -> str:
    """How long the test's loop lives by pytest-asyncio (``function`` to ``session``), or that it is anyio's."""
    marker = request.node.get_closest_marker("asyncio")
    if marker is None and "anyio_backend" in request.fixturenames:
        chosen: Any = request.getfixturevalue("anyio_backend")
        if (library := chosen if isinstance(chosen, str) else chosen[0]) != "asyncio":
            pytest.skip(f"MongoDB's drivers run on asyncio, not on {library}")
        return _ANYIO
    if not request.config.pluginmanager.hasplugin("asyncio"):
        pytest.fail(
            "nothing runs the async fixtures of sessions here: install pytest-asyncio, or mark the test with "
            "@pytest.mark.anyio",
            pytrace=False,
        )
    given = {} if marker is None else marker.kwargs
    return str(given.get("loop_scope") or request.config.getini("asyncio_default_test_loop_scope"))


def _name(what: str, loop: str) -> str:
    return f"_sessions_{what}_on_{loop}"


def _decorator(loop: str) -> _Decorating:
    if loop == _ANYIO:
        return pytest.fixture
    import pytest_asyncio  # noqa: PLC0415 - not where anyio runs the tests

    return partial(pytest_asyncio.fixture, loop_scope=loop)


def _fixtures_on(loop: str) -> ModuleType:
    """A plugin with the fixtures of one loop."""
    fixture = _decorator(loop)
    # With anyio a client of each test's own: how long its loop lives depends on who else uses it.
    lifetime = "function" if loop == _ANYIO else loop

    @fixture(name=_name("clients", loop), scope=lifetime)
    async def clients() -> AsyncIterator[dict[str, _Counted]]:
        connected: dict[str, _Counted] = {}
        yield connected
        for client, _ in connected.values():
            await disconnect(client)

    @fixture(name=_name("database", loop))
    async def database(_sessions_client: _Counted) -> AsyncIterator[Database]:
        client: Any = _sessions_client[0]
        name = f"sessions_test_{uuid4().hex[:16]}"
        yield client[name]
        await client.drop_database(name)

    @fixture(name=_name("repository", loop))
    async def repository(
        sessions_backend: Backend, sessions_database: Database, sessions_clock: MovedClock
    ) -> AsyncIterator[SessionRepository]:
        is_real = sessions_backend.is_real
        if is_real:  # all in one command, half the work; the double would lose their partial filters
            collection: Any = sessions_database[COLLECTION]
            await collection.create_indexes(list(INDEXES))
        async with open_repository(sessions_database, create_indexes=not is_real, clock=sessions_clock) as opened:
            yield opened

    plugin = ModuleType(f"sessions.testing on {loop}")
    vars(plugin).update(clients=clients, database=database, repository=repository)
    return plugin
