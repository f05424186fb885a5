"""The backends that tests run on: the in-memory double, and a server under each driver."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import pytest
from pymongo import MongoClient

from sessions.mongod import NO_MONGOD, find_mongod, running_mongod
from sessions.store.clients import UNUSABLE, Database
from sessions.store.document import COLLECTION

_ANSWERS_WITHIN_MS: Final = 10_000
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


def _must_answer(uri: str) -> None:
    """Fail once, in words, rather than in each test after the driver's half a minute."""
    try:
        with MongoClient[dict[str, Any]](uri, serverSelectionTimeoutMS=_ANSWERS_WITHIN_MS) as client:
            client.admin.command("ping")
    except UNUSABLE as error:
        told = f"the server of MONGODB_URI does not answer ({type(error).__name__}): start it, or unset the variable"
        pytest.fail(told, pytrace=False)


@contextmanager
def server_of_the_run(
    running: Callable[[Path], AbstractAsyncContextManager[str]] = running_mongod,
) -> Iterator[str]:
    """The URI of MONGODB_URI's server, else of a ``mongod`` that lives as long as the block; a skip without either."""
    if given := os.environ.get("MONGODB_URI"):
        _must_answer(given)
        yield given
        return
    if (binary := find_mongod()) is None:
        pytest.skip(f"no MONGODB_URI, {NO_MONGOD}")
    # On a loop in a thread of its own: that of the tests is whichever each of them runs on.
    with ThreadPoolExecutor(1, "sessions-mongod") as thread:
        runner, stack = asyncio.Runner(), AsyncExitStack()
        try:
            yield thread.submit(runner.run, stack.enter_async_context(running(binary))).result()
        finally:
            thread.submit(runner.run, stack.aclose()).result()
            thread.submit(runner.close).result()


StoredDocument = Callable[[str], Awaitable[dict[str, Any] | None]]


def reader_of(database: Database) -> StoredDocument:
    """Reads a session's document as it is stored, by its id."""

    async def read(session_id: str) -> dict[str, Any] | None:
        collection: Any = database[COLLECTION]
        found: dict[str, Any] | None = await collection.find_one({"_id": session_id})
        return found

    return read
