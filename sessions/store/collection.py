"""The one collection, and what one call sends to it, over whichever driver is below.

Its errors become this library's by `driver_errors`; what may pass by itself is sent again until the time is up.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import pymongo
from pymongo import IndexModel, _csot
from pymongo.errors import (
    BulkWriteError,
    DuplicateKeyError,
    OperationFailure,
    PyMongoError,
    WriteConcernError,
    WriteError,
)

from sessions.backoff import Backoff
from sessions.domain.errors import SessionRef, StoreUnavailable, WriteOutcome
from sessions.steady_clock import steady
from sessions.store.change_stream import CLOSE_WITHIN, ChangeStream
from sessions.store.clients import ClientSession, Database
from sessions.store.driver_errors import (
    DriverFault,
    cause_of,
    following,
    is_bad_hint,
    known_of,
    may_pass,
    reason_of,
    update_is_refused,
)
from sessions.store.handles import DriverHandles, handles_of
from sessions.store.reads import Lookup
from sessions.store.requests import LOCAL, SETTLED, Request
from sessions.store.updates import Filter, RawDocument, Stage
from sessions.store.writes import Write
from sessions.tasks import Finishing, answered, forget, leave_behind, or_undone_later, to_the_end, until_done

Found = TypeVar("Found")

# The drivers look for a primary in steps of this length and notice a passed deadline only after one.
_SELECTION_STEP: Final = 0.5
_FIRST_PAUSE: Final = 0.005
_LONGEST_PAUSE: Final = 0.25
_LEAST_TIME: Final = 0.001


class DuplicateKey(Exception):
    """A unique index refused a write; it never leaves the package, the repository turns it into a refusal.

    Attributes:
        fields: The index's fields, by the structured ``keyPattern``; empty if the backend gives none.
    """

    def __init__(self, fields: frozenset[str]) -> None:
        super().__init__(sorted(fields))
        self.fields = fields


def _duplicate(error: DuplicateKeyError) -> DuplicateKey:
    return DuplicateKey(frozenset((error.details or {}).get("keyPattern", ())))


class UpdateRefused(Exception):
    """A field of the stored document is of a kind that the update cannot change; it never leaves the package."""


def _as_it_is(answer: Found) -> Found:
    return answer


class HintRefused(Exception):
    """The index that a lookup names is hidden or absent; it never leaves this module."""


class StoreCall:
    """All that one call sends: under one time limit, and in its caller's transaction.

    Attributes:
        in_doubt: Whether a write of this call may have happened unseen; from then on it reads what a majority has.
    """

    def __init__(
        self,
        handles: DriverHandles,
        *,
        ends: float,
        session: ClientSession | None = None,
        finishing: Finishing | None = None,
        level: str = LOCAL,
    ) -> None:
        self._handles = handles
        self._ends = ends
        self._session = session
        self._finishing = finishing
        self._wait = until_done if finishing is None else finishing.wait
        self._level = level
        self._requests = handles.requests(session)
        self.in_doubt = False

    @property
    def is_within(self) -> bool:
        """Whether the commands join a caller's session."""
        return self._session is not None

    @property
    def is_in_transaction(self) -> bool:
        """Whether what the commands do takes effect only by the caller's commit."""
        return self._session is not None and bool(self._session.in_transaction)

    def outside(self) -> "StoreCall":
        """The same without its caller's transaction, which a duplicate key has aborted."""
        return StoreCall(self._handles, ends=self._ends, finishing=self._finishing) if self.is_within else self

    async def send(
        self,
        request: Request[Found],
        *,
        about: Callable[[], SessionRef] = SessionRef,
        writes: bool = False,
        many: bool = False,
    ) -> Found:
        """What is answered to a request, sent again while its error may pass and there is time.

        Args:
            request: What to send.
            about: Makes the session for an error.
            writes: Whether it may leave a trace without an answer.
            many: Whether it may have changed some documents before another one was refused.

        Raises:
            DuplicateKey: A unique index refused the write.
            UpdateRefused: A field of the document is of another kind than the update asks for.
            HintRefused: The index that it names is hidden or absent.
            StoreUnavailable: There was no answer in time, or one that cannot pass.
        """
        if self.is_within:
            # The transaction's owner must see the driver's labels.
            return await self._sent_within(request)
        pauses: Backoff | None = None
        while True:
            left = max(self._ends - steady(), _LEAST_TIME)
            try:
                limit, grace = self._handles.time_limit(left)
                with limit:
                    return request.read(await self._answer(request, left, grace))
            except DuplicateKeyError as error:
                raise _duplicate(error) from error
            except PyMongoError as error:
                if isinstance(error, OperationFailure) and is_bad_hint(error):
                    raise HintRefused from error
                is_refused = writes and update_is_refused(error)
                if writes and (known_of(error) is WriteOutcome.UNKNOWN or (many and isinstance(error, WriteError))):
                    self.in_doubt = True
                pauses = pauses or Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
                pause = pauses.next()
                if not is_refused and (not may_pass(error) or steady() + pause >= self._ends):
                    raise self._unavailable(error, about()) from error
            except self._handles.kind_errors:
                is_refused = True
            if is_refused:
                # Raised out here, since the driver's error quotes the document.
                raise UpdateRefused
            await self._wait(asyncio.get_running_loop().create_future(), pause)

    async def _sent_within(self, request: Request[Found]) -> Found:
        left = max(self._ends - steady(), _LEAST_TIME)
        with pymongo.timeout(left):
            try:
                if self._finishing is None:
                    return request.read(await answered(request.start(left)))
                answering = asyncio.ensure_future(request.start(left))
                await self._finishing.wait(answering)
                return request.read(answering.result())
            except DuplicateKeyError as error:
                raise _duplicate(error) from error

    async def _answer(self, request: Request[Found], within: float, grace: float) -> Any:
        """What the driver answers within so many seconds; given up after a grace, whatever the driver does.

        A caller that is cancelled leaves at once unless the call is to be finished; the request ends by itself.

        Raises:
            DriverFault: It did not answer, or failed in a way that is none of its errors.
        """
        try:
            started = request.start(within)
            if self._finishing is None and self._handles.may_be_cancelled:
                async with asyncio.timeout(within + grace):
                    return await started
            return await self._waited_for(asyncio.ensure_future(started), within + grace)
        except (RuntimeError, OSError) as error:  # asyncio's TimeoutError is one of the latter
            raise DriverFault(type(error).__name__) from error

    async def _waited_for(self, answering: "asyncio.Future[Any]", within: float) -> Any:
        given_up_at = steady() + within
        try:
            await self._wait(answering, within)
        finally:
            if answering.done():
                forget(answering)  # a caller that is cancelled in the very turn of the answer does not look at it
            else:
                leave_behind(answering, until=given_up_at - steady())
        if answering.cancelled() and self._finishing is not None:
            raise DriverFault("the loop is closing")  # what came of it has to be known all the same
        if not answering.done():
            raise DriverFault("no answer")
        return answering.result()

    def _unavailable(self, error: PyMongoError, about: SessionRef) -> StoreUnavailable:
        outcome = WriteOutcome.UNKNOWN if self.in_doubt else WriteOutcome.NOT_WRITTEN
        can_pass = reason_of(error) is None
        return StoreUnavailable(about, outcome=outcome, cause=cause_of(error), may_pass=can_pass)

    async def find(self, lookup: Lookup) -> list[RawDocument]:
        """The documents of a lookup, by its hint if that index exists and is visible."""
        level = SETTLED if self.in_doubt else self._level
        # In a transaction a refused hint would abort it, so there the planner chooses.
        hint = None if self.is_in_transaction else self._handles.hint_of(lookup)
        if hint is not None:
            try:
                found = await self._find(lookup, hint, level)
            except HintRefused:
                self._handles.note_hint(hint, serves=False)
            else:
                self._handles.note_hint(hint, serves=True)
                return found
        return await self._find(lookup, None, level)

    def _find(self, lookup: Lookup, hint: str | None, level: str) -> Coroutine[Any, Any, list[RawDocument]]:
        return self.send(self._requests.find(lookup, hint=hint, level=level), about=lambda: lookup.about)

    async def find_one(self, lookup: Lookup) -> RawDocument | None:
        """The first document of a lookup, or None."""
        found = await self.find(lookup)
        return found[0] if found else None

    async def insert(self, document: RawDocument, *, about: SessionRef) -> None:
        """Store a new document, or raise `DuplicateKey`."""
        await self.send(self._requests.insert(document), about=lambda: about, writes=True)

    async def find_one_and_update(self, write: Write, *, about: SessionRef) -> RawDocument | None:
        """Carry a guarded write out; the document after it without its history, or None if the guard fails."""
        first = self._requests.find_one_and_update(write.filter, write.update)
        if not write.unless_done:
            return await self.send(first, about=lambda: about, writes=True)
        again = self._requests.find_one_and_update({**write.filter, **write.unless_done}, write.update)

        def start(within: float) -> Awaitable[Any]:
            return again.start(within) if self.in_doubt else first.start(within)

        return await self.send(Request(start, first.read), about=lambda: about, writes=True)

    async def update_many(self, write: Write) -> int:
        """Carry a sweep out; how many documents it changed."""
        return await self.send(self._requests.update_many(write), writes=True, many=True)

    async def delete_many(self, conditions: Filter) -> int:
        """Delete; how many documents went."""
        return await self.send(self._requests.delete_many(conditions), writes=True, many=True)

    async def aggregate(self, pipeline: list[Stage]) -> list[RawDocument]:
        """All documents of an aggregation."""
        return await self.send(self._requests.aggregate(pipeline))


