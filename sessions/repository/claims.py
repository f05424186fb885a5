"""The leases: claim, renew, give back; who works on a session, and how long."""

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from sessions.domain import inputs
from sessions.domain.lifecycle import CallName
from sessions.domain.models import ActiveScheduleSessionSnapshot, ApplyClaim, RerunClaim
from sessions.repository.engine import AnyClaim, Engine
from sessions.repository.held import checked_claim, rerun_claim_of
from sessions.store import writes
from sessions.store.writes import Call

if TYPE_CHECKING:
    from sessions.store.collection import ClientSession


class Claims(Engine):
    """The calls that decide who works on a session."""

    async def claim_rerun(
        self,
        session_id: str,
        *,
        user_id: int,
        reply_id: str,
        question_number: int | None = None,
        lease: timedelta | None = None,
        operation_id: str | None = None,
        client_session: "ClientSession | None" = None,
    ) -> RerunClaim:
        """Take the session for a reply, or take it over from a worker whose ``reply`` lease lapsed.

        Args:
            session_id: 1 to 64 characters.
            user_id: The owner, 1 to 2**63 - 1. Another user's session counts as missing.
            reply_id: The message, 1 to 128 characters; it drives at most one recorded rerun.
            question_number: The question that the sender saw, from 0; None where it is not known.
            lease: How long nobody else may, 1 ms to 7 days; None for the repository's.
            operation_id: The same for each attempt at one call, 1 to 64 characters.
            client_session: A driver's session, to join the application's transaction; see `SessionRepository`.

        Returns:
            The claim; a replay gets the same one while its lease is current.

        Raises:
            InvalidSessionInput: An argument is outside its limits; nothing was sent.
            SessionNotFound: This user has no such session.
            StaleReply: Another question stands, or none.
            InvalidTransition: The session does not wait for a reply.
            TransitionConflict: ``in_progress``, ``already_answered``, ``operation_id_reused``, ``raced``, or
                ``attempts_exhausted``, by which the session has ended as ``failed``.
            LeaseLost: A replay whose lease is gone.
            StoreUnavailable: No primary answered within the repository's ``timeout``.

        Round trips:
            One ``findAndModify``; a refusal or a replay adds a ``find``, exhausted attempts one write more.
        """
        call = Call(
            question_number=inputs.optional_integer("question_number", question_number),
            **self._claim_arguments(CallName.CLAIM_RERUN, session_id, user_id, reply_id, lease, operation_id),
        )
        return await self._claim(call, writes.claim_rerun, rerun_claim_of, client_session)

    async def claim_refinement(
        self,
        session_id: str,
        *,
        user_id: int,
        preview_id: str,
        reply_id: str,
        lease: timedelta | None = None,
        operation_id: str | None = None,
        client_session: "ClientSession | None" = None,
    ) -> RerunClaim:
        """Take a ready preview for a change that the user wants; given back, it is ready as before.

        Args:
            session_id: 1 to 64 characters.
            user_id: The owner, 1 to 2**63 - 1. Another user's session counts as missing.
            preview_id: The preview that the user saw, 1 to 64 characters.
            reply_id: The message, 1 to 128 characters; it drives at most one recorded rerun.
            lease: How long nobody else may, 1 ms to 7 days; None for the repository's.
            operation_id: The same for each attempt at one call, 1 to 64 characters.
            client_session: A driver's session, to join the application's transaction; see `SessionRepository`.

        Returns:
            The claim; a replay gets the same one while its lease is current.

        Raises:
            InvalidSessionInput: An argument is outside its limits; nothing was sent.
            SessionNotFound: This user has no such session.
            StalePreview: Another preview is offered, or none.
            InvalidTransition: No preview is ready.
            ConversationBusy: Another session governs the conversation.
            TransitionConflict: ``in_progress``, ``applying``, ``already_answered``, ``attempts_exhausted`` (the
                preview still stands), ``operation_id_reused`` or ``raced``.
            LeaseLost: A replay whose lease is gone.
            StoreUnavailable: No primary answered within the repository's ``timeout``.

        Round trips:
            One ``findAndModify``; a refusal or a replay adds a ``find`` or two.
        """
        call = Call(
            preview_id=inputs.identifier("preview_id", preview_id),
            **self._claim_arguments(CallName.CLAIM_REFINEMENT, session_id, user_id, reply_id, lease, operation_id),
        )
        return await self._claim(call, writes.claim_refinement, rerun_claim_of, client_session)

    def _claim_arguments(
        self,
        name: CallName,
        session_id: str,
        user_id: int,
        reply_id: str,
        lease: timedelta | None,
        operation_id: str | None,
    ) -> dict[str, Any]:
        return {
            "name": name,
            "session_id": inputs.identifier("session_id", session_id),
            "user_id": inputs.integer("user_id", user_id),
            "reply_id": inputs.identifier("reply_id", reply_id),
            "lease": self._lease if lease is None else inputs.duration("lease", lease),
            "operation_id": self._operation_id(operation_id),
            "max_attempts": self._max_attempts,
        }

    async def renew(self, claim: AnyClaim, *, client_session: "ClientSession | None" = None) -> AnyClaim:
        """Put the lease's expiry off by its length from now; also where it lapsed and nobody took it over.

        Args:
            claim: What a claim or a renewal returned.
            client_session: A driver's session, to join the application's transaction; see `SessionRepository`.

        Returns:
            The claim with its new expiry.

        Raises:
            InvalidSessionInput: This is no claim; nothing was sent.
            SessionNotFound: The session is gone.
            LeaseLost: The claim was taken over, given back or ended.
            StoreUnavailable: No primary answered within the repository's ``timeout``.

        Round trips:
            One ``findAndModify``; a refusal adds a ``find``.
        """
        held = checked_claim(CallName.RENEW, claim)
        call = Call(
            name=CallName.RENEW,
            session_id=held.session.session_id,
            user_id=held.session.user_id,
            claim=held,
            lease=held.lease,
        )
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
        client_session: "ClientSession | None" = None,
    ) -> ActiveScheduleSessionSnapshot:
        """Give the session back exactly as it was before the claim; the reply, or the yes, counts as not consumed.

        An apply claim is released only before its write-back began: afterwards nobody could tell what was written.

        Args:
            claim: What a claim or a renewal returned.
            reason: For the history, at most 2,000 characters; giving back an apply claim makes no entry there.
            count_attempt: Keep the attempt of a rerun counted, as for a time-out.
            operation_id: The same for each attempt at one call, 1 to 64 characters.
            client_session: A driver's session, to join the application's transaction; see `SessionRepository`.

        Returns:
            The session as it stands.

        Raises:
            InvalidSessionInput: An argument is outside its limits; nothing was sent.
            SessionNotFound: The session is gone.
            LeaseLost: The claim was taken over, given back or ended.
            TransitionConflict: ``operation_id_reused`` or ``raced``.
            StoreUnavailable: No primary answered within the repository's ``timeout``.

        Round trips:
            One ``findAndModify``; a refusal or a replay adds a ``find``.
        """
        held = checked_claim(CallName.RELEASE, claim)
        call = Call(
            name=CallName.RELEASE,
            session_id=held.session.session_id,
            user_id=held.session.user_id,
            claim=held,
            reason=inputs.text("reason", reason),
            count_attempt=inputs.flag("count_attempt", count_attempt),
            operation_id=self._operation_id(operation_id),
        )
        return await self._carry_out(call, writes.release, client_session)
