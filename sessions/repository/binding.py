"""What belongs to a session: its conversation, and the notification that led the user here."""

from sessions.domain import inputs
from sessions.domain.inputs import UNSET, Unset
from sessions.domain.lifecycle import CallName
from sessions.domain.models import ActiveScheduleSessionSnapshot
from sessions.repository.engine import Engine
from sessions.store import writes
from sessions.store.calls import Call
from sessions.store.clients import ClientSession


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
        client_session: ClientSession | None = None,
    ) -> ActiveScheduleSessionSnapshot:
        """Give the session its conversation, once; again to the same one changes nothing.

        Args:
            notification_id: Recorded in the same write; None clears it.

        Raises:
            InvalidTransition: The session has ended.
            ConversationBusy: Another session governs the conversation.
            TransitionConflict: ``already_bound`` to another conversation, or ``revision_changed``.
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
        self, session_id: str, notification_id: str, *, user_id: int, client_session: ClientSession | None = None
    ) -> ActiveScheduleSessionSnapshot:
        """Note the notification that was sent for the session, in any status; the same one again changes nothing."""
        call = Call(
            name=CallName.RECORD_NOTIFICATION,
            session_id=inputs.identifier("session_id", session_id),
            user_id=inputs.integer("user_id", user_id),
            notification_id=inputs.identifier("notification_id", notification_id),
        )
        return await self._carry_out(call, writes.record_notification, client_session)
