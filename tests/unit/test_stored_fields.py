"""A stored document is read at once, and field by field where that fails: the two ways never differ."""

import copy
import pickle
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta, timezone
from random import Random
from typing import Any, Final

import pytest
from bson import Binary, Decimal128, Int64, ObjectId
from bson.datetime_ms import DatetimeMS
from bson.son import SON
from bson.tz_util import utc as bson_utc
from pydantic import BaseModel

from sessions import (
    ActiveScheduleSessionSnapshot,
    ActiveScheduleSessionState,
    Lease,
    LeaseKind,
    SessionDamaged,
    SessionRepository,
    SessionStatus,
)
from sessions.store import reading
from sessions.store.stored_fields import KINDS, LONGEST, read_whole
from sessions.testing import MovedClock, SessionMaker

AT: Final = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
MUTATED_DOCUMENTS: Final = 5_000


class Word(str):
    """A text that is more than a text."""

    __slots__ = ()


class Moment(datetime):
    """A moment that is more than a moment."""


def a_document() -> dict[str, Any]:
    """A stored session with every field filled."""
    return {
        "_id": "s" * 32,
        "user_id": 7,
        "conversation_id": "chat",
        "trigger_id": "trigger",
        "current_preview_id": "preview",
        "status": "rerunning",
        "state": {
            "pending_question": "Which lesson, “Übung” or $5?",
            "missing_info": ["day", "hour"],
            "last_candidate_id": "candidate",
            "last_notification_id": "notification",
            "expires_at": AT,
            "failed_reason": "once",
        },
        "question_number": 3,
        "lease": {"kind": "reply", "operation_id": "op", "reply_id": "reply", "attempt": 1, "expires_at": AT},
        "fencing_token": 4,
        "attempts": 2,
        "answered_reply_ids": ["earlier"],
        "replaced_reply_ids": ["before it"],
        "replacements": 1,
        "revision": 7,
        "history": [{"to_status": "rerunning", "at": AT, "call": "claim_rerun"}],
        "created_at": AT,
        "updated_at": AT + timedelta(days=1),
    }


LIMITS: Final = sorted({0, 1, 200, 2_000, 4_000, *LONGEST.values()})
VALUES: Final[tuple[Any, ...]] = (
    *(None, True, False, 0, -1, 7, 2**63 - 1, 2**80, Int64(7), 1.0, 1.5, float("nan"), Decimal128("1"), "7"),
    *("x" * (longest + more) for longest in LIMITS for more in (0, 1)),
    *("ü" * 128, "ü" * 129, "👍" * 64, "👍" * 65),
    *(" x", "x\n", "\x1fx", "x\u00a0", "x\u200b", " ", "\x00", "x\x00y", "\ud800", "Übung", Word("word"), Word(" w ")),
    *(SessionStatus.APPLIED, LeaseKind.APPLY, "applied", "apply", "refinement", "APPLIED", "unknown"),
    *(b"bytes", Binary(b"x"), ObjectId("0" * 24)),
    *([], ["x"], ("x",), [" x ", "x", ""], ["x"] * 32, [f"{number}" for number in range(33)], ["x" * 201]),
    *([1], [None], [["x"]], [Word("w")], ["\x00"], {"x"}, frozenset({"x"}), range(2), {"x": 1}.keys()),
    *({}, {"x": "y"}, SON([("failed_reason", "r")]), {"kind": "apply", "operation_id": "o", "expires_at": AT}),
    *(ActiveScheduleSessionState(failed_reason="r"), Lease(kind=LeaseKind.REPLY, operation_id="o", expires_at=AT)),
    *(AT, AT.replace(tzinfo=None), AT.replace(tzinfo=bson_utc), AT.replace(tzinfo=timezone(timedelta(0)))),
    *(AT.astimezone(timezone(timedelta(hours=-5))), AT.replace(microsecond=678_901), AT.replace(fold=1)),
    *(datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC), AT.date(), AT.isoformat(), 1_700_000_000),
    *(datetime.min.replace(tzinfo=timezone(timedelta(hours=1))), Moment(2026, 1, 1, tzinfo=UTC), DatetimeMS(0)),
)
"""What can stand in any field: mostly what does not fit it."""
ABSENT: Final = object()
PATHS: Final = (*KINDS, "session_id", "later", "state.later", "lease.later")


