"""Writing a confirmed preview into the schedule: one caller at a time, and a yes that is not lost when he dies."""

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from sessions.domain import inputs
from sessions.domain.lifecycle import CallName
from sessions.domain.models import ActiveScheduleSessionSnapshot, ApplyClaim, to_snapshot
from sessions.repository.engine import Engine
from sessions.repository.held import apply_claim_of, checked_claim
from sessions.store import reads, writes
from sessions.store.writes import Call

if TYPE_CHECKING:
    from sessions.store.collection import ClientSession


class Applying(Engine):
    """The calls around a write-back.

    From the claim until its outcome the user has said yes: nothing else ends, changes or expires the session, and
    once the lease has lapsed the next claim takes over under the same idempotency key.
    """

    async def claim_apply(
        self,
        session_id: str,
        *,
        user_id: int,
        preview_id: str,
        lease: timedelta | None = None,
        operation_id: str | None = None,
        client_session: "ClientSession | None" = None,
    ) -> ApplyClaim:
        """Take a confirmed preview to write it into the schedule, or take it over where its writer's lease lapsed.

        Chat stays free meanwhile. The claim's ``idempotency_key`` is the same for every write-back of this preview;
        the target uses it to write once.

        Args:
            session_id: 1 to 64 characters.
            user_id: The owner, 1 to 2**63 - 1. Another user's session counts as missing.
            preview_id: The preview that the user confirmed, 1 to 64 characters.
            lease: How long nobody else may, 1 ms to 7 days; None for the repository's.
            operation_id: The same for each attempt at one call, 1 to 64 characters.
            client_session: A driver's session, to join the application's transaction; see `SessionRepository`.

        Returns:
            The claim; a replay gets the same one while its lease is there, and is a new call after.

        Raises:
            InvalidSessionInput: An argument is outside its limits; nothing was sent.
            SessionNotFound: This user has no such session.
            StalePreview: Another preview is offered, or none.
            InvalidTransition: No preview is ready.
            TransitionConflict: ``in_progress``, ``operation_id_reused``, ``raced``, or ``attempts_exhausted``, by
                which the session has ended as ``failed``.
            StoreUnavailable: No primary answered within the repository's ``timeout``.

        Round trips:
            One ``findAndModify``; a refusal or a replay adds a ``find``, exhausted attempts one write more.
        """
        call = Call(
            name=CallName.CLAIM_APPLY,
            session_id=inputs.identifier("session_id", session_id),
            user_id=inputs.integer("user_id", user_id),
            preview_id=inputs.identifier("preview_id", preview_id),
            lease=self._lease if lease is None else inputs.duration("lease", lease),
            operation_id=self._operation_id(operation_id),
            max_attempts=self._max_attempts,
        )
        return await self._claim(call, writes.claim_apply, apply_claim_of, client_session)

    async def complete_apply(
        self,
        claim: ApplyClaim,
        *,
        operation_id: str | None = None,
        client_session: "ClientSession | None" = None,
    ) -> ActiveScheduleSessionSnapshot:
        """Record that the preview was written: the session ends ``applied``.

        Args:
            claim: What `claim_apply` or a renewal returned.
            operation_id: The same for each attempt at one call, 1 to 64 characters; a replay writes nothing.
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
        return await self._record_apply(CallName.COMPLETE_APPLY, claim, operation_id, "", {}, client_session)

    async def fail_apply(
        self,
        claim: ApplyClaim,
        *,
        reason: str,
        operation_id: str | None = None,
        client_session: "ClientSession | None" = None,
    ) -> ActiveScheduleSessionSnapshot:
        """Record that the preview could not be written: the session ends ``failed``.

        Args:
            claim: What `claim_apply` or a renewal returned.
            reason: Why, 1 to 2,000 characters.
            operation_id: The same for each attempt at one call, 1 to 64 characters; a replay writes nothing.
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
        said = inputs.required_text("reason", reason)
        return await self._record_apply(
            CallName.FAIL_APPLY, claim, operation_id, said, {"state.failed_reason": said}, client_session
        )

    async def _record_apply(
        self,
        name: CallName,
        claim: ApplyClaim,
        operation_id: str | None,
        reason: str,
        changes: dict[str, Any],
        client_session: "ClientSession | None",
    ) -> ActiveScheduleSessionSnapshot:
        held = checked_claim(name, claim)
        call = Call(
            name=name,
            session_id=held.session.session_id,
            user_id=held.session.user_id,
            claim=held,
            operation_id=self._operation_id(operation_id),
            reason=reason,
            changes=changes,
        )
        return await self._carry_out(call, writes.written_back, client_session)

    async def interrupted_applies(self, *, limit: int = 1000) -> list[ActiveScheduleSessionSnapshot]:
        """Read the sessions whose write-back was left behind: the user said yes, and its writer's lease has lapsed.

        `claim_apply` with the session's ``current_preview_id`` takes each of them over.

        Args:
            limit: At most so many, 1 to 100,000.

        Returns:
            The sessions of all users, the one that has waited longest first.

        Raises:
            InvalidSessionInput: An argument is outside its limits; nothing was sent.
            StoreUnavailable: No primary answered within the repository's ``timeout``.

        Round trips:
            One ``find``.
        """
        lookup = reads.interrupted(self._clock.now(), limit=inputs.integer("limit", limit))
        return [to_snapshot(raw) for raw in await self._collection.find(lookup)]
