"""The leases: claim, renew, give back; who works on a session, and how long."""

from dataclasses import replace
from datetime import timedelta

from sessions.domain import inputs
from sessions.domain.inputs import checked_claim
from sessions.domain.lifecycle import CallName
from sessions.domain.models import ActiveScheduleSessionSnapshot, ApplyClaim, Lease, RerunClaim, rerun_claim_of
from sessions.repository.engine import AnyClaim, Engine
from sessions.store import writes
from sessions.store.calls import HolderCall
from sessions.store.clients import ClientSession


class Claims(Engine):
    """The calls that decide who works on a session."""

    async def claim_rerun(
        self,
        session_id: str,
        *,
        user_id: int,
        reply_id: str,
        question_number: int | None = None,
        replaces: Lease | str | None = None,
        lease: timedelta | None = None,
        operation_id: str | None = None,
        client_session: ClientSession | None = None,
    ) -> RerunClaim:
        """Take the session for a reply, or take it over: from a worker whose lease lapsed, or from an older message.

        Args:
            reply_id: The message; it drives at most one recorded rerun among the last 32 of its session.
            question_number: The question that the sender saw, from 0; None if it is not known.
            replaces: The live ``reply`` lease that the message takes over: that of the session that a route showed, or
                only its ``operation_id``, which costs a ``find`` more. The attempts stay as they are, and the replaced
                message counts as handled. If that run has ended meanwhile this is an ordinary claim.

        Returns:
            The claim; a replay gets the same one while its lease is current.

        Raises:
            StaleReply: Another question stands, or none.
            InvalidTransition: The session does not wait for a reply.
            TransitionConflict: ``in_progress``, ``already_answered`` (a replaced message too), or
                ``attempts_exhausted``, by which the session has ended as ``failed``.
            LeaseLost: A replay whose lease is gone.

        Round trips:
            Exhausted attempts add one write more.
        """
        call = self._claim_call(
            CallName.CLAIM_RERUN,
            session_id,
            user_id,
            lease,
            operation_id,
            reply_id=inputs.identifier("reply_id", reply_id),
            question_number=inputs.optional_integer("question_number", question_number),
        )
        return await self._claim(call, writes.claim_rerun, rerun_claim_of, client_session, inputs.replaced(replaces))

    async def claim_refinement(
        self,
        session_id: str,
        *,
        user_id: int,
        preview_id: str,
        reply_id: str,
        replaces: Lease | str | None = None,
        lease: timedelta | None = None,
        operation_id: str | None = None,
        client_session: ClientSession | None = None,
    ) -> RerunClaim:
        """Take a ready preview for a change that the user wants; given back, it is ready as before.

        Args:
            preview_id: The preview that the user saw.
            reply_id: The message; it drives at most one recorded rerun among the last 32 of its session.
            replaces: The live ``refinement`` lease that the message takes over, as `claim_rerun` has it.

        Returns:
            The claim; a replay gets the same one while its lease is current.

        Raises:
            StalePreview: Another preview is offered, or none.
            InvalidTransition: No preview is ready.
            ConversationBusy: Another session governs the conversation.
            TransitionConflict: ``in_progress``, ``applying``, ``already_answered`` (a replaced message too), or
                ``attempts_exhausted``, after which the preview still stands.
            LeaseLost: A replay whose lease is gone.
        """
        call = self._claim_call(
            CallName.CLAIM_REFINEMENT,
            session_id,
            user_id,
            lease,
            operation_id,
            reply_id=inputs.identifier("reply_id", reply_id),
            preview_id=inputs.identifier("preview_id", preview_id),
        )
        replaced = inputs.replaced(replaces)
        return await self._claim(call, writes.claim_refinement, rerun_claim_of, client_session, replaced)

    async def renew(self, claim: AnyClaim, *, client_session: ClientSession | None = None) -> AnyClaim:
        """Extend the lease to its length from now, even if it lapsed and nobody took it over.

        Returns:
            The claim with its new expiry.
        """
        call = HolderCall(name=CallName.RENEW, claim=checked_claim(CallName.RENEW, claim), lease=claim.lease)
        session = await self._carry_out(call, writes.renew, client_session)
        lease = session.lease
        # The lease is the holder's: the guard matched it.
        return replace(claim, session=session, expires_at=claim.expires_at if lease is None else lease.expires_at)

    async def release(
        self,
        claim: RerunClaim | ApplyClaim,
        *,
        reason: str = "",
        count_attempt: bool = False,
        operation_id: str | None = None,
        client_session: ClientSession | None = None,
    ) -> ActiveScheduleSessionSnapshot:
        """Give the session back exactly as it was before the claim: reply or confirmation counts as not consumed.

        An apply claim is released only before its write-back began: afterwards nobody could tell what was written. So
        one that was taken over, whose ``attempt`` is above 1, is never released; `postpone` leaves it to the next one.

        Args:
            reason: For the history; giving back an apply claim makes no entry there.
            count_attempt: Keep the attempt of a rerun counted, as for a time-out.
        """
        call = HolderCall(
            name=CallName.RELEASE,
            claim=checked_claim(CallName.RELEASE, claim),
            reason=inputs.text("reason", reason),
            count_attempt=inputs.flag("count_attempt", count_attempt),
            operation_id=self._operation_id(operation_id),
        )
        return await self._carry_out(call, writes.release, client_session)
