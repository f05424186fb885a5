"""From a trigger to its one session."""

from collections.abc import Sequence
from datetime import datetime

from sessions.domain import inputs
from sessions.domain.errors import ConflictReason, InvalidSessionInput, SessionExists, SessionRef, TransitionConflict
from sessions.domain.lifecycle import CallName, SessionStatus
from sessions.domain.models import ActiveScheduleSessionSnapshot, derive_session_id
from sessions.repository.engine import RETRIES, Engine
from sessions.store import writes
from sessions.store.calls import CreationCall
from sessions.store.clients import ClientSession
from sessions.store.collection import DuplicateKey, StoreCall
from sessions.store.reading import to_snapshot
from sessions.tasks import Finishing


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
        client_session: ClientSession | None = None,
    ) -> ActiveScheduleSessionSnapshot:
        """Store the session of a trigger; give exactly one of: question or missing info, preview, ``ignored``.

        Args:
            trigger_id: What set the graph off; it has one session for good.
            conversation_id: None until `bind_conversation`.
            preview_id: The preview that can be confirmed.
            expires_at: None waits as long as it takes.
            ignored: The graph found nothing to do; kept so that the trigger stays idempotent.

        Returns:
            The session as stored; for a replay as it stands now.

        Raises:
            SessionExists: The trigger has its session already.
            ConversationBusy: Another session governs the conversation; nothing was stored.

        Round trips:
            One ``insert``; a refusal adds a ``find`` or two, a lapsed governor its ending and another ``insert``.
        """
        call = self._checked_creation(
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
        session, created = await self._make(call, client_session)
        if not created:
            raise SessionExists(SessionRef.of(session, self.present_status(session)))
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
        client_session: ClientSession | None = None,
    ) -> tuple[ActiveScheduleSessionSnapshot, bool]:
        """Store the session of a trigger, or return the one that it has; the arguments are `create`'s.

        Returns:
            The session, and whether this call made it. One that existed stands as it was, whatever the arguments.

        Raises:
            ConversationBusy: The trigger is new and another session governs the conversation; nothing was stored.

        Round trips:
            One ``insert``; if the session exists one ``find`` more.
        """
        call = self._checked_creation(
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
        return await self._make(call, client_session)

    def _checked_creation(
        self,
        name: CallName,
        user_id: int,
        trigger_id: str,
        *,
        conversation_id: str | None,
        pending_question: str,
        missing_info: Sequence[str],
        preview_id: str | None,
        candidate_id: str | None,
        notification_id: str | None,
        expires_at: datetime | None,
        ignored: bool,
        reason: str,
        operation_id: str | None,
    ) -> CreationCall:
        user_id = inputs.integer("user_id", user_id)
        trigger_id = inputs.identifier("trigger_id", trigger_id)
        question = inputs.text("pending_question", pending_question)
        missing = inputs.texts("missing_info", missing_info)
        preview_id = inputs.optional_identifier("preview_id", preview_id)
        ways = {
            SessionStatus.WAITING_USER_REPLY: bool(question or missing),
            SessionStatus.READY_PREVIEW: preview_id is not None,
            SessionStatus.IGNORED: inputs.flag("ignored", ignored),
        }
        chosen = [status for status, is_given in ways.items() if is_given]
        if len(chosen) != 1:
            raise InvalidSessionInput(
                "pending_question", "given alone or with missing_info, or else preview_id, or else ignored=True"
            )
        ends = inputs.optional_moment("expires_at", expires_at)
        return CreationCall(
            name=name,
            session_id=derive_session_id(user_id, trigger_id),
            user_id=user_id,
            trigger_id=trigger_id,
            status=chosen[0],
            operation_id=self._operation_id(operation_id),
            reason=inputs.text("reason", reason),
            conversation_id=inputs.optional_identifier("conversation_id", conversation_id),
            preview_id=preview_id,
            changes={
                "state.pending_question": question,
                "state.missing_info": list(missing),
                "state.last_candidate_id": inputs.optional_identifier("candidate_id", candidate_id),
                "state.last_notification_id": inputs.optional_identifier("notification_id", notification_id),
                "state.expires_at": inputs.ahead("expires_at", ends, now=self._clock.now()),
            },
        )

    async def _make(
        self, call: CreationCall, client_session: ClientSession | None
    ) -> tuple[ActiveScheduleSessionSnapshot, bool]:
        with Finishing() as finishing:
            store = self._collection.for_one_call(client_session, finishing=finishing)
            return await self._find_or_insert(store, call)

    async def _find_or_insert(self, store: StoreCall, call: CreationCall) -> tuple[ActiveScheduleSessionSnapshot, bool]:
        if store.is_within and call.name is CallName.GET_OR_CREATE:
            # First, since a duplicate key would abort the caller's transaction.
            made = await self._made_before(store, call)
            if made is not None:
                return made
        return await self._insert(store, call)

    async def _made_before(
        self, store: StoreCall, call: CreationCall
    ) -> tuple[ActiveScheduleSessionSnapshot, bool] | None:
        """The trigger's session, and whether it was this very call that made it."""
        found = await self._found(store, call, self._clock.now())
        return None if found is None else (found.session, bool(found.entries_of(call)))

    async def _insert(self, store: StoreCall, call: CreationCall) -> tuple[ActiveScheduleSessionSnapshot, bool]:
        for _ in range(1 + RETRIES):
            at = self._clock.now()
            document = writes.new_document(call, at)
            try:
                await store.insert(document, about=call.about)
            except DuplicateKey as error:
                # By _id first: if both indexes refuse, the backends disagree on which one they name.
                made = await self._made_before(store.outside(), call)
                if store.is_within and (made is not None or error.fields == {"_id"}):
                    about = call.about if made is None else SessionRef.of(made[0], self.present_status(made[0]))
                    raise SessionExists(about) from error
                if made is not None:
                    return made
                await self._make_way(store, call, None, error, at)
                continue
            return to_snapshot(document), True
        raise TransitionConflict(call.about, reason=ConflictReason.RACED)
