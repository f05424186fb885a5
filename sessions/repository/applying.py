"""Writing a confirmed preview into the schedule: one caller at a time, and no confirmation is lost if it dies."""

from datetime import timedelta

from sessions.domain import inputs
from sessions.domain.lifecycle import CallName
from sessions.domain.models import ActiveScheduleSessionSnapshot, ApplyClaim, apply_claim_of
from sessions.repository.engine import Engine
from sessions.store import reads, writes
from sessions.store.calls import HolderCall
from sessions.store.clients import ClientSession
from sessions.store.reading import readable


class Applying(Engine):
    """The calls around a write-back.

    From the claim until its outcome nothing else ends, changes or expires the session, since its user has confirmed.
    Once the lease has lapsed, the next claim takes over under the same idempotency key.
    """

    async def claim_apply(
        self,
        session_id: str,
        *,
        user_id: int,
        preview_id: str,
        lease: timedelta | None = None,
        operation_id: str | None = None,
        client_session: ClientSession | None = None,
    ) -> ApplyClaim:
        """Take a confirmed preview to write it into the schedule, or take it over if its writer's lease lapsed.

        Chat stays free meanwhile. The claim's ``idempotency_key`` is the same for every write-back of this preview;
        the target uses it to write once.

        Args:
            preview_id: The preview that the user confirmed.

        Returns:
            The claim; a replay gets the same one while its lease is there, and is a new call after.

        Raises:
            StalePreview: Another preview is offered, or none.
            InvalidTransition: No preview is ready.
            TransitionConflict: ``in_progress``, or ``attempts_exhausted``, by which the session has ended as
                ``failed``.

        Round trips:
            Exhausted attempts add one write more.
        """
        preview_id = inputs.identifier("preview_id", preview_id)
        call = self._claim_call(CallName.CLAIM_APPLY, session_id, user_id, lease, operation_id, preview_id=preview_id)
        return await self._claim(call, writes.claim_apply, apply_claim_of, client_session)

    async def postpone(
        self, claim: ApplyClaim, *, after: timedelta, client_session: ClientSession | None = None
    ) -> ActiveScheduleSessionSnapshot:
        """Leave a write-back that can't be done now to whoever takes it over: the confirmation stands.

        Its holder does nothing more with the claim.

        Args:
            after: How long nobody else may go on with it, 1 ms to 7 days, instead of what is left of the lease.
        """
        call = HolderCall(
            name=CallName.POSTPONE,
            claim=inputs.checked_claim(CallName.POSTPONE, claim),
            lease=inputs.duration("after", after),
        )
        return await self._carry_out(call, writes.postpone, client_session)

    async def complete_apply(
        self, claim: ApplyClaim, *, operation_id: str | None = None, client_session: ClientSession | None = None
    ) -> ActiveScheduleSessionSnapshot:
        """Record that the preview was written: the session ends ``applied``."""
        return await self._record(CallName.COMPLETE_APPLY, claim, writes.written_back, operation_id, client_session)

    async def fail_apply(
        self,
        claim: ApplyClaim,
        *,
        reason: str,
        operation_id: str | None = None,
        client_session: ClientSession | None = None,
    ) -> ActiveScheduleSessionSnapshot:
        """Record that the preview could not be written: the session ends ``failed``.

        Args:
            reason: Why; not blank.
        """
        said = inputs.required_text("reason", reason)
        changes = {"state.failed_reason": said}
        return await self._record(
            CallName.FAIL_APPLY, claim, writes.written_back, operation_id, client_session, changes, said
        )

    async def interrupted_applies(self, *, limit: int = 1000) -> list[ActiveScheduleSessionSnapshot]:
        """Read the sessions whose write-back was left behind: confirmed, and its writer's lease has lapsed.

        `claim_apply` with the session's ``current_preview_id`` takes each of them over.

        Returns:
            The sessions of all users, the one that has waited longest first.

        Round trips:
            One ``find``.
        """
        lookup = reads.interrupted(self._clock.now(), limit=inputs.integer("limit", limit))
        unreadable: list[str] = []
        while True:
            found = await self._collection.for_one_call().find(reads.but_for(lookup, unreadable))
            sessions = list(readable(found))
            if sessions or len(found) < lookup.limit:
                return sessions
            # Nothing but damaged documents: those behind them are not to wait for ever.
            unreadable += [raw["_id"] for raw in found]
