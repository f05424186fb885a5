"""Cancelling, and what has to be finished first.

PyMongo Async swallows a cancellation that hits it between two of its own steps (measured with 4.20: of 400 calls that
were cancelled under way 28 to 59 returned as if nothing had happened), or makes an error of it. Waiting for
the end of a task that was cancelled once may take for ever.
"""

import asyncio
import contextlib
import contextvars
import logging
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, Final, TypeVar

logger = logging.getLogger("sessions")
Answer = TypeVar("Answer")

_CANCELLED_AGAIN_SECONDS: Final = 0.5
_left_behind: set["asyncio.Task[Any]"] = set()


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


async def to_the_end(work: Coroutine[Any, Any, Answer], *, inherits: bool = True) -> Answer:
    """Carry the work out to its end, even if the caller is cancelled meanwhile; the cancellation leaves after it.

    Args:
        work: What has to be finished; it ends by its own time limit.
        inherits: Whether the caller's context holds for it, with the driver's time limit that may be set there.

    Returns:
        The work's answer.

    Raises:
        asyncio.CancelledError: The caller was cancelled, or the loop is closing and has cancelled the work too.
    """
    task = asyncio.create_task(work) if inherits else in_background(work, "sessions: finishing")
    cancelled = await _ended(task)
    if cancelled is None:
        return task.result()
    forget(task)
    raise cancelled


async def to_the_end_or_undone(
    work: Callable[[], Coroutine[Any, Any, Answer]], *, undo: Callable[[Answer], Awaitable[object]]
) -> Answer:
    """As `to_the_end`, for work whose answer must not be left behind if the caller will never see it.

    Args:
        work: What has to be finished; done a second time it changes nothing and gives the same answer.
        undo: Called with the answer that a cancelled caller will never see.

    Returns:
        The work's answer.

    Raises:
        asyncio.CancelledError: As for `to_the_end`.
    """
    has_begun = False

    async def begin() -> Answer:
        nonlocal has_begun
        has_begun = True
        return await work()

    task = asyncio.create_task(begin())
    cancelled = await _ended(task)
    if cancelled is None:
        return task.result()
    if has_begun and task.cancelled():
        # A loop that closes cancels every task at once, and the server may have carried out what was sent: only
        # doing it again tells.
        task = asyncio.create_task(work())
        await _ended(task)
    await _ended(asyncio.create_task(_undone(task, undo)))
    raise cancelled


async def or_undone_later(
    work: Coroutine[Any, Any, Answer], *, undo: Callable[[Answer], Awaitable[object]], within: float
) -> Answer:
    """As `to_the_end_or_undone`, for a cancelled caller that must not wait long: the undoing may come later.

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


async def _ended(task: "asyncio.Task[Any]") -> asyncio.CancelledError | None:
    """Wait for a task; the first cancellation of the caller meanwhile."""
    try:
        # Other than `await task`, this leaves the task alone when it is cancelled.
        await asyncio.wait({task})
    except asyncio.CancelledError as error:
        with _anyio_shield():
            while not task.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait({task})
        return error
    return None


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
    except Exception:
        logger.exception("what a cancelled call had done could not be undone")


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


def leave_behind(task: "asyncio.Task[Any]") -> None:
    """Keep a task that nobody waits for any more from being collected in mid-run: the loop holds it weakly."""
    _left_behind.add(task)
    task.add_done_callback(_left_behind.discard)


def forget(task: "asyncio.Task[Any]") -> None:
    """Look at how a task ended: the loop prints an exception that nobody has looked at, with its text."""
    if task.done() and not task.cancelled():
        task.exception()
