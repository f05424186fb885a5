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
DATABASE: Final = "benchmark"
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
async def opened(driver: str, uri: str, *, database: str = DATABASE) -> AsyncIterator[Stack]:
    """The stack on an empty database of its own, which is dropped at the end."""
    recorder = Recorder()
    async with AsyncExitStack() as exits:
        client: Any = connect(uri, driver=driver)
        exits.push_async_callback(disconnect, client)
        listened: Any = connect(uri, driver=driver, listeners=[recorder])
        exits.push_async_callback(disconnect, listened)
        await client.drop_database(database)
        repository = await exits.enter_async_context(open_repository(client[database], create_indexes=True))
        heard = await exits.enter_async_context(open_repository(listened[database]))
        yield Stack(
            driver,
            uri,
            client[database],
            repository,
            plain_handle(client[database]),
            recorder,
            heard,
            plain_handle(listened[database]),
        )
        await client.drop_database(database)
