"""Upkeep in bounded batches: any number of processes may run it at once, each session is swept by one of them."""

from datetime import datetime

from sessions.domain import inputs
from sessions.domain.lifecycle import ALL, LeaseKind, SessionStatus
from sessions.repository.engine import Engine
from sessions.store import reads, writes
from sessions.store.reads import Lookup
from sessions.store.writes import Write
from sessions.tasks import to_the_end


class Sweeps(Engine):
    """The calls that workers repeat in the background."""

    async def _batch(self, lookup: Lookup) -> list[str]:
        return [raw["_id"] for raw in await self._collection.for_one_call().find(lookup)]

    async def _sweep(self, session_ids: list[str], write: Write) -> int:
        # The guard stands in the filter again: what changed since the batch was read is left alone.
        if not session_ids:
            return 0
        update = writes.narrowed_to(write, session_ids)
        return await to_the_end(self._collection.for_one_call().update_many(update))

    async def expire_due(self, *, limit: int = 1000) -> int:
        """End sessions that are past their ``expires_at`` with nobody at work on them.

        Returns:
            How many were ended; fewer than ``limit`` says that none were left, unless a connection broke meanwhile.

        Round trips:
            One ``find``, and one ``update`` if it found something.
        """
        limit = inputs.integer("limit", limit)
        at = self._clock.now()
        return await self._sweep(await self._batch(reads.due(at, limit=limit)), writes.expire(at))

    async def recover_stalled(self, *, limit: int = 1000) -> int:
        """Give back what dead workers hold: a reply to its question, a refinement to its preview.

        A reply that has killed ``max_attempts`` workers ends its session as ``failed``; a session that is past its
        ``expires_at`` too ends as ``expired``, which is what it counted as already.

        Returns:
            How many were given back or ended; if a connection broke meanwhile, at least so many.

        Round trips:
            One ``find``, and four ``update`` if it found something.
        """
        limit = inputs.integer("limit", limit)
        at = self._clock.now()
        batch = await self._batch(reads.stalled(at, limit=limit))
        sweeps = (
            writes.expire(at),
            writes.fail_stalled(at, max_attempts=self._max_attempts),
            writes.put_back_reply(at, max_attempts=self._max_attempts),
            writes.put_back(LeaseKind.REFINEMENT, at),
        )
        return sum([await self._sweep(batch, write) for write in sweeps])

    async def purge(self, *, ended_before: datetime, limit: int = 1000) -> int:
        """Delete sessions that ended before a moment; their triggers can make sessions again.

        Args:
            ended_before: An aware moment; a session that ended at it is kept.

        Returns:
            How many were deleted; if a connection broke meanwhile, at least so many.

        Round trips:
            One ``find``, and one ``delete`` if it found something.
        """
        before = inputs.moment("ended_before", ended_before)
        lookup = reads.ended(before, limit=inputs.integer("limit", limit))
        batch = await self._batch(lookup)
        if not batch:
            return 0
        return await to_the_end(self._collection.for_one_call().delete_many(writes.purge(before, batch)))

    async def count_by_status(self) -> dict[SessionStatus, int]:
        """Count the sessions in each of the seven statuses.

        Round trips:
            One ``aggregate``, which looks at every session.
        """
        grouped = await self._collection.for_one_call().aggregate(reads.count_by_status())
        counted = {raw["_id"]: raw["count"] for raw in grouped}
        return {status: counted.get(status.value, 0) for status in ALL}
