"""The Beanie document: for the user's own queries; it reads, and refuses to write.

Nothing else of the package needs Beanie, which takes longer to import than all the rest.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar, Final, NoReturn

from beanie import Document
from beanie.odm.queries.find import FindMany, FindOne
from pydantic import BaseModel, Field, model_validator
from pymongo import IndexModel

from sessions.domain.lifecycle import SessionStatus
from sessions.domain.models import ActiveScheduleSessionSnapshot, ActiveScheduleSessionState, Lease, UtcMoment
from sessions.store.document import COLLECTION, INDEXES

_OWN_METHOD: Final = {"insert": "create", "delete": "purge"}
_ANY_METHOD: Final = "create, claim_rerun, present_preview, apply, ignore and the like"


class WritesRefused(TypeError):
    """A write through the Beanie class would go round the lifecycle; the repository has a method for it."""

    def __init__(self, method: str) -> None:
        instead = next((own for verb, own in _OWN_METHOD.items() if method.startswith(verb)), _ANY_METHOD)
        super().__init__(
            f"ActiveScheduleSession.{method} would bypass the session's invariants: "
            f"use SessionRepository ({instead}) from sessions.open_repository"
        )


def _refusing(method: str) -> Callable[..., Any]:
    def refuse(*_arguments: object, **_options: object) -> NoReturn:
        raise WritesRefused(method)

    refuse.__name__ = method
    refuse.__doc__ = "Refused: see SessionRepository."
    return refuse


def _refuse_writes(kind: type, methods: tuple[str, ...]) -> None:
    for method in methods:
        if hasattr(kind, method):
            refuse = _refusing(method)
            setattr(kind, method, staticmethod(refuse) if issubclass(kind, Document) else refuse)


_QUERY_WRITES: Final = (
    *("update", "upsert", "update_one", "update_many", "update_all", "set", "inc", "current_date"),
    *("delete", "delete_one", "delete_many", "delete_all", "replace_one"),
)
_DOCUMENT_WRITES: Final = (
    *_QUERY_WRITES,
    *("insert", "insert_one", "insert_many", "create", "save", "save_changes", "replace", "replace_many"),
    "bulk_writer",
)


class ReadOnlyFindOne(FindOne["ActiveScheduleSession"]):
    """Beanie's query for one document, without its writes."""


class ReadOnlyFindMany(FindMany["ActiveScheduleSession"]):
    """Beanie's query for documents, without its writes."""


class StoredTransition(BaseModel):
    """One entry of the stored history."""

    to_status: SessionStatus
    at: UtcMoment
    reason: str = ""
    operation_id: str | None = None
    call: str


def _as_utc(stored: object) -> object:
    """Read a stored moment as what it is: the store keeps UTC, and a client without ``tz_aware`` drops the zone."""
    if isinstance(stored, datetime):
        return stored.replace(tzinfo=UTC) if stored.tzinfo is None else stored
    if isinstance(stored, Mapping):
        return {name: _as_utc(value) for name, value in stored.items()}
    return [_as_utc(value) for value in stored] if isinstance(stored, list) else stored


class ActiveScheduleSession(Document):
    """One active schedule session as it is stored; for the user's own queries, never for writes."""

    id: str  # type: ignore[assignment]  # Beanie declares an ObjectId; ours is derived from user and trigger
    user_id: int
    conversation_id: str | None = None
    trigger_id: str
    current_preview_id: str | None = None
    status: SessionStatus
    state: ActiveScheduleSessionState = ActiveScheduleSessionState()
    question_number: int = 0
    lease: Lease | None = None
    fencing_token: int = 0
    attempts: int = 0
    answered_reply_ids: list[str] = Field(default_factory=list)
    replaced_reply_ids: list[str] = Field(default_factory=list)
    replacements: int = 0
    revision: int
    history: list[StoredTransition] = Field(default_factory=list)
    created_at: UtcMoment
    updated_at: UtcMoment

    _find_one_query_class: ClassVar[type] = ReadOnlyFindOne
    _find_many_query_class: ClassVar[type] = ReadOnlyFindMany

    @model_validator(mode="before")
    @classmethod
    def _read_moments_as_utc(cls, stored: object) -> object:
        return _as_utc(stored)

    class Settings:
        """What Beanie reads: the collection and its indexes."""

        name = COLLECTION
        indexes: ClassVar[list[IndexModel]] = list(INDEXES)

    @property
    def session_id(self) -> str:
        """The name by which the rest of the library knows the id."""
        return self.id

    def snapshot(self) -> ActiveScheduleSessionSnapshot:
        """The same session as the value that the repository returns."""
        values = {name: getattr(self, name) for name in ActiveScheduleSessionSnapshot.model_fields}
        return ActiveScheduleSessionSnapshot.model_validate(values)


_refuse_writes(ActiveScheduleSession, _DOCUMENT_WRITES)
_refuse_writes(ReadOnlyFindOne, _QUERY_WRITES)
_refuse_writes(ReadOnlyFindMany, _QUERY_WRITES)