class SessionCollection:
    """A collection handle of its own: UTC-aware, primary, ``w: majority``, whatever the client's options are.

    Attributes:
        timeout: Seconds within which a call is to end.
        is_server: Whether a server is below, rather than the in-memory double.
    """

    def __init__(self, database: Database, *, timeout: float) -> None:
        self._handles = handles_of(database)
        self.is_server = self._handles.is_server
        self.timeout = max(timeout - _SELECTION_STEP, timeout / 2)

    def for_one_call(
        self,
        client_session: ClientSession | None = None,
        *,
        finishing: Finishing | None = None,
        level: str = LOCAL,
    ) -> StoreCall:
        """What one call sends by.

        Args:
            client_session: The caller's transaction.
            finishing: Given for a call that writes: how it is carried to its end.
            level: The read concern of its lookups.
        """
        session = self._handles.checked_session(client_session)
        return StoreCall(self._handles, ends=self._ends(), session=session, finishing=finishing, level=level)

    def _ends(self) -> float:
        # The driver alone knows the caller's `pymongo.timeout`, and has no public name for what is left of it.
        left = _csot.remaining()
        return steady() + (self.timeout if left is None else min(self.timeout, max(left, _LEAST_TIME)))

    async def _send(self, start: Callable[[], Awaitable[Found]], *, writes: bool = False) -> Found:
        return await self.for_one_call().send(Request(lambda _: start(), _as_it_is), writes=writes)

    async def indexes(self) -> dict[str, dict[str, Any]]:
        """Each index by its name; one that is still being built carries its ``buildUUID``."""
        return await self._send(self._handles.indexes)

    async def create_index(self, index: IndexModel) -> None:
        """Create one index; several in one command lose their partial filters on the double."""
        options = dict(index.document)
        keys = list(dict(options.pop("key")).items())
        await self._send(lambda: self._handles.plain.create_index(keys, **options), writes=True)

    async def insert_many(self, documents: Sequence[RawDocument]) -> list[Mapping[str, Any]]:
        """Store new documents; one that is refused keeps none of the others out.

        Returns:
            What the server says of each that it refused: its place by ``index``, the error's ``code``, ``keyPattern``.
        """

        async def insert() -> list[Mapping[str, Any]]:
            try:
                await self._handles.plain.insert_many(documents, ordered=False)
            except BulkWriteError as error:
                details = error.details or {}
                if concerns := details.get("writeConcernErrors"):
                    raise WriteConcernError(
                        concerns[0].get("errmsg", ""), concerns[0].get("code"), concerns[0]
                    ) from error
                refused: list[Mapping[str, Any]] = details.get("writeErrors", [])
                return refused
            return []

        return await self._send(insert, writes=True)

    async def server_time(self) -> datetime:
        """What the server's clock says now."""
        answer = await self._send(lambda: self._handles.database.client.admin.command("hello"))
        told: datetime = answer["localTime"]
        return told if told.tzinfo else told.replace(tzinfo=UTC)

    def primary(self) -> object:
        """The address of the primary that the driver knows; costs no round trip."""
        return self._handles.primary()

    async def confirm_primary(self) -> None:
        """Return once a majority has confirmed the primary, and all that was ever acknowledged is committed on it."""
        await self.for_one_call(level=SETTLED).find(Lookup({"_id": ""}, projection={"_id": 1}))

    async def changes(self, resume_after: str | None, *, wait: float) -> ChangeStream:
        """Open a stream of changes, from a token or from now on; its reads wait so many seconds for a change.

        If the caller is cancelled meanwhile, a stream that was opened all the same is closed: the server would keep
        its cursor.
        """
        return await self._opened(lambda: self._handles.open_stream(resume_after, wait=wait), resume_after)

    async def check_token(self, token: str) -> None:
        """Return if the server takes it for a token of this collection; it reads none of the changes behind it."""
        stream = await self._opened(lambda: self._handles.open_stream(token, wait=0), token)
        await to_the_end(stream.close())

    async def _opened(self, opens: Callable[[], Awaitable[ChangeStream]], token: str | None) -> ChangeStream:
        with following(self._handles.plain.full_name, goes_on=token is not None):
            opening = self._send(opens)
            return await or_undone_later(opening, undo=ChangeStream.close, within=CLOSE_WITHIN)
