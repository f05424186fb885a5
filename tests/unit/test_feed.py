"""The feed over a stream that the test plays: when it is opened again, whom it tells, what it gives up."""

import asyncio
import gc
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any

import pytest
import pytest_asyncio

from sessions import WatchInterrupted
from sessions.changes import feed as feeding
from sessions.changes import streams, watch
from sessions.changes.events import Event, to_event
from sessions.changes.feed import Feed
from sessions.changes.watch import Queue, Scope, Watch
from tests.support.played_streams import PATIENCE, PlayedSource, PlayedStream, Recorder, change, lost, until


@pytest.fixture
def source() -> PlayedSource:
    """Where the streams come from."""
    return PlayedSource()


@pytest_asyncio.fixture(loop_scope="session")
async def feed(source: PlayedSource, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Feed]:
    """A shared feed that looks and retries quickly."""
    monkeypatch.setattr(streams, "_PRIMARY_LOOK", 0.005)
    monkeypatch.setattr(feeding, "_FIRST_PAUSE", 0.002)
    made = Feed(source, patience=PATIENCE)
    yield made
    await made.close()
    assert all(stream.is_closed for stream in source.streams)


async def test_a_lost_stream_goes_on_where_it_was(feed: Feed, source: PlayedSource) -> None:
    """The next stream begins behind the last change that was told, and the followers learn of both moments."""
    recorder = Recorder()
    await feed.follow(recorder)
    source.streams[0].answers.put_nowait(change(1))
    source.streams[0].answers.put_nowait(None)
    source.streams[0].answers.put_nowait(lost())
    await until(lambda: len(source.streams) == 2)
    assert source.asked == [(None, 1.0), ("0001", 1.0)]
    assert recorder.told == [("joined", "0000"), "opened", "0001", "quiet", "lost", "opened"]


async def test_a_batch_is_told_at_once_and_in_its_order(feed: Feed, source: PlayedSource) -> None:
    """All followers have each of its changes; the next stream begins behind the last of them."""
    recorders = [Recorder(), Recorder()]
    for recorder in recorders:
        await feed.follow(recorder)
    source.streams[0].answers.put_nowait([change(number) for number in (1, 2, 3)])
    source.streams[0].answers.put_nowait(lost())
    await until(lambda: len(source.streams) == 2)
    for recorder in recorders:
        assert [told for told in recorder.told if isinstance(told, str) and told.startswith("0")] == [
            "0001",
            "0002",
            "0003",
        ]
    assert source.asked[-1] == ("0003", 1.0)


