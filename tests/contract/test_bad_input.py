"""Bad input never reaches the server: it is refused by name, and nothing is written."""

import inspect
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, Final

import pytest

from sessions import (
    ApplyClaim,
    InvalidSessionInput,
    Lease,
    RerunClaim,
    SessionNotFound,
    SessionRepository,
    SessionStatus,
    open_repository,
)
from sessions.domain.lifecycle import CALLS, LeaseKind
from sessions.store.document import COLLECTION
from sessions.testing import MovedClock, SessionMaker, StoredDocument

if TYPE_CHECKING:
    from sessions.store.clients import Database

START: Final = datetime(2026, 1, 1, tzinfo=UTC)
LATER: Final = START + timedelta(days=1)
_LEASE: Final = Lease(kind=LeaseKind.REPLY, operation_id="op", reply_id="reply", expires_at=LATER)


@dataclass(frozen=True, slots=True)
class World:
    """What the valid arguments refer to: a question, a preview, and a reply that is being worked on."""

    asked: str
    ready: str
    preview_id: str
    claim: RerunClaim
    confirmed: ApplyClaim
    unique: str

    @classmethod
    async def of(cls, make_session: SessionMaker) -> "World":
        """A fresh one."""
        asked = await make_session()
        ready = await make_session(SessionStatus.READY_PREVIEW)
        assert ready.current_preview_id is not None
        return cls(
            asked=asked.session_id,
            ready=ready.session_id,
            preview_id=ready.current_preview_id,
            claim=await make_session.claim(),
            confirmed=await make_session.apply_claim(),
            unique=asked.trigger_id,
        )


def _creation(world: World) -> dict[str, Any]:
    return {
        "user_id": 1,
        "trigger_id": f"made-after-{world.unique}",
        "conversation_id": f"of-{world.unique}",
        "pending_question": "Which lesson?",
        "missing_info": ["room"],
        "preview_id": None,
        "candidate_id": "candidate",
        "notification_id": "notification",
        "expires_at": LATER,
        "ignored": False,
        "reason": "because",
        "operation_id": f"creates-after-{world.unique}",
    }


def _outcome(world: World, **given: Any) -> dict[str, Any]:
    return {"claim": world.claim, "operation_id": "records", **given}


def _ending(world: World, **given: Any) -> dict[str, Any]:
    return {"session_id": world.ready, "user_id": 1, "expected_revision": 1, "operation_id": "ends", **given}


def _claiming(**given: Any) -> dict[str, Any]:
    return {
        "user_id": 1,
        "reply_id": "reply",
        "lease": timedelta(seconds=5),
        "operation_id": "claims",
        **given,
    }


# Every argument of every public method, each within its limits.
VALID: Final[Mapping[str, Callable[[World], dict[str, Any]]]] = {
    "create": _creation,
    "get_or_create": _creation,
    "route": lambda _: {"user_id": 1, "conversation_id": "c"},
    "route_many": lambda _: {"user_id": 1, "conversation_ids": ["c"]},
    "get": lambda world: {"session_id": world.asked, "user_id": 1},
    "history": lambda world: {"session_id": world.asked, "user_id": 1},
    "latest": lambda _: {"user_id": 1, "conversation_id": "c"},
    "find_by_trigger": lambda _: {"trigger_id": "t", "user_id": 1},
    "find_by_preview": lambda _: {"preview_id": "p", "user_id": 1},
    "find_by_reply": lambda _: {"reply_id": "r", "user_id": 1, "conversation_id": "c"},
    "list_sessions": lambda _: {"user_id": 1, "statuses": [SessionStatus.APPLIED], "limit": 10, "after": None},
    "bind_conversation": lambda world: {
        "session_id": world.asked,
        "conversation_id": f"bound-{world.unique}",
        "user_id": 1,
        "notification_id": "notification",
        "expected_revision": 1,
    },
    "record_notification": lambda world: {"session_id": world.asked, "notification_id": "n", "user_id": 1},
    "claim_rerun": lambda world: _claiming(session_id=world.asked, question_number=1, replaces="gone"),
    "claim_refinement": lambda world: _claiming(
        session_id=world.ready, preview_id=world.preview_id, replaces=world.claim.session.lease
    ),
    "claim_apply": lambda world: {
        "session_id": world.ready,
        "user_id": 1,
        "preview_id": world.preview_id,
        "lease": timedelta(seconds=5),
        "operation_id": "claims",
    },
    "renew": lambda world: {"claim": world.claim},
    "release": lambda world: _outcome(world, reason="because", count_attempt=False),
    "postpone": lambda world: {"claim": world.confirmed, "after": timedelta(seconds=5)},
    "ask_again": lambda world: _outcome(
        world, pending_question="And?", missing_info=["room"], candidate_id="c", expires_at=LATER
    ),
    "present_preview": lambda world: _outcome(world, preview_id="new", candidate_id="c", expires_at=LATER),
    "close_rerun": lambda world: _outcome(world, reason="because"),
    "fail_rerun": lambda world: _outcome(world, reason="because"),
    "complete_apply": lambda world: {"claim": world.confirmed, "operation_id": "records"},
    "fail_apply": lambda world: {"claim": world.confirmed, "operation_id": "records", "reason": "because"},
    "interrupt": lambda world: {
        "session_id": world.claim.session.session_id,
        "user_id": 1,
        "reason": "because",
        "operation_id": "interrupts",
    },
    "apply": lambda world: _ending(world, preview_id=world.preview_id),
    "ignore": lambda world: _ending(world, reason="because"),
    "fail": lambda world: _ending(world, reason="because"),
    "expire_due": lambda _: {"limit": 10},
    "recover_stalled": lambda _: {"limit": 10},
    "interrupted_applies": lambda _: {"limit": 10},
    "purge": lambda _: {"ended_before": START, "limit": 10},
    "count_by_status": lambda _: {},
}

