"""Stored documents as values: what is absent or null reads as its default, and what cannot be read is named.

Rolling deployments, imports and repairs by hand leave documents that no repository has written so.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from cachetools import LRUCache
from pydantic import ValidationError

from sessions.domain.errors import SessionDamaged
from sessions.domain.models import ActiveScheduleSessionSnapshot, Transition
from sessions.log_events import LogEvent, log
from sessions.store.stored_fields import HISTORY, ID, KINDS, LEASE, LONGEST, NULLABLE, STATE, TEXTS_IN, read_whole
from sessions.store.updates import RawDocument

COUNTED_OR_NESTED: Final = (
    *("question_number", "fencing_token", "attempts", "answered_reply_ids", "replaced_reply_ids", "replacements"),
    *(HISTORY, LEASE, STATE),
)
"""Fields that an update counts up, appends to or reaches into; the server refuses that where they are null."""

_told: LRUCache[object, bool] = LRUCache(10_000)


def _is_wrong(path: str, value: object) -> bool:
    kind = KINDS.get(path)
    if kind is None:
        return False  # a newer release's own
    if not isinstance(value, kind) or isinstance(value, bool):
        return True
    if isinstance(value, str):
        return len(value) > LONGEST.get(path, len(value))
    return path in TEXTS_IN and isinstance(value, list | tuple) and not all(isinstance(item, str) for item in value)


def _filled(raw: Mapping[str, Any], prefix: str, wrong: list[str]) -> dict[str, Any]:
    """The fields that are not null, or may be; those that cannot be read are noted."""
    wrong += [prefix + name for name, value in raw.items() if value is not None and _is_wrong(prefix + name, value)]
    return {name: value for name, value in raw.items() if value is not None or prefix + name in NULLABLE}


def _damaged(raw: Mapping[str, Any], fields: Iterable[str]) -> SessionDamaged:
    session_id, user_id = raw.get(ID), raw.get("user_id")
    return SessionDamaged(
        session_id=None if _is_wrong(ID, session_id) else str(session_id),
        user_id=None if user_id is None or _is_wrong("user_id", user_id) else int(user_id),
        fields=tuple(dict.fromkeys(fields)),
    )


def to_snapshot(raw: Mapping[str, Any]) -> ActiveScheduleSessionSnapshot:
    """A stored document as a value; the history is left out.

    Raises:
        SessionDamaged: It cannot be read.
    """
    return read_whole(raw) or _read_by_field(raw)


def _read_by_field(raw: Mapping[str, Any]) -> ActiveScheduleSessionSnapshot:
    """The same for every document; it takes several times as long, and knows which fields are wrong."""
    wrong: list[str] = []
    values = _filled(raw, "", wrong)
    for name in (STATE, LEASE):
        if isinstance(held := values.get(name), dict):
            values[name] = _filled(held, f"{name}.", wrong)
    if wrong:
        raise _damaged(raw, wrong)
    values["session_id"] = values.pop(ID, None)
    values.pop(HISTORY, None)
    try:
        return ActiveScheduleSessionSnapshot.model_validate(values)
    except ValidationError as error:
        # Not as its cause: its text quotes the document.
        paths = [".".join(str(part) for part in each["loc"] if isinstance(part, str)) for each in error.errors()]
    raise _damaged(raw, [ID if path == "session_id" else path for path in paths])


def to_transitions(raw: Mapping[str, Any]) -> list[Transition]:
    """A stored history, each entry with the status before it.

    Raises:
        SessionDamaged: It cannot be read.
    """
    entries = raw.get(HISTORY) or []
    try:
        before = [None, *(entry["to_status"] for entry in entries)]
        return [
            Transition.model_validate(
                {name: value for name, value in {**entry, "from_status": came_from}.items() if value is not None}
            )
            for came_from, entry in zip(before, entries, strict=False)
        ]
    except (ValidationError, KeyError, TypeError):
        pass  # raised outside, so that no text of the document is its context
    raise _damaged(raw, [HISTORY])


def nulls_in(raw: Mapping[str, Any]) -> tuple[str, ...]:
    """The fields of a document that are null and keep an update from being carried out."""
    return tuple(name for name in COUNTED_OR_NESTED if name in raw and raw[name] is None)


def pass_over(error: SessionDamaged) -> None:
    """Log a document that harms nobody but its own session, once for each."""
    if error.session_id not in _told:
        _told[error.session_id] = True
        log(LogEvent.SESSION_DAMAGED, session_id=error.session_id, error=error)


def readable(found: Iterable[RawDocument]) -> Iterator[ActiveScheduleSessionSnapshot]:
    """The documents that can be read; the others are passed over."""
    for raw in found:
        try:
            yield to_snapshot(raw)
        except SessionDamaged as error:
            pass_over(error)
