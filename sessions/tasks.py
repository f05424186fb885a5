"""Cancelling, and what has to be finished first.

PyMongo Async swallows a cancellation that hits it between two of its own steps (measured with 4.20: of 400 calls that
were cancelled under way 28 to 59 returned as if nothing had happened), or makes an error of it. Waiting for
the end of a task that was cancelled once may take for ever.
"""

import asyncio
import contextlib
import contextvars
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from functools import partial
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from sessions.failures import reason_of, traces_of
from sessions.log_events import LogEvent, log

Answer = TypeVar("Answer")

_CANCELLED_AGAIN_SECONDS: Final = 0.5
_left_behind: set["asyncio.Future[Any]"] = set()


async def answered(call: Awaitable[Answer]) -> Answer:
    """What the driver answers, unless the caller was cancelled meanwhile; then the cancellation leaves, once."""
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0

    async def leave_if_cancelled(cause: Exception | None = None) -> None:
        if task is not None and task.cancelling() > before:
            await asyncio.sleep(0)  # one that has not been delivered yet leaves here
            raise asyncio.CancelledError from cause

    try:
        answer = await call
    except Exception as error:
        await leave_if_cancelled(error)
        raise
    await leave_if_cancelled()
    return answer


async def until_done(future: "asyncio.Future[Any]", within: float | None = None) -> None:
    """Wait for a future, so many seconds at most; it is left alone, also if the caller is cancelled.

    As `asyncio.wait` for one, at two thirds of what that costs.
    """
    loop = asyncio.get_running_loop()
    waiter = loop.create_future()
    wake = partial(_wake, waiter)
    future.add_done_callback(wake)
    timer = None if within is None else loop.call_later(within, wake)
    try:
        await waiter
    finally:
        future.remove_done_callback(wake)
        if timer is not None:
            timer.cancel()


def _wake(waiter: "asyncio.Future[None]", _: object = None) -> None:
    if not waiter.done():
        waiter.set_result(None)


class Finishing:
    """Entered around work that has to come to its end in its caller's own task, although that may be cancelled.

    What the work waits for by `wait` is waited for; the first cancellation leaves at the end of the block.
    """

    def __init__(self) -> None:
        self._cancelled: asyncio.CancelledError | None = None

    @property
    def is_cancelled(self) -> bool:
        """Whether the caller was cancelled meanwhile, so that it will never see the work's answer."""
        return self._cancelled is not None

    async def wait(self, future: "asyncio.Future[Any]", within: float | None = None) -> None:
        """As `until_done`, however often the caller is cancelled."""
        loop = asyncio.get_running_loop()
        ends = None if within is None else loop.time() + within
        if self._cancelled is None:
            try:
                await until_done(future, within)
            except asyncio.CancelledError as error:
                self._cancelled = error
            else:
                return
        with _anyio_shield():
            while not future.done() and (ends is None or loop.time() < ends):
                with contextlib.suppress(asyncio.CancelledError):
                    await until_done(future, None if ends is None else ends - loop.time())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._cancelled is not None:
            raise self._cancelled from error


async def to_the_end(work: Coroutine[Any, Any, Answer], *, inherits: bool = True) -> Answer:
    """Carry work out to its end that does not know of `Finishing`, in a task of its own.

    Args:
        work: What has to be finished; it ends by its own time limit.
        inherits: Whether the caller's context holds for it, with the driver's time limit that may be set there.

    Returns:
        The work's answer.

    Raises:
        asyncio.CancelledError: The caller was cancelled, or the loop is closing and has cancelled the work too.
    """
    task = asyncio.create_task(work) if inherits else in_background(work, "sessions: finishing")
    with Finishing() as finishing:
        await finishing.wait(task)
        if finishing.is_cancelled:
            forget(task)
        return task.result()


async def or_undone_later(
    work: Coroutine[Any, Any, Answer], *, undo: Callable[[Answer], Awaitable[object]], within: float
) -> Answer:
    """Carry work out whose answer must not be left behind; a cancelled caller does not wait long for its undoing.

    Args:
        work: What has to be finished; it ends by its own time limit.
        undo: Called with the answer that a cancelled caller will never see, whenever it comes.
        within: Seconds that a cancelled caller waits for that.

    Returns:
        The work's answer.

    Raises:
        asyncio.CancelledError: The caller was cancelled.
    """
    task = asyncio.create_task(work)
    try:
        await asyncio.wait({task})
    except asyncio.CancelledError:
        undoing = asyncio.create_task(_undone(task, undo))
        leave_behind(undoing)
        await to_the_end(asyncio.wait({undoing}, timeout=within))
        raise
    return task.result()


def _anyio_shield() -> contextlib.AbstractContextManager[object]:
    """Where anyio is in use its scopes cancel again at each turn of the loop, which would take a whole processor."""
    if (anyio := sys.modules.get("anyio")) is None:
        return contextlib.nullcontext()
    shield: contextlib.AbstractContextManager[object] = anyio.CancelScope(shield=True)
    return shield


async def _undone(task: "asyncio.Task[Answer]", undo: Callable[[Answer], Awaitable[object]]) -> None:
    """Undo what a task has done, as soon as it has ended; nothing if it did not come to its end."""
    await asyncio.wait({task})
    if task.cancelled() or task.exception() is not None:
        return
    try:
        await undo(task.result())
    except Exception as error:  # noqa: BLE001 - nobody waits for it any more
        log(LogEvent.UNDOING_FAILED, reason=reason_of("undoing", error), traces=traces_of(error))


async def stopped(tasks: Iterable["asyncio.Task[Any]"]) -> None:
    """Cancel tasks, and return when they have ended; a caller that is cancelled meanwhile leaves after it."""
    await to_the_end(_stop(set(tasks)))


async def _stop(tasks: set["asyncio.Task[Any]"]) -> None:
    left = tasks
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=_CANCELLED_AGAIN_SECONDS)
    for task in tasks:
        forget(task)


async def until_set(event: asyncio.Event, *, within: float) -> None:
    """Wait for an event, so many seconds at most.

    Not by `asyncio.wait_for`: that of Python 3.11 swallows a cancellation that comes together with the event.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within):
            await event.wait()


def in_background(work: Coroutine[Any, Any, Answer], name: str) -> "asyncio.Task[Answer]":
    """A task that takes nothing over from whoever happened to start it, such as the driver's time limit."""
    return asyncio.create_task(work, name=name, context=contextvars.Context())


def leave_behind(task: "asyncio.Future[Any]", *, until: float | None = None) -> None:
    """Keep a task that nobody waits for any more from being collected in mid-run: the loop holds it weakly.

    Args:
        task: How it ends is looked at by nobody.
        until: Seconds after which it is cancelled; None for never.
    """
    _left_behind.add(task)
    task.add_done_callback(_left_behind.discard)
    task.add_done_callback(forget)
    if until is not None:
        asyncio.get_running_loop().call_later(until, task.cancel)


def forget(task: "asyncio.Future[Any]") -> None:
    """Look at how a task ended: the loop prints an exception that nobody has looked at, with its text."""
    if task.done() and not task.cancelled():
        task.exception()
