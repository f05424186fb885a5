"""Coming back with a token, over a server that the test plays: no change is missed or seen twice, streams are few."""

import asyncio
import random
from bisect import bisect_right
from collections.abc import AsyncIterator
from itertools import takewhile
from typing import Any, Final

import pytest
import pytest_asyncio

from sessions import StoreUnavailable, WatchInterrupted
from sessions.changes import catch_up, feed, watch
from sessions.changes.events import names_change
from sessions.changes.feeds import Feeds
from sessions.changes.watch import Queue, Scope, Watch
from tests.support.played_streams import PATIENCE, change, lost, until


def token_of(number: int) -> str:
    """As the server writes the token of a change."""
    return f"82{number:016X}2B022C0100296E04"


def idle_token(number: int) -> str:
    """As the server writes where an idle stream stands, ahead of the change with this number."""
    return f"82{number:016X}2B0229296E04"


def event(number: int, session_id: str | None = None) -> dict[str, Any]:
    """The change with this number, of a session of its own if no other is named."""
    return {**change(number, session_id=session_id), "_id": {"_data": token_of(number)}}


class ServerStream:
    """One stream of the played server."""

    def __init__(self, server: "PlayedServer", token: str) -> None:
        self._server = server
        self.token: str | None = token

    async def next_batch(self) -> list[dict[str, Any]]:
        """The next changes behind the token; none after a moment."""
        for pause in (0, 0.002):
            await asyncio.sleep(pause)
            behind = bisect_right(self._server.events, self.token or "", key=lambda each: str(each["_id"]["_data"]))
            found = list(
                takewhile(self._server.tells, self._server.events[behind : behind + self._server.most_at_once])
            )
            if found:
                self.token = str(found[-1]["_id"]["_data"])
                return found
            if behind < len(self._server.events):
                raise self._server.failures[str(self._server.events[behind]["_id"]["_data"])]
        # As a server does: it moves on when something was written, whatever it was.
        self.token = max(self.token or "", self._server.now)
        return []

    async def close(self) -> None:
        """No longer open."""
        await asyncio.sleep(0)
        self._server.open.discard(self)


class PlayedServer:
    """Changes in their order, streams from any of them, and how many were ever open at once."""

    def __init__(self, most_at_once: int) -> None:
        self.most_at_once = most_at_once
        self.events: list[dict[str, Any]] = []
        self.failures: dict[str, Exception] = {}
        self.no_tokens: dict[str, Exception] = {}
        self.open: set[ServerStream] = set()
        self.most_open = 0
        self.has_moved = False

    @property
    def now(self) -> str:
        """Where an idle stream stands: at the last change, or behind what else was written."""
        last = str(self.events[-1]["_id"]["_data"])
        return idle_token(int(last[2:18], 16) + 1) if self.has_moved else last

    def tells(self, event: dict[str, Any]) -> bool:
        """Whether it can tell of the change."""
        return event["_id"]["_data"] not in self.failures

    async def confirm_primary(self) -> None:
        """Written into the log, not into the collection."""
        self.has_moved = True

    def write(self, *numbers: int) -> None:
        """Changes of sessions of their own."""
        self.events.extend(event(number) for number in numbers)
        self.has_moved = False

    async def changes(self, resume_after: str | None, *, wait: float) -> ServerStream:  # noqa: ARG002 - the protocol's
        """A stream from there."""
        await asyncio.sleep(0)
        if refusal := self.no_tokens.get(resume_after or ""):
            raise refusal
        last = int(str(self.events[-1]["_id"]["_data"])[2:18], 16)
        # One that begins now stands ahead of the last write.
        stream = ServerStream(self, resume_after or idle_token(last + 1))
        self.open.add(stream)
        self.most_open = max(self.most_open, len(self.open))
        return stream

    async def check_token(self, token: str) -> None:
        """Refuse what the test calls no token."""
        stream = await self.changes(token, wait=0)
        await stream.close()

    def primary(self) -> object:
        """Always the same."""
        return "primary"


@pytest.fixture(params=[1, 7], ids=["one by one", "in batches"])
def server(request: pytest.FixtureRequest) -> PlayedServer:
    """A server with a hundred changes, that tells so many of them at once."""
    played = PlayedServer(request.param)
    played.write(*range(1, 101))
    return played


@pytest_asyncio.fixture(loop_scope="session")
async def feeds(server: PlayedServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Feeds]:
    """The feeds of one repository; afterwards everything is closed, and there were never more than two streams."""
    monkeypatch.setattr(feed, "_FIRST_PAUSE", 0.002)
    made = Feeds(server, patience=PATIENCE)
    yield made
    await made.close()
    await until(lambda: not server.open)
    assert server.most_open <= 2


def coming_back(feeds: Feeds, token: str | None) -> Watch:
    """A watch from a token."""
    return Watch(Queue(feeds.subscribe, Scope(), resume_after=token))


