"""One driver, ready to be measured: this library and the bare driver beside each other, on one client."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Final

from sessions import SessionRepository, open_repository
from sessions.store.clients import connect, disconnect
from tests.benchmarks.bare import Recorder, plain_handle

DRIVERS: Final = {"motor": "Motor", "pymongo": "PyMongo Async"}
DATABASE: Final = "sessions_benchmark"
# Ctrl-C on a terminal reaches the server too: what was under way does not wait for another one.
_SELECT_WITHIN_MS: Final = 5_000
BARE: Final = "bare driver"


def lacking(driver: str) -> str | None:
    """Why a driver cannot be measured here; None if it can."""
    if driver == "motor" and find_spec("motor") is None:
        return "Motor is not installed"
    return None


@dataclass(frozen=True, slots=True)
class Stack:
    """What is timed, and the same once more with a listener, whose calls are only compared.

    Attributes:
        repository: Ours, to be timed.
        bare: The driver's collection on the same client, to be timed.
    """

    driver: str
    uri: str
    database: Any
    repository: SessionRepository
    bare: Any
    recorder: Recorder
    heard: SessionRepository
    heard_bare: Any


@asynccontextmanager
async def connected(driver: str, uri: str, *, timeout: float = 5.0) -> AsyncIterator[Stack]:  # noqa: ASYNC109 - it is handed on
    """The stack on the database with its indexes, whatever is stored there.

    Args:
        driver: ``motor`` or ``pymongo``.
        uri: The server.
        timeout: The repository's.
    """
    recorder = Recorder()
    async with AsyncExitStack() as exits:
        client: Any = connect(uri, driver=driver, serverSelectionTimeoutMS=_SELECT_WITHIN_MS)
        exits.push_async_callback(disconnect, client)
        listened: Any = connect(uri, driver=driver, listeners=[recorder], serverSelectionTimeoutMS=_SELECT_WITHIN_MS)
        exits.push_async_callback(disconnect, listened)
        database, listened_to = client[DATABASE], listened[DATABASE]
        opening = open_repository(database, create_indexes=True, timeout=timeout)
        repository = await exits.enter_async_context(opening)
        heard = await exits.enter_async_context(open_repository(listened_to))
        yield Stack(
            driver, uri, database, repository, plain_handle(database), recorder, heard, plain_handle(listened_to)
        )


async def drop(driver: str, uri: str, *databases: str) -> None:
    """Remove databases."""
    client: Any = connect(uri, driver=driver, serverSelectionTimeoutMS=_SELECT_WITHIN_MS)
    for database in databases:
        await client.drop_database(database)
    await disconnect(client)


@asynccontextmanager
async def opened(driver: str, uri: str) -> AsyncIterator[Stack]:
    """The stack on an empty database, which is dropped at the end."""
    await drop(driver, uri, DATABASE)
    async with connected(driver, uri) as stack:
        yield stack
        await drop(driver, uri, DATABASE)
