"""Following changes: the latest state of each session arrives, however slow or interrupted its consumer is."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

import pytest
import pytest_asyncio

from sessions import (
    ActiveScheduleSessionSnapshot,
    CachedRouter,
    Change,
    InvalidSessionInput,
    SessionRepository,
    SessionStatus,
    StoreUnavailable,
    WatchInterrupted,
    open_repository,
)
from sessions.changes import watch as watching
from sessions.store.document import COLLECTION
from sessions.testing import CommandCounter, MovedClock, SessionMaker
from tests.support.fail_points import failing
from tests.support.open_streams import open_streams

if TYPE_CHECKING:
    from sessions.changes.watch import Watch
    from sessions.store.clients import Database

PATIENCE: Final = 20.0
follows: Final = pytest.mark.needs("change_streams")


@pytest_asyncio.fixture(loop_scope="session", autouse=True)
async def _nothing_is_left() -> AsyncIterator[None]:
    """Whatever a test follows has ended when its repository is closed."""
    before = asyncio.all_tasks()
    yield
    async with asyncio.timeout(PATIENCE):
        while left := [task for task in asyncio.all_tasks() - before if task.get_name().startswith("sessions: ")]:
            # The repository of the fixture is closed after this one.
            if {task.get_name() for task in left} == {"sessions: server clock"}:
                break
            await asyncio.sleep(0.01)


async def taken(watch: "Watch", number: int) -> list[Change]:
    """So many changes."""
    async with asyncio.timeout(PATIENCE):
        return [await anext(watch) for _ in range(number)]


async def taken_until(watch: "Watch", last: ActiveScheduleSessionSnapshot) -> list[Change]:
    """All changes up to the one that led here."""
    changes = await taken(watch, 1)
    while changes[-1].snapshot != last:
        changes += await taken(watch, 1)
    return changes


async def until(holds: Callable[[], bool | Awaitable[bool]]) -> None:
    """Wait for a condition that nobody announces."""
    async with asyncio.timeout(PATIENCE):
        while not (found if isinstance(found := holds(), bool) else await found):  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.01)


# --- what is yielded ----------------------------------------------------------------------------------------------


@follows
async def test_each_change_comes_with_the_session_as_it_left_it(
    repository: SessionRepository, make_session: SessionMaker
) -> None:
    """A consumer that keeps up sees every revision, equal to what the call returned, and each token once."""
    async with repository.watch() as watch:
        claim = await make_session.claim()
        asked = await repository.ask_again(claim, pending_question="And?")
        ended = await repository.ignore(asked.session_id, user_id=1)
        changes = await taken_until(watch, ended)
    assert [change.snapshot.revision for change in changes] == sorted({c.snapshot.revision for c in changes})
    assert changes[-1].snapshot == ended
    assert len({change.token for change in changes}) == len(changes)


@follows
@pytest.mark.parametrize(
    ("scope", "wanted"),
    [
        ({}, {(1, "a"), (1, "b"), (1, None), (2, "a")}),
        ({"user_id": 1}, {(1, "a"), (1, "b"), (1, None)}),
        ({"conversation_id": "a"}, {(1, "a"), (2, "a")}),
        ({"user_id": 1, "conversation_id": "a"}, {(1, "a")}),
    ],
)
async def test_only_what_was_asked_for(
    repository: SessionRepository, make_session: SessionMaker, scope: dict[str, Any], wanted: set[tuple[int, str]]
) -> None:
    """A watch for one user, one conversation or both passes over everybody else's changes."""
    async with repository.watch(**scope) as watch:
        for user_id, conversation_id in ((1, "a"), (2, "a"), (1, "b"), (1, None)):
            await make_session(user_id=user_id, conversation_id=conversation_id)
        seen = {(c.snapshot.user_id, c.snapshot.conversation_id) for c in await taken(watch, len(wanted))}
        last = await make_session(SessionStatus.READY_PREVIEW, user_id=1, conversation_id="a")
        assert (await taken(watch, 1))[0].snapshot == last
    assert seen == wanted


