"""What a command works with: the database that it was given, and the sessions in it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sessions.cli.ending import CommandRefused
from sessions.repository import SessionRepository, open_repository
from sessions.repository.session_repository import DEFAULT_MAX_ATTEMPTS
from sessions.store.across_users import how_many
from sessions.store.clients import Database
from sessions.store.collection import SessionCollection
from sessions.store.named_database import DatabaseNotNamed, named_database
from sessions.store.reads import Lookup
from sessions.store.updates import Filter, RawDocument

_CONTACT_SECONDS: Final = 5.0
_CALL_SECONDS: Final = 60.0
"""How long one call may take: counting a large collection, or a batch on a busy server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """The sessions of one database.

    Attributes:
        database: The driver's.
        collection: Its sessions, whosever they are.
        repository: The same, for all that the library does.
        at: The server's time when the command began.
    """

    database: Database
    collection: SessionCollection
    repository: SessionRepository
    at: datetime

    async def find(self, lookup: Lookup) -> list[RawDocument]:
        """One batch of a lookup."""
        return await self.collection.for_one_call().find(lookup)

    async def count(self, conditions: Filter) -> int:
        """How many sessions fit."""
        return sum(found["count"] for found in await self.collection.for_one_call().aggregate(how_many(conditions)))


Work = Callable[[Desk], Awaitable[int]]


@asynccontextmanager
async def contact(uri: str | None, name: str | None) -> AsyncIterator[tuple[Database, datetime]]:
    """A database whose server answers, and the server's time."""
    try:
        async with named_database(uri, name) as database:
            # A server that is away is told of soon, however long a call may take.
            yield database, await SessionCollection(database, timeout=_CONTACT_SECONDS).server_time()
    except DatabaseNotNamed as error:
        raise CommandRefused(str(error)) from None


async def _at_desk(uri: str | None, name: str | None, work: Work, *, writes: bool, max_attempts: int) -> int:
    async with (
        contact(uri, name) as (database, at),
        open_repository(
            database, verify_indexes=writes, timeout=_CALL_SECONDS, max_attempts=max_attempts
        ) as repository,
    ):
        collection = SessionCollection(database, timeout=_CALL_SECONDS)
        return await work(Desk(database=database, collection=collection, repository=repository, at=at))


def at_desk(
    uri: str | None, name: str | None, work: Work, *, writes: bool = False, max_attempts: int = DEFAULT_MAX_ATTEMPTS
) -> int:
    """Do a command's work; its exit status.

    Args:
        uri: As `named_database` has it.
        name: The same.
        work: What the command does.
        writes: Whether it changes sessions, for which the database has to hold the governor index.
        max_attempts: As `open_repository` has it.
    """
    return asyncio.run(_at_desk(uri, name, work, writes=writes, max_attempts=max_attempts))
