"""What belongs to a session: its conversation, and the notification that led the user here."""

from typing import TYPE_CHECKING

from sessions.domain import inputs
from sessions.domain.inputs import UNSET, Unset
from sessions.domain.lifecycle import CallName
from sessions.domain.models import ActiveScheduleSessionSnapshot
from sessions.repository.engine import Engine
from sessions.store import writes
from sessions.store.writes import Call

if TYPE_CHECKING:
    from sessions.store.collection import ClientSession


class Binding(Engine):
    """The calls that tie a session to what the user sees."""

    async def bind_conversation(
        self,
        session_id: str,
        conversation_id: str,
        *,
        user_id: int,
        notification_id: str | Unset | None = UNSET,
        expected_revision: int | None = None,
        client_session: "ClientSession | None" = None,
    ) -> ActiveScheduleSessionSnapshot:
        """Give the session its conversation, once; again to the same one changes nothing.

        Args:
            session_id: 1 to 64 characters.
            conversation_id: 1 to 128 characters.
            user_id: The owner, 1 to 2**63 - 1. Another user's session counts as missing.
            notification_id: Recorded in the same write, 1 to 64 characters; None clears it.
            expected_revision: Refuse where the session has been written since, from 1.
            client_session: A driver's session, to join the application's transaction; see `SessionRepository`.

        Returns:
            The session as it stands.

        Raises:
            InvalidSessionInput: An argument is outside its limits; nothing was sent.
            SessionNotFound: This user has no such session.
            InvalidTransition: The session has ended.
            ConversationBusy: Another session governs the conversation.
            TransitionConflict: ``already_bound`` to another conversation, or ``revision_changed``.
            StoreUnavailable: No primary answered within the repository's ``timeout``.

        Round trips:
            One ``findAndModify``; a refusal or a repetition adds a ``find`` or two.
        """
        call = Call(
            name=CallName.BIND_CONVERSATION,
            session_id=inputs.identifier("session_id", session_id),
            user_id=inputs.integer("user_id", user_id),
            conversation_id=inputs.identifier("conversation_id", conversation_id),
            notification_id=inputs.settable_identifier("notification_id", notification_id),
            expected_revision=inputs.optional_integer("expected_revision", expected_revision),
        )
        return await self._carry_out(call, writes.bind_conversation, client_session)

    async def record_notification(
        self,
        session_id: str,
        notification_id: str,
        *,
        user_id: int,
        client_session: "ClientSession | None" = None,
    ) -> ActiveScheduleSessionSnapshot:
        """Note the notification that was sent for the session, in any status; the same one again changes nothing.

        Args:
            session_id: 1 to 64 characters.
            notification_id: 1 to 64 characters.
            user_id: The owner, 1 to 2**63 - 1. Another user's session counts as missing.
            client_session: A driver's session, to join the application's transaction; see `SessionRepository`.

        Returns:
            The session as it stands.

        Raises:
            InvalidSessionInput: An argument is outside its limits; nothing was sent.
            SessionNotFound: This user has no such session.
            StoreUnavailable: No primary answered within the repository's ``timeout``.

        Round trips:
            One ``findAndModify``; a refusal or a repetition adds a ``find``.
        """
        call = Call(
            name=CallName.RECORD_NOTIFICATION,
            session_id=inputs.identifier("session_id", session_id),
            user_id=inputs.integer("user_id", user_id),
            notification_id=inputs.identifier("notification_id", notification_id),
        )
        return await self._carry_out(call, writes.record_notification, client_session)
