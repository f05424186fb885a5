"""The cache of routes: right at once for its own process, soon for every other, and never older than it may be."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import pymongo
import pytest
import pytest_asyncio

from sessions import (
    ActiveScheduleSessionSnapshot,
    CachedRouter,
    InvalidSessionInput,
    RouteAction,
    SessionRepository,
    SessionStatus,
    StoreUnavailable,
    open_repository,
)
from sessions.store.document import COLLECTION
from sessions.testing import CommandCounter, MovedClock, SessionMaker
from tests.support.fail_points import Mode, failing

if TYPE_CHECKING:
    from sessions.changes.events import Event
    from sessions.store.clients import Database

pytestmark = pytest.mark.needs("change_streams")
PATIENCE: Final = 20.0
CONVERSATION: Final = "c"


@pytest_asyncio.fixture(loop_scope="session")
async def router(repository: SessionRepository) -> AsyncIterator[CachedRouter]:
    """A cache over the test's repository."""
    async with CachedRouter(repository) as entered:
        yield entered


@pytest_asyncio.fixture(loop_scope="session")
async def elsewhere(
    repository: SessionRepository, database: "Database", session_clock: MovedClock
) -> AsyncIterator[SessionRepository]:
    """Another repository on the same sessions, as another process has one."""
    async with open_repository(database, clock=session_clock) as opened:
        yield opened


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Wait for a condition that nobody announces."""
    async with asyncio.timeout(PATIENCE):
        while not await holds():  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.002)


async def settled(router: CachedRouter, elsewhere: SessionRepository) -> None:
    """Wait until all that was written so far has come in: what is written last comes last."""
    marker = uuid4().hex
    await router.route(99, marker)
    await elsewhere.create(99, marker, conversation_id=marker, pending_question="Seen?")

    async def is_seen() -> bool:
        return (await router.route(99, marker)).session is not None

    await until(is_seen)


@contextmanager
def events_held(router: CachedRouter) -> Iterator[None]:
    """What the cache learns meanwhile it learns from this process's writes; the stream tells the rest afterwards."""
    held: list[Sequence[Event]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(router._listener, "happened", held.append)
        yield
    for events in held:
        router._listener.happened(events)


# --- from memory --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", list(SessionStatus))
async def test_it_says_what_the_repository_says(
    repository: SessionRepository,
    router: CachedRouter,
    elsewhere: SessionRepository,
    make_session: SessionMaker,
    command_counter: CommandCounter,
    status: SessionStatus,
) -> None:
    """Governed or not, the route is the same, the first time by one lookup and then by none."""
    await make_session(status, conversation_id=CONVERSATION)
    await settled(router, elsewhere)
    before = router.stats()
    with command_counter.counting() as counts:
        first = await router.route(1, CONVERSATION)
        assert counts["find"] == 1
        assert await router.route(1, CONVERSATION) == first
        assert counts["find"] == 1
    assert first == await repository.route(1, CONVERSATION)
    after = router.stats()
    assert (after.hits - before.hits, after.misses - before.misses, after.entries - before.entries) == (1, 1, 1)


async def test_nobody_gets_anothers_route(router: CachedRouter, make_session: SessionMaker) -> None:
    """The same conversation id of another user is another entry."""
    await make_session(user_id=1, conversation_id=CONVERSATION)
    assert (await router.route(1, CONVERSATION)).action is RouteAction.RESUME
    assert (await router.route(2, CONVERSATION)).action is RouteAction.FREE_CHAT


@pytest.mark.parametrize("arguments", [(True, "c"), (0, "c"), ("1", "c"), (1.0, "c"), (1, ""), (1, None), (1, "c ")])
async def test_bad_input_is_refused_whatever_is_cached(router: CachedRouter, arguments: tuple[Any, Any]) -> None:
    """What only equals a cached key is no key."""
    await router.route(1, "c")
    with pytest.raises(InvalidSessionInput):
        await router.route(*arguments)


@pytest.mark.parametrize(
    "options",
    [
        {"max_entries": 0},
        {"max_entries": 1.5},
        {"max_entries": True},
        {"max_staleness": 5},
        {"max_staleness": timedelta(0)},
        {"max_staleness": timedelta(days=1)},
    ],
)
async def test_a_bad_bound_is_refused(repository: SessionRepository, options: dict[str, Any]) -> None:
    """A cache without a bound would be none."""
    with pytest.raises(InvalidSessionInput, match="max_"):
        CachedRouter(repository, **options)


async def test_it_holds_no_more_than_it_may(repository: SessionRepository, command_counter: CommandCounter) -> None:
    """The conversation unused longest goes first."""
    async with CachedRouter(repository, max_entries=2) as router:
        for conversation_id in ("a", "b", "a", "c"):
            await router.route(1, conversation_id)
        assert router.stats().entries == 2
        assert router.stats().evictions == 1
        with command_counter.counting() as counts:
            await router.route(1, "a")
            assert counts["find"] == 0
            await router.route(1, "b")
            assert counts["find"] == 1


# --- time ---------------------------------------------------------------------------------------------------------


async def test_what_lapses_changes_the_route_at_that_moment(
    repository: SessionRepository,
    router: CachedRouter,
    make_session: SessionMaker,
    session_clock: MovedClock,
    command_counter: CommandCounter,
) -> None:
    """A lease that lapses, a session that expires: no event tells of it, and no lookup is needed."""
    expires_at = session_clock() + timedelta(hours=1)
    await make_session.claim(conversation_id="reply", expires_at=expires_at, lease=timedelta(minutes=1))
    await make_session.refinement(conversation_id="refinement", lease=timedelta(minutes=1))
    asked = await make_session(conversation_id="asked", expires_at=expires_at)
    expected = {"reply": RouteAction.HOLD, "refinement": RouteAction.HOLD, "asked": RouteAction.RESUME}

    async def actions() -> dict[str, RouteAction]:
        return {conversation_id: (await router.route(1, conversation_id)).action for conversation_id in expected}

    assert await actions() == expected
    with command_counter.counting() as counts:
        session_clock.advance(seconds=59, milliseconds=999)
        assert await actions() == expected
        session_clock.advance(milliseconds=1)
        expected |= {"reply": RouteAction.RESUME, "refinement": RouteAction.FREE_CHAT}
        assert await actions() == expected
        assert asked.state.expires_at is not None
        session_clock.at = asked.state.expires_at
        expected |= {"reply": RouteAction.FREE_CHAT, "asked": RouteAction.FREE_CHAT}
        assert await actions() == expected
        assert counts["find"] == 0
    assert await actions() == {key: (await repository.route(1, key)).action for key in expected}


# --- changes ------------------------------------------------------------------------------------------------------

# Each: how the session comes to be as it is before, and the call that changes the route.
Write = Callable[[SessionRepository, Any], Awaitable[object]]
WRITES: Final[dict[str, tuple[str, Write]]] = {
    "create": ("nothing", lambda r, _: r.create(1, "n", conversation_id=CONVERSATION, pending_question="?")),
    "get_or_create": (
        "nothing",
        lambda r, _: r.get_or_create(1, "n", conversation_id=CONVERSATION, missing_info=["?"]),
    ),
    "bind_conversation": ("unbound", lambda r, s: r.bind_conversation(s.session_id, CONVERSATION, user_id=1)),
    "record_notification": ("asked", lambda r, s: r.record_notification(s.session_id, "n", user_id=1)),
    "claim_rerun": ("asked", lambda r, s: r.claim_rerun(s.session_id, user_id=1, reply_id="r")),
    "claim_refinement": (
        "ready",
        lambda r, s: r.claim_refinement(s.session_id, user_id=1, preview_id=s.current_preview_id, reply_id="r"),
    ),
    "renew": ("claim", lambda r, c: r.renew(c)),
    "release": ("claim", lambda r, c: r.release(c)),
    "ask_again": ("claim", lambda r, c: r.ask_again(c, pending_question="And?")),
    "present_preview": ("claim", lambda r, c: r.present_preview(c, preview_id="fresh")),
    "close_rerun": ("claim", lambda r, c: r.close_rerun(c)),
    "fail_rerun": ("claim", lambda r, c: r.fail_rerun(c, reason="broken")),
    "ignore": ("asked", lambda r, s: r.ignore(s.session_id, user_id=1)),
    "fail": ("asked", lambda r, s: r.fail(s.session_id, user_id=1, reason="broken")),
    "expire_due": ("lapsed", lambda r, _: r.expire_due()),
    "recover_stalled": ("stalled", lambda r, _: r.recover_stalled()),
}


async def _before(stage: str, make: SessionMaker, clock: MovedClock) -> object:
    match stage:
        case "nothing":
            return None
        case "unbound":
            return await make()
        case "ready":
            return await make(SessionStatus.READY_PREVIEW, conversation_id=CONVERSATION)
        case "claim":
            return await make.claim(conversation_id=CONVERSATION)
        case "lapsed":
            session = await make(conversation_id=CONVERSATION, expires_at=clock() + timedelta(seconds=1))
            clock.advance(seconds=1)
            return session
        case "stalled":
            claim = await make.claim(conversation_id=CONVERSATION)
            clock.advance(minutes=2)
            return claim
        case _:
            return await make(conversation_id=CONVERSATION)


@pytest.mark.parametrize("name", list(WRITES))
async def test_ones_own_write_shows_at_once(
    repository: SessionRepository,
    router: CachedRouter,
    elsewhere: SessionRepository,
    make_session: SessionMaker,
    session_clock: MovedClock,
    command_counter: CommandCounter,
    name: str,
) -> None:
    """When the call has returned, the cache routes as the database does; its event costs no second lookup."""
    stage, write = WRITES[name]
    given = await _before(stage, make_session, session_clock)
    await settled(router, elsewhere)
    before = await router.route(1, CONVERSATION)
    assert before == await repository.route(1, CONVERSATION)
    with events_held(router):
        await write(repository, given)
        after = await router.route(1, CONVERSATION)
        assert after == await repository.route(1, CONVERSATION)
    assert (after != before) is (name != "expire_due")
    await settled(router, elsewhere)
    if name not in {"expire_due", "recover_stalled"}:  # a sweep does not learn which revisions it wrote
        with command_counter.counting() as counts:
            assert await router.route(1, CONVERSATION) == after
            assert counts["find"] == 0


@pytest.mark.parametrize("name", list(WRITES))
async def test_anothers_write_shows_when_it_has_come_in(
    repository: SessionRepository,
    router: CachedRouter,
    elsewhere: SessionRepository,
    make_session: SessionMaker,
    session_clock: MovedClock,
    name: str,
) -> None:
    """The change stream evicts what another process changed, and nothing else does."""
    stage, write = WRITES[name]
    given = await _before(stage, make_session, session_clock)
    await settled(router, elsewhere)
    await router.route(1, CONVERSATION)
    await write(elsewhere, given)
    await settled(router, elsewhere)
    assert await router.route(1, CONVERSATION) == await repository.route(1, CONVERSATION)
    lag = router.stats().lag
    assert lag is not None
    assert lag >= timedelta(0)


async def test_a_session_that_is_gone_governs_no_more(
    router: CachedRouter, elsewhere: SessionRepository, make_session: SessionMaker, database: "Database"
) -> None:
    """An event whose document is gone names the session only; that is enough."""
    session = await make_session(conversation_id=CONVERSATION)
    assert (await router.route(1, CONVERSATION)).session == session
    collection: Any = database[COLLECTION]
    await collection.delete_one({"_id": session.session_id})
    await settled(router, elsewhere)
    assert (await router.route(1, CONVERSATION)).action is RouteAction.FREE_CHAT


async def test_a_trigger_whose_session_was_purged_is_no_exception(
    repository: SessionRepository,
    router: CachedRouter,
    elsewhere: SessionRepository,
    session_clock: MovedClock,
) -> None:
    """A session made anew counts its revisions anew; it is not taken for one of before."""
    made = await repository.create(1, "again", conversation_id=CONVERSATION, pending_question="Which?")
    await repository.ignore(made.session_id, user_id=1)
    session_clock.advance(days=1)
    for maker in (elsewhere, repository, elsewhere):
        assert await maker.purge(ended_before=session_clock()) == 1
        await settled(router, elsewhere)
        assert (await router.route(1, CONVERSATION)).session is None
        made = await maker.create(1, "again", conversation_id=CONVERSATION, pending_question="Which?")
        await settled(router, elsewhere)
        assert (await router.route(1, CONVERSATION)).session == made
        await maker.ignore(made.session_id, user_id=1)
        session_clock.advance(days=1)


async def test_a_dropped_collection_empties_it(
    router: CachedRouter, make_session: SessionMaker, database: "Database"
) -> None:
    """Where everything has gone, nothing is answered from memory."""
    await make_session(conversation_id=CONVERSATION)
    await router.route(1, CONVERSATION)
    collection: Any = database[COLLECTION]
    await collection.drop()

    async def is_free() -> bool:
        return (await router.route(1, CONVERSATION)).action is RouteAction.FREE_CHAT

    await until(is_free)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "tries"),
    [
        ("create", {"times": 1}),
        ("bind_conversation", {"times": 1}),
        ("bind_conversation", "alwaysOn"),
        ("claim_rerun", {"times": 1}),
        ("claim_rerun", "alwaysOn"),
        ("claim_refinement", {"times": 1}),
        ("claim_refinement", "alwaysOn"),
        ("expire_due", {"times": 1}),
        ("expire_due", "alwaysOn"),
    ],
)
async def test_a_write_of_unclear_outcome_may_have_been_carried_out(
    make_session: SessionMaker, database: "Database", session_clock: MovedClock, name: str, tries: Mode
) -> None:
    """A write-concern error leaves the document changed: the entry goes, whether the call finds it out or gives up."""
    stage, write = WRITES[name]
    given = await _before(stage, make_session, session_clock)
    writes, error = ("insert", "findAndModify", "update"), {"code": 64, "errmsg": "timed out"}
    raises = tries == "alwaysOn"
    opened = open_repository(database, clock=session_clock, timeout=3.0 if raises else PATIENCE)
    async with opened as repository, CachedRouter(repository) as router:
        with events_held(router):
            before = await router.route(1, CONVERSATION)
            async with failing(database, *writes, mode=tries, writeConcernError=error):
                with pytest.raises(StoreUnavailable) if raises else nullcontext():
                    await write(repository, given)
            assert router.stats().entries == 0
        after = await router.route(1, CONVERSATION)
        assert after == await repository.route(1, CONVERSATION)
        assert (after != before) is (name != "expire_due")


