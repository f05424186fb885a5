"""Clients of whichever driver is below: Motor, PyMongo Async, or the in-memory double."""

from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias, Union

from pymongo.errors import PyMongoError

from sessions.extras import needs_extra

if TYPE_CHECKING:
    from motor.motor_asyncio import AsyncIOMotorClient, AsyncIOMotorClientSession, AsyncIOMotorDatabase
    from pymongo.asynchronous.client_session import AsyncClientSession
    from pymongo.asynchronous.database import AsyncDatabase
    from pymongo.asynchronous.mongo_client import AsyncMongoClient

# Quoted, since an application has one of the drivers only.
Database: TypeAlias = Union["AsyncIOMotorDatabase[dict[str, Any]]", "AsyncDatabase[dict[str, Any]]"]
Client: TypeAlias = Union["AsyncIOMotorClient[dict[str, Any]]", "AsyncMongoClient[dict[str, Any]]"]
ClientSession: TypeAlias = Union["AsyncIOMotorClientSession", "AsyncClientSession"]

UNUSABLE: Final = (PyMongoError, ValueError, TypeError, OSError)
"""What `connect` raises: a port that is no number is a ValueError, a TLS file that can't be read an OSError.

Their texts may hold parts of the connection string, so none of them is told or becomes a cause.
"""


def default_driver() -> str:
    """The driver that the installed Beanie line works with: Beanie 2 refuses a Motor client."""
    import beanie  # noqa: PLC0415 - nothing else here needs it, and it takes its time

    return "motor" if beanie.__version__.startswith("1.") else "pymongo"


def connect(uri: str, *, driver: str | None = None, listeners: Sequence[Any] = (), **options: Any) -> Client:
    """A client of ``motor`` or ``pymongo``, or of `default_driver`; ``options`` stand above those of the URI."""
    if (driver or default_driver()) == "motor":
        from motor.motor_asyncio import AsyncIOMotorClient  # noqa: PLC0415 - Motor is an extra

        return AsyncIOMotorClient(uri, event_listeners=list(listeners), **options)
    from pymongo import AsyncMongoClient  # noqa: PLC0415 - only if it is chosen

    return AsyncMongoClient(uri, event_listeners=list(listeners), **options)


def connect_double() -> Client:
    """The in-memory double; no atomicity, no indexes and no speed can be proved on it."""
    with needs_extra("testing", "The in-memory double"):
        from mongomock_motor import AsyncMongoMockClient  # noqa: PLC0415 - the double is for tests and demos only

    double: Client = AsyncMongoMockClient()
    return double


async def disconnect(client: Client) -> None:
    """Close a client of either driver."""
    closing: object = client.close()
    if isinstance(closing, Awaitable):
        await closing
