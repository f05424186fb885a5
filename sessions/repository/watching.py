"""Following changes: however many follow, the repository has two streams at most."""

from functools import cached_property

from sessions.changes.feeds import Feeds
from sessions.changes.lease_news import LeaseNews
from sessions.changes.upstream import CacheUpstream
from sessions.changes.watch import Queue, Scope, Watch
from sessions.domain import inputs
from sessions.repository.engine import Engine
from sessions.store.observed_collection import ObservedCollection


class Watching(Engine):
    """The call that tells of changes instead of making them."""

    _collection: ObservedCollection

    @cached_property
    def _feeds(self) -> Feeds:
        return Feeds(self._collection, patience=self._collection.timeout)

    def watch(
        self, *, user_id: int | None = None, conversation_id: str | None = None, resume_after: str | None = None
    ) -> Watch:
        """Follow the changes of one user's sessions, of one conversation's, or of all, whoever makes them.

        It begins when it is entered (``async with``) or first awaited, and survives a lost connection and an election.
        Each change comes with the session as it left it; the revisions of one session strictly increase, across a
        restart from a token too. The latest state is never missed; states in between may be merged, and purging is
        not reported. All share one stream; those who give a token are caught up together by a second one, and then join
        the first.

        Args:
            user_id: Only this user's sessions, 1 to 2**63 - 1.
            conversation_id: Only sessions bound to this conversation, 1 to 256 characters.
            resume_after: The ``token`` of a change, or of the iterator, that an earlier watch gave.

        Returns:
            An async iterator of `Change` that is an async context manager too, with ``token`` and ``aclose``.

        Raises:
            InvalidSessionInput: An argument is outside its limits; nothing was sent.
            WatchInterrupted: (Iterating) nothing goes on from the token, or the server is no replica set.
            StoreUnavailable: (Iterating) no primary answered within the repository's ``timeout`` at the start, or the
                database user lacks the right to follow changes.

        Round trips:
            None by itself; the stream asks the server once a second, and learns of a change at once. A token is looked
            at by the server first.
        """
        scope = Scope(
            user_id=inputs.optional_integer("user_id", user_id),
            conversation_id=inputs.optional_identifier("conversation_id", conversation_id),
        )
        token = inputs.optional_token("resume_after", resume_after)
        # In capitals, as the server writes it: tokens are compared.
        return Watch(Queue(self._feeds.subscribe, scope, resume_after=token and token.upper()))

    @cached_property
    def _lease_news(self) -> LeaseNews:
        return LeaseNews(self._feeds.shared, self._clock.now)

    def _cache_upstream(self) -> CacheUpstream:
        return CacheUpstream(self._collection, self._clock, self._feeds)

    async def _close_feeds(self) -> None:
        await self._feeds.close()