Kinds = dict[str, Any]


def _bad_identifier(longest: int) -> Kinds:
    return {
        "an integer": 7,
        "a bool": True,
        "bytes": b"abc",
        "a list": ["abc"],
        "an operator document": {"$ne": None},
        "a regular expression document": {"$regex": ".*"},
        "empty": "",
        "blank": " ",
        "white space before": " abc",
        "a newline after": "abc\n",
        "a no-break space after": "abc\u00a0",
        "NUL": "a\x00b",
        "a lone surrogate": "a\ud800b",
        "too long by one": "x" * (longest + 1),
    }


def _bad_integer(below: int) -> Kinds:
    return {
        "too small": below,
        "negative": -1,
        "2**63": 2**63,
        "a bool": True,
        "a float": 1.0,
        "not a number": float("nan"),
        "digits in a string": "1",
        "an operator document": {"$gt": 0},
        "a list of one": [1],
    }


def _bad_text(longest: int) -> Kinds:
    return {
        "an integer": 7,
        "a bool": True,
        "bytes": b"abc",
        "a list": ["abc"],
        "an operator document": {"$concat": ["$user_id"]},
        "NUL": "a\x00b",
        "a lone surrogate": "a\udfffb",
        "too long by one": "x" * (longest + 1),
    }


_BAD_MOMENT: Final[Kinds] = {
    "naive": datetime(2030, 1, 1),  # noqa: DTZ001 - the naive one is the case
    "a date": date(2030, 1, 1),
    "an ISO string": "2030-01-01T00:00:00Z",
    "seconds since 1970": 1_900_000_000,
    "a bool": True,
    "an operator document": {"$date": "2030-01-01T00:00:00Z"},
    "before the year 1 in UTC": datetime.min.replace(tzinfo=timezone(timedelta(hours=1))),
    "after the year 9999 in UTC": datetime.max.replace(tzinfo=timezone(timedelta(hours=-1))),
}


def _cursor(text: str) -> str:
    return urlsafe_b64encode(text.encode()).decode()


_BAD_DURATION: Final[Kinds] = {
    "zero": timedelta(0),
    "negative": timedelta(seconds=-1),
    "below a millisecond": timedelta(microseconds=999),
    "too long": timedelta(days=7, milliseconds=1),
    "seconds": 60,
    "a float": 60.0,
    "a string": "60",
    "a bool": True,
    "an operator document": {"$gt": 0},
}
_BAD_FLAG: Final[Kinds] = {"one": 1, "zero": 0, "a word": "yes", "empty": "", "an operator document": {"$ne": 1}}

