"""One message, delivered many times at one moment, as a transport may do when it is asked to lose none."""

import asyncio
import multiprocessing
import pickle
from collections.abc import Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from threading import Barrier, BrokenBarrierError
from typing import Any, Final, TypeAlias, TypeVar

from sessions.store.clients import Database
from sessions.testing.double import refuse_the_double

_Message = TypeVar("_Message")
_Answer = TypeVar("_Answer")
Handler: TypeAlias = Callable[[_Message], Awaitable[_Answer]]
"""What an application does with a message: its worker's async function."""

_READY_WITHIN_SECONDS: Final = 120.0  # processes that start on a busy machine


async def deliver_together(
    handler: Handler[_Message, _Answer] | AbstractAsyncContextManager[Handler[_Message, _Answer]],
    message: _Message,
    *,
    database: Database,
    copies: int = 10,
    processes: int = 1,
) -> list[_Answer | BaseException]:
    """Call an application's own handler with one message many times at once; each call's answer, or what it raised.

    Whether the outcome was one is the caller's to assert: on the answers, on what the handler has done elsewhere, and
    by `assert_legal_history`.

    Args:
        handler: An async function; or a context manager that is entered before the calls begin and gives one, for a
            handler that needs a connection of its own.
        message: What it is called with.
        database: Where its sessions are.
        copies: How many calls, at least 2.
        processes: 1 for this process; more for so many new ones, which share the copies. Handler and message are then
            pickled: a function of a module, or an object of a class of one that opens its connection when it is
            entered. Answers and errors are pickled too.

    Raises:
        DoubleShowsNoRace: The database is the in-memory double.
        ValueError: There are fewer than two copies, or more processes than copies.
        TypeError: There are several processes, and handler or message cannot be pickled.
    """
    refuse_the_double(database, "deliver_together")
    if copies < 2 or not 1 <= processes <= copies:  # noqa: PLR2004 - two are the fewest that race
        raise ValueError("copies is at least 2, and processes from 1 to as many as there are copies")
    if processes == 1:
        here: list[_Answer | BaseException] = await _delivered(handler, message, copies, _at_once)
        return here
    try:
        pickled = pickle.dumps((handler, message))
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise TypeError(
            f"handler and message cannot be sent to another process ({error}): use a function of a module, or an "
            "object that opens its connection when it is entered"
        ) from error
    spawning = multiprocessing.get_context("spawn")
    shares = [copies // processes + (number < copies % processes) for number in range(processes)]
    barrier = spawning.Barrier(processes)
    loop = asyncio.get_running_loop()
    with ProcessPoolExecutor(processes, mp_context=spawning, initializer=_keep, initargs=(barrier,)) as pool:
        calls = [loop.run_in_executor(pool, _in_a_process, pickled, share) for share in shares]
        answered: list[Any] = await asyncio.gather(*calls, return_exceptions=True)
    if failed := [each for each in answered if isinstance(each, BaseException)]:
        # Of the process that failed, rather than of those that waited for it.
        raise min(failed, key=lambda each: isinstance(each, BrokenBarrierError))
    return [answer for answers in answered for answer in answers]


async def _at_once() -> None:
    """One process waits for nobody."""


async def _delivered(handler: Any, message: object, copies: int, released: Callable[[], Awaitable[object]]) -> Any:
    async with AsyncExitStack() as stack:
        if isinstance(handler, AbstractAsyncContextManager):
            handler = await stack.enter_async_context(handler)
        await released()
        # A task each: they take their first step one after the other, before any of them is answered by the server.
        return await asyncio.gather(*(_called(handler, message) for _ in range(copies)), return_exceptions=True)


async def _called(handler: Any, message: object) -> Any:
    return await handler(message)


_barriers: Final[list[Barrier]] = []
"""In a new process: where it waits for the others."""


def _keep(barrier: Barrier) -> None:
    _barriers.append(barrier)


def _in_a_process(pickled: bytes, copies: int) -> Any:
    (barrier,) = _barriers
    try:
        return _loaded_and_delivered(pickled, copies, barrier)
    except BaseException:
        barrier.abort()  # nobody waits for this one
        raise


def _loaded_and_delivered(pickled: bytes, copies: int, barrier: Barrier) -> Any:
    try:
        handler, message = pickle.loads(pickled)  # noqa: S301 - by the process that began this one
    except (ImportError, AttributeError) as error:
        error.add_note("The module of the handler cannot be imported in another process: is its folder on sys.path?")
        raise

    async def released() -> None:
        await asyncio.to_thread(barrier.wait, _READY_WITHIN_SECONDS)

    return asyncio.run(_delivered(handler, message, copies, released))
