"""The database that a command of this package works on, by its connection string, which is never told."""

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

from pymongo.errors import PyMongoError

from sessions.store.clients import UNUSABLE, Database, connect, disconnect

# To the end of the text, since a password may hold anything, even a blank.
_A_URI: Final = re.compile(r"mongodb(\+srv)?:.*", re.IGNORECASE | re.DOTALL)


class DatabaseNotNamed(ValueError):
    """No database can be made out; the text says what to name, and quotes nothing."""


def names_uri(text: str) -> bool:
    """Whether a text holds a connection string, or the beginning of one."""
    return _A_URI.search(text) is not None


def without_uri(text: str) -> str:
    """A text that can be printed: what may be a connection string is left out."""
    return _A_URI.sub("(a URI, not shown)", text)


@asynccontextmanager
async def named_database(uri: str | None, name: str | None, **options: Any) -> AsyncIterator[Database]:
    """A database until the end of the block; SIGTERM and SIGINT cancel the calling task meanwhile.

    Args:
        uri: The connection string; None for that of ``MONGODB_URI``.
        name: The database; None for the one that the connection string names.
        options: The driver's, above those of the connection string.

    Raises:
        DatabaseNotNamed: One of these is missing, or the driver does not accept it.
    """
    task = asyncio.current_task()
    # Cancelled rather than killed, so that what was begun is put in order. In a thread there are no signals.
    with suppress(NotImplementedError, RuntimeError, ValueError):
        for one in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(one, lambda: task and task.cancel())
    given = uri or os.environ.get("MONGODB_URI")
    if not given:
        raise DatabaseNotNamed("say which server: --uri, or the variable MONGODB_URI")
    try:
        client: Any = connect(given, **options)
    except UNUSABLE:
        raise DatabaseNotNamed(
            "MongoDB's driver does not accept this connection string, or can't read a TLS file that it names"
        ) from None
    try:
        try:
            database = client.get_default_database() if name is None else client[name]
        except PyMongoError:
            raise DatabaseNotNamed(
                "name the database: --database NAME, or at the end of the connection string"
            ) from None
        yield database
    finally:
        await disconnect(client)
