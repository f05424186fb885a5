"""What the session document declares, in the form that the rest of the tool needs. It asks no server."""

from collections.abc import Mapping
from typing import Any, Final

from beanie import Document

from sessions.store.beanie_document import ActiveScheduleSession
from sessions.store.document import COLLECTION, INDEXES, ROUTING_INDEX, SHARD_KEY
from sessions.store.index_definitions import keys_of
from sessions.store.index_listing import why_unfit_for_sessions

DEFAULT_DOCUMENTS: Final[tuple[type[Document], ...]] = (ActiveScheduleSession,)
GOVERNS: Final[Mapping[str, Any]] = next(
    dict(index.document["partialFilterExpression"]) for index in INDEXES if index.document["name"] == ROUTING_INDEX
)
"""The filter of the governor index, which fits each session that governs a conversation."""


def why_unfit(collection: str, present: Mapping[str, Mapping[str, Any]]) -> str | None:
    """What keeps this collection from holding what is declared for it, if it is that of the sessions."""
    unfit = why_unfit_for_sessions(present) if collection == COLLECTION else None
    return None if unfit is None else f"{unfit}: it must be made anew without one, and its documents copied"


def is_shard_key_index(collection: str, definition: Mapping[str, Any]) -> bool:
    """Whether this is the index of the session collection's own shard key, which counts as declared."""
    return collection == COLLECTION and keys_of(definition) == list(SHARD_KEY.items())
