"""A collection that tells of each write of this process, so that what a cache holds is right at once."""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple, Protocol
from weakref import WeakSet

from sessions.domain.errors import SessionRef
from sessions.store.clients import ClientSession, Database
from sessions.store.collection import DuplicateKey, SessionCollection, StoreCall
from sessions.store.requests import LOCAL
from sessions.store.updates import Filter, RawDocument
from sessions.store.writes import Write
from sessions.tasks import Finishing


class Doubt(NamedTuple):
    """Which sessions a write may have changed; what is not known of them is None or empty."""

    session_ids: Collection[str] = ()
    user_id: int | None = None
    conversation_id: str | None = None


class WriteObserver(Protocol):
    """Who is told of this process's writes; each method returns at once."""

    def wrote(self, document: Mapping[str, Any]) -> None:
        """A write was acknowledged and left this document."""

    def may_have_written(self, doubt: Doubt) -> None:
        """A write was acknowledged that told only of whom, or one ended without saying whether it was carried out."""


def _doubt_of(write: Write) -> Doubt:
    bound = write.update.get("$set", {}).get("conversation_id")
    return Doubt([write.filter["_id"]], write.filter["user_id"], bound)


class ObservedCall(StoreCall):
    """One call whose writes are told of; a failed write too, since it may have been carried out."""

    observers: "WeakSet[WriteObserver]"

    def _tell(self, document: RawDocument) -> None:
        if not len(self.observers):
            return
        # Within a caller's transaction nothing has happened before it commits; the stream tells of it then.
        if self.is_within:
            self._doubt(Doubt([document["_id"]], document["user_id"], document.get("conversation_id")))
            return
        for observer in list(self.observers):
            observer.wrote(document)

    def _doubt(self, doubt: Doubt) -> None:
        for observer in list(self.observers):
            observer.may_have_written(doubt)

    def _doubt_unless_refused(self, error: BaseException, doubt: Doubt) -> None:
        # What a first try has written unseen makes the second one fail, at its guard or at the index.
        if self.in_doubt or not isinstance(error, DuplicateKey):
            self._doubt(doubt)

    async def insert(self, document: RawDocument, *, about: SessionRef) -> None:
        """Store a new document, or raise `DuplicateKey`."""
        try:
            await super().insert(document, about=about)
        except BaseException as error:
            doubt = Doubt([document["_id"]], document["user_id"], document["conversation_id"])
            self._doubt_unless_refused(error, doubt)
            raise
        self._tell(document)

    async def find_one_and_update(self, write: Write, *, about: SessionRef) -> RawDocument | None:
        """Carry a guarded write out; the document after it without its history, or None if the guard fails."""
        try:
            stored = await super().find_one_and_update(write, about=about)
        except BaseException as error:
            self._doubt_unless_refused(error, _doubt_of(write))
            raise
        if stored is not None:
            self._tell(stored)
        elif self.in_doubt:
            self._doubt(_doubt_of(write))
        return stored

    async def update_many(self, write: Write) -> int:
        """Carry a sweep out; how many documents it changed."""
        try:
            return await super().update_many(write)
        finally:
            self._doubt(Doubt(write.filter["_id"]["$in"]))

    async def delete_many(self, conditions: Filter) -> int:
        """Delete; how many documents went."""
        try:
            return await super().delete_many(conditions)
        finally:
            self._doubt(Doubt(conditions["_id"]["$in"]))


class ObservedCollection(SessionCollection):
    """The repository's collection.

    Attributes:
        observers: Whoever is told of its writes, for as long as they exist.
    """

    def __init__(self, database: Database, *, timeout: float) -> None:
        super().__init__(database, timeout=timeout)
        self.observers: WeakSet[WriteObserver] = WeakSet()

    def for_one_call(
        self,
        client_session: ClientSession | None = None,
        *,
        finishing: Finishing | None = None,
        level: str = LOCAL,
    ) -> ObservedCall:
        """What one call sends by; see `SessionCollection.for_one_call`."""
        session = self._handles.checked_session(client_session)
        call = ObservedCall(self._handles, ends=self._ends(), session=session, finishing=finishing, level=level)
        call.observers = self.observers
        return call