BAD: Final[Mapping[str, Kinds]] = {
    "session_id": _bad_identifier(64),
    "conversation_id": _bad_identifier(256),
    "trigger_id": _bad_identifier(128),
    "preview_id": _bad_identifier(128),
    "candidate_id": _bad_identifier(128),
    "notification_id": _bad_identifier(128),
    "operation_id": _bad_identifier(64),
    "reply_id": _bad_identifier(256),
    "user_id": _bad_integer(0),
    "question_number": _bad_integer(-(2**63)),
    "expected_revision": _bad_integer(0),
    "limit": {**_bad_integer(0), "too many": 100_001},
    "pending_question": _bad_text(4_000),
    "reason": _bad_text(2_000),
    "missing_info": {
        "a string": "room",
        "bytes": b"room",
        "a set": {"room"},
        "a generator": (item for item in ["room"]),
        "an operator document": {"$each": ["room"]},
        "an integer": 7,
        "an integer in it": ["room", 7],
        "a bool in it": [True],
        "None in it": [None],
        "a list in it": [["room"]],
        "an operator document in it": [{"$ne": 1}],
        "NUL in it": ["a\x00b"],
        "a lone surrogate in it": ["\udc00"],
        "an item too long by one": ["x" * 201],
        "too many by one": ["x"] * 33,
    },
    "expires_at": {**_BAD_MOMENT, "passed": START - timedelta(milliseconds=1), "the present moment": START},
    "ended_before": _BAD_MOMENT,
    "ignored": _BAD_FLAG,
    "count_attempt": _BAD_FLAG,
    "lease": _BAD_DURATION,
    "replaces": {
        **_bad_identifier(64),
        "an apply lease": _LEASE.model_copy(update={"kind": LeaseKind.APPLY, "reply_id": None, "attempt": 1}),
        "a lease of an operator document": _LEASE.model_copy(update={"operation_id": {"$ne": None}}),
        "a lease for an operator document": _LEASE.model_copy(update={"reply_id": {"$ne": None}}),
        "a lease as a mapping": _LEASE.model_dump(),
    },
    "claim": {
        "an operation id": "claims",
        "a token": 1,
        "a bool": True,
        "an operator document": {"token": {"$gte": 0}},
        "a tuple": ("reply", 1),
    },
    "client_session": {
        "an id": "session",
        "a bool": True,
        "False": False,
        "an operator document": {"$ne": None},
        "a type": type,
    },
    "conversation_ids": {
        "a string": "c",
        "bytes": b"c",
        "an operator document": {"$ne": None},
        "a generator": (item for item in ["c"]),
        "an integer": 7,
        "too many by one": [f"c{number}" for number in range(1_001)],
        "an integer in it": ["c", 7],
        "a bool in it": [True],
        "None in it": [None],
        "empty in it": [""],
        "an operator document in it": [{"$ne": None}],
        "white space in it": ["c "],
        "NUL in it": ["\x00"],
        "an id too long by one": ["x" * 257],
    },
    "statuses": {
        "a name alone": "applied",
        "empty": [],
        "an unknown one": ["done"],
        "an integer in it": [7],
        "None in it": [None],
        "a list in it": [["applied"]],
        "an operator document in it": [{"$ne": "applied"}],
        "an operator document": {"$ne": "applied"},
        "a bool": True,
    },
    # Of a page a cursor, of `postpone` a length of time: what is bad for either is bad for both.
    "after": {
        **_BAD_DURATION,
        "an integer": 7,
        "bytes": b"abc",
        "an operator document": {"$gt": ""},
        "empty": "",
        "no base64": "not a cursor",
        "not ASCII": "é",
        "a lone surrogate": "\ud800",
        "too long": "A" * 516,
        "no JSON": _cursor("abc"),
        "not UTF-8": urlsafe_b64encode(b"\xff\xfe\xfd").decode(),
        "no list": _cursor("7"),
        "one item": _cursor("[1]"),
        "three items": _cursor('[1, "a", "b"]'),
        "a bool as its time": _cursor('[true, "a"]'),
        "a float as its time": _cursor('[1.5, "a"]'),
        "not a number as its time": _cursor('[NaN, "a"]'),
        "a time beyond all years": _cursor('[9223372036854775807, "a"]'),
        "an operator document as its id": _cursor('[1, {"$gt": ""}]'),
        "NUL in its id": _cursor('[1, "a\\u0000"]'),
        "a lone surrogate in its id": _cursor('[1, "\\ud800"]'),
        "nested without end": _cursor("[" * 300),
    },
}

