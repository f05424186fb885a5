"""A read that is cancelled is cancelled, whatever the driver makes of it."""

import asyncio
import gc
import time
from random import Random
from typing import Any

import anyio
import pytest
from pymongo.errors import OperationFailure

from sessions import SessionRepository, StoreUnavailable, WriteOutcome, open_repository
from sessions.testing import SessionMaker
from tests.support.fail_points import failing

CANCELLED = 200
ROUNDS = 15
AT_ONCE = 40
PATIENCE = 15.0


@pytest.mark.needs("server")
async def test_no_cancellation_is_swallowed(repository: SessionRepository) -> None:
    """PyMongo Async answers about one in ten cancelled reads as if nothing had happened; a shutdown would wait on."""
    chance = Random(5)
    swallowed = 0
    for number in range(CANCELLED):
        reading = asyncio.create_task(repository.route(1, "c"))
        if number % 2:
            await asyncio.sleep(chance.uniform(0, 0.002))
        else:
            for _ in range(chance.randint(0, 15)):
                await asyncio.sleep(0)
        if reading.done():
            continue
        reading.cancel()
        await asyncio.wait({reading})
        swallowed += not reading.cancelled()
    assert swallowed == 0


@pytest.mark.needs("server")
async def test_a_cancellation_is_delivered_once(repository: SessionRepository) -> None:
    """A caller that tidies up after its cancellation is not cancelled again for the same one."""
    chance = Random(5)
    tidied = 0

    async def read_then_tidy_up() -> None:
        nonlocal tidied
        try:
            await repository.route(1, "c")
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            await repository.route(1, "c")
            tidied += 1
            raise

    cancelled = 0
    for _ in range(CANCELLED // 2):
        reading = asyncio.create_task(read_then_tidy_up())
        await asyncio.sleep(chance.uniform(0, 0.002))
        cancelled += reading.cancel()
        await asyncio.wait({reading})
    assert tidied == cancelled


@pytest.mark.needs("server")
async def test_calls_that_are_cancelled_twice_keep_nothing_of_the_driver(repository: SessionRepository) -> None:
    """In PyMongo's hands they left the lock of its pool taken, and every later call waited for ever."""
    chance = Random(7)
    for _ in range(ROUNDS):
        calls = [asyncio.create_task(repository.route(1, f"c{number}")) for number in range(AT_ONCE)]
        await asyncio.sleep(chance.uniform(0, 0.004))
        for _ in range(2):
            for call in calls:
                call.cancel()
            await asyncio.sleep(0)
        _, waiting = await asyncio.wait(calls, timeout=PATIENCE)
        assert not waiting
        async with asyncio.timeout(PATIENCE):
            await repository.route(1, "c")


@pytest.mark.needs("server")
async def test_a_cancelled_call_waits_without_a_processor_under_anyio(
    repository: SessionRepository, database: Any
) -> None:
    """A scope of anyio cancels again at each turn of the loop; what has to be finished waits for its end once."""
    async with failing(database, "insert", blockConnection=True, blockTimeMS=1_000):
        began = time.process_time()
        with anyio.move_on_after(0.05) as scope:
            await repository.create(1, "t", pending_question="Which day?")
        took = time.process_time() - began
    assert scope.cancelled_caught
    assert await repository.find_by_trigger("t", user_id=1) is not None
    # A loop that spins takes the whole of the second.
    assert took < 0.5


@pytest.mark.needs("server")
async def test_a_driver_that_hangs_bounds_nobodys_time(
    database: Any, make_session: SessionMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the driver does, a call ends a second after its timeout, and with an error of this library."""
    session = await make_session(conversation_id="c")
    async with open_repository(database, timeout=1.0) as repository:

        async def never(*_: object, **__: object) -> None:
            await asyncio.Event().wait()

        async def break_down(*_: object, **__: object) -> None:
            raise RuntimeError("cannot wait on un-acquired lock")

        for behaviour in (never, break_down):
            with monkeypatch.context() as patched:
                patched.setattr(repository._collection._handles._commands, "_run", behaviour)
                began = asyncio.get_running_loop().time()
                with pytest.raises(StoreUnavailable) as refusal:
                    await repository.ignore(session.session_id, user_id=1)
                assert asyncio.get_running_loop().time() - began < 2.0
                assert refusal.value.outcome is WriteOutcome.UNKNOWN
                began = asyncio.get_running_loop().time()
                async with asyncio.timeout(PATIENCE):
                    with pytest.raises(StoreUnavailable):
                        await repository.get(session.session_id, user_id=1)
                assert asyncio.get_running_loop().time() - began < 2.0
        assert await repository.get(session.session_id, user_id=1) == session


@pytest.mark.needs("server")
async def test_an_error_that_comes_with_a_cancellation_is_not_printed(
    repository: SessionRepository, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The loop would print it, with the server's text, as one that nobody has looked at."""
    reading: asyncio.Task[object] | None = None

    def cancel(_: object) -> None:
        assert reading is not None
        reading.cancel()

    async def fail(*_: object, **__: object) -> None:
        await asyncio.sleep(0)
        answering = asyncio.current_task()
        assert answering is not None
        if answering is reading:
            cancel(None)  # nobody but the reader itself looks at the error
        else:
            answering.add_done_callback(cancel)  # behind the one that wakes the reader, and before it runs
        raise OperationFailure("private words", 13)

    monkeypatch.setattr(repository._collection._handles._commands, "_run", fail)
    reading = asyncio.create_task(repository.route(1, "c"))
    await asyncio.gather(reading, return_exceptions=True)
    reading = None
    await asyncio.sleep(0)
    gc.collect()
    assert caplog.text == ""