# --- lookups under way --------------------------------------------------------------------------------------------


async def test_those_who_ask_at_once_share_one_lookup(
    router: CachedRouter, make_session: SessionMaker, command_counter: CommandCounter
) -> None:
    """One lookup serves them all, and outlives any of them that is cancelled."""
    session = await make_session(conversation_id=CONVERSATION)
    with command_counter.counting() as counts:
        asking = [asyncio.create_task(router.route(1, CONVERSATION)) for _ in range(50)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for task in asking[::2]:
            task.cancel()
        answers = await asyncio.gather(*asking, return_exceptions=True)
        assert counts["find"] == 1
    assert [answer.session for answer in answers[1::2] if not isinstance(answer, BaseException)] == [session] * 25
    assert router.stats().entries == 1


async def test_a_lookup_is_not_bound_to_who_began_it(router: CachedRouter, make_session: SessionMaker) -> None:
    """A caller with hardly any time left does not end the others' lookup."""
    session = await make_session(conversation_id=CONVERSATION)
    with pymongo.timeout(0.000001):
        hurried = asyncio.create_task(router.route(1, CONVERSATION))
    patient = asyncio.create_task(router.route(1, CONVERSATION))
    assert (await hurried).session == (await patient).session == session


async def test_a_lookup_that_was_overtaken_is_not_kept(
    repository: SessionRepository, router: CachedRouter, make_session: SessionMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change while the lookup is under way: whoever asks afterwards does not get its answer."""
    session = await make_session(conversation_id=CONVERSATION)
    ask, reached, may_return = router._upstream.governor, asyncio.Event(), asyncio.Event()

    async def slowly(user_id: int, conversation_id: str, *, committed: bool) -> ActiveScheduleSessionSnapshot | None:
        found = await ask(user_id, conversation_id, committed=committed)
        reached.set()
        await may_return.wait()
        return found

    monkeypatch.setattr(router._upstream, "governor", slowly)
    early = asyncio.create_task(router.route(1, CONVERSATION))
    await reached.wait()
    await repository.ignore(session.session_id, user_id=1)
    late = asyncio.create_task(router.route(1, CONVERSATION))
    await asyncio.sleep(0.05)
    may_return.set()
    assert (await early).session == session
    assert (await late).session is None
    assert (await router.route(1, CONVERSATION)).session is None


# --- the stream ---------------------------------------------------------------------------------------------------


async def test_without_a_stream_it_asks_the_database(
    repository: SessionRepository, make_session: SessionMaker, command_counter: CommandCounter
) -> None:
    """Before it is entered, and after, each route is a lookup; nothing is kept."""
    session = await make_session(conversation_id=CONVERSATION)
    router = CachedRouter(repository)
    for _ in range(2):
        with command_counter.counting() as counts:
            for _ in range(3):
                assert (await router.route(1, CONVERSATION)).session == session
            assert counts["find"] == 3
        assert router.stats().entries == 0
        async with router:
            await router.route(1, CONVERSATION)
            assert router.stats().entries == 1
            with pytest.raises(RuntimeError, match="in use"):
                await router.__aenter__()


@pytest.mark.slow
@pytest.mark.parametrize("code", [189, 280])
async def test_a_lost_stream_empties_it_until_another_stands(
    router: CachedRouter,
    elsewhere: SessionRepository,
    make_session: SessionMaker,
    database: "Database",
    code: int,
) -> None:
    """Lost or interrupted for good: the cache begins anew, and what was written meanwhile is not missed."""
    session = await make_session(conversation_id=CONVERSATION)
    await router.route(1, CONVERSATION)
    went_down = asyncio.create_task(_went_down(router))
    async with failing(database, "getMore", mode={"times": 1}, errorCode=code), asyncio.timeout(PATIENCE):
        await went_down
        await elsewhere.ignore(session.session_id, user_id=1)
        assert (await router.route(1, CONVERSATION)).session is None
        await router._listener._went_up_or_closed.wait()
    await settled(router, elsewhere)
    assert (await router.route(1, CONVERSATION)).session is None
    hits = router.stats().hits
    await router.route(1, CONVERSATION)
    assert router.stats().hits == hits + 1


async def _went_down(router: CachedRouter) -> None:
    epoch = router._listener._epoch
    while router._listener._epoch == epoch:  # noqa: ASYNC110 - to see each moment
        await asyncio.sleep(0)
    assert router.stats().entries == 0


async def test_closing_the_repository_ends_it(database: "Database", make_session: SessionMaker) -> None:
    """A repository that is closed first leaves a cache that still routes, by the database."""
    session = await make_session(conversation_id=CONVERSATION)
    opened = await open_repository(database)
    async with CachedRouter(opened) as router:
        await router.route(1, CONVERSATION)
        await opened.close()
        assert (await router.route(1, CONVERSATION)).session == session
        assert router.stats().entries == 0


@pytest.mark.parametrize(
    "foreign",
    [
        {"user_id": [1], "conversation_id": "c"},
        {"user_id": {"is": 1}, "conversation_id": "c", "revision": "7"},
        {"user_id": 1, "conversation_id": ["c"], "revision": True},
        {"user_id": "1"},
        {},
    ],
)
async def test_a_document_that_is_no_session(
    repository: SessionRepository,
    router: CachedRouter,
    elsewhere: SessionRepository,
    database: "Database",
    make_session: SessionMaker,
    foreign: dict[str, Any],
) -> None:
    """Whatever somebody else wrote into the collection: the cache goes on, and so does every watch."""
    ours = await make_session(conversation_id=CONVERSATION)
    await router.route(1, CONVERSATION)
    async with repository.watch() as watch:
        await database[COLLECTION].insert_one({"_id": "foreign", **foreign})
        await database[COLLECTION].update_one({"_id": "foreign"}, {"$set": {"revision": "8"}})
        await settled(router, elsewhere)
        assert (await router.route(1, CONVERSATION)).session == await repository.get(ours.session_id, user_id=1)
        await elsewhere.create(5, "after", pending_question="Which day?")
        async with asyncio.timeout(PATIENCE):
            while (await anext(watch)).snapshot.trigger_id != "after":
                pass
    # What was ours and is spoiled by somebody is evicted.
    await database[COLLECTION].update_one({"_id": ours.session_id}, {"$set": {"user_id": [9]}})

    async def is_gone() -> bool:
        return (await router.route(1, CONVERSATION)).session is None

    await until(is_gone)


async def test_a_repository_that_is_closed_while_a_cache_is_entered(database: "Database") -> None:
    """Whoever enters learns it at once, and what to do, without waiting for a primary."""
    repository = await open_repository(database, create_indexes=True)
    router = CachedRouter(repository)
    asked = asyncio.Event()

    async def never() -> None:
        asked.set()
        await asyncio.Event().wait()

    router._upstream.confirm_primary = never  # no majority answers
    entering = asyncio.create_task(router.__aenter__())
    await asked.wait()
    await repository.close()
    with pytest.raises(RuntimeError, match="the repository is closed: open another one"):
        await asyncio.wait_for(entering, PATIENCE)
