"""Every public method, cancelled at a random moment: it has happened whole or not at all, and nothing is left behind.

By asyncio's own cancellation, and by a cancel scope of anyio, which cancels again at each turn of the loop.
"""

import asyncio
import gc
import inspect
import logging
import sys
import warnings
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from random import Random
from types import FunctionType
from typing import Any, Final, NamedTuple
from uuid import uuid4

import anyio
from pymongo.monitoring import ConnectionPoolListener

from sessions import (
    ApplyClaim,
    AskUser,
    RerunClaim,
    SessionBridge,
    SessionRepository,
    SessionStatus,
    Turn,
    WatchInterrupted,
    open_repository,
    tasks,
)
from sessions.domain.lifecycle import CALLS, CallName, LeaseKind
from sessions.mongod import find_mongod, running_mongod
from sessions.store.clients import connect, connect_double, disconnect
from sessions.store.document import COLLECTION
from sessions.testing import MovedClock, SessionMaker
from tests.contract.test_cancellation import assert_whole
from tests.contract.test_random_calls import assert_legal_history
from tests.faults.campaign import Form, Setting, Tally, Unable
from tests.support.lookups_and_sweeps import LOOKUPS
from tests.support.ready_call import ready_call

START: Final = datetime(2026, 1, 1, tzinfo=UTC)
TURNS: Final = 45
"""A call on the double takes at most so many turns of the loop."""
MOMENT: Final = 0.006
"""Seconds that a call takes on a server."""
SETTLED_WITHIN: Final = 10.0
Document = dict[str, Any] | None


class Size(NamedTuple):
    """How often each method is cancelled, of each way."""

    on_the_double: int
    on_a_server: int


SIZES: Final[Mapping[Form, Size]] = {Form.SHORT: Size(3, 1), Form.LONG: Size(70, 35)}


class Cancelling(NamedTuple):
    """One call that is about to be cancelled."""

    work: Callable[[], Awaitable[object]]
    session_id: str
    whole: Callable[[Document, Document, object], None] = lambda *_: None
    """Asserts that it has happened whole or not at all: by the document before, after, and its answer."""


class Scene(NamedTuple):
    """Where calls are made."""

    repository: SessionRepository
    make: SessionMaker
    bridge: SessionBridge
    began: list[str]
    """Sessions whose write-back began."""
    is_real: bool


Way = Callable[[Scene], Awaitable[Cancelling]]


# --- what is cancelled ------------------------------------------------------------------------------------------


def _writing(name: CallName, kind: LeaseKind | None = None) -> Way:
    async def way(scene: Scene) -> Cancelling:
        ready = await ready_call(scene.make, name, kind=kind)

        def whole(before: Document, after: Document, answer: object) -> None:
            if isinstance(answer, RerunClaim | ApplyClaim) and CALLS[name].is_claim:
                assert after is not None
                assert after["lease"]["operation_id"] == answer.operation_id
                return
            assert_whole(ready, before, after)

        return Cancelling(lambda: ready(scene.repository), ready.session_id, whole)

    return way


def _unchanged(before: Document, after: Document, _: object) -> None:
    assert before == after


def _reading(look: Callable[[SessionRepository, str], Awaitable[object]]) -> Way:
    async def way(scene: Scene) -> Cancelling:
        session = await scene.make(conversation_id=f"c-{uuid4().hex}")
        return Cancelling(lambda: look(scene.repository, session.session_id), session.session_id, _unchanged)

    return way


def _at_most_one_write(before: Document, after: Document, _: object) -> None:
    assert after is None or before is None or after["revision"] - before["revision"] in (0, 1)


def _sweeping(sweep: Callable[[SessionRepository], Awaitable[object]]) -> Way:
    async def way(scene: Scene) -> Cancelling:
        session = (await scene.make.claim(lease=timedelta(milliseconds=1))).session
        scene.make.clock.advance(seconds=1)
        return Cancelling(lambda: sweep(scene.repository), session.session_id, _at_most_one_write)

    return way


def _ran(before: Document, after: Document, _: object) -> None:
    """Nothing, a claim and its outcome, or a claim that was given back; never a lease."""
    assert before is not None
    assert after is not None
    assert "lease" not in after
    assert not after["attempts"]
    assert after["revision"] - before["revision"] in (0, 2)
    assert_legal_history(after)


async def _handling(scene: Scene) -> Cancelling:
    session = await scene.make(conversation_id=f"c-{uuid4().hex}")
    where = session.conversation_id or ""
    return Cancelling(
        lambda: scene.bridge.handle(1, where, "Tuesday", message_id="m", redelivered=True), session.session_id, _ran
    )


async def _refining(scene: Scene) -> Cancelling:
    session = await scene.make(SessionStatus.READY_PREVIEW)
    preview_id = session.current_preview_id or ""
    return Cancelling(
        lambda: scene.bridge.refine(1, session.session_id, "Later", preview_id=preview_id, message_id="m"),
        session.session_id,
        _ran,
    )


