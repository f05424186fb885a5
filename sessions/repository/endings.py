"""The endings that anybody may ask for."""

from typing import TYPE_CHECKING, Any

from sessions.domain import inputs
from sessions.domain.lifecycle import CallName
from sessions.domain.models import ActiveScheduleSessionSnapshot
from sessions.repository.engine import Engine
from sessions.store import writes
from sessions.store.writes import Call

if TYPE_CHECKING:
    from sessions.store.collection import ClientSession


class Endings(Engine):
    """The endings that need no claim."""

    async def apply(
        self,
        session_id: str,
        *,
        user_id: int,
        preview_id: str,
        expected_revision: int | None = None,
        operation_id: str | None = None,
        client_session: "ClientSession | None" = None,
    ) -> ActiveScheduleSessionSnapshot:
        """End the session as ``applied``: the user confirmed this preview.

        Args:
            session_id: 1 to 64 characters.
            user_id: The owner, 1 to 2**63 - 1. Another user's session counts as missing.
            preview_id: The preview that the user saw, 1 to 64 characters.
            expected_revision: Refuse where the session has been written since, from 1.
            operation_id: The same for each attempt at one call, 1 to 64 characters; a replay writes nothing.
            client_session: A driver's session, to join the application's transaction; see `SessionRepository`.

        Returns:
            The session as it stands, for a replay too.

        Raises:
            InvalidSessionInput: An argument is outside its limits; nothing was sent.
            SessionNotFound: This user has no such session.
            StalePreview: Another preview is offered, or none.
            InvalidTransition: No preview is ready.
            TransitionConflict: Somebody was first; ``reason`` says how.
            StoreUnavailable: No primary answered within the repository's ``timeout``.

        Round trips:
            One ``findAndModify``; a refusal or a replay adds a ``find``.
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
        client_session: "ClientSession | None" = None,
    ) -> ActiveScheduleSessionSnapshot:
        """End the session as ``ignored``, from any status that has not ended; a worker on it loses its lease.

        Args:
            session_id: 1 to 64 characters.
            user_id: The owner, 1 to 2**63 - 1. Another user's session counts as missing.
            reason: For the history, at most 2,000 characters.
            expected_revision: Refuse where the session has been written since, from 1.
            operation_id: The same for each attempt at one call, 1 to 64 characters; a replay writes nothing.
            client_session: A driver's session, to join the application's transaction; see `SessionRepository`.

        Returns:
            The session as it stands, for a replay too.

        Raises:
            InvalidSessionInput: An argument is outside its limits; nothing was sent.
            SessionNotFound: This user has no such session.
            InvalidTransition: The session has ended.
            TransitionConflict: Somebody was first; ``reason`` says how.
            StoreUnavailable: No primary answered within the repository's ``timeout``.

        Round trips:
            One ``findAndModify``; a refusal or a replay adds a ``find``.
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
        client_session: "ClientSession | None" = None,
    ) -> ActiveScheduleSessionSnapshot:
        """End the session as ``failed``, from any status that has not ended; a worker on it loses its lease.

        Args:
            session_id: 1 to 64 characters.
            user_id: The owner, 1 to 2**63 - 1. Another user's session counts as missing.
            reason: Why, 1 to 2,000 characters.
            expected_revision: Refuse where the session has been written since, from 1.
            operation_id: The same for each attempt at one call, 1 to 64 characters; a replay writes nothing.
            client_session: A driver's session, to join the application's transaction; see `SessionRepository`.

        Returns:
            The session as it stands, for a replay too.

        Raises:
            InvalidSessionInput: An argument is outside its limits; nothing was sent.
            SessionNotFound: This user has no such session.
            InvalidTransition: The session has ended.
            TransitionConflict: Somebody was first; ``reason`` says how.
            StoreUnavailable: No primary answered within the repository's ``timeout``.

        Round trips:
            One ``findAndModify``; a refusal or a replay adds a ``find``.
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
        client_session: "ClientSession | None",
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
