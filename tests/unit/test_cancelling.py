"""What is cancelled ends, also where a driver swallows the cancellation or makes an error of it."""

import asyncio
from typing import Any, Final

import pytest
from pymongo.errors import AutoReconnect

from sessions import tasks
from sessions.store.clients import connect_double
from sessions.store.clock import ServerClock
from sessions.store.collection import SessionCollection
from sessions.tasks import answered, or_undone_later, stopped

WITHIN: Final = 10.0


class Swallowing:
    """Work that takes no notice of its first cancellations."""

    def __init__(self, times: int) -> None:
        self.left = times
        self.has_ended = False

    async def __call__(self) -> None:
        """Go on for ever."""
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if not self.left:
                    self.has_ended = True
                    raise
                self.left -= 1


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "_CANCELLED_AGAIN_SECONDS", 0.001)


@pytest.mark.usefixtures("_impatient")
async def test_what_swallows_its_cancellation_is_cancelled_again() -> None:
    """The end is waited for, and it comes."""
    works = [Swallowing(times) for times in range(3)]
    tasks = [asyncio.create_task(work()) for work in works]
    await asyncio.sleep(0)
    await asyncio.wait_for(stopped(tasks), WITHIN)
    assert all(work.has_ended for work in works)


@pytest.mark.usefixtures("_impatient")
async def test_who_stops_is_cancelled_himself() -> None:
    """The caller's own cancellation is not lost, and leaves when the work has ended."""
    work = Swallowing(2)
    task = asyncio.create_task(work())
    stopping = asyncio.create_task(stopped([task]))
    await asyncio.sleep(0)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(stopping, WITHIN)
    assert work.has_ended


async def test_what_ends_by_an_error_is_looked_at(caplog: pytest.LogCaptureFixture) -> None:
    """The loop does not complain later of an exception that nobody retrieved."""

    async def breaks() -> None:
        raise ValueError("private words")

    await stopped([asyncio.create_task(breaks())])
    assert caplog.text == ""


@pytest.mark.parametrize("outcome", ["an answer", AutoReconnect("connection closed")])
async def test_a_driver_hides_no_cancellation(outcome: object) -> None:
    """Whatever it makes of it, an answer or an error of the connection, the caller is cancelled, and only once."""
    under_way = asyncio.Event()
    tidied: list[str] = []

    async def driver() -> object:
        under_way.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if isinstance(outcome, Exception):
                raise outcome from None
        return outcome

    async def call() -> object:
        try:
            return await answered(driver())
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            tidied.append("once")
            raise

    calling = asyncio.create_task(call())
    await under_way.wait()
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    assert tidied == ["once"]


async def test_an_error_of_the_driver_passes() -> None:
    """Where nobody was cancelled it is the caller's."""

    async def driver() -> None:
        raise AutoReconnect("connection closed")

    with pytest.raises(AutoReconnect):
        await answered(driver())


@pytest.mark.parametrize("turns", range(8))
async def test_a_clock_is_closed_whenever_it_is_told_of_a_new_primary(
    turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many turns of the loop lie between the two: its task ends."""
    collection = SessionCollection(connect_double()["clock"], timeout=1.0)
    clock = ServerClock(collection)

    async def server_time(_: SessionCollection) -> Any:
        await asyncio.sleep(0)
        return clock.reading()

    monkeypatch.setattr(SessionCollection, "server_time", server_time)
    await clock.start()
    renewal = clock._renewal
    assert renewal is not None
    await asyncio.sleep(0)
    clock._primary = "another.example"
    monkeypatch.setattr(SessionCollection, "primary", lambda _: "this.example")
    clock.now()
    for _ in range(turns):
        await asyncio.sleep(0)
    await asyncio.wait_for(clock.close(), WITHIN)
    assert renewal.cancelled()


@pytest.mark.parametrize("within", [0.0, WITHIN])
async def test_what_a_cancelled_caller_began_is_undone_when_it_comes(within: float) -> None:
    """The caller leaves soon though nothing answers, or with the undoing done if it comes in time."""
    answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    undone: list[str] = []

    async def work() -> str:
        return await answer

    async def undo(what: str) -> None:
        undone.append(what)

    caller = asyncio.create_task(or_undone_later(work(), undo=undo, within=within))
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.sleep(0)
    if within:
        answer.set_result("opened")
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(caller, WITHIN)
    if not within:
        assert undone == []
        answer.set_result("opened")
        async with asyncio.timeout(WITHIN):
            while not undone:  # noqa: ASYNC110 - nobody waits for it any more
                await asyncio.sleep(0)
    assert undone == ["opened"]


async def test_what_nobody_cancels_is_not_undone() -> None:
    """Its answer, or its error, is the caller's."""

    async def work(error: Exception | None = None) -> int:
        if error is not None:
            raise error
        return 1

    async def undo(_: int) -> None:
        pytest.fail("undone")

    assert await or_undone_later(work(), undo=undo, within=WITHIN) == 1
    with pytest.raises(AutoReconnect):
        await or_undone_later(work(AutoReconnect("played")), undo=undo, within=WITHIN)
