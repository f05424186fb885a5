"""Every writing method, its acknowledgements lost by the server's own fail points: carried out once, one entry each."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import timedelta
from random import Random
from typing import Any, Final, NamedTuple
from uuid import uuid4

from sessions import (
    ApplyClaim,
    AskUser,
    RerunClaim,
    SessionBridge,
    SessionRepository,
    SessionStatus,
    Turn,
    open_repository,
)
from sessions.domain.lifecycle import CallName, LeaseKind
from sessions.mongod import find_mongod, running_mongod
from sessions.store.clients import connect, disconnect
from sessions.store.document import COLLECTION
from sessions.testing import MovedClock, SessionMaker
from tests.contract.test_ambiguous_outcomes import CASES, FAILURES, WRITES, entries_expected
from tests.contract.test_random_calls import START, assert_legal_history
from tests.faults.campaign import Form, Setting, Tally, Unable
from tests.support.fail_points import failing
from tests.support.ready_call import ready_call

WITHIN: Final = 30.0
"""Seconds that a repository tries; a primary that pretends to go is looked for every half second."""
AT_ONCE: Final = 8
RENEWED: Final = frozenset({"handle", "refine", "confirm"})

SIZES: Final[Mapping[Form, int]] = {Form.SHORT: 1, Form.LONG: 12}
"""How often every method meets every failure."""


class Expected(NamedTuple):
    """One call, and what it leaves if it is carried out once."""

    name: str
    work: Callable[[], Awaitable[Any]]
    session_id: str
    revisions: int
    entries: int


class Doubted(NamedTuple):
    """A repository whose writes fail, and one for what prepares and looks on."""

    repository: SessionRepository
    bridge: SessionBridge
    make: SessionMaker
    collection: Any


async def _of_the_repository(doubted: Doubted, name: CallName, kind: LeaseKind | None) -> Expected:
    ready = await ready_call(doubted.make, name, kind=kind)
    # An interruption of a refinement tells first that it is none of a reply; a postponement has no entry.
    entries = 0 if name is CallName.POSTPONE else entries_expected(ready)
    return Expected(name.value, lambda: ready(doubted.repository), ready.session_id, 1, entries)


async def _of_the_bridge(doubted: Doubted) -> list[Expected]:
    make, bridge = doubted.make, doubted.bridge
    asked = await make(conversation_id=f"c-{uuid4().hex}")
    where = str(asked.conversation_id)
    changed, confirmed = await make(SessionStatus.READY_PREVIEW), await make(SessionStatus.READY_PREVIEW)
    dismissed, stopped = await make(), (await make.claim()).session
    new = await ready_call(make, CallName.CREATE)
    trigger = new.arguments["trigger_id"]
    # Which preview each offers is the session's own, so that the lambdas need no more than that.
    of_changed, of_confirmed = str(changed.current_preview_id), str(confirmed.current_preview_id)
    return [
        Expected("start", lambda: bridge.start(1, trigger, AskUser("Which?")), new.session_id, 1, 1),
        Expected("handle", lambda: bridge.handle(1, where, "Tuesday", message_id="m"), asked.session_id, 2, 2),
        Expected(
            "refine",
            lambda: bridge.refine(1, changed.session_id, "Later", preview_id=of_changed, message_id="m"),
            changed.session_id,
            2,
            2,
        ),
        Expected(
            "confirm",
            lambda: bridge.confirm(1, confirmed.session_id, preview_id=of_confirmed),
            confirmed.session_id,
            2,
            1,
        ),
        Expected("dismiss", lambda: bridge.dismiss(1, dismissed.session_id), dismissed.session_id, 1, 1),
        Expected("stop", lambda: bridge.stop(1, stopped.session_id), stopped.session_id, 1, 1),
    ]


def writing_methods() -> set[str]:
    """What is tried: each call of the table, the creations, and the bridge's methods."""
    bridge = {"start", "handle", "refine", "confirm", "dismiss", "stop"}
    return {name.value for name, _ in CASES} | bridge


async def _all(doubted: Doubted) -> list[Expected]:
    found = [await _of_the_repository(doubted, name, kind) for name, kind in CASES]
    return [*found, *await _of_the_bridge(doubted)]


async def _made(calls: list[Expected]) -> list[Any]:
    places = asyncio.Semaphore(AT_ONCE)

    async def one(call: Expected) -> Any:
        async with places:
            return await call.work()

    return await asyncio.gather(*map(one, calls))


