"""Who governs this conversation, and every other way to find a session; each costs one round trip."""

import base64
import binascii
import json
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta

from sessions.domain import inputs, limits
from sessions.domain.errors import InvalidSessionInput, SessionNotFound
from sessions.domain.lifecycle import ALL, SessionStatus
from sessions.domain.models import ActiveScheduleSessionSnapshot, Page, Route, Transition
from sessions.domain.routing import route_of
from sessions.repository.engine import Engine
from sessions.store import reads
from sessions.store.clients import ClientSession
from sessions.store.reading import readable, to_snapshot, to_transitions
from sessions.store.reads import Lookup
from sessions.store.updates import RawDocument

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LONGEST_CURSOR = 512


def _to_cursor(last: RawDocument) -> str:
    place = [(last["updated_at"] - _EPOCH) // timedelta(milliseconds=1), last["_id"]]
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode()


def _from_cursor(after: object) -> tuple[datetime, str] | None:
    if after is None:
        return None
    wanted = InvalidSessionInput("after", "None or the `after` of a page that list_sessions returned")
    if not isinstance(after, str) or len(after) > _LONGEST_CURSOR:
        raise wanted
    try:
        milliseconds, session_id = json.loads(base64.b64decode(after, altchars=b"-_", validate=True))
        milliseconds = inputs.integer("after", milliseconds, limit=limits.IntegerLimit(-limits.INT64_MAX))
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
    """The calls that read; they show what is stored.

    Each is one ``find``. If the index that it names is hidden or absent it is sent once more without that name; that is
    logged once, until the index is back.
    """

    async def route(self, user_id: int, conversation_id: str, *, client_session: ClientSession | None = None) -> Route:
        """Say what to do with the next chat message of a user in a conversation.

        Returns:
            ``free_chat`` if nobody governs, ``resume`` if the message is the awaited reply, ``hold`` while a rerun is
            under way; with the governing session. What has lapsed counts as swept.

        Round trips:
            One ``find`` on the governor index.
        """
        user_id = inputs.integer("user_id", user_id)
        conversation_id = inputs.identifier("conversation_id", conversation_id)
        store = self._collection.for_one_call(client_session)
        return route_of(await self._governor(store, user_id, conversation_id), self._clock.now())

    async def route_many(self, user_id: int, conversation_ids: Sequence[str]) -> dict[str, Route]:
        """Route several conversations of one user at once.

        Args:
            conversation_ids: At most 1,000; doubles count once.

        Returns:
            A route for each conversation that was asked for, in that order.

        Round trips:
            One ``find``; none for an empty list.
        """
        user_id = inputs.integer("user_id", user_id)
        if (
            not isinstance(conversation_ids, list | tuple | set | frozenset)
            or len(conversation_ids) > limits.MOST_CONVERSATIONS
        ):
            raise InvalidSessionInput(
                "conversation_ids", f"a list or tuple of at most {limits.MOST_CONVERSATIONS:,} conversation ids"
            )
        limit = limits.IDENTIFIERS["conversation_id"]
        wanted = list(
            dict.fromkeys(inputs.identifier("conversation_ids", item, limit=limit) for item in conversation_ids)
        )
        if not wanted:
            return {}
        found = await self._collection.for_one_call().find(reads.governors(user_id, wanted))
        governing = {session.conversation_id: session for session in map(to_snapshot, found)}
        at = self._clock.now()
        return {conversation_id: route_of(governing.get(conversation_id), at) for conversation_id in wanted}

    async def get(
        self, session_id: str, *, user_id: int, client_session: ClientSession | None = None
    ) -> ActiveScheduleSessionSnapshot:
        """Read one session of a user, as it is stored."""
        return to_snapshot(await self._owned(session_id, user_id, client_session, with_history=False))

    async def history(
        self, session_id: str, *, user_id: int, client_session: ClientSession | None = None
    ) -> list[Transition]:
        """Read the last 32 changes of status and take-overs of a session, the oldest first.

        Returns:
            The transitions; ``from_status`` of the first one kept is None.
        """
        return to_transitions(await self._owned(session_id, user_id, client_session, with_history=True))

    async def _owned(
        self, session_id: str, user_id: int, client_session: ClientSession | None, *, with_history: bool
    ) -> RawDocument:
        session_id, user_id = inputs.identifier("session_id", session_id), inputs.integer("user_id", user_id)
        lookup = reads.by_id(session_id, user_id, with_history=with_history)
        raw = await self._collection.for_one_call(client_session).find_one(lookup)
        if raw is None:
            raise SessionNotFound(lookup.about)
        return raw

    async def _first(
        self, lookup: Lookup, client_session: ClientSession | None
    ) -> ActiveScheduleSessionSnapshot | None:
        store = self._collection.for_one_call(client_session)
        raw = await store.find_one(lookup)
        return to_snapshot(raw) if raw is not None else None

    async def latest(
        self, user_id: int, conversation_id: str, *, client_session: ClientSession | None = None
    ) -> ActiveScheduleSessionSnapshot | None:
        """Read the session of a conversation that changed last, ended or not; None if it never had one.

        Round trips:
            One ``find``, without a sort.
        """
        user_id = inputs.integer("user_id", user_id)
        conversation_id = inputs.identifier("conversation_id", conversation_id)
        return await self._first(reads.latest(user_id, conversation_id), client_session)

    async def find_by_trigger(
        self, trigger_id: str, *, user_id: int, client_session: ClientSession | None = None
    ) -> ActiveScheduleSessionSnapshot | None:
        """Read the session that a trigger made; None if it has none."""
        trigger_id, user_id = inputs.identifier("trigger_id", trigger_id), inputs.integer("user_id", user_id)
        return await self._first(reads.by_trigger(user_id, trigger_id), client_session)

    async def find_by_preview(
        self, preview_id: str, *, user_id: int, client_session: ClientSession | None = None
    ) -> ActiveScheduleSessionSnapshot | None:
        """Read the session whose current preview this is; None if no session holds it any more."""
        preview_id, user_id = inputs.identifier("preview_id", preview_id), inputs.integer("user_id", user_id)
        return await self._first(reads.by_preview(user_id, preview_id), client_session)

    async def find_by_reply(
        self, reply_id: str, *, user_id: int, conversation_id: str, client_session: ClientSession | None = None
    ) -> ActiveScheduleSessionSnapshot | None:
        """Read the session of a conversation that is done with a message: it recorded what came of it, or replaced it.

        Returns:
            The session; None if none has the message among its last 32 recorded or its last 32 replaced ones.

        Round trips:
            One ``find`` over the sessions of this conversation.
        """
        reply_id, user_id = inputs.identifier("reply_id", reply_id), inputs.integer("user_id", user_id)
        conversation_id = inputs.identifier("conversation_id", conversation_id)
        return await self._first(reads.by_reply(user_id, conversation_id, reply_id), client_session)

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
            statuses: Only these; None for all.
            limit: Sessions on a page, 1 to 1,000.
            after: The ``after`` of the page before; None for the first.

        Returns:
            A page; its ``after`` is None on the last. A session that changes meanwhile moves to the front.

        Round trips:
            One ``find``, without a sort.
        """
        user_id = inputs.integer("user_id", user_id)
        limit = inputs.integer("limit", limit, limit=limits.INTEGERS["page limit"])
        lookup = reads.page(user_id, _checked_statuses(statuses), limit=limit, after=_from_cursor(after))
        found = await self._collection.for_one_call().find(lookup)
        return Page(tuple(readable(found[:limit])), after=_to_cursor(found[limit - 1]) if len(found) > limit else None)
