"""The repository as a whole, and its opening: indexes verified, the server's clock learned."""

from collections.abc import Callable, Generator, Mapping
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Final, Self

from sessions.domain import inputs
from sessions.domain.errors import IndexesMissing, InvalidSessionInput
from sessions.repository.applying import Applying
from sessions.repository.binding import Binding
from sessions.repository.claims import Claims
from sessions.repository.creation import Creation
from sessions.repository.endings import Endings
from sessions.repository.lookups import Lookups
from sessions.repository.outcomes import Outcomes
from sessions.repository.sweeps import Sweeps
from sessions.repository.watching import Watching
from sessions.store.clients import Database
from sessions.store.clock import Clock, GivenClock, ServerClock, system_time
from sessions.store.collection import DuplicateKey
from sessions.store.document import COLLECTION, INDEXES, ROUTING_INDEX
from sessions.store.index_definitions import differences
from sessions.store.index_listing import NoPlainCollection, why_unfit_for_sessions
from sessions.store.observed_collection import ObservedCollection

DEFAULT_LEASE: Final = timedelta(seconds=60)
DEFAULT_MAX_ATTEMPTS: Final = 5
_MADE_ANEW: Final = "it must be made anew, as a collection without a default collation"


class SessionRepository(Creation, Lookups, Binding, Claims, Outcomes, Applying, Endings, Sweeps, Watching):
    """The sessions of one database; `open_repository` makes it.

    Every status change that succeeds is one atomic write; every refusal is a typed error that says why. A method's own
    text gives what differs from this.

    What the methods share:
        - ``session_id``: 1 to 64 characters. ``trigger_id``, ``preview_id``, ``candidate_id``, ``notification_id``: 1
          to 128. ``conversation_id``, ``reply_id``: 1 to 256. Instead of an optional one None clears the field.
        - ``user_id``: the owner, 1 to 2**63 - 1. Another user's session counts as missing.
        - ``operation_id``: names one call and all its retries, 1 to 64 characters; None for one of its own. A replay
          writes nothing and returns what the first one would.
        - ``claim``: what a claim or a renewal returned. Whoever holds it may write until another one took over, gave
          back or ended the session, whatever the clock says.
        - ``lease``: how long nobody else may work on the session, 1 ms to 7 days; None for the repository's.
        - ``expected_revision``: refuse if the session has been written since, from 1.
        - ``pending_question``: what the user is asked, at most 4,000 characters; ``missing_info``: at most 32 texts of
          at most 200 characters; ``reason``: for the history, at most 2,000 characters.
        - ``expires_at``: an aware moment still ahead, cut to the millisecond. An outcome that leaves it out keeps it,
          unless it has passed; None clears it.
        - ``limit``: at most so many sessions, 1 to 100,000.
        - ``client_session``: a session of the driver, to join the transaction that the caller has begun there. The
          driver's own errors then pass through, so that its ``with_transaction`` sees their labels and begins anew.
          What has lapsed and stands in the way is neither put back nor ended: the call is refused. A busy
          conversation, or a trigger that has its session already, aborts the transaction.

    What they return:
        A method that changes a session returns it as it stands after the call.

    Raises:
        InvalidSessionInput: An argument is outside its limits; nothing was sent.
        StoreUnavailable: No primary answered within the repository's ``timeout``.
        SessionNotFound: This user has no such session; of a holder's call: it is gone.
        LeaseLost: (A holder's call) the claim was taken over, given back or ended.
        SessionDamaged: The stored document cannot be read; lists and sweeps pass over it.
        TransitionConflict: Somebody was first; ``reason`` says how. ``operation_id_reused`` and ``raced`` can meet any
            call that changes a session.

    Round trips:
        One ``findAndModify`` for a change, one ``find`` for a lookup. A refusal or a replay of a change adds a
        ``find`` or two.
    """

    async def close(self) -> None:
        """Stop following changes and the server's clock; the client stays open, it is the caller's.

        May be called twice.
        """
        await self._close_feeds()
        await self._clock.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class Opening:
    """Awaited, it gives the repository; entered, it closes it at the end too."""

    def __init__(self, open_it: Callable[[], Generator[object, None, SessionRepository]]) -> None:
        self._open_it = open_it
        self._repository: SessionRepository | None = None

    def __await__(self) -> Generator[object, None, SessionRepository]:
        return self._open_it()

    async def __aenter__(self) -> SessionRepository:
        self._repository = await self
        return self._repository

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._repository is not None:
            await self._repository.close()


