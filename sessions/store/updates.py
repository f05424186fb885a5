"""The one way in which a write changes a session: a collector of classic update operators."""

from datetime import datetime
from typing import Any, Final

from sessions.domain.lifecycle import LIFECYCLE, CallName, SessionStatus

HISTORY_KEPT: Final = 32

Filter = dict[str, Any]
"""Which documents, as the server reads it."""
UpdateOperators = dict[str, Any]
"""What to change, by operator."""
RawDocument = dict[str, Any]
"""A document, or a part of one, as it is stored."""
Stage = dict[str, Any]
"""One stage of an aggregation."""


def entry(call: CallName, to_status: SessionStatus, at: datetime, reason: str, operation_id: str | None) -> RawDocument:
    """What the history keeps of one change of status or one take-over."""
    return {"to_status": to_status.value, "at": at, "reason": reason, "operation_id": operation_id, "call": call.value}


class Update:
    """Collects one classic update; every write counts the revision and moves ``updated_at`` forward only."""

    def __init__(self, at: datetime) -> None:
        self._at = at
        self._set: RawDocument = {}
        self._unset: RawDocument = {}
        self._inc: RawDocument = {"revision": 1}
        self._push: RawDocument = {}
        self._max: RawDocument = {"updated_at": at}

    def set(self, path: str, value: object) -> None:
        """Set a field; an empty value of the state removes it."""
        if value in (None, "", []) and path.startswith("state."):
            self._set.pop(path, None)
            self._unset[path] = ""
        else:
            self._unset.pop(path, None)
            self._set[path] = value

    def drop_lease(self) -> None:
        """Nobody works on it any more."""
        self._unset["lease"] = ""

    def lease(self, lease: RawDocument) -> None:
        """Somebody works on it."""
        self._set["lease"] = lease

    def renew_until(self, until: datetime) -> None:
        """Put the lease's expiry off, never forward."""
        self._max["lease.expires_at"] = until

    def add(self, path: str, amount: int) -> None:
        """Count."""
        self._inc[path] = amount

    def append(self, path: str, item: object, *, kept: int) -> None:
        """Append to a bounded list."""
        self._push[path] = {"$each": [item], "$slice": -kept}

    def enter(self, status: SessionStatus, by: CallName, *, reason: str = "", operation_id: str | None = None) -> None:
        """Change the status, and keep that in the history."""
        self._set["status"] = status.value
        self.append("history", entry(by, status, self._at, reason, operation_id), kept=HISTORY_KEPT)

    def clear_for(self, status: SessionStatus) -> None:
        """Empty what a status has no use for."""
        for path in LIFECYCLE[status].clears:
            self.set(path, None)

    def build(self) -> UpdateOperators:
        """The update, without empty operators."""
        operators = {
            "$set": self._set,
            "$unset": self._unset,
            "$inc": self._inc,
            "$max": self._max,
            "$push": self._push,
        }
        return {operator: changes for operator, changes in operators.items() if changes}