# What only one method refuses: each a change of its valid arguments, and the argument that is named.
PARTICULAR: Final[tuple[tuple[str, dict[str, Any], str], ...]] = (
    *((name, {"pending_question": "", "missing_info": []}, "pending_question") for name in ("create", "get_or_create")),
    *(
        (name, {"pending_question": " ", "missing_info": ["\t"]}, "pending_question")
        for name in ("create", "ask_again")
    ),
    ("create", {"preview_id": "p"}, "pending_question"),
    ("create", {"ignored": True}, "pending_question"),
    (
        "get_or_create",
        {"pending_question": "", "missing_info": [], "preview_id": "p", "ignored": True},
        "pending_question",
    ),
    ("fail", {"reason": ""}, "reason"),
    ("fail", {"reason": " \n"}, "reason"),
    ("fail_rerun", {"reason": ""}, "reason"),
    ("fail_apply", {"reason": "\t"}, "reason"),
    ("list_sessions", {"limit": 1_001}, "limit"),
)

METHODS: Final = {
    name: method
    for name, method in inspect.getmembers(SessionRepository, inspect.iscoroutinefunction)
    if not name.startswith("_") and name != "close"
}


def _valid(method: str, world: World) -> dict[str, Any]:
    joins = "client_session" in inspect.signature(METHODS[method]).parameters
    return {**VALID[method](world), **({"client_session": None} if joins else {})}


def _bad_values(method: str, argument: str) -> Kinds:
    parameter = inspect.signature(METHODS[method]).parameters[argument]
    may_be_none = "None" in str(parameter.annotation)
    return BAD[argument] if may_be_none else {**BAD[argument], "None": None}


async def _everything(database: "Database") -> list[dict[str, Any]]:
    collection: Any = database[COLLECTION]
    found: list[dict[str, Any]] = await collection.find({}).sort("_id", 1).to_list(None)
    return found


def test_every_argument_of_every_public_method_has_its_bad_values() -> None:
    """A new method or argument cannot be forgotten here; far more than sixty kinds are tried."""
    assert VALID.keys() == METHODS.keys()
    arguments = {name for method in METHODS.values() for name in inspect.signature(method).parameters} - {"self"}
    assert arguments == BAD.keys()
    assert sum(len(kinds) for kinds in BAD.values()) >= 60


async def test_the_valid_arguments_are_valid(repository: SessionRepository, make_session: SessionMaker) -> None:
    """What the bad values replace one by one is accepted as a whole."""
    for name, method in METHODS.items():
        valid = _valid(name, await World.of(make_session))
        assert valid.keys() == inspect.signature(method).parameters.keys() - {"self"}
        await getattr(repository, name)(**valid)


async def test_each_bad_value_is_refused_by_name_and_nothing_changes(
    repository: SessionRepository, make_session: SessionMaker, database: "Database"
) -> None:
    """Whatever is wrong with an argument: `InvalidSessionInput` names it, and no document is touched."""
    world = await World.of(make_session)
    before = await _everything(database)
    wrong = []
    for name in METHODS:
        valid = _valid(name, world)
        bad = [
            (argument, {argument: value}, kind)
            for argument in valid
            for kind, value in _bad_values(name, argument).items()
        ]
        bad += [(argument, changes, str(changes)) for method, changes, argument in PARTICULAR if method == name]
        for argument, changes, kind in bad:
            try:
                answer = await getattr(repository, name)(**{**valid, **changes})
            except InvalidSessionInput as error:
                if error.argument != argument or not str(error).startswith(f"{argument} must be "):
                    wrong.append(f"{name}, {argument}: {kind} gave {error}")
            except Exception as error:  # noqa: BLE001 - each escape is listed, not only the first
                wrong.append(f"{name}, {argument}: {kind} gave {error!r}")
            else:
                wrong.append(f"{name}, {argument}: {kind} passed and gave {answer!r}")
    assert wrong == []
    assert await _everything(database) == before


async def test_the_present_preview_is_no_new_one(repository: SessionRepository, make_session: SessionMaker) -> None:
    """A changed preview needs another id than the one that it replaces."""
    claim = await make_session.refinement()
    current = claim.session.current_preview_id
    assert current is not None
    with pytest.raises(InvalidSessionInput) as caught:
        await repository.present_preview(claim, preview_id=current)
    assert caught.value.argument == "preview_id"


FORGED: Final[tuple[dict[str, Any], ...]] = (
    {"token": {"$gte": 0}},
    {"token": True},
    {"operation_id": {"$ne": None}},
    {"operation_id": ["claims"]},
    {"reply_id": {"$each": []}},
    {"reply_id": "x" * 257},
    {"kind": "other"},
    {"kind": LeaseKind.APPLY},
    {"lease": 60},
    {"session": None},
)


