"""One claim's work: in a task of its own, its lease renewed meanwhile, stopped as soon as it may not go on."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Final, Generic, NamedTuple, TypeVar

from sessions.backoff import Backoff
from sessions.changes.lease_news import LeaseNews
from sessions.domain.errors import LeaseLost, SessionError, SessionNotFound, SessionRef, StoreUnavailable, WriteOutcome
from sessions.domain.models import Claim
from sessions.log_events import LogEvent, log
from sessions.tasks import forget, in_background, leave_behind, stopped, to_the_end, until_set

Result = TypeVar("Result")
Renew = Callable[[], Coroutine[Any, Any, object]]

DEFAULT_MAX_RERUN: Final = timedelta(minutes=10)

# A third of a lease passes before it is renewed, the second third is for trying, the last one for stopping the work.
_PARTS: Final = 3
_LISTENS_AFTER: Final = 0.25
"""Seconds; short work is over by then, and costs no stream of changes."""
_LONGEST_PATIENCE: Final = 3.0
_LONGEST_PAUSE: Final = 1.0


class Done(NamedTuple, Generic[Result]):
    """The work came to its end."""

    value: Result


class Broken(NamedTuple):
    """The work raised; a ``CancelledError`` of its own making too."""

    error: BaseException


class OutOfTime:
    """The work was stopped: it took too long."""


class CutOff(NamedTuple):
    """The work was stopped: its lease was lost, or could not be renewed."""

    error: SessionError


Ending = Done[Result] | Broken | OutOfTime | CutOff


async def _call(work: Callable[[], Awaitable[Result]]) -> Result:
    found: Awaitable[Result] | Result = work()
    # A lambda cannot be told beforehand from an async function.
    return await found if isinstance(found, Awaitable) else found


async def run(
    work: Callable[[], Awaitable[Result]], claim: Claim, *, renewal: asyncio.Task[SessionError], within: timedelta
) -> Ending[Result]:
    """Do a claim's work; stop it when its time is up, when the renewal ends, or when the caller is cancelled.

    Args:
        work: Called once, in a task of its own, so that its own cancellations are told from the caller's.
        claim: What the work is done for.
        renewal: What `renewed` gave; it ends only with the reason why the work may not go on.
        within: How long the work may take.

    Returns:
        How it ended. Work that does not end when it is cancelled is left to itself after a while.
    """
    # A cancellation that is already under way leaves here, before the work has begun.
    await asyncio.sleep(0)
    task = asyncio.create_task(_call(work), name=f"sessions: work on {claim.session.session_id}")
    task.add_done_callback(forget)
    try:
        await asyncio.wait({task, renewal}, timeout=within.total_seconds(), return_when=asyncio.FIRST_COMPLETED)
    finally:
        # Work that blocked the event loop past its time and has ended since counts as ended.
        has_ended = task.done()
        if not has_ended:
            await to_the_end(_stop(task, claim, renewal))
    if has_ended:
        if task.cancelled():
            return Broken(asyncio.CancelledError())
        error = task.exception()
        return Done(task.result()) if error is None else Broken(error)
    return CutOff(renewal.result()) if renewal.done() else OutOfTime()


async def _stop(task: asyncio.Task[Any], claim: Claim, renewal: asyncio.Task[SessionError]) -> None:
    patience = min(claim.lease.total_seconds() / _PARTS / 2, _LONGEST_PATIENCE)
    task.cancel()
    if not renewal.done():
        # As long as the lease is renewed the work may take its time to tidy up.
        await asyncio.wait({task, renewal}, timeout=_LONGEST_PATIENCE, return_when=asyncio.FIRST_COMPLETED)
    if renewal.done():
        await asyncio.wait({task}, timeout=patience * 3 / 4)
    if not task.done():
        # Again: PyMongo 4.20 swallows about one in ten cancellations that hit a call under way.
        task.cancel()
        await asyncio.wait({task}, timeout=patience / 4)
    if not task.done():
        leave_behind(task)
        log(LogEvent.WORK_RUNS_ON, session_id=claim.session.session_id)


@asynccontextmanager
async def renewed(
    claim: Claim, renew: Renew, *, news: LeaseNews, since: float
) -> AsyncIterator[asyncio.Task[SessionError]]:
    """Renew a claim in the background for as long as the block runs; at once where its lease may have gone.

    Args:
        claim: What to renew.
        renew: Renews it once.
        news: What becomes of its lease.
        since: The loop's time just before the claim was asked for: its lease began no earlier.

    Yields:
        The task of the renewal. It ends with the reason why the work may not go on: `LeaseLost` or
        `SessionNotFound` if somebody else has the session, `StoreUnavailable` if the lease is about to lapse.
    """
    renewal = in_background(_keep(claim, renew, news, since), f"sessions: renewal of {claim.session.session_id}")
    try:
        yield renewal
    finally:
        await stopped([renewal])


async def _keep(claim: Claim, renew: Renew, news: LeaseNews, since: float) -> SessionError:
    part = claim.lease.total_seconds() / _PARTS
    await asyncio.sleep(min(_LISTENS_AFTER, part))
    with news.of(claim.session) as listener:
        return await _keep_listening(claim, renew, listener.woken, since)


async def _keep_listening(claim: Claim, renew: Renew, woken: asyncio.Event, since: float) -> SessionError:
    loop = asyncio.get_running_loop()
    part = claim.lease.total_seconds() / _PARTS
    pauses = Backoff(min(part / 10, _LONGEST_PAUSE))
    while True:
        await until_set(woken, within=since + part - loop.time())
        woken.clear()
        # Work that blocked the event loop has eaten the lease up: then too there is time for one try.
        gives_up = max(since + 2 * part, loop.time() + part)
        last: SessionError | None = None
        while True:
            sent = loop.time()
            answer = await _renew_once(claim, renew, until=gives_up, part=part)
            if answer is None:
                since = sent
                break
            if isinstance(answer, LeaseLost | SessionNotFound):
                return answer
            last = answer
            pause = pauses.next()
            if loop.time() + pause >= gives_up:
                return last if isinstance(last, StoreUnavailable) else _not_renewed(claim)
            await asyncio.sleep(pause)


async def _renew_once(claim: Claim, renew: Renew, *, until: float, part: float) -> SessionError | None:
    """None if the lease was extended; else what stood in the way."""
    loop = asyncio.get_running_loop()
    # A task of its own: a call that is cancelled first finishes what it has sent, and the work has to stop before.
    call = asyncio.create_task(renew())
    call.add_done_callback(forget)
    try:
        await asyncio.wait({call}, timeout=until - loop.time())
        if loop.time() > until + part / 2:
            # The work blocked the event loop: the answer may have come and waits to be read.
            await asyncio.wait({call}, timeout=part)
    finally:
        if not call.done():
            call.cancel()
            leave_behind(call)
    if not call.done():
        return _not_renewed(claim)
    try:
        call.result()
    except SessionError as error:
        return error
    return None


def _not_renewed(claim: Claim) -> StoreUnavailable:
    about = SessionRef.of(claim.session, claim.session.status)
    return StoreUnavailable(about, outcome=WriteOutcome.UNKNOWN, cause="the lease could not be renewed in time")
