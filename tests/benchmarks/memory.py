"""What the cache's entries take, by what Python allocates for them."""

import gc
import tracemalloc
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, Final

import bson
from bson.codec_options import CodecOptions

from sessions.cache.entries import Entries, Entry
from sessions.store.reading import to_snapshot
from tests.benchmarks.measuring import Advance, Effort, Figure, Row

AT: Final = datetime(2026, 1, 1, tzinfo=UTC)
_MEBIBYTE: Final = 2**20
_AIM: Final = 120.0
_AIMED: Final = 100_000
_CODEC: Final[CodecOptions[dict[str, Any]]] = CodecOptions(document_class=dict, tz_aware=True)


def governing(number: int) -> dict[str, Any]:
    """A session as a lookup finds it, with a question of usual length; nothing of it is shared with another's."""
    session = {
        "_id": f"{number:032x}",
        "user_id": number + 1,
        "conversation_id": f"conversation-{number}",
        "trigger_id": f"trigger-{number}",
        "current_preview_id": None,
        "status": "waiting_user_reply",
        "state": {"pending_question": f"Which of these days suits you for lesson {number}?"},
        "question_number": 1,
        "fencing_token": 0,
        "attempts": 0,
        "answered_reply_ids": [],
        "revision": 1,
        "created_at": AT,
        "updated_at": AT,
    }
    return bson.decode(bson.encode(session), _CODEC)


def taken_by(entries: int, *, governed: bool) -> int:
    """Bytes that a cache of so many entries takes."""
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    kept = Entries(entries)
    for number in range(entries):
        key = (number + 1, f"conversation-{number}")
        session = to_snapshot(governing(number)) if governed else None
        kept.keep(key, Entry(session, float(number)))
        session = None  # else the last one counts
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return after - before


async def memory(effort: Effort, advance: Advance) -> AsyncIterator[Row]:
    """Entries of both kinds."""
    for kind, governed in (("nobody governs", False), ("governed", True)):
        taken = taken_by(effort.entries, governed=governed)
        advance()
        aim = _AIM if governed and effort.entries == _AIMED else None
        yield Figure(f"{effort.entries:,} cached routes, {kind}", taken / _MEBIBYTE, "MiB", aim)
        yield Figure(f"one cached route, {kind}", taken / effort.entries, "bytes")
