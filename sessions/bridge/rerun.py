"""One claimed message: the graph runs, and what it answers is recorded, or the claim is given back."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import assert_never

from sessions import telemetry
from sessions.bridge.graph import AskUser, Close, Fail, GraphResult, NotAnAnswer, ShowPreview, Turn
from sessions.bridge.leased_work import Broken, CutOff, Done, Ending, OutOfTime, renewed, run
from sessions.bridge.outcomes import (
    Asked,
    Closed,
    Deferred,
    FreeChat,
    Handled,
    PreviewShown,
    RerunFailed,
    Superseded,
    TimedOut,
    outcome_of,
)
from sessions.bridge.texts import storable
from sessions.bridge.transient_failures import RetryOn, passes_after
from sessions.domain.errors import InvalidSessionInput, LeaseLost, SessionError, SessionNotFound, TransitionConflict
from sessions.domain.lifecycle import LeaseKind, SessionStatus
from sessions.domain.models import RerunClaim
from sessions.failures import kind_of, reason_of, traces_of
from sessions.log_events import LogEvent, log
from sessions.repository import SessionRepository
from sessions.repository.engine import give_back
from sessions.tasks import to_the_end

Rerun = Callable[[Turn], Awaitable[GraphResult]]

STOPPED = "the rerun was stopped"
TIMED_OUT = "the rerun took longer than max_rerun"
NOT_AN_ANSWER = "the message was no answer"


async def rerun_for(
    claim: RerunClaim,
    text: str,
    *,
    repository: SessionRepository,
    rerun: Rerun,
    within: timedelta,
    retry_on: RetryOn,
    since: float,
) -> Handled:
    """Run the graph for a claimed message and record its answer.

    Whatever leaves here without an outcome, a cancellation too, gives the claim back first: the message counts as
    not consumed. Where the store does not answer even then, the lease lapses.

    Args:
        claim: What was claimed.
        text: What the user wrote.
        repository: Where the claim comes from.
        rerun: The application's graph.
        within: How long it may run.
        retry_on: Which of its errors pass by themselves.
        since: The loop's time just before the claim was asked for.

    Returns:
        What came of it.

    Raises:
        StoreUnavailable: The lease could not be renewed, or the answer not recorded.
    """
    turn = Turn(
        session=claim.session,
        text=text,
        message_id=claim.reply_id,
        attempt=claim.attempt,
        replaces=claim.session.replaced_since_asked,
    )
    news = repository._lease_news  # noqa: SLF001 - the door that it has for the bridge
    try:
        with telemetry.timed("sessions.held", kind=claim.kind):
            async with renewed(claim, lambda: repository.renew(claim), news=news, since=since) as renewal:
                ending = await run(lambda: rerun(turn), claim, renewal=renewal, within=within)
                # What has been done is recorded, whatever time limit its caller had for the whole.
                return await to_the_end(_record(repository, claim, ending, retry_on), inherits=False)
    except (LeaseLost, SessionNotFound) as lost:
        return Superseded(lost.session or claim.session)
    except (Exception, asyncio.CancelledError) as error:
        await to_the_end(give_back(claim, repository.release(claim, reason=STOPPED)), inherits=False)
        if not isinstance(error, TransitionConflict):
            raise
        return outcome_of(error, question_id=_named(claim))


def _named(claim: RerunClaim) -> str | None:
    """What the message names when it is delivered again; a change to a preview names no question."""
    return claim.session.question_id if claim.kind is LeaseKind.REPLY else None


async def _record(
    repository: SessionRepository, claim: RerunClaim, ending: Ending[GraphResult], retry_on: RetryOn
) -> Handled:
    match ending:
        case CutOff(error):
            raise error
        case OutOfTime():
            return TimedOut(await repository.release(claim, reason=TIMED_OUT, count_attempt=True))
        case Broken(error) if (no_answer := _no_answer_in(error)) is not None:
            result = no_answer
        case Broken(error):
            reason = reason_of("the graph", error)
            if (after := passes_after(error, retry_on)) is not None:
                log(LogEvent.WORK_PUT_OFF, session_id=claim.session.session_id, reason=reason)
                session = await repository.release(claim, reason=f"put off: {reason}", count_attempt=True)
                return Deferred(session, after=after, question_id=_named(claim))
            log(LogEvent.WORK_FAILED, session_id=claim.session.session_id, reason=reason, traces=traces_of(error))
            return RerunFailed(await repository.fail_rerun(claim, reason=reason))
        case Done(answer):
            result = answer
        case _:
            assert_never(ending)
    try:
        return await _record_answer(repository, claim, storable(result))
    except InvalidSessionInput as error:
        reason = f"the graph answered {kind_of(result)} with {error.argument} other than {error.limit}"
    except SessionError:
        raise
    except Exception as error:  # noqa: BLE001 - an answer of the graph's own making can raise anything when it is read
        reason = reason_of("reading the graph's answer", error)
    log(LogEvent.ANSWER_REFUSED, session_id=claim.session.session_id, reason=reason)
    return RerunFailed(await repository.fail_rerun(claim, reason=reason))


def _no_answer_in(error: BaseException) -> NotAnAnswer | None:
    """What a graph that finds no answer in the message has raised, in a group of tasks too."""
    if isinstance(error, BaseExceptionGroup):
        return next((found for each in error.exceptions if (found := _no_answer_in(each)) is not None), None)
    return error if isinstance(error, NotAnAnswer) else None


async def _record_answer(repository: SessionRepository, claim: RerunClaim, result: GraphResult) -> Handled:
    match result:
        case AskUser():
            session = await repository.ask_again(
                claim,
                pending_question=result.pending_question,
                missing_info=result.missing_info,
                candidate_id=result.candidate_id,
                expires_at=result.expires_at,
            )
            return Asked(session, result.payload)
        case ShowPreview():
            session = await repository.present_preview(
                claim, preview_id=result.preview_id, candidate_id=result.candidate_id, expires_at=result.expires_at
            )
            return PreviewShown(session, result.payload)
        case Close():
            return Closed(await repository.close_rerun(claim, reason=result.reason), result.payload)
        case Fail():
            return RerunFailed(await repository.fail_rerun(claim, reason=result.reason), result.payload)
        case NotAnAnswer():
            session = await repository.release(claim, reason=NOT_AN_ANSWER)
            # What has expired meanwhile asks nothing any more.
            stands = repository.present_status(session) is not SessionStatus.EXPIRED
            return FreeChat(session if stands else None, result.payload)
        case _:
            raise InvalidSessionInput("result", "AskUser, ShowPreview, Close, Fail or NotAnAnswer")
