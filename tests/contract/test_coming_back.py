"""Followers that come back with a token: any number of them, by two streams at most, and nobody else waits for them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import pytest

from sessions import CachedRouter, Change, SessionRepository, SessionStatus, WatchInterrupted
from sessions.changes import watch as watching
from sessions.store.document import COLLECTION
from sessions.testing import SessionMaker
from tests.support.fail_points import failing
from tests.support.open_streams import open_streams

if TYPE_CHECKING:
    from sessions.changes.watch import Watch
    from sessions.store.clients import Database

pytestmark = pytest.mark.needs("change_streams")
PATIENCE: Final = 30.0
FOLLOWERS: Final = 100


async def taken(watch: "Watch", number: int) -> list[Change]:
    """So many changes."""
    async with asyncio.timeout(PATIENCE):
        return [await anext(watch) for _ in range(number)]


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Wait for a condition that nobody announces."""
    async with asyncio.timeout(PATIENCE):
        while not await holds():  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.01)


@asynccontextmanager
async def streams_counted(database: "Database") -> AsyncIterator[list[int]]:
    """How many streams the server held, looked at again and again."""
    counts: list[int] = []

    async def count() -> None:
        while True:
            counts.append(await open_streams(database))

    counting = asyncio.create_task(count())
    try:
        yield counts
    finally:
        counting.cancel()
        await asyncio.wait({counting})


async def made_before(repository: SessionRepository, make_session: SessionMaker, number: int) -> list[Change]:
    """So many changes, with their tokens."""
    async with repository.watch() as watch:
        for _ in range(number):
            await make_session(conversation_id=None)
        return await taken(watch, number)


async def test_a_crowd_that_comes_back(
    repository: SessionRepository, make_session: SessionMaker, database: "Database"
) -> None:
    """A hundred at once, each from its own change: each gets what it missed, and then what is new, by two streams."""
    before = await made_before(repository, make_session, 10)
    watches = [repository.watch(resume_after=before[n % 10].token) for n in range(FOLLOWERS)]
    async with streams_counted(database) as counts:
        # Routes and claims go on meanwhile: none waits for a thread, so no lease is lost.
        claim = await make_session.claim(user_id=7, conversation_id="c")
        coming = [asyncio.create_task(each.__aenter__()) for each in watches]
        for _ in range(20):
            claim = await repository.renew(claim)
            await repository.route(7, "c")
        await asyncio.gather(*coming)
        for number, each in enumerate(watches):
            missed = await taken(each, 9 - number % 10 + 1)
            assert missed[:-1] == before[number % 10 + 1 :]
            assert missed[-1].snapshot.user_id == 7
        last = await repository.release(claim)
        for each in watches:
            while (await taken(each, 1))[0].snapshot != last:
                pass
        await until(lambda: _is(open_streams(database), 1))
        await asyncio.gather(*(each.aclose() for each in watches))
        await until(lambda: _is(open_streams(database), 0))
    assert max(counts) <= 2


async def _is(number: Awaitable[int], wanted: int) -> bool:
    return await number == wanted


async def test_a_crowd_that_goes_and_comes_again(
    repository: SessionRepository, make_session: SessionMaker, database: "Database"
) -> None:
    """Connections that break all at once, again and again, leave no stream behind."""
    token = (await made_before(repository, make_session, 2))[0].token
    async with streams_counted(database) as counts:
        for _ in range(5):
            watches = [repository.watch(resume_after=token) for _ in range(20)]
            await asyncio.gather(*(each.__aenter__() for each in watches))
            await asyncio.gather(*(each.aclose() for each in watches))
    assert max(counts) <= 2