BY_HOLDER: Final[Mapping[str, dict[str, Any]]] = {
    "renew": {},
    "release": {},
    "postpone": {"after": timedelta(seconds=5)},
    "ask_again": {"pending_question": "And?"},
    "present_preview": {"preview_id": "new"},
    "close_rerun": {},
    "fail_rerun": {"reason": "it broke"},
    "complete_apply": {},
    "fail_apply": {"reason": "it broke"},
}


async def _refused_claims(
    repository: SessionRepository, claim: RerunClaim | ApplyClaim, forgeries: tuple[dict[str, Any], ...]
) -> list[str]:
    """What went wrong where each holder's call was given each forgery of a claim."""
    wrong = []
    for name, arguments in BY_HOLDER.items():
        for forged in forgeries:
            try:
                await getattr(repository, name)(replace(claim, **forged), **arguments)
            except InvalidSessionInput as error:
                if error.argument != "claim":
                    wrong.append(f"{name}, {forged}: named {error.argument}")
            except Exception as error:  # noqa: BLE001 - each escape is listed, not only the first
                wrong.append(f"{name}, {forged}: {error!r}")
            else:
                wrong.append(f"{name}, {forged}: passed")
    return wrong


async def test_a_forged_claim_smuggles_nothing_in(
    repository: SessionRepository, make_session: SessionMaker, stored: StoredDocument
) -> None:
    """A claim that was rebuilt from foreign data is checked like any other argument."""
    assert BY_HOLDER.keys() == {name.value for name, rule in CALLS.items() if rule.by_holder}
    within = ({"user_id": {"$gte": 1}}, {"user_id": True}, {"session_id": {"$ne": None}}, {"session_id": ["x"]})
    for claim in (await make_session.claim(), await make_session.apply_claim()):
        before = await stored(claim.session.session_id)
        unchecked = tuple({"session": claim.session.model_copy(update=update)} for update in within)
        forgeries = [
            forged
            for forged in (*FORGED, *unchecked)
            if "reply_id" not in forged or isinstance(claim, RerunClaim)
            if forged.get("kind") is not claim.kind
        ]
        assert await _refused_claims(repository, claim, tuple(forgeries)) == []
        assert await stored(claim.session.session_id) == before


async def test_a_claim_of_another_kind_is_no_claim(
    repository: SessionRepository, make_session: SessionMaker, stored: StoredDocument
) -> None:
    """A rerun's claim records no write-back, and a write-back's claim no rerun."""
    for claim in (await make_session.claim(), await make_session.refinement(), await make_session.apply_claim()):
        before = await stored(claim.session.session_id)
        for name, rule in CALLS.items():
            if rule.by_holder and claim.kind not in rule.held:
                with pytest.raises(InvalidSessionInput) as refusal:
                    await getattr(repository, name)(claim, **BY_HOLDER[name])
                assert refusal.value.argument == "claim"
        assert await stored(claim.session.session_id) == before


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("create_indexes", 1),
        ("verify_indexes", None),
        ("lease", 60),
        ("lease", timedelta(0)),
        ("max_attempts", 0),
        ("max_attempts", True),
        ("max_attempts", 1_001),
        ("timeout", 0),
        ("timeout", True),
        ("timeout", "5"),
        ("timeout", float("nan")),
        ("timeout", 3_601),
        ("clock", START),
        ("database", None),
        ("database", {"$ne": None}),
    ],
)
async def test_opening_refuses_what_is_outside_its_limits(database: "Database", argument: str, value: object) -> None:
    """The settings of a repository are checked like the arguments of its methods."""
    given: dict[str, Any] = {"database": database, argument: value}
    with pytest.raises(InvalidSessionInput) as caught:
        await open_repository(**given)
    assert caught.value.argument == argument


async def test_a_clock_that_tells_naive_times_is_refused(database: "Database") -> None:
    """A clock without a time zone is found out when the repository is opened."""
    with pytest.raises(InvalidSessionInput) as caught:
        await open_repository(database, create_indexes=True, clock=lambda: datetime(2026, 1, 1))  # noqa: DTZ001 - the case
    assert caught.value.argument == "clock"