def open_repository(
    database: Database,
    *,
    create_indexes: bool = False,
    verify_indexes: bool = True,
    timeout: float = 5.0,
    lease: timedelta = DEFAULT_LEASE,
    max_attempts: int = DEFAULT_MAX_ATTEMPTS,
    clock: Callable[[], datetime] | None = None,
) -> Opening:
    """Open the sessions of a database: ``await`` it, or ``async with`` it.

    Args:
        database: A database of Motor, PyMongo Async or mongomock-motor; its options for codec, reads and writes
            are not used.
        create_indexes: Create all declared indexes, one at a time; for tests and demos.
        verify_indexes: Refuse a database without the governor index; with False the caller answers for it.
        timeout: How long a call may take, 0.001 to 3,600 seconds.
        lease: How long a claim lasts unless it says otherwise, 1 ms to 7 days.
        max_attempts: Reruns that may die without an outcome before the session fails, 1 to 1,000.
        clock: Returns the time as an aware datetime; None for the server's clock (the system's on the double).

    Returns:
        A repository, which is an async context manager too.

    Raises:
        InvalidSessionInput: An argument is outside its limits; nothing was sent.
        IndexesMissing: The governor index is missing, unfinished or another, or the collection is of a kind that
            cannot hold sessions; it says what differs.
        StoreUnavailable: No primary answered within ``timeout``.

    Round trips:
        One ``listIndexes``, a second one before indexes are created, and five ``hello``; none of these if a clock is
        given.
    """
    create = inputs.flag("create_indexes", create_indexes)
    verify = inputs.flag("verify_indexes", verify_indexes)
    checked_lease = inputs.duration("lease", lease)
    checked_attempts = inputs.integer("max_attempts", max_attempts)
    if clock is not None and not callable(clock):
        raise InvalidSessionInput("clock", "None, or a callable that returns an aware datetime")
    collection = ObservedCollection(database, timeout=inputs.seconds("timeout", timeout))

    async def opened() -> SessionRepository:
        if create:
            if verify:
                await _indexes_of(collection)  # so that nothing is created in a collection that is refused
            await _create_all(collection)
        if verify:
            _verify(await _indexes_of(collection))
        told: Clock
        if clock is not None or not collection.is_server:
            told = GivenClock(clock or system_time)
            told.now()
        else:
            server = ServerClock(collection)
            await server.start()
            told = server
        return SessionRepository(collection, told, lease=checked_lease, max_attempts=checked_attempts)

    return Opening(lambda: opened().__await__())


async def _create_all(collection: ObservedCollection) -> None:
    for index in INDEXES:
        try:
            await collection.create_index(index)
        except DuplicateKey as error:
            name = index.document["name"]
            raise IndexesMissing((f"index {name} cannot be built: sessions in the database violate it",)) from error


async def _indexes_of(collection: ObservedCollection) -> Mapping[str, Mapping[str, Any]]:
    """The indexes of a collection that can hold sessions."""
    try:
        present = await collection.indexes()
    except NoPlainCollection as error:
        raise IndexesMissing((f"{COLLECTION} is {error.kind}",), cure=_MADE_ANEW) from error
    if unfit := why_unfit_for_sessions(present):
        raise IndexesMissing((f"{COLLECTION}: {unfit}",), cure=_MADE_ANEW)
    return present


def _verify(present: Mapping[str, Mapping[str, Any]]) -> None:
    declared = next(dict(index.document) for index in INDEXES if index.document["name"] == ROUTING_INDEX)
    if found := differences(declared, present.get(ROUTING_INDEX)):
        raise IndexesMissing(found)