async def _confirming(scene: Scene) -> Cancelling:
    session = await scene.make(SessionStatus.READY_PREVIEW)
    preview_id = session.current_preview_id or ""

    def whole(_: Document, after: Document, __: object) -> None:
        assert after is not None
        # A write-back that has begun is left to whoever confirms next: nobody could tell what was written.
        assert "lease" not in after or session.session_id in scene.began
        assert after["status"] in (SessionStatus.READY_PREVIEW, SessionStatus.APPLIED)

    return Cancelling(
        lambda: scene.bridge.confirm(1, session.session_id, preview_id=preview_id), session.session_id, whole
    )


async def _starting(scene: Scene) -> Cancelling:
    ready = await ready_call(scene.make, CallName.CREATE)
    trigger = ready.arguments["trigger_id"]

    def whole(_: Document, after: Document, __: object) -> None:
        assert after is None or (after["revision"] == 1 and after["status"] == SessionStatus.WAITING_USER_REPLY)

    return Cancelling(lambda: scene.bridge.start(1, trigger, AskUser("Which?")), ready.session_id, whole)


async def _dismissing(scene: Scene) -> Cancelling:
    session = await scene.make()
    return Cancelling(lambda: scene.bridge.dismiss(1, session.session_id), session.session_id, _at_most_one_write)


async def _stopping(scene: Scene) -> Cancelling:
    session = (await scene.make.refinement()).session
    # One for the reply's lease that it is not under, and one for the refinement's that it is.
    return Cancelling(lambda: scene.bridge.stop(1, session.session_id), session.session_id, _at_most_one_write)


async def _keeping_up(scene: Scene) -> Cancelling:
    stalled = await _sweeping(lambda repository: repository.recover_stalled())(scene)

    async def work() -> None:
        async with scene.bridge.upkeep(every=timedelta(milliseconds=1)):
            await asyncio.Event().wait()

    return Cancelling(work, stalled.session_id, _at_most_one_write)


async def _watching(scene: Scene) -> Cancelling:
    session = await scene.make()

    async def work() -> None:
        with suppress(WatchInterrupted):  # on the double
            async with scene.repository.watch(user_id=1) as watch:
                await anext(watch)

    return Cancelling(work, session.session_id, _unchanged)


WAYS: Final[Mapping[str, Sequence[Way]]] = {
    **{name: (_writing(CallName(name)),) for name in ("create", "get_or_create")},
    **{name.value: (_writing(name),) for name, rule in CALLS.items() if not rule.held},
    **{name.value: [_writing(name, kind) for kind in rule.held] for name, rule in CALLS.items() if rule.held},
    **{name: (_reading(look),) for name, look in LOOKUPS.items()},
    "expire_due": (_sweeping(lambda repository: repository.expire_due()),),
    "recover_stalled": (_sweeping(lambda repository: repository.recover_stalled()),),
    "purge": (_sweeping(lambda repository: repository.purge(ended_before=START)),),
    "watch": (_watching,),
    "start": (_starting,),
    "handle": (_handling,),
    "refine": (_refining,),
    "confirm": (_confirming,),
    "dismiss": (_dismissing,),
    "stop": (_stopping,),
    "upkeep": (_keeping_up,),
}
"""How each public method is called to be cancelled."""


def public_methods() -> set[str]:
    """The methods of repository and bridge that do any I/O."""
    of_both = (*inspect.getmembers(SessionRepository), *inspect.getmembers(SessionBridge))
    found = {name for name, method in of_both if isinstance(method, FunctionType) and not name.startswith("_")}
    return found - {"close", "present_status"}


# --- cancelling -------------------------------------------------------------------------------------------------


async def _until(random: Random, *, is_real: bool) -> None:
    """Until the moment has come."""
    if is_real and random.random() < 0.7:
        await asyncio.sleep(random.uniform(0, MOMENT))
        return
    for _ in range(random.randrange(TURNS)):
        await asyncio.sleep(0)


async def by_asyncio(work: Callable[[], Awaitable[object]], random: Random, *, is_real: bool) -> object:
    """Cancel a task; its answer, if that came first."""
    running = asyncio.ensure_future(work())
    await _until(random, is_real=is_real)
    running.cancel()
    try:
        return await running
    except asyncio.CancelledError:
        return None


async def by_anyio(work: Callable[[], Awaitable[object]], random: Random, *, is_real: bool) -> object:
    """Cancel a scope of anyio."""
    scope = anyio.CancelScope()

    async def scoped() -> object:
        with scope:
            return await work()
        return None  # a scope takes its own cancellation in

    running = asyncio.ensure_future(scoped())
    await _until(random, is_real=is_real)
    scope.cancel()
    await asyncio.wait({running})
    assert not running.cancelled(), "the cancellation left the scope that had sent it"
    return running.result()


MANNERS: Final = (by_asyncio, by_anyio)


class Connections(ConnectionPoolListener):
    """How many connections are in use."""

    def __init__(self) -> None:
        self.in_use = 0

    def connection_checked_out(self, event: object) -> None:  # noqa: ARG002 - the driver gives it
        """One more."""
        self.in_use += 1

    def connection_checked_in(self, event: object) -> None:  # noqa: ARG002 - the driver gives it
        """One less."""
        self.in_use -= 1


