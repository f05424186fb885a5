"""What a cache of routes holds: who governs each conversation, the longest unused thrown out first."""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from datetime import datetime
from itertools import chain
from typing import Any, Final, NamedTuple

from cachetools import LRUCache

from sessions.domain.models import ActiveScheduleSessionSnapshot, Route
from sessions.domain.routing import FREE_CHAT, NEVER, route_may_change, route_of

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
    # By its very type: BSON's code is a text too, but none that can be a key.
    return (user_id, conversation_id) if type(conversation_id) is str else None


_READY: Final = 1_000
"""How many entries are kept as they are served; each takes three times the memory of a packed one."""


class Packed(NamedTuple):
    """An entry that somebody governs, as small as it gets."""

    session_id: str
    sent: float
    json: bytes
    """The snapshot."""


class Entry:
    """Who governs a conversation, as a lookup found it.

    Attributes:
        session: None is nobody.
        sent: When the lookup left, by the monotonic clock.
        lasting: The route, if no moment changes it.
        packed: What the entry was unpacked from.
    """

    __slots__ = ("_route", "_since", "_until", "lasting", "packed", "sent", "session")

    def __init__(
        self, session: ActiveScheduleSessionSnapshot | None, sent: float, packed: Packed | None = None
    ) -> None:
        self.session = session
        self.sent = sent
        self.packed = packed
        self._route = FREE_CHAT
        self._since = self._until = NEVER
        if session is None:
            self.lasting: Route | None = FREE_CHAT
        elif session.lease is None and session.state.expires_at is None:
            self.lasting = route_of(session, NEVER)
        else:
            self.lasting = None

    def route(self, at: datetime) -> Route:
        """The route at a moment, worked out anew if it is not known to be the same then."""
        if not self._since <= at < self._until:
            self._route = route_of(self.session, at)
            # From then on only: a clock that is measured anew may be set back a little.
            self._since, self._until = at, route_may_change(self.session, at)
        return self._route


def _packed(entry: Entry) -> Entry | Packed:
    if entry.session is None or entry.packed is not None:
        return entry.packed or entry
    # Bytes, since one letter beyond Latin-1 would double the length of a str.
    json = entry.session.model_dump_json(exclude_unset=True).encode()
    return Packed(entry.session.session_id, entry.sent, json)


def _unpacked(kept: Entry | Packed) -> Entry:
    if isinstance(kept, Entry):
        return kept
    session = ActiveScheduleSessionSnapshot.model_validate_json(kept.json)
    return Entry(session, kept.sent, kept)


class Entries:
    """Entries by conversation, and the conversation of each session in them.

    Attributes:
        evictions: How many entries have been thrown out.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.evictions = 0
        self._begin()

    def _begin(self) -> None:
        # One order in two parts, from the longest unused on: all that is packed was used before all that is ready.
        self._packed: OrderedDict[Key, Entry | Packed] = OrderedDict()
        self._ready: OrderedDict[Key, Entry] = OrderedDict()
        # For events whose document is gone; it holds what the entries hold, and nothing else.
        self._key_of: dict[str, Key] = {}

    def __len__(self) -> int:
        return len(self._packed) + len(self._ready)

    def __iter__(self) -> Iterator[Key]:
        return chain(self._packed, self._ready)

    def get(self, key: Key) -> Entry | None:
        """An entry, which is now the one used last."""
        entry = self._ready.get(key)
        if entry is not None:
            self._ready.move_to_end(key)
            return entry
        kept = self._packed.pop(key, None)
        if kept is None:
            return None
        entry = _unpacked(kept)
        self._use(key, entry)
        return entry

    def _use(self, key: Key, entry: Entry) -> None:
        self._ready[key] = entry
        if len(self._ready) > _READY:
            unused, entry = self._ready.popitem(last=False)
            self._packed[unused] = _packed(entry)

    def key_of(self, session_id: str) -> Key | None:
        """The conversation that this session governs, as far as is known."""
        return self._key_of.get(session_id)

    def keep(self, key: Key, entry: Entry) -> None:
        """Hold an entry in place of the one before."""
        self._forget(self._pop(key))
        if len(self) >= self._most:
            self._forget((self._packed or self._ready).popitem(last=False)[1])
            self.evictions += 1
        self._use(key, entry)
        if entry.session is not None:
            self._key_of[entry.session.session_id] = key

    def drop(self, key: Key) -> None:
        """Throw an entry out."""
        kept = self._pop(key)
        if kept is not None:
            self._forget(kept)
            self.evictions += 1

    def clear(self) -> None:
        """Throw everything out."""
        self.evictions += len(self)
        self._begin()

    def _pop(self, key: Key) -> Entry | Packed | None:
        return self._ready.pop(key, None) or self._packed.pop(key, None)

    def _forget(self, kept: Entry | Packed | None) -> None:
        if isinstance(kept, Packed):
            self._key_of.pop(kept.session_id, None)
        elif kept is not None and kept.session is not None:
            self._key_of.pop(kept.session.session_id, None)


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
        if kind == "update" and revision is not None and 1 <= revision <= last:
            if revision == last:
                del self._last[session_id]
            return True
        self._last.pop(session_id, None)
        return False

    def clear(self) -> None:
        """Expect nothing."""
        self._last.clear()
