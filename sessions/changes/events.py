"""One change, as the server's stream tells it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, Final

from sessions.domain.models import ActiveScheduleSessionSnapshot
from sessions.store.reading import readable

_FOR_ALL: Final = frozenset({"drop", "rename", "dropDatabase", "invalidate"})


@dataclass(frozen=True)
class Event:
    """One change, as the stream tells it."""

    kind: str
    token: str
    """Tokens compare as texts in the order of the changes, those of an idle stream among them (*measured*)."""
    wall_time: datetime | None
    """The primary's clock when it was written."""
    session_id: str | None
    """None if the collection as a whole is concerned: it was dropped or renamed."""
    revision: int | None
    """What the change made of the session's revision."""
    document: Mapping[str, Any] | None
    """The session when the event was looked up, which may be later than the change; None if it is gone."""

    @property
    def is_latest(self) -> bool:
        """Whether the document is the one that this change made; else a later event tells of it."""
        return (
            self.document is not None and self.revision is not None and self.document.get("revision") == self.revision
        )

    @cached_property
    def snapshot(self) -> ActiveScheduleSessionSnapshot | None:
        """The document as a value, made once for all who want it; None for what no repository has written."""
        if self.document is None:
            return None
        return next(readable([dict(self.document)]), None)


def to_event(change: Mapping[str, Any]) -> Event:
    """A change as the server's stream gives it."""
    kind = str(change["operationType"])
    document = change.get("fullDocument")
    told = change.get("updateDescription", {}).get("updatedFields", {}) if kind == "update" else document or {}
    revision = told.get("revision")
    return Event(
        kind=kind,
        token=str(change["_id"]["_data"]),
        wall_time=change.get("wallTime"),
        session_id=None if kind in _FOR_ALL else str(change["documentKey"]["_id"]),
        # Anybody may write into the collection; what no repository has written has no revision.
        revision=revision if isinstance(revision, int) and not isinstance(revision, bool) else None,
        document=document,
    )


def ends_with(events: Sequence[Event]) -> bool:
    """Whether the stream ends with these: its collection was dropped or renamed."""
    return bool(events) and events[-1].kind == "invalidate"


def names_change(token: str) -> bool:
    """Whether a token is that of a change; others stand between two, and no change with them ever comes.

    Behind type and time (18 digits) and the version (4) stands the token's own type, which is 0 if there is none
    (*measured*).
    """
    return token[22:24] != "29"