def changed(document: Mapping[str, Any], path: str, value: object) -> dict[str, Any]:
    """A copy in which one field is another, or absent."""
    mutated = copy.copy(dict(document))
    *outer, name = path.split(".")
    holder = mutated
    for each in outer:
        if not isinstance(mutated.get(each), dict):
            return mutated
        holder = mutated[each] = dict(mutated[each])
    if value is ABSENT:
        holder.pop(name, None)
    else:
        holder[name] = value
    return mutated


def anatomy(value: object) -> object:
    """All that tells two values apart, the fields that were given and the kinds of all parts included."""
    if isinstance(value, BaseModel):
        parts = {name: anatomy(part) for name, part in value.__dict__.items()}
        return type(value), parts, list(parts), value.model_fields_set, value.model_extra
    if isinstance(value, tuple):
        return tuple, [anatomy(each) for each in value]
    return type(value), repr(value)


def check(document: dict[str, Any]) -> bool:
    """Read both ways, and compare; whether the quick way was enough."""
    quick = read_whole(document)
    try:
        slow = reading._read_by_field(document)
    except SessionDamaged:
        slow = None
    except UnicodeEncodeError:
        assert quick is None  # a lone surrogate, which no driver decodes
        return False
    assert quick is None or quick == slow
    assert quick is None or anatomy(quick) == anatomy(slow)
    return quick is not None


def test_a_whole_document_is_read_at_once() -> None:
    """The value is the one that the slow way gives, in all that can be done with it."""
    document = a_document()
    quick, slow = read_whole(document), reading._read_by_field(document)
    assert quick is not None
    assert anatomy(quick) == anatomy(slow)
    assert hash(quick) == hash(slow)
    assert repr(quick) == repr(slow)
    assert quick.model_dump_json() == slow.model_dump_json()
    assert anatomy(ActiveScheduleSessionSnapshot.model_validate_json(quick.model_dump_json())) == anatomy(
        ActiveScheduleSessionSnapshot.model_validate_json(slow.model_dump_json())
    )
    assert anatomy(pickle.loads(pickle.dumps(quick))) == anatomy(slow)  # noqa: S301 - made here
    assert anatomy(copy.deepcopy(quick)) == anatomy(slow)
    assert anatomy(quick.model_copy(update={"revision": 8})) == anatomy(slow.model_copy(update={"revision": 8}))
    assert quick.state.expires_at is not None
    assert quick.created_at.tzinfo is quick.state.expires_at.tzinfo is UTC


@pytest.mark.parametrize("path", PATHS)
def test_the_two_ways_agree_on_each_value(path: str) -> None:
    """Whatever stands in a field: what is read at once is what the slow way reads, and never more."""
    enough = [check(changed(a_document(), path, value)) for value in (*VALUES, ABSENT)]
    assert any(enough)


def test_the_two_ways_agree_on_documents_that_are_wrong_in_many_places() -> None:
    """The same where several fields are changed at once."""
    random = Random(12)
    enough = 0
    for _ in range(MUTATED_DOCUMENTS):
        document = a_document()
        for _ in range(random.randint(1, 5)):
            value = ABSENT if random.random() < 0.3 else random.choice(VALUES)
            document = changed(document, random.choice(PATHS), value)
        enough += check(document)
    assert enough > MUTATED_DOCUMENTS / 10


@pytest.fixture
def only_at_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A document that needs the slow way fails the test."""

    def refuse(raw: Mapping[str, Any]) -> ActiveScheduleSessionSnapshot:
        message = f"read field by field: {dict(raw)}"
        raise AssertionError(message)

    with monkeypatch.context() as patched:
        patched.setattr(reading, "_read_by_field", refuse)
        yield


@pytest.mark.needs("server")  # the double gives moments by a time zone of its own
async def test_what_the_repository_writes_is_read_at_once(
    only_at_once: None, repository: SessionRepository, make_session: SessionMaker, session_clock: MovedClock
) -> None:
    """Every status and every lease takes the quick way, by each driver: only other writers' documents do not."""
    for number, status in enumerate(SessionStatus):
        ends = session_clock() + timedelta(hours=1)
        session = await make_session(status, conversation_id=f"c-{number}", expires_at=ends)
        assert await repository.get(session.session_id, user_id=1) == session
    claim = await make_session.claim()
    asked = await repository.ask_again(claim, pending_question="And when?", missing_info=["day", "hour"])
    assert await repository.get(asked.session_id, user_id=1) == asked
    await make_session.refinement()
    await repository.complete_apply(await make_session.apply_claim())
