"""One chat message: whose it is, and the claim under which the graph goes on with it."""

import asyncio
from dataclasses import dataclass
from datetime import timedelta

from sessions import telemetry
from sessions.bridge.outcomes import OUTCOME_OF_CALL, AlreadyHandled, Asked, FreeChat, Handled, Held, outcome_of
from sessions.bridge.while_running import WhileRunning, until_free
from sessions.changes.lease_news import LeaseNews
from sessions.domain.errors import InvalidTransition, SessionError, SessionNotFound, SessionRef, StaleReply
from sessions.domain.expiry import question_standing
from sessions.domain.lifecycle import LeaseKind
from sessions.domain.models import ActiveScheduleSessionSnapshot, Lease, Question, RerunClaim, Route, RouteAction
from sessions.repository import SessionRepository


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One delivery of a chat message, its arguments checked."""

    user_id: int
    conversation_id: str
    message_id: str
    is_blank: bool
    named: Question | None
    """The question that it was said to answer."""
    redelivered: bool
    while_running: WhileRunning
    wait: timedelta


def replaceable(session: ActiveScheduleSessionSnapshot, kind: LeaseKind, message_id: str) -> Lease | None:
    """The lease that a message can take over; one that is delivered twice does not replace itself."""
    lease = session.lease
    return lease if lease is not None and lease.kind is kind and lease.reply_id != message_id else None


def _is_done(session: ActiveScheduleSessionSnapshot, message_id: str) -> bool:
    """Whether a message's outcome was recorded, or a newer one took its place."""
    return message_id in session.answered_reply_ids or message_id in session.replaced_reply_ids


class Delivery:
    """Decides on one message, and claims for it.

    Attributes:
        began: The loop's time just before the claim was asked for.
    """

    def __init__(self, message: Message, repository: SessionRepository, news: LeaseNews) -> None:
        self._message = message
        self._repository = repository
        self._news = news
        self.began = 0.0

    async def claim(self) -> RerunClaim | Handled:
        """The claim for the graph's run, or what becomes of the message without one."""
        message = self._message
        route = await self._repository.route(message.user_id, message.conversation_id)
        telemetry.count("sessions.routes", action=route.action)
        if (named := message.named) is not None and not self._may_answer(named, route):
            return await self._stale(named, route.session)
        handled = await self._handled(route.session, further=message.redelivered and named is None)
        if handled is not None:
            return handled
        if route.session is None:
            return FreeChat()
        asked, replaced = route.session.question, None
        if route.action is RouteAction.HOLD:
            if message.while_running is WhileRunning.REPLACE and not message.is_blank:
                replaced = replaceable(route.session, LeaseKind.REPLY, message.message_id)
            if replaced is None:
                route = await self._when_free(route)
        return await self._claim(route, asked, replaced)

    async def _claim(self, route: Route, asked: Question, replaced: Lease | None) -> RerunClaim | Handled:
        message, session = self._message, route.session
        if session is None:
            return FreeChat()
        if session.question != asked or (route.action is RouteAction.HOLD and replaced is None):
            return Held(session, question_id=str(asked))
        if message.is_blank:
            return Asked(session)
        behind = session.lease
        telemetry.link_to(None if behind is None else behind.traceparent)
        self.began = asyncio.get_running_loop().time()
        try:
            claim = await self._repository.claim_rerun(
                session.session_id,
                user_id=message.user_id,
                reply_id=message.message_id,
                question_number=asked.number,
                replaces=replaced,
            )
        except (StaleReply, InvalidTransition, SessionNotFound) as error:
            telemetry.count("sessions.claims", kind=LeaseKind.REPLY, how=telemetry.LOST)
            if message.named is not None:
                raise
            if isinstance(error, StaleReply) and error.current_question_number is not None and error.session:
                return Held(error.session, question_id=str(asked))
            return await self._moved_on(asked)
        except SessionError as error:
            telemetry.count("sessions.claims", kind=LeaseKind.REPLY, how=telemetry.LOST)
            return outcome_of(error, question_id=str(asked))
        how = telemetry.WON_NEW if behind is None else telemetry.WON_BY_TAKE_OVER
        how = how if replaced is None else telemetry.WON_BY_REPLACEMENT
        telemetry.count("sessions.claims", kind=claim.kind, how=how)
        return claim

    def _may_answer(self, named: Question, route: Route) -> bool:
        """Whether the question that the message names stands, or stood when the message was held."""
        session = route.session
        if session is None:
            return False
        if self._message.redelivered and route.action is RouteAction.HOLD:
            # While a preview is being changed no question stands.
            return named == session.question
        return named == question_standing(session, session.status)

    async def _when_free(self, route: Route) -> Route:
        """The route once the run that it shows has ended, or the message's time is up."""
        message, latest = self._message, route

        async def who_works() -> ActiveScheduleSessionSnapshot | None:
            nonlocal latest
            latest = await self._repository.route(message.user_id, message.conversation_id)
            return latest.session if latest.action is RouteAction.HOLD else None

        if route.session is not None and message.wait:
            await until_free(route.session, who_works, news=self._news, within=message.wait)
        return latest

    async def _handled(self, governing: ActiveScheduleSessionSnapshot | None, *, further: bool) -> Handled | None:
        """What came of the message before: by who governs, or ``further`` by any session of the conversation."""
        message = self._message
        if governing is not None and _is_done(governing, message.message_id):
            return await self._told_again(governing) if further else AlreadyHandled(governing)
        if not further:
            return None
        before = await self._repository.find_by_reply(
            message.message_id, user_id=message.user_id, conversation_id=message.conversation_id
        )
        return None if before is None else await self._told_again(before)

    async def _told_again(self, session: ActiveScheduleSessionSnapshot) -> Handled:
        """The outcome of a message that was recorded last, for a front end that died before it could show it."""
        is_latest = session.answered_reply_ids[-1:] == (self._message.message_id,) and session.lease is None
        if not is_latest or self._repository.present_status(session) is not session.status:
            return AlreadyHandled(session)
        history = await self._repository.history(session.session_id, user_id=session.user_id)
        shown = OUTCOME_OF_CALL.get(history[-1].call) if history else None
        is_same = shown is not None and history[-1].to_status is session.status
        return shown(session) if shown is not None and is_same else AlreadyHandled(session)

    async def _moved_on(self, asked: Question) -> Handled:
        """The session left its question between the route and the claim: look once more, and claim nothing."""
        route = await self._repository.route(self._message.user_id, self._message.conversation_id)
        if route.session is not None:
            return Held(route.session, question_id=str(asked))
        return await self._handled(None, further=self._message.redelivered) or FreeChat()

    async def _stale(self, named: Question, governing: ActiveScheduleSessionSnapshot | None) -> Handled:
        """A question was named that does not stand here: refuse, unless the message was handled, or held, before."""
        message, standing = self._message, None
        if governing is not None and governing.session_id == named.session_id:
            session = governing
            standing = question_standing(session, session.status)
        else:
            session = await self._repository.get(named.session_id, user_id=message.user_id)
        if _is_done(session, message.message_id):
            return await self._told_again(session) if message.redelivered else AlreadyHandled(session)
        if message.redelivered and governing is None:
            return FreeChat()
        about = SessionRef.of(session, self._repository.present_status(session))
        raise StaleReply(about, current_question_number=None if standing is None else standing.number)