async def test_a_follower_that_is_full_within_a_batch_comes_back_for_the_rest(
    feed: Feed, source: PlayedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stands behind the change that filled it is not passed over: it asks for that when it has been read."""
    monkeypatch.setattr(watch, "MOST_PENDING", 2)
    asked: list[str | None] = []

    def subscribe(token: str | None) -> Feed:
        asked.append(token)
        return feed

    async with Watch(Queue(subscribe, Scope(), resume_after=None)) as slow:
        await feed.follow(Recorder())
        source.streams[0].answers.put_nowait([change(number) for number in (1, 2, 3)])
        taken = [(await anext(slow)).token for _ in range(2)]
        assert taken == ["0001", "0002"]
        waiting = asyncio.create_task(anext(slow))
        await until(lambda: len(asked) == 2)
        assert asked[1] == "0002"
    with pytest.raises(StopAsyncIteration):
        await waiting


async def test_whoever_has_left_is_told_no_more(feed: Feed, source: PlayedSource) -> None:
    """A batch that comes in while its reader is being stopped reaches nobody, and is read again by the next stream."""
    reading = await streams.Reading.open(source, None, wait=1.0, patience=PATIENCE)
    told: list[streams.Batch] = []

    def take(batch: streams.Batch) -> bool:
        told.append(batch)
        return True

    reader = asyncio.create_task(reading.read(take))
    await asyncio.sleep(0)
    reader.cancel()
    await asyncio.wait({reader})
    source.streams[0].answers.put_nowait(change(1))
    await until(source.streams[0].answers.empty)
    await asyncio.sleep(0)
    assert told == []
    await reading.let_go()


async def test_a_read_that_outlasts_its_stream_ends_unseen(
    source: PlayedSource, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A driver that takes its time over a cancellation: the loop does not print what comes of it, with its text."""
    monkeypatch.setattr(streams, "_READ_ENDS_WITHIN", 0.0)

    async def next_batch(_self: PlayedStream) -> list[dict[str, Any]]:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.sleep(0.01)
        raise ValueError("private words")

    monkeypatch.setattr(PlayedStream, "next_batch", next_batch)
    reading = await streams.Reading.open(source, None, wait=0.0, patience=PATIENCE)
    reader = asyncio.create_task(reading.read(lambda _: True))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    reader.cancel()
    await asyncio.wait({reader})
    await reading.let_go()
    del reading, reader
    await asyncio.sleep(0.05)
    gc.collect()
    assert caplog.text == ""


async def test_it_tries_until_a_stream_stands_again(feed: Feed, source: PlayedSource) -> None:
    """After the first stream nothing that may pass ends the feed."""
    recorder = Recorder()
    await feed.follow(recorder)
    source.refusals = [lost() for _ in range(5)]
    source.streams[0].answers.put_nowait(lost())
    await until(lambda: len(source.streams) == 2)
    assert len(source.asked) == 7
    assert not feed.has_ended


async def test_another_primary_is_another_stream(feed: Feed, source: PlayedSource) -> None:
    """A stream that says that nothing happened is not believed once the primary has changed."""
    recorder = Recorder()
    await feed.follow(recorder)
    await until(lambda: recorder.told[-1] == "opened")
    source.present = "second"
    source.streams[0].answers.put_nowait(None)
    await until(lambda: len(source.streams) == 2)
    assert "quiet" not in recorder.told


async def test_a_read_that_hangs_is_given_up_when_the_primary_changes(feed: Feed, source: PlayedSource) -> None:
    """A frozen server keeps its connections open: the feed does not wait for it."""
    await feed.follow(recorder := Recorder())
    source.present = None
    await until(lambda: len(source.streams) == 2)
    source.streams[1].answers.put_nowait(change(7))
    await until(lambda: recorder.told[-1] == "0007")


async def test_an_overdue_answer_is_not_waited_for(source: PlayedSource, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is dead without a word is replaced."""
    monkeypatch.setattr(streams, "_PRIMARY_LOOK", 0.005)
    monkeypatch.setattr(feeding, "_FIRST_PAUSE", 0.002)
    feed = Feed(source, patience=0.01)
    await feed.follow(recorder := Recorder(), wait=0.01)
    await until(lambda: len(source.streams) > 1)
    assert "lost" in recorder.told
    await feed.close()


@pytest.mark.parametrize(
    "refusal", [lost(), WatchInterrupted("played"), WatchInterrupted("played", needs_replica_set=True)]
)
async def test_a_first_stream_that_fails_is_the_callers_error(
    feed: Feed, source: PlayedSource, refusal: Exception
) -> None:
    """All who wait for it get it, and nothing is left running."""
    source.refusals = [refusal]
    recorders = [Recorder(), Recorder()]
    ends = await asyncio.gather(*(feed.follow(recorder) for recorder in recorders), return_exceptions=True)
    assert ends == [refusal, refusal]
    assert feed.has_ended
    assert [recorder.told for recorder in recorders] == [[], []]


async def test_an_interruption_ends_it_for_all(feed: Feed, source: PlayedSource) -> None:
    """Whoever has to miss nothing learns that he may have."""
    recorders = [Recorder(), Recorder()]
    for recorder in recorders:
        await feed.follow(recorder)
    interruption = WatchInterrupted("played")
    source.streams[0].answers.put_nowait(interruption)
    await until(lambda: feed.has_ended and recorders[0].told[-1] is interruption)
    assert [recorder.told[-2:] for recorder in recorders] == [["lost", interruption]] * 2


async def test_a_bug_reaches_whoever_follows(
    feed: Feed, source: PlayedSource, caplog: pytest.LogCaptureFixture
) -> None:
    """What nobody expected is logged and handed on; nobody waits for ever."""
    await feed.follow(recorder := Recorder())
    source.streams[0].answers.put_nowait(ArithmeticError("a bug"))
    await until(lambda: isinstance(recorder.told[-1], ArithmeticError))
    assert "following changes failed" in caplog.text


async def test_who_wants_to_know_sooner_gets_another_stream(feed: Feed, source: PlayedSource) -> None:
    """A cache with a tight bound makes all reads shorter, without a change being missed."""
    await feed.follow(first := Recorder())
    source.streams[0].answers.put_nowait(change(1))
    await until(lambda: first.told[-1] == "0001")
    await feed.follow(Recorder(), wait=0.2)
    source.streams[0].answers.put_nowait(None)
    await until(lambda: len(source.streams) == 2)
    assert source.asked[-1] == ("0001", 0.2)


async def test_it_ends_with_the_last_of_its_followers(feed: Feed, source: PlayedSource) -> None:
    """One may leave; when all have left, the stream is closed; one who was forgotten counts as having left."""
    staying, leaving = Recorder(), Recorder()
    await feed.follow(staying)
    await feed.follow(leaving)
    await feed.leave(leaving)
    assert not feed.has_ended
    del staying
    gc.collect()
    source.streams[0].answers.put_nowait(None)
    await until(lambda: feed.has_ended and source.streams[0].is_closed)


async def test_a_follower_that_is_cancelled_takes_nobody_with_it(source: PlayedSource) -> None:
    """The first stream is opened by the feed's own task, for all who wait for it."""
    may_open = asyncio.Event()
    opened = source.changes

    async def slowly(resume_after: str | None, *, wait: float) -> PlayedStream:
        await may_open.wait()
        return await opened(resume_after, wait=wait)

    source.changes = slowly  # type: ignore[method-assign]  # the test plays a slow server
    feed = Feed(source, patience=PATIENCE)
    impatient = asyncio.create_task(feed.follow(Recorder()))
    await asyncio.sleep(0)
    patient = asyncio.create_task(feed.follow(recorder := Recorder()))
    await asyncio.sleep(0)
    impatient.cancel()
    await asyncio.wait({impatient})
    may_open.set()
    await patient
    assert recorder.told[-1] == "opened"
    await feed.close()


async def test_closed_before_it_began(source: PlayedSource) -> None:
    """Whoever waits for the first stream of a feed that is closed finds its end, not an error."""
    feed = Feed(source, patience=PATIENCE)
    following = asyncio.create_task(feed.follow(recorder := Recorder()))
    await asyncio.sleep(0)
    await feed.close()
    await following
    assert recorder.told == [None]


def test_only_an_events_own_revision_is_the_latest() -> None:
    """A document that was looked up later, or is gone, or an event without a revision, is none."""
    assert to_event(change(3)).is_latest
    assert not to_event(change(3, revision=2)).is_latest
    assert not to_event({**change(3), "fullDocument": None}).is_latest
    without = {**change(3), "updateDescription": {"updatedFields": {"question_number": 2}}}
    assert not to_event(without).is_latest
    inserted = {**change(1), "operationType": "insert"}
    del inserted["updateDescription"]
    assert to_event(inserted).is_latest
    dropped = {"_id": {"_data": "00"}, "operationType": "drop"}
    assert to_event(dropped).session_id is None


@pytest.mark.parametrize("revision", ["3", True, 3.0, None, [3]])
def test_what_is_no_revision(revision: Any) -> None:
    """Anybody may write into the collection: only a whole number is compared with others."""
    foreign = change(3)
    foreign["updateDescription"]["updatedFields"]["revision"] = revision
    assert to_event(foreign).revision is None


class FailingRecorder(Recorder):
    """Has a bug."""

    def happened(self, events: Sequence[Event]) -> None:
        """Fails on the first change."""
        raise ArithmeticError(events[0].token)


async def test_a_follower_that_fails_takes_nobody_with_it(
    feed: Feed, source: PlayedSource, caplog: pytest.LogCaptureFixture
) -> None:
    """It alone is ended, with its error; the log names the kind and quotes nothing; the others miss nothing."""
    await feed.follow(failing := FailingRecorder())
    await feed.follow(sound := Recorder())
    for number in (1, 2):
        source.streams[0].answers.put_nowait(change(number))
    await until(lambda: sound.told[-1] == "0002")
    assert sound.told[-2:] == ["0001", "0002"]
    assert isinstance(failing.told[-1], ArithmeticError)
    assert len(source.streams) == 1
    assert "ArithmeticError" in caplog.text
    assert "0001" not in caplog.text


class SwallowingSource(PlayedSource):
    """As PyMongo Async may: a cancellation that meets the opening of a stream is taken no notice of."""

    def __init__(self) -> None:
        super().__init__()
        self.opening_again = asyncio.Event()

    async def changes(self, resume_after: str | None, *, wait: float) -> PlayedStream:
        """A stream, however the caller is cancelled."""
        if self.asked:
            with suppress(asyncio.CancelledError):
                self.opening_again.set()
                await asyncio.Event().wait()
        return await super().changes(resume_after, wait=wait)


async def test_a_closed_feed_ends_though_its_cancellation_is_swallowed() -> None:
    """The stream that is opened all the same is closed, and nobody waits for ever."""
    source = SwallowingSource()
    feed = Feed(source, patience=PATIENCE)
    await feed.follow(recorder := Recorder())
    source.streams[0].answers.put_nowait(lost())
    await asyncio.wait_for(source.opening_again.wait(), PATIENCE)
    await asyncio.wait_for(feed.close(), PATIENCE)
    assert recorder.told[-1] is None
    assert all(stream.is_closed for stream in source.streams)


async def test_what_stands_in_the_way_is_logged_once(
    feed: Feed, source: PlayedSource, caplog: pytest.LogCaptureFixture
) -> None:
    """An outage is one warning however long it lasts and many names it has, and the next one another."""
    await feed.follow(recorder := Recorder())
    for streams_before in (1, 2):
        source.refusals = [lost(f"try {number}") for number in range(5)]
        source.streams[-1].answers.put_nowait(lost())
        await until(lambda opened=streams_before: len(source.streams) > opened)  # type: ignore[misc]  # bound early
        source.streams[-1].answers.put_nowait(None)
        await until(lambda: recorder.told[-1] == "quiet")
    assert caplog.text.count("will be opened again") == 2


async def test_a_feed_begins_when_the_one_before_has_closed_its_stream(feed: Feed, source: PlayedSource) -> None:
    """There are never more streams than feeds, however often all who follow leave and come back."""
    await feed.follow(recorder := Recorder())
    may_close, close = asyncio.Event(), source.streams[0].close

    async def slowly() -> None:
        await may_close.wait()
        await close()

    source.streams[0].close = slowly  # type: ignore[method-assign]  # the test plays a slow server
    feed.discard(recorder)
    after = Feed(source, patience=PATIENCE, before=feed)
    following = asyncio.create_task(after.follow(recorder))
    await asyncio.sleep(0.02)
    assert len(source.streams) == 1
    may_close.set()
    await following
    assert len(source.streams) == 2
    await after.close()
