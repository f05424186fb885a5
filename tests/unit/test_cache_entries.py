"""The entries of a cache: packed or not they say the same, the longest unused goes first, and time is not missed."""

from collections import OrderedDict
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Final

import pytest

from sessions import ActiveScheduleSessionSnapshot
from sessions.cache import entries
from sessions.cache.entries import Entries, Entry, Key
from sessions.domain.routing import route_of
from sessions.store.reading import to_snapshot

AT: Final = datetime(2026, 1, 1, tzinfo=UTC)
STEPS: Final = 5_000
MOST: Final = 6


def governing(number: int, **changes: Any) -> ActiveScheduleSessionSnapshot:
    """A session as a lookup finds it."""
    return to_snapshot(
        {
            "_id": f"session-{number}",
            "user_id": 1,
            "conversation_id": f"c-{number}",
            "trigger_id": f"trigger-{number}",
            "current_preview_id": None,
            "status": "waiting_user_reply",
            "state": {"pending_question": "Welche Übung, “A” или «Б»?", "missing_info": ["day"]},
            "question_number": 1,
            "answered_reply_ids": ["earlier"],
            "revision": 1,
            "created_at": AT,
            "updated_at": AT + timedelta(milliseconds=number),
            **changes,
        }
    )


def leased(kind: str, *, lapses: datetime, expires_at: datetime | None = None) -> ActiveScheduleSessionSnapshot:
    """One that somebody works on."""
    lease = {"kind": kind, "operation_id": "o", "reply_id": "r", "expires_at": lapses}
    return governing(1, status="rerunning", lease=lease, state={"expires_at": expires_at})


@pytest.mark.parametrize("ready", [0, 1, 3, 1_000])
def test_what_is_kept_is_what_the_longest_unused_left(monkeypatch: pytest.MonkeyPatch, ready: int) -> None:
    """However many are ready, the entries are those of one order of use, and come back as they were kept."""
    monkeypatch.setattr(entries, "_READY", ready)
    random, kept, model, evictions = Random(3), Entries(MOST), OrderedDict[Key, Entry](), 0
    for step in range(STEPS):
        number = random.randrange(10)
        key = (1, f"c-{number}")
        match random.choice(["get", "get", "keep", "keep", "drop", "clear" if step % 50 == 0 else "get"]):
            case "get":
                found = kept.get(key)
                assert (found is not None) == (key in model)
                if found is not None:
                    model.move_to_end(key)
                    assert (found.session, found.sent, found.lasting) == (
                        *(model[key].session, model[key].sent, model[key].lasting),
                    )
            case "keep":
                model.pop(key, None)
                if len(model) >= MOST:
                    model.popitem(last=False)
                    evictions += 1
                session = governing(number, revision=step + 1) if random.random() < 0.8 else None
                model[key] = Entry(session, float(step))
                kept.keep(key, Entry(session, float(step)))
            case "drop":
                evictions += model.pop(key, None) is not None
                kept.drop(key)
            case _:
                evictions += len(model)
                model.clear()
                kept.clear()
        assert list(kept) == list(model)
        assert (len(kept), kept.evictions) == (len(model), evictions)
        assert kept._key_of == {entry.session.session_id: key for key, entry in model.items() if entry.session}


def test_a_packed_session_is_the_one_that_was_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each field comes back, and which fields the document had."""
    monkeypatch.setattr(entries, "_READY", 0)
    session, kept = leased("reply", lapses=AT + timedelta(minutes=1), expires_at=AT + timedelta(days=1)), Entries(1)
    kept.keep((1, "c-1"), Entry(session, 1.5))
    assert isinstance(kept._packed[1, "c-1"], entries.Packed)
    for _ in range(3):
        found = kept.get((1, "c-1"))
        assert found is not None
        assert (found.session, found.sent) == (session, 1.5)
        assert found.session is not None
        assert found.session.model_fields_set == session.model_fields_set
        assert found.session.created_at.tzinfo is UTC


@pytest.mark.parametrize("kind", ["reply", "refinement"])
@pytest.mark.parametrize("expires", [-1, 30, 60, 90, None])
def test_a_route_changes_at_its_moment(kind: str, expires: int | None) -> None:
    """A lease that lapses and a session that expires change the route at that moment, and so does a clock set back."""
    ends = None if expires is None else AT + timedelta(seconds=expires)
    session = leased(kind, lapses=AT + timedelta(seconds=60), expires_at=ends)
    entry, random = Entry(session, 0.0), Random(4)
    assert entry.lasting is None
    moments = [AT + timedelta(seconds=whole, milliseconds=part) for whole in range(100) for part in (-1, 0, 1)]
    for at in (*moments, *random.choices(moments, k=1_000)):
        assert entry.route(at) == route_of(session, at)


def test_a_session_without_moments_lasts() -> None:
    """Neither a lease nor an end: the route is known without asking a clock."""
    session = governing(1)
    assert Entry(session, 0.0).lasting == route_of(session, AT)
    assert Entry(None, 0.0).lasting == route_of(None, AT)
