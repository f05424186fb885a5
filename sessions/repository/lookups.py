"""Who governs this conversation, and every other way to find a session; each costs one round trip."""

import base64
import binascii
import json
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from sessions.domain import inputs
from sessions.domain.errors import InvalidSessionInput, SessionNotFound, SessionRef
from sessions.domain.expiry import route_of
from sessions.domain.lifecycle import ALL, SessionStatus
from sessions.domain.models import (
    ActiveScheduleSessionSnapshot,
    Page,
    Route,
    Transition,
    to_snapshot,
    to_transitions,
)
from sessions.repository.engine import Engine
from sessions.store import reads
from sessions.store.reads import Lookup
from sessions.store.updates import Query

if TYPE_CHECKING:
    from sessions.store.collection import ClientSession

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LONGEST_CURSOR = 512


def _to_cursor(session: ActiveScheduleSessionSnapshot) -> str:
    place = [(session.updated_at - _EPOCH) // timedelta(milliseconds=1), session.session_id]
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode()


def _from_cursor(after: object) -> tuple[datetime, str] | None:
    if after is None:
        return None
    wanted = InvalidSessionInput("after", "None or the `after` of a page that list_sessions returned")
    if not isinstance(after, str) or len(after) > _LONGEST_CURSOR:
        raise wanted
    try:
        milliseconds, session_id = json.loads(base64.b64decode(after, altchars=b"-_", validate=True))
        milliseconds = inputs.integer("after", milliseconds, limit=inputs.IntegerLimit(-inputs.INT64_MAX))
        return _EPOCH + timedelta(milliseconds=milliseconds), inputs.identifier("session_id", session_id)
    except (binascii.Error, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise wanted from error


def _checked_statuses(statuses: object) -> frozenset[SessionStatus]:
    if statuses is None:
        return frozenset(ALL)
    wanted = InvalidSessionInput("statuses", "None, or a non-empty collection of statuses: " + ", ".join(ALL))
    if not isinstance(statuses, list | tuple | set | frozenset) or not statuses:
        raise wanted
    try:
        return frozenset(SessionStatus(status) for status in statuses)
    except ValueError as error:
        raise wanted from error


class Lookups(Engine):
    """The calls that read; they show what is stored."""

    async def route(
        self, user_id: int, conversation_id: str, *, client_session: "ClientSession | None" = None
    ) -> Route:
        """Say what to do with the next chat message of a user in a conversation.

        Args:
            user_id: 1 to 2**63 - 1.
            conversation_id: 1 to 128 characters.
            client_session: A driver's session, to join the application's transaction; see `SessionRepository`.

        Returns:
            ``free_chat`` where nobody governs, ``resume`` where the message is the awaited reply, ``hold`` while a
            rerun is under way; with the governing session. What has lapsed counts as swept.

        Raises:
            InvalidSessionInput: An argument is outside its limits; nothing was sent.
            StoreUnavailable: No primary answered within the repository's ``timeout``.

        Round trips:
            One ``find`` on the governor index; another, with a warning logged, where that index is hidden or absent.
        """
        user_id = inputs.integer("user_id", user_id)
        conversation_id = inputs.identifier("conversation_id", conversation_id)
        collection = self._collection.for_one_call(client_session)
        return route_of(await self._governor(collection, user_id, conversation_id), self._clock.now())

    async def route_many(self, user_id: int, conversation_ids: Sequence[str]) -> dict[str, Route]:
        """Route several conversations of one user at once.

        Args:
            user_id: 1 to 2**63 - 1.
            conversation_ids: At most 1,000 ids of 1 to 128 characters; doubles count once.

        Returns:
            A route for each conversation that was asked for, in that order.

        Raises:
            InvalidSessionInput: An argument is outside its limits; nothing was sent.
            StoreUnavailable: No primary answered within the repository's ``timeout``.

        Round trips:
            One ``find``; none for an empty list.
        """
        user_id = inputs.integer("user_id", user_id)
        if (
            not isinstance(conversation_ids, list | tuple | set | frozenset)
            or len(conversation_ids) > inputs.MOST_CONVERSATIONS
        ):
            raise InvalidSessionInput(
                "conversation_ids", f"a list or tuple of at most {inputs.MOST_CONVERSATIONS:,} conversation ids"
            )
        limit = inputs.IDENTIFIERS["conversation_id"]
        wanted = list(
            dict.fromkeys(inputs.identifier("conversation_ids", item, limit=limit) for item in conversation_ids)
        )
        if not wanted:
            return {}
        found = await self._collection.find(reads.governors(user_id, wanted), about=SessionRef(user_id=user_id))
        governing = {session.conversation_id: session for session in map(to_snapshot, found)}
        at = self._clock.now()
        return {conversation_id: route_of(governing.get(conversation_id), at) for conversation_id in wanted}

    async def get(
        self, session_id: str, *, user_id: int, client_session: "ClientSession | None" = None
    ) -> ActiveScheduleSessionSnapshot:
        """Read one session of a user.

        Args:
            session_id: 1 to 64 characters.
            user_id: The owner, 1 to 2**63 - 1. Another user's session counts as missing.
            client_session: A driver's session, to join the application's transaction; see `SessionRepository`.

        Returns:
            The session as stored.

        Raises:
            InvalidSessionInput: An argument is outside its limits; nothing was sent.
            SessionNotFound: This user has no such session.
            StoreUnavailable: No primary answered within the repository's ``timeout``.

        Round trips:
            One ``find``.
        """
        return to_snapshot(await self._owned(session_id, user_id, client_session, with_history=False))

    async def history(
        self, session_id: str, *, user_id: int, client_session: "ClientSession | None" = None
    ) -> list[Transition]:
        """Read the last 32 changes of status and take-overs of a session, the oldest first.

        Args:
            session_id: 1 to 64 characters.
            user_id: The owner, 1 to 2**63 - 1. Another user's session counts as missing.
            client_session: A driver's session, to join the application's transaction; see `SessionRepository`.

        Returns:
            The transitions; ``from_status`` of the first one kept is None.

        Raises:
            InvalidSessionInput: An argument is outside its limits; nothing was sent.
            SessionNotFound: This user has no such session.
            StoreUnavailable: No primary answered within the repository's ``timeout``.

        Round trips:
            One ``find``.
        """
        return to_transitions(await self._owned(session_id, user_id, client_session, with_history=True))

    async def _owned(
        self, session_id: str, user_id: int, client_session: "ClientSession | None", *, with_history: bool
    ) -> Query:
        session_id, user_id = inputs.identifier("session_id", session_id), inputs.integer("user_id", user_id)
        about = SessionRef(session_id=session_id, user_id=user_id)
        lookup = reads.by_id(session_id, user_id, with_history=with_history)
        raw = await self._collection.for_one_call(client_session).find_one(lookup, about=about)
        if raw is None:
            raise SessionNotFound(about)
        return raw

    async def _first(
        self, lookup: Lookup, user_id: int, client_session: "ClientSession | None"
    ) -> ActiveScheduleSessionSnapshot | None:
        collection = self._collection.for_one_call(client_session)
        raw = await collection.find_one(lookup, about=SessionRef(user_id=user_id))
        return to_snapshot(raw) if raw is not None else None

    async def latest(
        self, user_id: int, conversation_id: str, *, client_session: "ClientSession | None" = None
    ) -> ActiveScheduleSessionSnapshot | None:
        """Read the session of a conversation that changed last, ended or not.

        Args:
            user_id: 1 to 2**63 - 1.
            conversation_id: 1 to 128 characters.
            client_session: A driver's session, to join the application's transaction; see `SessionRepository`.

        Returns:
            The session, or None where the conversation never had one.

        Raises:
            InvalidSessionInput: An argument is outside its limits; nothing was sent.
            StoreUnavailable: No primary answered within the repository's ``timeout``.

        Round trips:
            One ``find``, without a sort; another, with a warning logged, where its index is hidden or absent.
        """
        user_id = inputs.integer("user_id", user_id)
        conversation_id = inputs.identifier("conversation_id", conversation_id)
        return await self._first(reads.latest(user_id, conversation_id), user_id, client_session)

    async def find_by_trigger(
        self, trigger_id: str, *, user_id: int, client_session: "ClientSession | None" = None
    ) -> ActiveScheduleSessionSnapshot | None:
        """Read the session that a trigger made.

        Args:
            trigger_id: 1 to 64 characters.
            user_id: The owner, 1 to 2**63 - 1.
            client_session: A driver's session, to join the application's transaction; see `SessionRepository`.

        Returns:
            The session, or None where the trigger has none.

        Raises:
            InvalidSessionInput: An argument is outside its limits; nothing was sent.
            StoreUnavailable: No primary answered within the repository's ``timeout``.

        Round trips:
            One ``find``.
        """
        trigger_id, user_id = inputs.identifier("trigger_id", trigger_id), inputs.integer("user_id", user_id)
        return await self._first(reads.by_trigger(user_id, trigger_id), user_id, client_session)

    async def find_by_preview(
        self, preview_id: str, *, user_id: int, client_session: "ClientSession | None" = None
    ) -> ActiveScheduleSessionSnapshot | None:
        """Read the session whose current preview this is.

        Args:
            preview_id: 1 to 64 characters.
            user_id: The owner, 1 to 2**63 - 1.
            client_session: A driver's session, to join the application's transaction; see `SessionRepository`.

        Returns:
            The session, or None where no session holds the preview any more.

        Raises:
            InvalidSessionInput: An argument is outside its limits; nothing was sent.
            StoreUnavailable: No primary answered within the repository's ``timeout``.

        Round trips:
            One ``find``.
        """
        preview_id, user_id = inputs.identifier("preview_id", preview_id), inputs.integer("user_id", user_id)
        return await self._first(reads.by_preview(user_id, preview_id), user_id, client_session)

    async def find_by_reply(
        self, reply_id: str, *, user_id: int, conversation_id: str, client_session: "ClientSession | None" = None
    ) -> ActiveScheduleSessionSnapshot | None:
        """Read the session of a conversation that recorded what came of a message.

        Args:
            reply_id: The message's id, 1 to 128 characters.
            user_id: The owner, 1 to 2**63 - 1.
            conversation_id: 1 to 128 characters.
            client_session: A driver's session, to join the application's transaction; see `SessionRepository`.

        Returns:
            The session, or None where none recorded the message among its last 32.

        Raises:
            InvalidSessionInput: An argument is outside its limits; nothing was sent.
            StoreUnavailable: No primary answered within the repository's ``timeout``.

        Round trips:
            One ``find`` over the sessions of this conversation; another, with a warning logged, where its index is
            hidden or absent.
        """
        reply_id, user_id = inputs.identifier("reply_id", reply_id), inputs.integer("user_id", user_id)
        conversation_id = inputs.identifier("conversation_id", conversation_id)
        return await self._first(reads.by_reply(user_id, conversation_id, reply_id), user_id, client_session)

    async def list_sessions(
        self,
        user_id: int,
        *,
        statuses: Collection[SessionStatus] | None = None,
        limit: int = 50,
        after: str | None = None,
    ) -> Page:
        """Read a user's sessions, the one that changed last first, page by page.

        Args:
            user_id: 1 to 2**63 - 1.
            statuses: Only these; None for all.
            limit: Sessions on a page, 1 to 1,000.
            after: The ``after`` of the page before; None for the first.

        Returns:
            A page; its ``after`` is None on the last. A session that changes meanwhile moves to the front.

        Raises:
            InvalidSessionInput: An argument is outside its limits; nothing was sent.
            StoreUnavailable: No primary answered within the repository's ``timeout``.

        Round trips:
            One ``find``, without a sort; another, with a warning logged, where its index is hidden or absent.
        """
        user_id = inputs.integer("user_id", user_id)
        limit = inputs.integer("limit", limit, limit=inputs.INTEGERS["page limit"])
        lookup = reads.page(user_id, _checked_statuses(statuses), limit=limit, after=_from_cursor(after))
        found = await self._collection.find(lookup, about=SessionRef(user_id=user_id))
        sessions = tuple(to_snapshot(raw) for raw in found[:limit])
        return Page(sessions, after=_to_cursor(sessions[-1]) if len(found) > limit else None)
