"""One change that a user wants to a preview, and the claim under which the graph goes on with it."""

import asyncio
from dataclasses import dataclass
from datetime import timedelta

from sessions import telemetry
from sessions.bridge.delivery import replaceable
from sessions.bridge.outcomes import Handled, Held, outcome_of
from sessions.bridge.while_running import WhileRunning, until_free
from sessions.changes.lease_news import LeaseNews
from sessions.domain.errors import ConflictReason, ConversationBusy, SessionError, TransitionConflict
from sessions.domain.lifecycle import LeaseKind
from sessions.domain.models import ActiveScheduleSessionSnapshot, Lease, RerunClaim
from sessions.repository import SessionRepository


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One delivery of a change."""

    user_id: int
    session_id: str
    preview_id: str
    message_id: str
    while_running: WhileRunning
    wait: timedelta


class Refinement:
    """Claims for a change.

    Attributes:
        began: The loop's time just before the claim was asked for.
    """

    def __init__(self, change: Change, repository: SessionRepository, news: LeaseNews) -> None:
        self._change = change
        self._repository = repository
        self._news = news
        self.began = 0.0

    async def claim(self) -> RerunClaim | Handled:
        """The claim for the graph's run, or what becomes of the change without one."""
        replaced = None
        try:
            try:
                claim = await self._claim(None)
            except TransitionConflict as error:
                replaced = await self._make_way(error)
                claim = await self._claim(replaced)
        except ConversationBusy as error:
            if error.session is None:
                raise
            return Held(error.session)
        except SessionError as error:
            telemetry.count("sessions.claims", kind=LeaseKind.REFINEMENT, how=telemetry.LOST)
            return outcome_of(error)
        how = telemetry.WON_NEW if replaced is None else telemetry.WON_BY_REPLACEMENT
        telemetry.count("sessions.claims", kind=LeaseKind.REFINEMENT, how=how)
        return claim

    async def _claim(self, replaced: Lease | None) -> RerunClaim:
        change = self._change
        self.began = asyncio.get_running_loop().time()
        return await self._repository.claim_refinement(
            change.session_id,
            user_id=change.user_id,
            preview_id=change.preview_id,
            reply_id=change.message_id,
            replaces=replaced,
        )

    async def _make_way(self, refused: TransitionConflict) -> Lease | None:
        """The lease of an older change that this one replaces, or None after its end; else the refusal stands."""
        change, held = self._change, refused.session
        if refused.reason is not ConflictReason.IN_PROGRESS or held is None or held.lease is None:
            raise refused
        if change.while_running is WhileRunning.REPLACE:
            replaced = replaceable(held, LeaseKind.REFINEMENT, change.message_id)
            if replaced is not None:
                telemetry.link_to(replaced.traceparent)
                return replaced
        if not change.wait or held.lease.kind is not LeaseKind.REFINEMENT:
            raise refused
        await until_free(held, self._who_works, news=self._news, within=change.wait)
        return None

    async def _who_works(self) -> ActiveScheduleSessionSnapshot | None:
        found = await self._repository.get(self._change.session_id, user_id=self._change.user_id)
        return found if self._news.lapses_in(found) > 0 else None