def _wrongs(call: Expected, before: Any, after: Any, answer: Any) -> Iterator[str]:
    """How what is stored differs from one carrying out."""
    if after is None:
        yield f"{call.name}: nothing is stored"
        return
    assert_legal_history(after)
    revisions = after["revision"] - (before["revision"] if before else 0)
    entries = len(after["history"]) - (len(before["history"]) if before else 0)
    # Work that is held up renews its lease meanwhile, which leaves no entry.
    renewals = revisions - call.revisions if call.name in RENEWED and revisions > call.revisions else 0
    if (revisions - renewals, entries) != (call.revisions, call.entries):
        yield f"{call.name}: {revisions} revisions and {entries} entries"
    told = answer[0] if isinstance(answer, tuple) else answer
    session: Any = getattr(told, "session", told)
    if session.revision != after["revision"]:
        yield f"{call.name}: it answers revision {session.revision}, stored is {after['revision']}"
    if isinstance(told, RerunClaim | ApplyClaim) and told.token != after["fencing_token"]:
        yield f"{call.name}: its token is {told.token}"


async def lost(doubted: Doubted, operator: Any, name: str, way: str, random: Random) -> tuple[Counter[str], list[str]]:
    """Make every call while so many of the server's answers go wrong in one way."""
    calls = await _all(doubted)
    random.shuffle(calls)
    before = [await doubted.collection.find_one({"_id": call.session_id}) for call in calls]
    # A renewal of the very same moment would change nothing, and be known by that.
    doubted.make.clock.advance(seconds=1)
    times = random.randint(len(calls) // 2, len(calls) * 2)
    async with failing(operator, *WRITES, mode={"times": times}, appName=name, **FAILURES[way]):
        answers = await _made(calls)
    wrong = []
    for call, earlier, answer in zip(calls, before, answers, strict=True):
        stored = await doubted.collection.find_one({"_id": call.session_id})
        wrong += [f"{way}: {each}" for each in _wrongs(call, earlier, stored, answer)]
    return Counter({**{call.name: 1 for call in calls}, "lost answers": times}), wrong


async def on(setting: Setting, uri: str) -> tuple[Counter[str], list[str]]:
    """Every failure on a server."""
    random, name, clock = Random(setting.seed), f"lost-{uuid4().hex[:8]}", MovedClock(START)
    options = f"&retryWrites=false&retryReads=false&appName={name}&heartbeatFrequencyMS=500"
    client: Any = connect(f"{uri}{options}", driver=setting.driver)
    # Not the client that is failed: what switches the failures off has to come through.
    operator: Any = connect(uri, driver="pymongo")
    quiet: Any = connect(uri, driver=setting.driver)
    database = f"sessions_lost_{uuid4().hex[:12]}"

    async def rerun(_: Turn) -> AskUser:
        return AskUser("And?")

    async def write_back(_: ApplyClaim) -> None:
        """Written at once."""

    counted, wrong = Counter[str](), list[str]()
    lease = timedelta(minutes=5)
    try:
        async with (
            open_repository(quiet[database], create_indexes=True, clock=clock) as prepares,
            open_repository(client[database], clock=clock, timeout=WITHIN, lease=lease) as repository,
        ):
            bridge = SessionBridge(repository, rerun, write_back=write_back)
            doubted = Doubted(repository, bridge, SessionMaker(prepares, clock), quiet[database][COLLECTION])
            for _ in range(SIZES[setting.form]):
                for way in FAILURES:
                    found, told = await lost(doubted, operator[database], name, way, random)
                    counted += found
                    wrong += told
                    setting.advance()
                    await quiet[database][COLLECTION].delete_many({})
        await quiet.drop_database(database)
    finally:
        for each in (client, quiet, operator):
            await disconnect(each)
    return counted, wrong


async def run(setting: Setting) -> Tally:
    """On a server of its own."""
    if (binary := find_mongod()) is None:
        raise Unable("no mongod on PATH, and the `server` extra has none for this platform")
    async with running_mongod(binary) as uri:
        counted, wrong = await on(setting, uri)
    if wrong:
        raise AssertionError("\n".join(wrong))
    answers = counted.pop("lost answers")
    return {"calls": counted.total(), "answers lost": answers, "methods": len(counted), "lost": 0, "doubled": 0}
