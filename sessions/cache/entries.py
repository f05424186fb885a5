"""What a cache of routes holds: who governs each conversation, the longest unused thrown out first."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple

from cachetools import LRUCache

from sessions.domain.models import ActiveScheduleSessionSnapshot, Route, RouteAction
from sessions.domain.routing import route_of

Key = tuple[int, str]
"""User and conversation."""

_MOST_OWN_WRITES: Final = 10_000


def key_in(document: Mapping[str, Any]) -> Key | None:
    """Whose conversation a stored session is bound to; None for what no repository has written.

    One that is bound to none has the empty conversation's key, which nothing is ever kept under.
    """
    user_id, conversation_id = document.get("user_id"), document.get("conversation_id")
    if not isinstance(user_id, int) or isinstance(user_id, bool):
        return None
    if conversation_id is None:
        return (user_id, "")
    return (user_id, conversation_id) if isinstance(conversation_id, str) else None


_NOBODY: Final = Route(RouteAction.FREE_CHAT)


class Entry(NamedTuple):
    """Who governs a conversation, as a lookup found it."""

    session: ActiveScheduleSessionSnapshot | None
    """None is nobody."""
    sent: float
    """When the lookup left, by the monotonic clock."""
    lasting: Route | None
    """The route, if no moment changes it."""


def to_entry(session: ActiveScheduleSessionSnapshot | None, *, sent: float, at: datetime) -> Entry:
    """What to keep of a lookup's answer."""
    if session is None:
        return Entry(None, sent, _NOBODY)
    is_timed = session.lease is not None or session.state.expires_at is not None
    return Entry(session, sent, None if is_timed else route_of(session, at))


class Entries:
    """Entries by conversation, and the conversation of each session in them.

    Attributes:
        evictions: How many entries have been thrown out.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._entries: LRUCache[Key, Entry] = LRUCache(most)
        # For events whose document is gone; it holds what the entries hold, and nothing else.
        self._key_of: dict[str, Key] = {}
        self.evictions = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._entries)

    def get(self, key: Key) -> Entry | None:
        """An entry, which is now the one used last."""
        return self._entries.get(key)

    def key_of(self, session_id: str) -> Key | None:
        """The conversation that this session governs, as far as is known."""
        return self._key_of.get(session_id)

    def keep(self, key: Key, entry: Entry) -> None:
        """Hold an entry in place of the one before."""
        self._forget(self._entries.pop(key, None))
        if len(self._entries) >= self._most:
            self._forget(self._entries.popitem()[1])
            self.evictions += 1
        self._entries[key] = entry
        if entry.session is not None:
            self._key_of[entry.session.session_id] = key

    def drop(self, key: Key) -> None:
        """Throw an entry out."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._forget(entry)
            self.evictions += 1

    def clear(self) -> None:
        """Throw everything out."""
        self.evictions += len(self._entries)
        self._entries = LRUCache(self._most)
        self._key_of = {}

    def _forget(self, entry: Entry | None) -> None:
        if entry is not None and entry.session is not None:
            self._key_of.pop(entry.session.session_id, None)


class OwnWrites:
    """This process's writes whose events are still to come.

    Such a write has thrown the entry out already, and what was looked up since shows it: its event need not do it
    again, which would cost a second lookup for one change.
    """

    def __init__(self) -> None:
        # The session's last revision of ours, and whether its creation was ours and is still to come.
        self._last: LRUCache[str, tuple[int, bool]] = LRUCache(_MOST_OWN_WRITES)

    def note(self, session_id: str, revision: int) -> None:
        """A write was acknowledged."""
        known, is_ours = self._last.get(session_id, (0, False))
        self._last[session_id] = (max(known, revision), is_ours or revision == 1)

    def covers(self, session_id: str, kind: str, revision: int | None) -> bool:
        """Whether the event was to be expected; the last one of them is then forgotten."""
        last, is_ours = self._last.get(session_id, (0, False))
        # A session that was purged and made again counts its revisions anew, beginning with an insert.
        if kind == "insert" and is_ours:
            if revision == last:
                del self._last[session_id]
            else:
                self._last[session_id] = (last, False)
            return True
        if kind == "update" and revision is not None and revision <= last:
            if revision == last:
                del self._last[session_id]
            return True
        self._last.pop(session_id, None)
        return False

    def clear(self) -> None:
        """Expect nothing."""
        self._last.clear()
