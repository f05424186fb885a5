"""A collection that tells of each write of this process, so that what a cache holds is right at once."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakSet

from sessions.domain.errors import SessionRef
from sessions.store.collection import DuplicateKey, SessionCollection
from sessions.store.writes import Write

if TYPE_CHECKING:
    from sessions.store.collection import Database


@dataclass(frozen=True, slots=True)
class Doubt:
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


class ObservedCollection(SessionCollection):
    """The repository's collection: a failed write is told of too, since it may have been carried out."""

    def __init__(self, database: "Database", *, timeout: float) -> None:
        super().__init__(database, timeout=timeout)
        self.observers: WeakSet[WriteObserver] = WeakSet()

    def _tell(self, document: Mapping[str, Any]) -> None:
        # Within a transaction of the caller's nothing has happened before he commits; the stream tells of it then.
        if self.is_within:
            self._doubt(Doubt([document["_id"]], document["user_id"], document.get("conversation_id")))
            return
        for observer in list(self.observers):
            observer.wrote(document)

    def _doubt(self, doubt: Doubt) -> None:
        for observer in list(self.observers):
            observer.may_have_written(doubt)

    async def insert(self, document: dict[str, Any], *, about: SessionRef) -> None:
        """Store a new document, or raise `DuplicateKey`."""
        try:
            await super().insert(document, about=about)
        except BaseException as error:
            if self._may_have_written(error):
                self._doubt(Doubt([document["_id"]], document["user_id"], document["conversation_id"]))
            raise
        self._tell(document)

    async def find_one_and_update(self, write: Write, *, about: SessionRef) -> dict[str, Any] | None:
        """Carry a guarded write out; the document after it without its history, or None where the guard fails."""
        bound = write.update.get("$set", {}).get("conversation_id")
        doubt = Doubt([write.filter["_id"]], write.filter["user_id"], bound)
        try:
            stored = await super().find_one_and_update(write, about=about)
        except BaseException as error:
            if self._may_have_written(error):
                self._doubt(doubt)
            raise
        if stored is not None:
            self._tell(stored)
        elif self.is_unclear:
            self._doubt(doubt)
        return stored

    def _may_have_written(self, error: BaseException) -> bool:
        # What a first try has written unseen makes the second one fail, at its guard or at the index.
        return self.is_unclear or not isinstance(error, DuplicateKey)

    async def update_many(self, write: Write) -> int:
        """Carry a sweep out; how many documents it changed."""
        try:
            return await super().update_many(write)
        finally:
            self._doubt(Doubt(write.filter["_id"]["$in"]))

    async def delete_many(self, conditions: dict[str, Any]) -> int:
        """Delete; how many documents went."""
        try:
            return await super().delete_many(conditions)
        finally:
            self._doubt(Doubt(conditions["_id"]["$in"]))
