"""What a rerun came to, recorded by the holder of its claim."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sessions.domain import inputs
from sessions.domain.errors import InvalidSessionInput
from sessions.domain.inputs import UNSET, Unset, checked_claim
from sessions.domain.lifecycle import CallName
from sessions.domain.models import ActiveScheduleSessionSnapshot, RerunClaim
from sessions.repository.engine import Engine
from sessions.store import writes
from sessions.store.clients import ClientSession


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
        client_session: ClientSession | None = None,
    ) -> ActiveScheduleSessionSnapshot:
        """Record that the graph asks its user once more, by a question or by ``missing_info``.

        Returns:
            The session as it stands, its question number one higher.
        """
        question = inputs.text("pending_question", pending_question)
        missing = inputs.texts("missing_info", missing_info)
        if not question and not missing:
            raise InvalidSessionInput("pending_question", "a question, unless missing_info says what is missing")
        changes = {
            "state.pending_question": question,
            "state.missing_info": list(missing),
            **self._settled(CallName.ASK_AGAIN, claim, candidate_id, expires_at),
        }
        return await self._record(CallName.ASK_AGAIN, claim, writes.outcome, operation_id, client_session, changes)

    async def present_preview(
        self,
        claim: RerunClaim,
        *,
        preview_id: str,
        candidate_id: str | Unset | None = UNSET,
        expires_at: datetime | Unset | None = UNSET,
        operation_id: str | None = None,
        client_session: ClientSession | None = None,
    ) -> ActiveScheduleSessionSnapshot:
        """Record that a preview can be shown; chat is free from now on.

        Args:
            preview_id: Another than the current one; the application never uses one twice.
        """
        preview_id = inputs.identifier("preview_id", preview_id)
        if preview_id == checked_claim(CallName.PRESENT_PREVIEW, claim).session.current_preview_id:
            raise InvalidSessionInput("preview_id", "another id than the current preview's: a changed preview is new")
        changes = {
            "current_preview_id": preview_id,
            **self._settled(CallName.PRESENT_PREVIEW, claim, candidate_id, expires_at),
        }
        return await self._record(
            CallName.PRESENT_PREVIEW, claim, writes.outcome, operation_id, client_session, changes
        )

    async def close_rerun(
        self,
        claim: RerunClaim,
        *,
        reason: str = "",
        operation_id: str | None = None,
        client_session: ClientSession | None = None,
    ) -> ActiveScheduleSessionSnapshot:
        """Record that there is nothing to do any more: the session ends ``ignored``."""
        said = inputs.text("reason", reason)
        return await self._record(
            CallName.CLOSE_RERUN, claim, writes.outcome, operation_id, client_session, reason=said
        )

    async def fail_rerun(
        self,
        claim: RerunClaim,
        *,
        reason: str,
        operation_id: str | None = None,
        client_session: ClientSession | None = None,
    ) -> ActiveScheduleSessionSnapshot:
        """Record that the rerun cannot go on: the session ends ``failed``.

        Args:
            reason: Why; not blank.
        """
        said = inputs.required_text("reason", reason)
        changes = {"state.failed_reason": said}
        return await self._record(
            CallName.FAIL_RERUN, claim, writes.outcome, operation_id, client_session, changes, said
        )

    def _settled(
        self, name: CallName, claim: RerunClaim, candidate_id: str | Unset | None, expires_at: datetime | Unset | None
    ) -> dict[str, Any]:
        """What an outcome that does not end the session makes of its candidate and its end."""
        changes: dict[str, Any] = {}
        now = self._clock.now()
        if candidate_id is not UNSET:
            changes["state.last_candidate_id"] = inputs.optional_identifier("candidate_id", candidate_id)
        if expires_at is not UNSET:
            given = inputs.optional_moment("expires_at", expires_at)
            changes["state.expires_at"] = inputs.ahead("expires_at", given, now=now)
            return changes
        # Nobody else can change it while the token is current, so what the claim saw is what is stored.
        stands = checked_claim(name, claim).session.state.expires_at
        if stands is not None and stands <= now:
            changes["state.expires_at"] = None
        return changes
