"""A call that is cancelled in mid-write is finished first: by then it has usually written, and somebody has to know."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

logger = logging.getLogger("sessions")
Answer = TypeVar("Answer")


async def finished(
    work: Coroutine[Any, Any, Answer], *, undo: Callable[[Answer], Awaitable[object]] | None = None
) -> Answer:
    """Carry the work out to its end, even where the caller is cancelled meanwhile; the cancellation leaves after it.

    Args:
        work: What has to be finished; it ends by its own time limit.
        undo: Called with the answer that a cancelled caller will never see.

    Returns:
        The work's answer.

    Raises:
        asyncio.CancelledError: The caller was cancelled, or the loop is closing and has cancelled the work too.
    """
    task = asyncio.ensure_future(work)
    try:
        # Other than `await task`, this leaves the task alone when it is cancelled.
        await asyncio.wait({task})
    except asyncio.CancelledError:
        await _ended(task)
        if undo is not None and not task.cancelled() and task.exception() is None:
            await _ended(asyncio.ensure_future(_undone(undo, task.result())))
        raise
    return task.result()


async def _undone(undo: Callable[[Answer], Awaitable[object]], answer: Answer) -> None:
    try:
        await undo(answer)
    except Exception:
        logger.exception("what a cancelled call had done could not be undone")


async def _ended(task: asyncio.Future[Any]) -> None:
    while not task.done():
        # A caller may be cancelled more than once; the first cancellation is the one that leaves.
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({task})
    if not task.cancelled():
        task.exception()  # seen, so that the loop does not report it
