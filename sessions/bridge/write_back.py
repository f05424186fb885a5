"""One confirmed preview: written back once, whichever worker dies or is stopped meanwhile."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import assert_never

from sessions import telemetry
from sessions.bridge.leased_work import Broken, CutOff, Done, Ending, OutOfTime, renewed, run
from sessions.bridge.outcomes import (
    Applied,
    ApplyFailed,
    Confirmed,
    Deferred,
    Held,
    RerunFailed,
    Superseded,
    TimedOut,
    outcome_of,
)
from sessions.bridge.transient_failures import RetryOn, passes_after
from sessions.domain.errors import InvalidTransition, LeaseLost, SessionError, SessionNotFound, TransitionConflict
from sessions.domain.lifecycle import LeaseKind, SessionStatus
from sessions.domain.models import ApplyClaim
from sessions.failures import reason_of, traces_of
from sessions.log_events import LogEvent, log
from sessions.repository import SessionRepository
from sessions.repository.engine import AT_ONCE, give_back, may_be_released
from sessions.tasks import to_the_end

WriteBack = Callable[[ApplyClaim], Awaitable[None]]

STOPPED = "stopped before the write-back began"


async def apply_only(repository: SessionRepository, session_id: str, *, user_id: int, preview_id: str) -> Confirmed:
    """Confirm a preview that needs no write-back of ours: the session ends ``applied``."""
    try:
        return Applied(await repository.apply(session_id, user_id=user_id, preview_id=preview_id))
    except SessionError as error:
        return _confirmed(error)


async def write_back_for(
    session_id: str,
    *,
    user_id: int,
    preview_id: str,
    repository: SessionRepository,
    write_back: WriteBack,
    within: timedelta,
    retry_on: RetryOn,
) -> Confirmed:
    """Claim a confirmed preview, write it back, and record what came of it.

    Once the write-back has begun its claim is never given back, since nobody could tell what was written: stopped in
    any way it leaves its lease to lapse, and whoever confirms next, or the upkeep, finishes with the same key.

    Args:
        session_id: The session, of this user.
        preview_id: The preview that the user confirmed.
        within: How long the application's write-back may run.
        retry_on: Which of its errors pass by themselves.
    """
    since = asyncio.get_running_loop().time()
    try:
        claim = await repository.claim_apply(session_id, user_id=user_id, preview_id=preview_id)
    except SessionError as error:
        telemetry.count("sessions.claims", kind=LeaseKind.APPLY, how=telemetry.LOST)
        return _confirmed(error)
    how = telemetry.WON_NEW if claim.attempt == 1 else telemetry.WON_BY_TAKE_OVER
    telemetry.count("sessions.claims", kind=claim.kind, how=how)
    has_begun = False

    async def write() -> None:
        nonlocal has_begun
        has_begun = True
        await write_back(claim)

    news = repository._lease_news  # noqa: SLF001 - the door that it has for the bridge
    try:
        async with renewed(claim, lambda: repository.renew(claim), news=news, since=since) as renewal:
            with telemetry.timed("sessions.write_back") as by:
                ending = await run(write, claim, renewal=renewal, within=within)
                by["ending"] = type(ending).__name__
            # What has been done is recorded, whatever time limit its caller had for the whole.
            return await to_the_end(_record(repository, claim, ending, retry_on), inherits=False)
    except (LeaseLost, SessionNotFound) as lost:
        return Superseded(lost.session or claim.session)
    except TransitionConflict as error:
        return _confirmed(error)
    except (Exception, asyncio.CancelledError):
        if not has_begun:
            await to_the_end(give_back(claim, _let_go(repository, claim)), inherits=False)
        raise


def _let_go(repository: SessionRepository, claim: ApplyClaim) -> Awaitable[object]:
    """Give back a claim whose write-back has not begun under it; if another one held it before, that may have written.

    Then the confirmation stands, and the next one goes on with it at once.
    """
    if may_be_released(claim):
        return repository.release(claim, reason=STOPPED)
    return repository.postpone(claim, after=AT_ONCE)


async def _record(
    repository: SessionRepository, claim: ApplyClaim, ending: Ending[None], retry_on: RetryOn
) -> Confirmed:
    match ending:
        case CutOff(error):
            raise error
        case OutOfTime():
            return TimedOut(claim.session)
        case Broken(error):
            reason = reason_of("the write-back", error)
            if (after := passes_after(error, retry_on)) is not None:
                log(LogEvent.WORK_PUT_OFF, session_id=claim.session.session_id, reason=reason)
                return Deferred(await repository.postpone(claim, after=after), after=after)
            log(LogEvent.WORK_FAILED, session_id=claim.session.session_id, reason=reason, traces=traces_of(error))
            return ApplyFailed(await repository.fail_apply(claim, reason=reason))
        case Done():
            return Applied(await repository.complete_apply(claim))
        case _:
            assert_never(ending)


def _confirmed(error: SessionError) -> Confirmed:
    if isinstance(error, InvalidTransition) and error.status is SessionStatus.APPLIED and error.session is not None:
        # A second click: the preview is the current one, else it would be stale.
        return Applied(error.session)
    match outcome_of(error):
        case Held() | Superseded() as outcome:
            return outcome
        case RerunFailed(session):
            return ApplyFailed(session)
        case _:
            raise error