async def test_what_is_no_token_ends_only_its_own_watch(
    repository: SessionRepository, make_session: SessionMaker
) -> None:
    """Damaged, cut off, of no change, older than what the server holds: the others are caught up with all the same."""
    before = await made_before(repository, make_session, 5)
    good = [repository.watch(resume_after=each.token) for each in before]
    token = before[2].token
    digit = token[-12]
    bad = [
        "AB",
        "82",
        "00" * 8,
        token[:-3],
        token[: len(token) // 2],
        # Of no change: one of the id's digits is another one.
        token[:-12] + ("0" if digit != "0" else "1") + token[-11:],
        f"{token[:2]}00000001{token[10:]}",
    ]
    watches = [repository.watch(resume_after=each) for each in bad]
    coming = [asyncio.create_task(each.__aenter__()) for each in [*watches, *good]]
    await asyncio.wait(coming)
    for number, each in enumerate(good):
        assert await taken(each, 4 - number) == before[number + 1 :]
    for each in watches:
        with pytest.raises((WatchInterrupted, StopAsyncIteration)):
            await taken(each, 1)
    # Those that the server cannot read are refused before they begin.
    assert all(isinstance(each.exception(), WatchInterrupted) for each in coming[:5])
    last = await make_session(SessionStatus.READY_PREVIEW)
    for each in good:
        assert (await taken(each, 1))[0].snapshot == last
        await each.aclose()


async def test_a_token_in_small_letters(repository: SessionRepository, make_session: SessionMaker) -> None:
    """The server takes it, so nothing is told again that stands before it."""
    before = await made_before(repository, make_session, 3)
    async with (
        repository.watch(resume_after=before[0].token),
        repository.watch(resume_after=before[1].token.lower()) as watch,
    ):
        assert await taken(watch, 1) == before[2:]
        last = await make_session(SessionStatus.READY_PREVIEW)
        assert (await taken(watch, 1))[0].snapshot == last


async def test_one_that_does_not_read_holds_nobody_up(
    repository: SessionRepository, make_session: SessionMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is bounded while it catches up, too, and has read everything once in the end."""
    monkeypatch.setattr(watching, "MOST_PENDING", 4)
    before = await made_before(repository, make_session, 20)
    async with (
        repository.watch(resume_after=before[0].token) as slow,
        repository.watch(resume_after=before[0].token) as quick,
    ):
        assert await taken(quick, 19) == before[1:]
        last = await make_session(SessionStatus.READY_PREVIEW)
        assert (await taken(quick, 1))[0].snapshot == last
        assert len(slow._queue.pending) <= 4
        assert await taken(slow, 19) == before[1:]
        assert (await taken(slow, 1))[0].snapshot == last


@pytest.mark.parametrize("code", [280, 286, 10334, 9, 15, 207, 50811, 51055])
async def test_a_refusal_ends_those_whose_token_it_meets(
    repository: SessionRepository, make_session: SessionMaker, database: "Database", code: int
) -> None:
    """The server's many ways to say that nothing goes on from there become one error, for that token alone."""
    before = await made_before(repository, make_session, 3)
    async with repository.watch(resume_after=before[1].token) as behind:
        assert await taken(behind, 1) == before[2:]
        await until(lambda: _is(open_streams(database), 1))
        async with failing(database, "aggregate", mode={"times": 1}, errorCode=code):
            with pytest.raises(WatchInterrupted, match=str(code)) as interruption:
                await taken(repository.watch(resume_after=before[0].token), 1)
        assert not interruption.value.needs_replica_set
        last = await make_session()
        assert (await taken(behind, 1))[0].snapshot == last


# --- a change that the server cannot tell of ----------------------------------------------------------------------


async def _too_large(database: "Database", session_id: str) -> None:
    """A foreign write whose event holds its 9 MB twice: as what was updated, and as the document after it."""
    collection: Any = database[COLLECTION]
    await collection.update_one({"_id": session_id}, {"$set": {"foreign": "x" * 9_000_000}})


async def test_a_change_beyond_16_mb_interrupts_and_is_got_over(
    repository: SessionRepository, make_session: SessionMaker, database: "Database"
) -> None:
    """All who had to be told of it learn that they missed something; whoever begins anew misses nothing more."""
    before = await made_before(repository, make_session, 2)
    spoiled = await make_session(conversation_id="c")
    async with CachedRouter(repository) as router, repository.watch() as watch, repository.watch(user_id=2) as other:
        assert (await router.route(1, "c")).session == spoiled
        await _too_large(database, spoiled.session_id)
        for each in (watch, other, repository.watch(resume_after=before[0].token)):
            with pytest.raises(WatchInterrupted, match=r"16 MB.*code 10334.*watch anew"):
                await taken(each, 100)
        async with repository.watch() as anew:
            last = await make_session(conversation_id="d")
            assert (await taken(anew, 1))[0].snapshot == last
            async with repository.watch(resume_after=anew.token) as resumed:
                final = await make_session(conversation_id="e")
                assert (await taken(resumed, 1))[0].snapshot == (await taken(anew, 1))[0].snapshot == final

        async def serves_again() -> bool:
            hits = router.stats().hits
            await router.route(1, "d")
            return router.stats().hits > hits

        await until(serves_again)
        ended = await repository.ignore(last.session_id, user_id=1)
        assert ended.status is SessionStatus.IGNORED
        assert (await router.route(1, "d")).session is None
