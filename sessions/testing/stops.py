"""A worker that is stopped wherever it waits: at each await in turn, as a deployment may stop it at any of them."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any, Final, TypeVar

from sessions.store.clients import Database
from sessions.testing.deliveries import Handler
from sessions.testing.double import refuse_the_double

_Message = TypeVar("_Message")
_Answer = TypeVar("_Answer")

_NOT_ITS_OWN: Final = sys.stdlib_module_names | {"anyio", "bson", "motor", "pymongo", "sessions"}
"""Packages whose background tasks wait for reasons of their own, and whose lines nobody looks for."""


async def stop_at_each_await(
    handler: Handler[_Message, _Answer],
    *,
    arrange: Callable[[], Awaitable[_Message]],
    check: Callable[[_Message, _Answer], Awaitable[None]],
    database: Database,
    again: Handler[_Message, _Answer] | None = None,
) -> list[str]:
    """Stop an application's own worker at its first await, then at its second, and so on until it comes to its end.

    In each round a new message is arranged and handled; the task that handles it is cancelled where it waits for the
    n-th time, itself or in a task that it began (the graph that it lets the bridge run); then the message is delivered
    again, and the outcome is checked. It has to be the same one as that of a worker that was never stopped.

    Args:
        handler: The worker.
        arrange: Makes a session and the message for it, new ones in each round.
        check: Asserts that all is as it should be; it is given the message and the last answer.
        database: Where the sessions are.
        again: Delivers the message once more, if that is another call; with the bridge one that says
            ``redelivered=True``.

    Returns:
        Where it was stopped, in order: file, line and function of its own code.

    Raises:
        DoubleShowsNoRace: The database is the in-memory double.
        AssertionError: The worker never waits, so that nothing was shown.
        Exception: What the worker, its second delivery or the check raised, with a note that says where it was stopped.
    """
    refuse_the_double(database, "stop_at_each_await")
    places: list[str] = []
    for number in count(1):
        message = await arrange()
        stop = _Stop(number)
        try:
            answer: Any = await stop.during(handler, message)
            if stop.place is not None:
                answer = await (again or handler)(message)
            await check(message, answer)
        except Exception as error:
            if stop.place is not None:
                error.add_note(f"The worker was stopped at its await number {number}, {stop.place}.")
            raise
        if stop.place is None:
            break
        places.append(stop.place)
    assert places, "the worker waits for nothing: it cannot be stopped, and nothing was shown"
    return places


class _Stop:
    """Cancels a task where it, or one that it began, waits for the n-th time."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._waits = 0
        self._worker: asyncio.Task[Any] | None = None
        self.place: str | None = None

    async def during(self, handler: Handler[_Message, _Answer], message: _Message) -> _Answer | None:
        """What the handler answers; None if it was stopped."""

        async def handled() -> _Answer:
            return await handler(message)

        with self._watching():
            self._worker = worker = asyncio.create_task(handled())
            try:
                await asyncio.wait([worker])
            finally:
                worker.cancel()  # if the test itself is; else it has ended
        if worker.cancelled() and self.place is not None:
            return None
        return worker.result()

    @contextmanager
    def _watching(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        before = loop.get_task_factory()

        def begin(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> Any:
            watched = _Watched(coroutine, self) if _stopping.get() is self else coroutine
            return asyncio.Task(watched, loop=loop, **options) if before is None else before(loop, watched, **options)

        loop.set_task_factory(begin)
        token = _stopping.set(self)
        try:
            yield
        finally:
            _stopping.reset(token)
            loop.set_task_factory(before)

    def waits_in(self, coroutine: Any) -> None:
        """Called where a task waits."""
        frames = list(_frames(coroutine))
        own = [frame for frame in frames if _root(frame) not in _NOT_ITS_OWN]
        if self._worker is None or self._worker.done() or not (own or asyncio.current_task() is self._worker):
            return
        self._waits += 1
        if self._waits == self._number and frames:
            frame = (own or frames)[-1]
            self.place = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} in {frame.f_code.co_name}"
            self._worker.cancel()


_stopping: Final[ContextVar[_Stop | None]] = ContextVar("sessions_testing_stopping", default=None)


def _frames(coroutine: Any) -> Iterator[FrameType]:
    """From the task's own function inwards, as far as coroutines tell what they wait for."""
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
        if frame is not None:
            yield frame
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)


def _root(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


class _Watched(Coroutine[Any, Any, Any]):
    """A task's coroutine, which tells each of its waits."""

    def __init__(self, coroutine: Any, stop: _Stop) -> None:
        self._coroutine = coroutine
        self._stop = stop

    def send(self, value: Any) -> Any:
        return self._told(self._coroutine.send(value))

    def throw(self, *error: Any) -> Any:
        return self._told(self._coroutine.throw(*error))

    def close(self) -> None:
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return (yield from self._coroutine.__await__())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._coroutine, name)

    def _told(self, waits_for: Any) -> Any:
        self._stop.waits_in(self._coroutine)
        return waits_for