PLANTED: Final = (
    "$",
    "$$NOW",
    "$user_id",
    "$5",
    "$5 for the lesson?",
    '{"$set": 1}',
    '{"$ne": null}',
    "state.pending_question",
    "a.b.$",
    "$$ROOT",
    "%s {0} {{x}}",
    "Ünïcødé \U0001f3b9 \u202e",
)


async def test_what_looks_like_an_operator_reads_back_as_given(
    repository: SessionRepository, session_clock: MovedClock
) -> None:
    """Texts and ids are data wherever they are planted, in creation and in every later call."""
    for planted in PLANTED:
        first = await repository.create(
            1,
            planted,
            conversation_id=planted,
            pending_question=planted,
            missing_info=[planted],
            candidate_id=planted,
            notification_id=planted,
            reason=planted,
            operation_id=planted,
        )
        found = await repository.find_by_trigger(planted, user_id=1)
        assert found == first
        assert (await repository.route(1, planted)).session == first
        assert (await repository.route_many(1, [planted]))[planted].session == first
        assert await repository.latest(1, planted) == first
        assert (first.trigger_id, first.conversation_id) == (planted, planted)
        assert first.state.pending_question == planted
        assert first.state.missing_info == (planted,)
        assert (first.state.last_candidate_id, first.state.last_notification_id) == (planted, planted)

        claim = await repository.claim_rerun(first.session_id, user_id=1, reply_id=planted, operation_id=f"{planted}1")
        assert (claim.reply_id, claim.operation_id) == (planted, f"{planted}1")
        asked = await repository.ask_again(
            claim,
            pending_question=f"{planted}?",
            missing_info=[planted, f"{planted}!"],
            candidate_id=f"{planted}c",
            operation_id=f"{planted}2",
        )
        assert asked.state.pending_question == f"{planted}?"
        assert asked.state.missing_info == (planted, f"{planted}!")
        assert asked.state.last_candidate_id == f"{planted}c"
        assert asked.answered_reply_ids == (planted,)
        claim = await repository.claim_rerun(
            first.session_id, user_id=1, reply_id=f"{planted}2", operation_id=f"{planted}3"
        )
        shown = await repository.present_preview(claim, preview_id=planted, operation_id=f"{planted}4")
        assert shown.current_preview_id == planted
        assert await repository.find_by_preview(planted, user_id=1) == shown
        noted = await repository.record_notification(first.session_id, f"{planted}n", user_id=1)
        assert noted.state.last_notification_id == f"{planted}n"
        failed = await repository.fail(first.session_id, user_id=1, reason=planted, operation_id=f"{planted}5")
        assert failed.state.failed_reason == planted
        assert await repository.get(first.session_id, user_id=1) == failed
        told = await repository.history(first.session_id, user_id=1)
        assert [entry.operation_id for entry in told] == [planted, *(f"{planted}{number}" for number in range(1, 6))]
        assert (told[0].reason, told[-1].reason) == (planted, planted)

        unbound = await repository.create(1, f"{planted}u", preview_id=f"{planted}p")
        bound = await repository.bind_conversation(
            unbound.session_id, f"{planted}b", user_id=1, notification_id=planted
        )
        assert (bound.conversation_id, bound.state.last_notification_id) == (f"{planted}b", planted)
        with pytest.raises(SessionNotFound):
            await repository.get(planted, user_id=1)
        session_clock.advance(seconds=1)


async def test_texts_at_their_limits_read_back_as_given(repository: SessionRepository) -> None:
    """The longest allowed values are stored whole, in characters and not in bytes."""
    long_id, longer_id = "\U0001f3b9" * 128, "é" * 256
    infos = [f"{number:02}" + "ü" * 198 for number in range(32)]
    made = await repository.create(
        2**63 - 1,
        long_id,
        conversation_id=longer_id,
        pending_question="\U0001f3b9" * 4_000,
        missing_info=infos,
        reason="é" * 2_000,
    )
    found = await repository.get(made.session_id, user_id=2**63 - 1)
    assert found.state.pending_question == "\U0001f3b9" * 4_000
    assert found.state.missing_info == tuple(infos)
    assert (found.trigger_id, found.conversation_id) == (long_id, longer_id)
    claim = await repository.claim_rerun(found.session_id, user_id=2**63 - 1, reply_id=longer_id)
    await repository.fail_rerun(claim, reason="é" * 2_000)
    assert (await repository.history(found.session_id, user_id=2**63 - 1))[-1].reason == "é" * 2_000
