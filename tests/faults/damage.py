"""Every field of a stored session, damaged by every kind that BSON has: the error names it, and nobody else notices.

Whether a field is damaged by a kind is decided here, by a table of what each may hold. A call on the session itself
ends in `SessionDamaged`, which names the session and the field and shows no value; lists, sweeps and a cache pass over.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Final, NamedTuple
from uuid import UUID, uuid4

from bson import Binary, Code, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.binary import UuidRepresentation
from bson.dbref import DBRef
from pymongo import WriteConcern
from pymongo.errors import OperationFailure

from sessions import CachedRouter, SessionDamaged, SessionError, SessionRepository, open_repository
from sessions.mongod import find_mongod, running_mongod
from sessions.store.clients import connect, disconnect
from sessions.store.document import COLLECTION
from sessions.store.stored_fields import KINDS as STORED
from sessions.testing import MovedClock, SessionMaker
from tests.faults.campaign import Form, Setting, Tally, Unable

START: Final = datetime(2026, 1, 1, tzinfo=UTC)
SECRET: Final = "SECRET"  # noqa: S105 - a text of a user
MINE, THEIRS = 1, 2

SIZES: Final[Mapping[Form, int]] = {Form.SHORT: 8, Form.LONG: 1}
"""Of so many damages one is done."""

VALUES: Final[Mapping[str, Any]] = {
    "double": 1.5,
    "not a number": float("nan"),
    "string": SECRET,
    "object": {SECRET: SECRET},
    "array": [SECRET],
    "array of numbers": [7],
    "array of arrays": [[SECRET]],
    "binary": Binary(SECRET.encode()),
    "uuid": Binary.from_uuid(UUID(int=7), UuidRepresentation.STANDARD),
    "object id": ObjectId(b"SECRETSECRET"),
    "bool": True,
    "date": START,
    "null": None,
    "regex": Regex(SECRET),
    "code": Code(SECRET),
    "code with scope": Code(SECRET, {SECRET: 1}),
    "int": 7,
    "long": Int64(2**62),
    "timestamp": Timestamp(1, 1),
    "decimal": Decimal128("1.5"),
    "min key": MinKey(),
    "max key": MaxKey(),
    "reference": DBRef(SECRET, 7),
    "too long a string": SECRET.ljust(5_000, "x"),
}
"""A value of each kind; what is deprecated since before MongoDB 6.0 no driver writes any more."""
_KINDS_OF: Final[Mapping[type, frozenset[str]]] = {
    # Code is read as its text.
    str: frozenset({"string", "code", "code with scope"}),
    int: frozenset({"int", "long"}),
    datetime: frozenset({"date"}),
    dict: frozenset({"object"}),
    list: frozenset({"array"}),
}
_REQUIRED: Final = frozenset({"user_id", "trigger_id", "status", "revision", "created_at", "updated_at"})
_LEASED: Final = frozenset({"lease.kind", "lease.operation_id", "lease.expires_at"})
"""What every lease has; a lease without is damaged."""
FIELDS: Final = tuple(field for field in STORED if field != "_id")
_ANYTHING_IN_IT: Final = frozenset({"state", "lease"})


def fits(field: str, kind: str) -> bool:
    """Whether a session can be read with such a value in a field."""
    if kind == "null":
        return field not in _REQUIRED | _LEASED
    if field in ("status", "lease.kind"):
        return False  # a word, but not one of theirs
    if field == "history":
        return False
    if field == "lease":
        return False  # an object, but without its parts
    holds = STORED[field]
    return any(
        kind in _KINDS_OF[each] for each in (holds if isinstance(holds, tuple) else (holds,)) if each in _KINDS_OF
    )


class Damage(NamedTuple):
    """One field that holds one value."""

    field: str
    kind: str

    @property
    def update(self) -> dict[str, Any]:
        """What does it."""
        return {"$set": {self.field: VALUES[self.kind]}}


def damages() -> Iterator[Damage]:
    """Each field by each kind that it cannot hold."""
    for field in FIELDS:
        yield from (Damage(field, kind) for kind in VALUES if not fits(field, kind))


Call = Callable[[SessionRepository, str], Awaitable[object]]
READING: Final[Mapping[str, Call]] = {
    "get": lambda r, id_: r.get(id_, user_id=MINE),
    "find_by_trigger": lambda r, _: r.find_by_trigger("trigger-1", user_id=MINE),
}
CALLS: Final[Mapping[str, Call]] = {
    **READING,
    # Its write may put the very field right.
    "record_notification": lambda r, id_: r.record_notification(id_, "n", user_id=MINE),
    "history": lambda r, id_: r.history(id_, user_id=MINE),
    "route": lambda r, _: r.route(MINE, "c"),
    "claim_rerun": lambda r, id_: r.claim_rerun(id_, user_id=MINE, reply_id="m"),
    "interrupt": lambda r, id_: r.interrupt(id_, user_id=MINE),
    "ignore": lambda r, id_: r.ignore(id_, user_id=MINE),
    "apply": lambda r, id_: r.apply(id_, user_id=MINE, preview_id="p"),
    "list_sessions": lambda r, _: r.list_sessions(MINE),
    "expire_due": lambda r, _: r.expire_due(),
    "recover_stalled": lambda r, _: r.recover_stalled(),
    "interrupted_applies": lambda r, _: r.interrupted_applies(),
    "count_by_status": lambda r, _: r.count_by_status(),
}


async def _told(call: Awaitable[object]) -> tuple[SessionError | None, str]:
    """How a call ends, with every text that it shows."""
    try:
        await call
    except SessionError as error:
        texts, behind = [], error.__cause__ or error.__context__
        texts.append(f"{error}{error!r}")
        while behind is not None and isinstance(error, SessionDamaged):
            texts.append(f"{behind}{behind!r}")
            behind = behind.__cause__ or behind.__context__
        return error, "".join(texts)
    return None, ""


class Place(NamedTuple):
    """One database with a session of mine that is damaged again and again, and one of theirs."""

    repository: SessionRepository
    collection: Any
    mine: Mapping[str, Any]
    their_session: Any
    router: CachedRouter


@asynccontextmanager
async def placed(client: Any) -> AsyncIterator[Place]:
    """With a reply that is worked on, so that there is a lease to damage."""
    database, clock = client[f"sessions_damaged_{uuid4().hex[:12]}"], MovedClock(START)
    async with (
        open_repository(database, create_indexes=True, clock=clock) as repository,
        CachedRouter(repository) as router,
    ):
        ends = START + timedelta(days=1)
        make = SessionMaker(repository, clock)
        claim = await make.claim(user_id=MINE, conversation_id="c", expires_at=ends)
        collection = database.get_collection(COLLECTION, write_concern=WriteConcern(1))
        whole = await collection.find_one({"_id": claim.session.session_id})
        theirs = await make(user_id=THEIRS, conversation_id="c")
        yield Place(repository, collection, whole, theirs, router)
    await client.drop_database(database.name)


async def done(place: Place, damage: Damage) -> list[str]:
    """Do a damage, and tell what is wrong with how it is met."""
    session_id, wrong = place.mine["_id"], list[str]()
    try:
        for name, call in CALLS.items():
            await place.collection.replace_one({"_id": session_id}, deepcopy(dict(place.mine)), upsert=True)
            await place.collection.update_one({"_id": session_id}, damage.update)
            error, texts = await _told(call(place.repository, session_id))
            wrong += [f"{name}, {damage}: {each}" for each in _wrongs(name, damage, error, texts, session_id)]
    except OperationFailure as refused:
        # The server has no place for two arrays in one of its indexes, nor for an array where a path goes on.
        told = str(refused)
        return [] if "array" in told or "Cannot create field" in told else [f"{damage}: {told}"]
    if await place.repository.get(place.their_session.session_id, user_id=THEIRS) != place.their_session:
        wrong.append(f"{damage}: another's session has changed")
    if (await place.router.route(THEIRS, "c")).session != place.their_session:
        wrong.append(f"{damage}: another's cached route is wrong")
    return wrong


def _wrongs(name: str, damage: Damage, error: SessionError | None, texts: str, session_id: str) -> Iterator[str]:
    if SECRET in texts:
        yield "it shows what is stored"
    if isinstance(error, SessionDamaged):
        if error.session_id != session_id:
            yield f"it names the session {error.session_id}"
        if not any(found.startswith(damage.field) or damage.field.startswith(found) for found in error.fields):
            yield f"it names {error.fields}"
    # By these the session is looked for, so that it is not found; its history is loaded by who asks for it.
    if (
        name in READING
        and damage.field not in ("user_id", "trigger_id", "history")
        and not isinstance(error, SessionDamaged)
    ):
        yield f"{error!r} instead of SessionDamaged"
    if name in ("list_sessions", "expire_due", "recover_stalled", "interrupted_applies") and error is not None:
        yield f"it does not pass over it: {error!r}"


async def on(setting: Setting, uri: str) -> tuple[Counter[str], list[str]]:
    """Every damage, or some, on a server: the double holds fewer kinds than BSON."""
    some = list(damages())
    chosen = Random(setting.seed).sample(some, max(1, len(some) // SIZES[setting.form]))
    client: Any = connect(uri, driver=setting.driver)
    counted, wrong = Counter[str](), list[str]()
    logger = logging.getLogger("sessions")
    told: list[str] = []
    hearing = logging.Handler()
    hearing.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]  # a handler of one line
    logger.addHandler(hearing)
    propagates, logger.propagate = logger.propagate, False
    try:
        async with placed(client) as place:
            for damage in chosen:
                wrong += await done(place, damage)
                counted[damage.field] += 1
                setting.advance()
    finally:
        logger.removeHandler(hearing)
        logger.propagate = propagates
        await disconnect(client)
    wrong += [f"logged: {each}" for each in told if SECRET in each]
    await asyncio.sleep(0)
    return counted, wrong


async def run(setting: Setting) -> Tally:
    """On a server of its own."""
    if (binary := find_mongod()) is None:
        raise Unable("no mongod on PATH, and the `server` extra has none for this platform")
    async with running_mongod(binary) as uri:
        counted, wrong = await on(setting, uri)
    if wrong:
        raise AssertionError("\n".join(wrong))
    return {"damages": counted.total(), "fields": len(counted), "calls": counted.total() * len(CALLS)}
