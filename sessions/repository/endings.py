"""What anybody may ask for, whoever works on the session: its end, or the end of the rerun."""

from typing import Any

from sessions.domain import inputs
from sessions.domain.lifecycle import CallName
from sessions.domain.models import ActiveScheduleSessionSnapshot
from sessions.repository.engine import Engine
from sessions.store import writes
from sessions.store.calls import Call
from sessions.store.clients import ClientSession


class Endings(Engine):
    """The calls that need no claim, and that a holder at work meets as a lost lease."""

    async def interrupt(
        self,
        session_id: str,
        *,
        user_id: int,
        reason: str = "",
        operation_id: str | None = None,
        client_session: ClientSession | None = None,
    ) -> ActiveScheduleSessionSnapshot:
        """Give a rerun back from outside: its question or its preview stands exactly as before, and it can't write.

        The message that was being worked on counts as not consumed.

        Args:
            reason: For the history.

        Raises:
            InvalidTransition: No rerun is under way.
            TransitionConflict: ``applying``: a confirmation is carried out.

        Round trips:
            Two writes and a ``find`` for a refinement.
        """
        call = Call(
            name=CallName.INTERRUPT,
            session_id=inputs.identifier("session_id", session_id),
            user_id=inputs.integer("user_id", user_id),
            operation_id=self._operation_id(operation_id),
            reason=inputs.text("reason", reason),
        )
        return await self._carry_out(call, writes.interrupt, client_session)

    async def apply(
        self,
        session_id: str,
        *,
        user_id: int,
        preview_id: str,
        expected_revision: int | None = None,
        operation_id: str | None = None,
        client_session: ClientSession | None = None,
    ) -> ActiveScheduleSessionSnapshot:
        """End the session as ``applied``: the user confirmed this preview.

        Args:
            preview_id: The preview that the user saw.

        Raises:
            StalePreview: Another preview is offered, or none.
            InvalidTransition: No preview is ready.
        """
        call = Call(
            name=CallName.APPLY,
            session_id=inputs.identifier("session_id", session_id),
            user_id=inputs.integer("user_id", user_id),
            preview_id=inputs.identifier("preview_id", preview_id),
            expected_revision=inputs.optional_integer("expected_revision", expected_revision),
            operation_id=self._operation_id(operation_id),
        )
        return await self._carry_out(call, writes.apply, client_session)

    async def ignore(
        self,
        session_id: str,
        *,
        user_id: int,
        reason: str = "",
        expected_revision: int | None = None,
        operation_id: str | None = None,
        client_session: ClientSession | None = None,
    ) -> ActiveScheduleSessionSnapshot:
        """End the session as ``ignored``, from any status that has not ended; a worker on it loses its lease.

        Raises:
            InvalidTransition: The session has ended.
        """
        said = inputs.text("reason", reason)
        return await self._end(
            CallName.IGNORE, session_id, user_id, expected_revision, operation_id, said, {}, client_session
        )

    async def fail(
        self,
        session_id: str,
        *,
        user_id: int,
        reason: str,
        expected_revision: int | None = None,
        operation_id: str | None = None,
        client_session: ClientSession | None = None,
    ) -> ActiveScheduleSessionSnapshot:
        """End the session as ``failed``, from any status that has not ended; a worker on it loses its lease.

        Args:
            reason: Why; not blank.

        Raises:
            InvalidTransition: The session has ended.
        """
        said = inputs.required_text("reason", reason)
        changes = {"state.failed_reason": said}
        return await self._end(
            CallName.FAIL, session_id, user_id, expected_revision, operation_id, said, changes, client_session
        )

    async def _end(
        self,
        name: CallName,
        session_id: str,
        user_id: int,
        expected_revision: int | None,
        operation_id: str | None,
        reason: str,
        changes: dict[str, Any],
        client_session: ClientSession | None,
    ) -> ActiveScheduleSessionSnapshot:
        call = Call(
            name=name,
            session_id=inputs.identifier("session_id", session_id),
            user_id=inputs.integer("user_id", user_id),
            expected_revision=inputs.optional_integer("expected_revision", expected_revision),
            operation_id=self._operation_id(operation_id),
            reason=reason,
            changes=changes,
        )
        return await self._carry_out(call, writes.end, client_session)
