"""From a trigger to its one session."""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sessions.domain import inputs
from sessions.domain.errors import (
    ConflictReason,
    InvalidSessionInput,
    SessionExists,
    SessionRef,
    TransitionConflict,
)
from sessions.domain.lifecycle import CallName, SessionStatus
from sessions.domain.models import ActiveScheduleSessionSnapshot, derive_session_id, to_snapshot
from sessions.repository.engine import RETRIES, Engine
from sessions.repository.refusals import entries_of, reference
from sessions.store import reads, writes
from sessions.store.collection import DuplicateKey, SessionCollection
from sessions.store.writes import Call
from sessions.tasks import to_the_end

if TYPE_CHECKING:
    from sessions.store.collection import ClientSession


class Creation(Engine):
    """The calls that make a session."""

    async def create(
        self,
        user_id: int,
        trigger_id: str,
        *,
        conversation_id: str | None = None,
        pending_question: str = "",
        missing_info: Sequence[str] = (),
        preview_id: str | None = None,
        candidate_id: str | None = None,
        notification_id: str | None = None,
        expires_at: datetime | None = None,
        ignored: bool = False,
        reason: str = "",
        operation_id: str | None = None,
        client_session: "ClientSession | None" = None,
    ) -> ActiveScheduleSessionSnapshot:
        """Store the session of a trigger; give exactly one of: question or missing info, preview, ``ignored``.

        Args:
            user_id: The owner, 1 to 2**63 - 1.
            trigger_id: What set the graph off, 1 to 64 characters; it has one session for good.
            conversation_id: 1 to 128 characters, or None until `bind_conversation`.
            pending_question: What the user is asked, at most 4,000 characters.
            missing_info: At most 32 texts of at most 200 characters.
            preview_id: The preview that can be confirmed, 1 to 64 characters.
            candidate_id: 1 to 64 characters.
            notification_id: 1 to 64 characters.
            expires_at: An aware moment still ahead, cut to the millisecond; None waits as long as it takes.
            ignored: The graph found nothing to do; kept so that the trigger stays idempotent.
            reason: For the history, at most 2,000 characters.
            operation_id: The same for each attempt at one call, 1 to 64 characters; a replay writes nothing.
            client_session: A driver's session, to join the application's transaction; see `SessionRepository`.

        Returns:
            The session as stored; for a replay as it stands now.

        Raises:
            InvalidSessionInput: An argument is outside its limits; nothing was sent.
            SessionExists: The trigger has its session already.
            ConversationBusy: Another session governs the conversation; nothing was stored.
            StoreUnavailable: No primary answered within the repository's ``timeout``.

        Round trips:
            One ``insert``; a refusal adds a ``find`` or two, a lapsed governor its ending and another ``insert``.
        """
        call, start = self._checked_creation(
            CallName.CREATE,
            user_id,
            trigger_id,
            conversation_id=conversation_id,
            pending_question=pending_question,
            missing_info=missing_info,
            preview_id=preview_id,
            candidate_id=candidate_id,
            notification_id=notification_id,
            expires_at=expires_at,
            ignored=ignored,
            reason=reason,
            operation_id=operation_id,
        )
        session, created = await self._make(call, start, client_session)
        if not created:
            raise SessionExists(reference(session, session_id=call.session_id, user_id=user_id, at=self._clock.now()))
        return session

    async def get_or_create(
        self,
        user_id: int,
        trigger_id: str,
        *,
        conversation_id: str | None = None,
        pending_question: str = "",
        missing_info: Sequence[str] = (),
        preview_id: str | None = None,
        candidate_id: str | None = None,
        notification_id: str | None = None,
        expires_at: datetime | None = None,
        ignored: bool = False,
        reason: str = "",
        operation_id: str | None = None,
        client_session: "ClientSession | None" = None,
    ) -> tuple[ActiveScheduleSessionSnapshot, bool]:
        """Store the session of a trigger, or return the one that it has; the arguments are `create`'s.

        Returns:
            The session and whether this call made it; where it existed it stands as it was, whatever the arguments.

        Raises:
            InvalidSessionInput: An argument is outside its limits; nothing was sent.
            ConversationBusy: The trigger is new and another session governs the conversation; nothing was stored.
            StoreUnavailable: No primary answered within the repository's ``timeout``.

        Round trips:
            One ``insert``; where the session exists one ``find`` more.
        """
        call, start = self._checked_creation(
            CallName.GET_OR_CREATE,
            user_id,
            trigger_id,
            conversation_id=conversation_id,
            pending_question=pending_question,
            missing_info=missing_info,
            preview_id=preview_id,
            candidate_id=candidate_id,
            notification_id=notification_id,
            expires_at=expires_at,
            ignored=ignored,
            reason=reason,
            operation_id=operation_id,
        )
        return await self._make(call, start, client_session)

    def _checked_creation(
        self, name: CallName, user_id: int, trigger_id: str, **given: Any
    ) -> tuple[Call, tuple[str, SessionStatus]]:
        user_id = inputs.integer("user_id", user_id)
        trigger_id = inputs.identifier("trigger_id", trigger_id)
        question = inputs.text("pending_question", given["pending_question"])
        missing_info = inputs.texts("missing_info", given["missing_info"])
        preview_id = inputs.optional_identifier("preview_id", given["preview_id"])
        ignored = inputs.flag("ignored", given["ignored"])
        ways = {
            SessionStatus.WAITING_USER_REPLY: bool(question or missing_info),
            SessionStatus.READY_PREVIEW: preview_id is not None,
            SessionStatus.IGNORED: ignored,
        }
        chosen = [status for status, is_given in ways.items() if is_given]
        if len(chosen) != 1:
            raise InvalidSessionInput(
                "pending_question", "given alone or with missing_info, or else preview_id, or else ignored=True"
            )
        expires_at = inputs.optional_moment("expires_at", given["expires_at"])
        call = Call(
            name=name,
            session_id=derive_session_id(user_id, trigger_id),
            user_id=user_id,
            operation_id=self._operation_id(given["operation_id"]),
            reason=inputs.text("reason", given["reason"]),
            conversation_id=inputs.optional_identifier("conversation_id", given["conversation_id"]),
            preview_id=preview_id,
            changes={
                "state.pending_question": question,
                "state.missing_info": list(missing_info),
                "state.last_candidate_id": inputs.optional_identifier("candidate_id", given["candidate_id"]),
                "state.last_notification_id": inputs.optional_identifier("notification_id", given["notification_id"]),
                "state.expires_at": inputs.ahead("expires_at", expires_at, now=self._clock.now()),
            },
        )
        return call, (trigger_id, chosen[0])

    async def _make(
        self, call: Call, start: tuple[str, SessionStatus], client_session: "ClientSession | None"
    ) -> tuple[ActiveScheduleSessionSnapshot, bool]:
        return await to_the_end(self._find_or_insert(self._collection.for_one_call(client_session), call, start))

    async def _find_or_insert(
        self, collection: SessionCollection, call: Call, start: tuple[str, SessionStatus]
    ) -> tuple[ActiveScheduleSessionSnapshot, bool]:
        if collection.is_within and call.name is CallName.GET_OR_CREATE:
            # First, since a duplicate key would abort the caller's transaction.
            found = await self._made_before(collection, call)
            if found is not None:
                return found
        return await self._insert(collection, call, start)

    async def _made_before(
        self, collection: SessionCollection, call: Call
    ) -> tuple[ActiveScheduleSessionSnapshot, bool] | None:
        """The trigger's session, and whether it was this very call that made it."""
        about = SessionRef(session_id=call.session_id, user_id=call.user_id)
        raw = await collection.find_one(reads.by_id(call.session_id, call.user_id, with_history=True), about=about)
        return (to_snapshot(raw), bool(entries_of(call, raw))) if raw is not None else None

    async def _insert(
        self, collection: SessionCollection, call: Call, start: tuple[str, SessionStatus]
    ) -> tuple[ActiveScheduleSessionSnapshot, bool]:
        trigger_id, status = start
        about = SessionRef(session_id=call.session_id, user_id=call.user_id)
        number = 1 if status is SessionStatus.WAITING_USER_REPLY else 0
        for _ in range(1 + RETRIES):
            at = self._clock.now()
            document = writes.new_document(call, trigger_id=trigger_id, status=status, question_number=number, at=at)
            try:
                await collection.insert(document, about=about)
            except DuplicateKey as error:
                # By _id first: where both indexes refuse, the backends disagree on which one they name.
                found = await self._made_before(collection.outside(), call)
                if collection.is_within and (found is not None or error.fields == {"_id"}):
                    made = found[0] if found is not None else None
                    exists = reference(made, session_id=call.session_id, user_id=call.user_id, at=at)
                    raise SessionExists(exists) from error
                if found is not None:
                    return found
                await self._make_way(collection, call, None, error, at)
                continue
            return to_snapshot(document), True
        raise TransitionConflict(about, reason=ConflictReason.RACED)
