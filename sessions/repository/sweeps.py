"""Upkeep in bounded batches: any number of processes may run it at once, each session is swept by one of them."""

from datetime import datetime

from sessions.domain import inputs
from sessions.domain.errors import SessionDamaged
from sessions.domain.lifecycle import ALL, LeaseKind, SessionStatus
from sessions.repository.engine import Engine
from sessions.store import reads, sweeps
from sessions.store.collection import UpdateRefused
from sessions.store.reading import COUNTED_OR_NESTED, pass_over, to_snapshot, to_transitions
from sessions.store.reads import Lookup
from sessions.store.writes import Write
from sessions.tasks import Finishing


class Sweeps(Engine):
    """The calls that workers repeat in the background."""

    async def _batch(self, lookup: Lookup) -> list[str]:
        return [raw["_id"] for raw in await self._collection.for_one_call().find(lookup)]

    async def _swept(self, lookup: Lookup, *sweeps: Write) -> int:
        """Carry sweeps out on one batch; how many sessions they changed."""
        damaged: list[str] = []
        while True:
            batch, before = await self._batch(reads.but_for(lookup, damaged)), len(damaged)
            swept = sum([await self._sweep(batch, sweep, damaged) for sweep in sweeps])
            # A batch of nothing but damaged documents does not keep those behind it from being swept.
            if swept or len(damaged) == before or len(batch) < lookup.limit:
                return swept

    async def _sweep(self, session_ids: list[str], sweep: Write, damaged: list[str]) -> int:
        # The guard stands in the filter again: what changed since the batch was read is left alone.
        if not session_ids:
            return 0
        try:
            return await self._update_many(sweeps.narrowed_to(sweep, session_ids))
        except UpdateRefused:
            # One of them has a field of another kind than the update asks for: the others do not wait for it.
            return sum([await self._sweep_one_by_one(session_id, sweep, damaged) for session_id in session_ids])

    async def _sweep_one_by_one(self, session_id: str, sweep: Write, damaged: list[str]) -> int:
        if session_id in damaged:
            return 0
        try:
            return await self._update_many(sweeps.narrowed_to(sweep, [session_id]))
        except UpdateRefused:
            mends = [sweeps.narrowed_to(sweeps.without_nulls(name), [session_id]) for name in COUNTED_OR_NESTED]
        if sum([await self._update_many(mend) for mend in mends]):
            return await self._sweep_one_by_one(session_id, sweep, damaged)
        for raw in await self._collection.for_one_call().find(Lookup({"_id": session_id}, projection=None)):
            try:
                to_snapshot(raw), to_transitions(raw)
            except SessionDamaged as error:
                pass_over(error)
        damaged.append(session_id)
        return 0

    async def _update_many(self, write: Write) -> int:
        with Finishing() as finishing:
            return await self._collection.for_one_call(finishing=finishing).update_many(write)

    async def expire_due(self, *, limit: int = 1000) -> int:
        """End sessions that are past their ``expires_at`` with nobody at work on them.

        Returns:
            How many were ended; fewer than ``limit`` says that none were left, unless a connection broke meanwhile.

        Round trips:
            One ``find``, and one ``update`` if it found something.
        """
        limit = inputs.integer("limit", limit)
        at = self._clock.now()
        return await self._swept(reads.due(at, limit=limit), sweeps.expire(at))

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
        return await self._swept(
            reads.stalled(at, limit=limit),
            sweeps.expire(at),
            sweeps.fail_stalled(at, max_attempts=self._max_attempts),
            sweeps.put_back_reply(at, max_attempts=self._max_attempts),
            sweeps.put_back(LeaseKind.REFINEMENT, at),
        )

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
        with Finishing() as finishing:
            return await self._collection.for_one_call(finishing=finishing).delete_many(sweeps.purge(before, batch))

    async def count_by_status(self) -> dict[SessionStatus, int]:
        """Count the sessions in each of the seven statuses.

        Round trips:
            One ``aggregate``, which looks at every session.
        """
        grouped = await self._collection.for_one_call().aggregate(reads.count_by_status())
        counted = {raw["_id"]: raw["count"] for raw in grouped}
        return {status: counted.get(status.value, 0) for status in ALL}