@follows
async def test_an_event_without_its_own_revision_is_passed_over(
    repository: SessionRepository, make_session: SessionMaker, database: "Database"
) -> None:
    """A foreign write that leaves the revision alone, a purge, and what is no session are not reported."""
    collection: Any = database[COLLECTION]
    async with repository.watch() as watch:
        session = await make_session(SessionStatus.IGNORED)
        await taken_until(watch, session)
        await collection.update_one({"_id": session.session_id}, {"$set": {"question_number": 7}})
        await collection.insert_one({"_id": "stranger", "revision": 1})
        await collection.insert_one({"revision": 1})
        await collection.delete_one({"_id": session.session_id})
        last = await make_session()
        assert [change.snapshot for change in await taken(watch, 1)] == [last]


@follows
async def test_an_unread_session_arrives_once_with_its_latest_state(
    repository: SessionRepository, make_session: SessionMaker
) -> None:
    """What a slow consumer has not taken is merged into the latest, and its place is that of the latest."""
    async with repository.watch() as watch, repository.watch() as quick:
        first = await make_session()
        second = await make_session()
        ended = await repository.ignore(first.session_id, user_id=1)
        await taken_until(quick, ended)
        assert [change.snapshot for change in await taken(watch, 2)] == [second, ended]


@follows
async def test_a_watcher_that_does_not_read_costs_the_others_nothing(
    repository: SessionRepository, make_session: SessionMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the bound it lets go of what waits, and reads it again when it reads at all; others get it meanwhile."""
    monkeypatch.setattr(watching, "MOST_PENDING", 5)
    async with repository.watch() as slow, repository.watch() as quick:
        made = []
        for _ in range(20):
            made.append(await make_session(conversation_id=None))
            assert (await taken(quick, 1))[0].snapshot == made[-1]
            assert len(slow._queue.pending) <= 5
        assert [change.snapshot for change in await taken(slow, 20)] == made
        assert len(slow._queue.pending) <= 5


# --- tokens -------------------------------------------------------------------------------------------------------


@follows
async def test_a_restart_from_any_token_misses_nothing(
    repository: SessionRepository, make_session: SessionMaker
) -> None:
    """From each change's token the following changes come again, and no revision a second time."""
    async with repository.watch() as watch:
        session = (await make_session.claim()).session
        ended = await repository.ignore(session.session_id, user_id=1)
        changes = await taken_until(watch, ended)
    for change in changes[:-1]:
        async with repository.watch(resume_after=change.token) as resumed:
            after = [change, *await taken_until(resumed, ended)]
            revisions = [each.snapshot.revision for each in after]
            assert revisions == sorted(set(revisions))


@follows
async def test_the_token_moves_on_without_changes(repository: SessionRepository, make_session: SessionMaker) -> None:
    """A consumer whose user is silent can go on from where the others' changes have led."""
    watch = repository.watch(user_id=2)
    assert watch.token is None
    async with watch:
        began = watch.token
        assert began is not None
        await make_session(user_id=1)
        await until(lambda: watch.token != began)
        moved = watch.token
        last = await make_session(user_id=2)
        await until(lambda: bool(watch._queue.pending))
        # What waits is not behind the token yet.
        assert watch.token == began
        change = (await taken(watch, 1))[0]
        assert change.snapshot == last
    assert watch.token is not None
    async with repository.watch(user_id=2, resume_after=moved) as resumed:
        assert (await taken(resumed, 1))[0] == change


@follows
async def test_a_cancelled_wait_loses_nothing(repository: SessionRepository, make_session: SessionMaker) -> None:
    """A consumer may give up waiting as often as it likes, at any moment, and go on with the same iterator."""
    async with repository.watch() as watch:
        for number in range(20):
            waiting = asyncio.create_task(anext(watch))
            await asyncio.sleep(0)
            making = asyncio.create_task(make_session(conversation_id=None))
            await asyncio.sleep(0.0005 * number)
            waiting.cancel()
            got = (await asyncio.gather(waiting, return_exceptions=True))[0]
            session = await making
            if isinstance(got, BaseException):
                got = (await taken(watch, 1))[0]
            assert got.snapshot == session


@follows
async def test_a_purged_session_is_no_obstacle(
    repository: SessionRepository, make_session: SessionMaker, session_clock: MovedClock
) -> None:
    """A token whose session has been purged, and every other one, still leads on."""
    async with repository.watch() as watch:
        token = (await taken_until(watch, await make_session(SessionStatus.IGNORED)))[-1].token
    session_clock.advance(days=1)
    assert await repository.purge(ended_before=session_clock()) == 1
    async with repository.watch(resume_after=token) as resumed:
        session = await make_session()
        assert (await taken(resumed, 1))[0].snapshot == session


@follows
async def test_a_dropped_collection_is_no_end(
    repository: SessionRepository, make_session: SessionMaker, database: "Database"
) -> None:
    """A stream over a collection that is dropped goes on with the one that is made anew, from its token too."""
    collection: Any = database[COLLECTION]
    async with repository.watch() as watch:
        await make_session()
        await taken(watch, 1)
        before = watch.token
        await collection.drop()
        await until(lambda: watch.token != before)
        session = await make_session()
        assert (await taken(watch, 1))[0].snapshot == session


@pytest.mark.parametrize("token", ["", "no hex", 7, "ab" * 3000, b"ab", {"_data": "ab"}])
async def test_what_is_no_token_is_refused(repository: SessionRepository, token: Any) -> None:
    """It never reaches the server."""
    with pytest.raises(InvalidSessionInput, match="resume_after"):
        repository.watch(resume_after=token)


@pytest.mark.parametrize("scope", [{"user_id": 0}, {"user_id": True}, {"conversation_id": ""}])
async def test_a_bad_scope_is_refused(repository: SessionRepository, scope: dict[str, Any]) -> None:
    """The filter is checked where it is given."""
    with pytest.raises(InvalidSessionInput):
        repository.watch(**scope)


@follows
@pytest.mark.parametrize("token", ["82", "00" * 8, "ab"])
async def test_a_token_of_nobodys_is_interrupted(repository: SessionRepository, token: str) -> None:
    """The server's many ways to say so become one error."""
    with pytest.raises(WatchInterrupted, match="not a token"):
        await anext(repository.watch(resume_after=token))


@follows
async def test_a_token_that_the_server_does_not_hold_is_interrupted(
    repository: SessionRepository, make_session: SessionMaker
) -> None:
    """From a moment before the server's memory the watch does not begin, and says to read the sessions anew."""
    async with repository.watch() as watch:
        await make_session()
        token = (await taken(watch, 1))[0].token
    with pytest.raises(WatchInterrupted, match="without resume_after") as interruption:
        await anext(repository.watch(resume_after=f"{token[:2]}00000001{token[10:]}"))
    assert interruption.value.http_status == 410
    assert not interruption.value.needs_replica_set


# --- interruptions ------------------------------------------------------------------------------------------------


@follows
@pytest.mark.parametrize("code", [280, 286, 260])
async def test_what_cannot_go_on_ends_the_watch(
    repository: SessionRepository, make_session: SessionMaker, database: "Database", code: int
) -> None:
    """What had come in is still handed out, then the error, once; then the iterator has ended."""
    async with repository.watch() as watch:
        session = await make_session()
        await until(lambda: bool(watch._queue.pending))
        async with failing(database, "getMore", mode={"times": 1}, errorCode=code):
            await until(lambda: watch._queue.failure is not None)
        assert (await taken(watch, 1))[0].snapshot == session
        with pytest.raises(WatchInterrupted, match=str(code)):
            await taken(watch, 1)
        with pytest.raises(StopAsyncIteration):
            await anext(watch)
        # A new one begins with a stream of its own.
        async with repository.watch() as another:
            last = await make_session()
            assert (await taken(another, 1))[0].snapshot == last


@follows
@pytest.mark.parametrize("code", [189, 11602, 43, 237, 50])
async def test_a_lost_stream_is_opened_again(
    repository: SessionRepository, make_session: SessionMaker, database: "Database", code: int
) -> None:
    """Step-downs, shutdowns, lost and killed cursors: what is written meanwhile arrives all the same, once."""
    async with repository.watch() as watch, repository.watch() as other:
        made = []
        for _ in range(3):
            async with failing(database, "getMore", "aggregate", mode={"times": 3}, errorCode=code):
                made.append(await make_session(conversation_id=None))
                assert (await taken(watch, 1))[0].snapshot == made[-1]
        assert [change.snapshot for change in await taken(other, 3)] == made


@follows
async def test_the_driver_opens_no_stream_by_itself(repository: SessionRepository, database: "Database") -> None:
    """A stream that the driver would resume is lost instead: whoever trusts its silence has to learn of that."""
    stream = await repository._collection.changes(None, wait=0.1)
    async with failing(
        database, "getMore", mode={"times": 1}, errorCode=50, errorLabels=["ResumableChangeStreamError"]
    ):
        with pytest.raises(StoreUnavailable, match="code 50"):
            await stream.next_batch()
    await stream.close()
    await until(lambda: _is(open_streams(database), 0))


async def test_the_double_says_what_is_needed(repository: SessionRepository, backend: Any) -> None:
    """On the double a watch and a cache end with the same clear error."""
    if backend.is_real:
        pytest.skip("a real server has change streams")
    with pytest.raises(WatchInterrupted, match="replica set") as interruption:
        await anext(repository.watch())
    assert interruption.value.needs_replica_set
    with pytest.raises(WatchInterrupted, match="replica set"):
        async with CachedRouter(repository):
            pytest.fail("entered")


# --- sharing and ending -------------------------------------------------------------------------------------------


@follows
async def test_one_stream_serves_all_who_begin_now(
    repository: SessionRepository, make_session: SessionMaker, command_counter: CommandCounter
) -> None:
    """Watchers and the cache share it, and those who come back join it: each by a stream that is closed again."""
    with command_counter.counting() as counts:
        async with repository.watch() as watch, repository.watch(user_id=1) as second, CachedRouter(repository):
            session = await make_session()
            assert (await taken(watch, 1))[0].snapshot == (await taken(second, 1))[0].snapshot == session
            assert counts["aggregate"] == 1
            async with repository.watch(resume_after=watch.token) as third:
                session = await make_session(user_id=2)
                assert (await taken(third, 1))[0].snapshot == (await taken(watch, 1))[0].snapshot == session
                # One that looks at the token, one that catches up.
                assert counts["aggregate"] == 3


@follows
async def test_whoever_closes_leaves_nothing(
    repository: SessionRepository, make_session: SessionMaker, database: "Database"
) -> None:
    """Closed, cancelled or forgotten, a watch leaves neither a task nor a cursor of the server's."""
    await until(lambda: _is(open_streams(database), 0))
    tasks = asyncio.all_tasks()
    async with repository.watch() as watch:
        await make_session()
        await taken(watch, 1)
        waiting = asyncio.create_task(anext(watch))
        await until(lambda: _is(open_streams(database), 1))
    with pytest.raises(StopAsyncIteration):
        await waiting
    await watch.aclose()
    reading = asyncio.create_task(anext(repository.watch()))
    await asyncio.sleep(0.05)
    reading.cancel()
    await asyncio.wait({reading})
    del reading, waiting
    await until(lambda: not [task for task in asyncio.all_tasks() - tasks if task.get_name().startswith("sessions: ")])
    await until(lambda: _is(open_streams(database), 0))


async def _is(number: Awaitable[int], wanted: int) -> bool:
    return await number == wanted


@follows
async def test_a_cancelled_opening_leaves_no_cursor(repository: SessionRepository, database: "Database") -> None:
    """Whenever the cancellation comes, a stream that the server has opened is closed."""
    for number in range(80):
        watch = repository.watch()
        beginning = asyncio.create_task(watch.__aenter__())
        await asyncio.sleep(number % 40 * 0.0001)
        beginning.cancel()
        await asyncio.wait({beginning})
        await watch.aclose()
    await until(lambda: _is(open_streams(database), 0))


@follows
async def test_closing_the_repository_ends_its_watches(database: "Database") -> None:
    """Whoever waits finds the end; afterwards nothing can be followed any more."""
    async with open_repository(database, create_indexes=True) as opened:
        watches = [opened.watch(), opened.watch(user_id=1)]
        waiting = [asyncio.create_task(anext(watch)) for watch in watches]
        await until(lambda: all(watch.token is not None for watch in watches))
        resumed = opened.watch(resume_after=watches[0].token)
        waiting.append(asyncio.create_task(anext(resumed)))
        await asyncio.sleep(0.05)
    ended = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(end) for end in ended] == [StopAsyncIteration] * 3
    with pytest.raises(RuntimeError, match="closed"):
        await anext(opened.watch())