for _told in ("created", "ready", "cleared", "closed"):
    setattr(Connections, f"pool_{_told}", lambda *_, **__: None)
for _told in ("created", "ready", "closed", "check_out_started", "check_out_failed"):
    setattr(Connections, f"connection_{_told}", lambda *_, **__: None)


def left_behind() -> list[str]:
    """Tasks of the library that still run, and driver calls that nobody waits for any more."""
    ours = [
        task.get_name()
        for task in asyncio.all_tasks()
        if "/sessions/" in getattr(getattr(task.get_coro(), "cr_code", None), "co_filename", "")
    ]
    return [*ours, *(repr(task) for task in tasks._left_behind)]


async def until_settled(still: Callable[[], object]) -> None:
    """Wait until nothing is left; what is left after a while is a failure."""
    ends = asyncio.get_running_loop().time() + SETTLED_WITHIN
    while still() and asyncio.get_running_loop().time() < ends:  # noqa: ASYNC110 - what is left tells nobody
        await asyncio.sleep(0.001)
    assert not still(), f"left behind: {still()}"


@contextmanager
def heard() -> Iterator[list[str]]:
    """What Python and the loop complain of meanwhile: a coroutine or an error that nobody has looked at."""
    told: list[str] = []
    loop = asyncio.get_running_loop()
    hook, handler = sys.unraisablehook, loop.get_exception_handler()
    sys.unraisablehook = lambda found: told.append(repr(found.exc_value))
    loop.set_exception_handler(lambda _, context: told.append(str(context)))
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            yield told
        finally:
            gc.collect()
            sys.unraisablehook = hook
            loop.set_exception_handler(handler)
            # The drivers leave their sockets to the garbage collector.
            told += [str(each.message) for each in warned if not issubclass(each.category, ResourceWarning)]


@asynccontextmanager
async def _scene(client: Any, *, is_real: bool) -> AsyncIterator[tuple[Scene, Any]]:
    clock, began = MovedClock(START), list[str]()

    async def rerun(_: Turn) -> AskUser:
        await asyncio.sleep(0)
        return AskUser("And?")

    async def write_back(claim: ApplyClaim) -> None:
        began.append(claim.session.session_id)
        await asyncio.sleep(0)

    database = client[f"sessions_cancelled_{uuid4().hex[:12]}"]
    async with open_repository(database, create_indexes=True, clock=clock) as repository:
        bridge = SessionBridge(repository, rerun, write_back=write_back)
        make = SessionMaker(repository, clock)
        yield Scene(repository, make, bridge, began, is_real), database[COLLECTION]
    await client.drop_database(database.name)


async def cancelled(client: Any, times: int, setting: Setting, *, is_real: bool) -> Counter[str]:
    """Cancel every method so many times in each manner; what was counted."""
    random, counted = Random(f"{setting.seed} {is_real}"), Counter[str]()
    logger = logging.getLogger("sessions")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        async with _scene(client, is_real=is_real) as (scene, collection):
            for name, ways in WAYS.items():
                for way in ways:
                    for manner in MANNERS * times:
                        counted[await _one(name, way, manner, scene, collection, random)] += 1
                        setting.advance()
                await collection.delete_many({})  # the double looks at every document
    finally:
        logger.setLevel(level)
    return counted


async def _one(name: str, way: Way, manner: Any, scene: Scene, collection: Any, random: Random) -> str:
    call = await way(scene)
    before: Document = await collection.find_one({"_id": call.session_id})
    answer = await manner(call.work, random, is_real=scene.is_real)
    if not scene.is_real or name in ("watch", "upkeep", "handle", "refine", "confirm"):
        await until_settled(left_behind)
    after: Document = await collection.find_one({"_id": call.session_id})
    try:
        call.whole(before, after, answer)
    except AssertionError as error:
        raise AssertionError(f"{name}, {manner.__name__}: {error}\nbefore {before}\nafter {after}") from error
    return name


async def on_the_double(setting: Setting) -> Counter[str]:
    """All methods on the double."""
    client: Any = connect_double()
    with heard() as told:
        counted = await cancelled(client, SIZES[setting.form].on_the_double, setting, is_real=False)
        await until_settled(left_behind)
    assert not told, told
    return counted


async def on_a_server(setting: Setting, uri: str) -> Counter[str]:
    """All methods on a server; at the end no connection is in use."""
    connections = Connections()
    client: Any = connect(uri, driver=setting.driver, listeners=[connections])
    with heard() as told:
        counted = await cancelled(client, SIZES[setting.form].on_a_server, setting, is_real=True)
        await until_settled(left_behind)
        await until_settled(lambda: connections.in_use)
        await disconnect(client)
    assert not told, told
    return counted


async def run(setting: Setting) -> Tally:
    """On the double, and on a server of its own."""
    if (binary := find_mongod()) is None:
        raise Unable("no mongod on PATH, and the `server` extra has none for this platform")
    double = await on_the_double(setting)
    async with running_mongod(binary) as uri:
        real = await on_a_server(setting, uri)
    return {
        "cancellations": (double + real).total(),
        "under anyio": (double + real).total() / len(MANNERS),
        "methods": len(double + real),
        "left behind": 0,
    }