async def numbers(watch: Watch, count: int) -> list[int]:
    """The next changes, by their numbers."""
    async with asyncio.timeout(PATIENCE):
        return [(await anext(watch)).snapshot.revision for _ in range(count)]


async def test_each_goes_on_from_its_own_token(feeds: Feeds, server: PlayedServer) -> None:
    """Whatever the tokens of the others: exactly what is behind one's own, and then what is new, by one stream."""
    positions = [0, 3, 3, 50, 99, 100]
    watches = [coming_back(feeds, token_of(number) if number else idle_token(1)) for number in positions]
    await asyncio.gather(*(each.__aenter__() for each in watches))
    for position, each in zip(positions, watches, strict=True):
        assert await numbers(each, 100 - position) == list(range(position + 1, 101))
    await until(lambda: len(server.open) == 1)
    server.write(101, 102)
    for each in watches:
        assert await numbers(each, 2) == [101, 102]
        assert each.token is not None
        assert each.token >= token_of(102)
    await asyncio.gather(*(each.aclose() for each in watches))


async def test_one_that_comes_back_later_is_not_kept_waiting(
    feeds: Feeds, server: PlayedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One with hours to catch up with does not stand in the way of one that was away for a moment."""
    monkeypatch.setattr(catch_up, "_TURN", 0.005)
    server.write(*range(101, 3_001))
    async with coming_back(feeds, token_of(1)) as far_behind:
        assert await numbers(far_behind, 5) == [2, 3, 4, 5, 6]
        async with coming_back(feeds, token_of(2_990)) as near:
            assert await numbers(near, 10) == list(range(2_991, 3_001))
            assert far_behind._queue.position < token_of(2_900)
        assert await numbers(far_behind, 2_994) == list(range(7, 3_001))


async def test_no_turn_is_lost_between_rounds(
    feeds: Feeds, server: PlayedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is written and others come and go at any moment, each sees each change behind its token once."""
    monkeypatch.setattr(catch_up, "_TURN", 0.003)
    chosen = random.Random(7)
    last: Final = 250

    async def follow(begins: float, position: int) -> list[int]:
        await asyncio.sleep(begins)
        token, seen = chosen.choice([token_of(position), idle_token(position + 1)]), list[int]()
        while not seen or seen[-1] != last:
            async with coming_back(feeds, token) as watch:
                for _ in range(chosen.choice([1, 50, 1_000])):
                    seen += await numbers(watch, 1)
                    if seen[-1] == last:
                        break
                token = watch.token or ""
        return seen

    async def write() -> None:
        for number in range(101, last + 1):
            server.write(number)
            await asyncio.sleep(chosen.choice([0, 0, 0.001]))

    positions = [chosen.randrange(1, 100) for _ in range(25)]
    following = [asyncio.create_task(follow(chosen.random() / 5, position)) for position in positions]
    await write()
    async with asyncio.timeout(PATIENCE):
        for position, task in zip(positions, following, strict=True):
            assert await task == list(range(position + 1, last + 1))


async def test_what_is_no_token_ends_only_its_own_watch(feeds: Feeds, server: PlayedServer) -> None:
    """Older than what the server holds, damaged, or of no change at all: the others go on as if it were not there."""
    server.no_tokens = {"00": WatchInterrupted("too old"), "AB": WatchInterrupted("damaged")}
    no_change = token_of(50).replace("2C01", "2C02")
    good = [coming_back(feeds, token_of(number)) for number in (10, 90)]
    bad = [coming_back(feeds, token) for token in ("00", "AB", "00", no_change)]
    began = await asyncio.gather(*(each.__aenter__() for each in [*bad, *good]), return_exceptions=True)
    assert [type(each) for each in began[:3]] == [WatchInterrupted] * 3
    with pytest.raises(WatchInterrupted, match="not among"):
        await numbers(bad[3], 1)
    assert await numbers(good[0], 90) == list(range(11, 101))
    assert await numbers(good[1], 10) == list(range(91, 101))
    await asyncio.gather(*(each.aclose() for each in good))


async def test_a_change_that_cannot_be_told_ends_those_before_it(feeds: Feeds, server: PlayedServer) -> None:
    """Whoever stands behind it misses nothing; the shared stream, which begins now, neither."""
    server.failures[token_of(50)] = WatchInterrupted("too large")
    before = [coming_back(feeds, token_of(number)) for number in (10, 40)]
    behind = coming_back(feeds, token_of(50))
    await asyncio.gather(*(each.__aenter__() for each in [*before, behind]))
    for position, each in zip((10, 40), before, strict=True):
        assert await numbers(each, 49 - position) == list(range(position + 1, 50))
        with pytest.raises(WatchInterrupted, match="too large"):
            await anext(each)
        with pytest.raises(StopAsyncIteration):
            await anext(each)
    assert await numbers(behind, 50) == list(range(51, 101))
    await behind.aclose()


async def test_a_lost_stream_is_opened_again_where_each_stands(feeds: Feeds, server: PlayedServer) -> None:
    """Nothing is told twice although the next stream begins at the oldest."""
    server.failures[token_of(50)] = lost()
    watches = [coming_back(feeds, token_of(number)) for number in (10, 70)]
    await asyncio.gather(*(each.__aenter__() for each in watches))
    assert await numbers(watches[0], 39) == list(range(11, 50))
    server.failures.clear()
    assert await numbers(watches[0], 51) == list(range(50, 101))
    assert await numbers(watches[1], 30) == list(range(71, 101))
    await asyncio.gather(*(each.aclose() for each in watches))


async def test_an_outage_is_told_to_those_who_begin_in_it(feeds: Feeds, server: PlayedServer) -> None:
    """Nobody waits for one try after the other; afterwards the same token serves."""
    server.no_tokens = {token_of(5): lost()}
    watches = [coming_back(feeds, token_of(number)) for number in (5, 6)]
    ends = await asyncio.gather(*(each.__aenter__() for each in watches), return_exceptions=True)
    assert [type(end) for end in ends] == [StoreUnavailable] * 2
    server.no_tokens.clear()
    assert await numbers(watches[0], 95) == list(range(6, 101))
    await asyncio.gather(*(each.aclose() for each in watches))


async def test_one_that_does_not_read_is_bounded_and_comes_back(
    feeds: Feeds, server: PlayedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds so many and no more, nobody waits for it, and in the end it has seen everything once."""
    monkeypatch.setattr(watch, "MOST_PENDING", 7)
    async with coming_back(feeds, token_of(10)) as slow, coming_back(feeds, token_of(5)) as quick:
        assert await numbers(quick, 95) == list(range(6, 101))
        await until(lambda: len(slow._queue.pending) == 7)
        server.write(101, 102)
        assert await numbers(quick, 2) == [101, 102]
        assert len(slow._queue.pending) == 7
        assert await numbers(slow, 92) == list(range(11, 103))
        # From the shared stream too.
        await until(lambda: len(server.open) == 1)
        server.write(*range(103, 150))
        assert await numbers(quick, 47) == list(range(103, 150))
        assert len(slow._queue.pending) == 7
        assert await numbers(slow, 47) == list(range(103, 150))


async def test_those_who_give_up_leave_nothing(feeds: Feeds, server: PlayedServer) -> None:
    """Cancelled at any moment, and forgotten: the others are let in, and the stream is closed when all have gone."""
    staying = coming_back(feeds, token_of(99))
    for turns in range(30):
        giving_up = [coming_back(feeds, token_of(number)) for number in (1, 2, 3)]
        beginning = [asyncio.create_task(each.__aenter__()) for each in giving_up]
        for _ in range(turns):
            await asyncio.sleep(0)
        for task in beginning:
            task.cancel()
        await asyncio.wait(beginning)
    del giving_up, beginning, task
    assert await numbers(staying, 1) == [100]
    await staying.aclose()
    await until(lambda: not server.open)


async def test_closing_ends_those_who_are_on_their_way(feeds: Feeds) -> None:
    """Whoever waits finds the end, let in or not."""
    watches = [coming_back(feeds, token_of(100)) for _ in range(3)]
    await watches[0].__aenter__()
    waiting = [asyncio.create_task(anext(each)) for each in watches]
    await asyncio.sleep(0)
    await feeds.close()
    ends = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(end) for end in ends] == [StopAsyncIteration] * 3


async def test_a_bug_reaches_all_who_come_back(
    feeds: Feeds, server: PlayedServer, caplog: pytest.LogCaptureFixture
) -> None:
    """What nobody expected is logged and handed on, and the next one may begin."""
    server.failures[token_of(50)] = ArithmeticError("a bug")
    early = coming_back(feeds, token_of(10))
    assert await numbers(early, 39) == list(range(11, 50))
    with pytest.raises(ArithmeticError):
        await anext(early)
    assert "catching up with changes failed" in caplog.text
    assert await numbers(coming_back(feeds, token_of(60)), 40) == list(range(61, 101))


def test_which_tokens_name_a_change() -> None:
    """As a server of version 6 writes them: a change, one of a transaction, and where an idle stream stands."""
    assert names_change(
        "826B08514E000000142B022C0100296E5A1004A67F5E9885C54EA9B43040D4EDD4F817463C5F6964003C6130000004"
    )
    assert names_change(
        "826B08514E000000172B022C01002B026E5A1004A67F5E9885C54EA9B43040D4EDD4F817463C5F6964003C7431000004"
    )
    assert not names_change("826B08514E0000001C2B0229296E04")
