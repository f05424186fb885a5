"""What a rerun came to, recorded by the holder of its claim."""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sessions.domain import inputs
from sessions.domain.errors import InvalidSessionInput
from sessions.domain.inputs import UNSET, Unset
from sessions.domain.lifecycle import CallName
from sessions.domain.models import ActiveScheduleSessionSnapshot, RerunClaim
from sessions.repository.engine import Engine
from sessions.repository.held import checked_claim
from sessions.store import writes
from sessions.store.writes import Call

if TYPE_CHECKING:
    from sessions.store.collection import ClientSession


class Outcomes(Engine):
    """A holder's outcomes.

    Each matches the claim's fencing token, never a clock, so that a worker that was taken over cannot write.
    """

    async def ask_again(
        self,
        claim: RerunClaim,
        *,
        pending_question: str = "",
        missing_info: Sequence[str] = (),
        candidate_id: str | Unset | None = UNSET,
        expires_at: datetime | Unset | None = UNSET,
        operation_id: str | None = None,
        client_session: "ClientSession | None" = None,
    ) -> ActiveScheduleSessionSnapshot:
        """Record that the graph asks its user once more.

        Args:
            claim: What a claim or a renewal returned.
            pending_question: At most 4,000 characters; this or ``missing_info`` is given.
            missing_info: At most 32 texts of at most 200 characters.
            candidate_id: 1 to 64 characters; None clears it.
            expires_at: An aware moment still ahead; None clears it. Left out, it stays unless it has passed.
            operation_id: The same for each attempt at one call, 1 to 64 characters; a replay writes nothing.
            client_session: A driver's session, to join the application's transaction; see `SessionRepository`.

        Returns:
            The session as it stands, its question number one higher.

        Raises:
            InvalidSessionInput: An argument is outside its limits; nothing was sent.
            SessionNotFound: The session is gone.
            LeaseLost: The claim was taken over, given back or ended.
            TransitionConflict: ``operation_id_reused`` or ``raced``.
            StoreUnavailable: No primary answered within the repository's ``timeout``.

        Round trips:
            One ``findAndModify``; a refusal or a replay adds a ``find``.
        """
        question = inputs.text("pending_question", pending_question)
        missing = inputs.texts("missing_info", missing_info)
        if not question and not missing:
            raise InvalidSessionInput("pending_question", "a question, unless missing_info says what is missing")
        changes = {"state.pending_question": question, "state.missing_info": list(missing)}
        return await self._record(
            CallName.ASK_AGAIN, claim, operation_id, changes, candidate_id, expires_at, client_session
        )

    async def present_preview(
        self,
        claim: RerunClaim,
        *,
        preview_id: str,
        candidate_id: str | Unset | None = UNSET,
        expires_at: datetime | Unset | None = UNSET,
        operation_id: str | None = None,
        client_session: "ClientSession | None" = None,
    ) -> ActiveScheduleSessionSnapshot:
        """Record that a preview can be shown; chat is free from now on.

        Args:
            claim: What a claim or a renewal returned.
            preview_id: 1 to 64 characters, another than the current one; the application never uses one twice.
            candidate_id: 1 to 64 characters; None clears it.
            expires_at: An aware moment still ahead; None clears it. Left out, it stays unless it has passed.
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
        preview_id = inputs.identifier("preview_id", preview_id)
        if preview_id == checked_claim(CallName.PRESENT_PREVIEW, claim).session.current_preview_id:
            raise InvalidSessionInput("preview_id", "another id than the current preview's: a changed preview is new")
        changes = {"current_preview_id": preview_id}
        return await self._record(
            CallName.PRESENT_PREVIEW, claim, operation_id, changes, candidate_id, expires_at, client_session
        )

    async def close_rerun(
        self,
        claim: RerunClaim,
        *,
        reason: str = "",
        operation_id: str | None = None,
        client_session: "ClientSession | None" = None,
    ) -> ActiveScheduleSessionSnapshot:
        """Record that there is nothing to do any more: the session ends ``ignored``.

        Args:
            claim: What a claim or a renewal returned.
            reason: For the history, at most 2,000 characters.
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
        said = inputs.text("reason", reason)
        return await self._record(
            CallName.CLOSE_RERUN, claim, operation_id, {}, UNSET, UNSET, client_session, reason=said
        )

    async def fail_rerun(
        self,
        claim: RerunClaim,
        *,
        reason: str,
        operation_id: str | None = None,
        client_session: "ClientSession | None" = None,
    ) -> ActiveScheduleSessionSnapshot:
        """Record that the rerun cannot go on: the session ends ``failed``.

        Args:
            claim: What a claim or a renewal returned.
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
        changes = {"state.failed_reason": said}
        return await self._record(
            CallName.FAIL_RERUN, claim, operation_id, changes, UNSET, UNSET, client_session, reason=said
        )

    async def _record(
        self,
        name: CallName,
        claim: RerunClaim,
        operation_id: str | None,
        changes: dict[str, Any],
        candidate_id: str | Unset | None,
        expires_at: datetime | Unset | None,
        client_session: "ClientSession | None",
        *,
        reason: str = "",
    ) -> ActiveScheduleSessionSnapshot:
        held = checked_claim(name, claim)
        now = self._clock.now()
        if candidate_id is not UNSET:
            changes["state.last_candidate_id"] = inputs.optional_identifier("candidate_id", candidate_id)
        if expires_at is not UNSET:
            given = inputs.optional_moment("expires_at", expires_at)
            changes["state.expires_at"] = inputs.ahead("expires_at", given, now=now)
        elif name in (CallName.ASK_AGAIN, CallName.PRESENT_PREVIEW):
            # Nobody else can change it while the token is current, so what the claim saw is what is stored.
            stands = held.session.state.expires_at
            if stands is not None and stands <= now:
                changes["state.expires_at"] = None
        call = Call(
            name=name,
            session_id=held.session.session_id,
            user_id=held.session.user_id,
            claim=held,
            operation_id=self._operation_id(operation_id),
            reason=reason,
            changes=changes,
        )
        return await self._carry_out(call, writes.outcome, client_session)
