"""What a cached route costs: beside an uncached one, over many conversations, and in memory.

Run as ``python tests/benchmarks/cached_routes.py [motor|pymongo]``; it starts a ``mongod`` of its own.
"""

import asyncio
import random
import sys
import tracemalloc
from datetime import UTC, datetime, timedelta
from statistics import median
from time import perf_counter
from typing import Any, Final
from uuid import uuid4

from sessions import CachedRouter, SessionRepository, open_repository
from sessions.cache.entries import Entries, Entry
from sessions.domain.models import ActiveScheduleSessionSnapshot
from sessions.mongod import find_mongod, running_mongod
from sessions.store.clients import DEFAULT_DRIVER, connect, disconnect
from sessions.store.reading import to_snapshot
from sessions.testing import CommandCounter

CONVERSATIONS: Final = 10_000
ROUTES: Final = 1_000_000
CHANGES: Final = 1_000
ENTRIES: Final = 100_000
AT: Final = datetime(2026, 1, 1, tzinfo=UTC)


def told(what: str, figures: str) -> None:
    """One line of the result."""
    print(f"{what:<44} {figures}", flush=True)  # noqa: T201 - this is what it is for


async def measure_ratio(repository: SessionRepository) -> None:
    """The same conversation from memory and from the database, in turns."""
    await repository.create(1, "ratio", conversation_id="ratio", pending_question="Which lesson?")
    cached, uncached = [], []
    async with CachedRouter(repository) as router:
        for _ in range(20):
            start = perf_counter()
            for _ in range(1_000):
                await router.route(1, "ratio")
            cached.append((perf_counter() - start) / 1_000)
            start = perf_counter()
            for _ in range(50):
                await repository.route(1, "ratio")
            uncached.append((perf_counter() - start) / 50)
    quick, slow = median(cached) * 1e6, median(uncached) * 1e6
    told("cached route, uncached route (median)", f"{quick:.1f} µs, {slow:.0f} µs: {slow / quick:.0f} times faster")


async def measure_many(repository: SessionRepository, elsewhere: SessionRepository, counter: CommandCounter) -> None:
    """A million routes while another repository changes a thousand sessions: how many lookups they cost."""
    governed = [
        await elsewhere.create(2, f"many-{n}", conversation_id=f"many-{n}", pending_question="Which lesson?")
        for n in range(CHANGES)
    ]
    chosen = random.Random(1)
    async with CachedRouter(repository) as router:
        with counter.counting() as counts:
            start = perf_counter()
            for number in range(ROUTES):
                await router.route(2, f"many-{chosen.randrange(CONVERSATIONS)}")
                if number % (ROUTES // CHANGES) == 0:
                    await elsewhere.record_notification(governed.pop().session_id, "seen", user_id=2)
                if number % 100 == 0:
                    await asyncio.sleep(0)
            lasted = perf_counter() - start
        stats = router.stats()
    told("1,000,000 routes, 10,000 conversations", f"{lasted:.1f} s, with 1,000 changes by another repository")
    told("lookups; conversations + changes", f"{counts['find']:,}; {CONVERSATIONS + CHANGES:,}")
    told("hits, misses, stale refusals", f"{stats.hits:,}, {stats.misses:,}, {stats.stale_refusals:,}")


def governing(number: int) -> ActiveScheduleSessionSnapshot:
    """A session as a lookup finds it while its reply is worked on, with a question of usual length."""
    at = AT + timedelta(seconds=number)
    ends = at + timedelta(days=1)
    return to_snapshot(
        {
            "_id": uuid4().hex,
            "user_id": number + 1,
            "conversation_id": f"conversation-{number}",
            "trigger_id": f"trigger-{number}",
            "current_preview_id": None,
            "status": "rerunning",
            "state": {"pending_question": f"Which of these days suits you for lesson {number}?", "expires_at": ends},
            "question_number": 1,
            "lease": {
                "kind": "reply",
                "operation_id": uuid4().hex,
                "reply_id": f"message-{number}",
                "expires_at": at + timedelta(minutes=1),
            },
            "fencing_token": 1,
            "attempts": 1,
            "answered_reply_ids": [],
            "revision": 2,
            "created_at": AT + timedelta(microseconds=1_000 * number),
            "updated_at": at,
        }
    )


def measure_memory() -> None:
    """100,000 entries of each kind."""
    for kind in ("nobody governs", "governed"):
        tracemalloc.start()
        routes = Entries(ENTRIES)
        for number in range(ENTRIES):
            session = governing(number) if kind == "governed" else None
            routes.keep((number + 1, f"conversation-{number}"), Entry(session, float(number)))
            session = None
        taken, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        told(f"100,000 entries, {kind}", f"{taken / 2**20:.0f} MiB, {taken / len(routes):,.0f} bytes each")


async def main(driver: str) -> None:
    """All of it."""
    measure_memory()
    binary = find_mongod()
    if binary is None:
        sys.exit("no mongod on PATH, and the `server` extra has none for this platform")
    counter = CommandCounter()
    async with running_mongod(binary) as uri:
        client: Any = connect(uri, driver=driver, listeners=[counter])
        other: Any = connect(uri, driver=driver)
        async with (
            open_repository(client["benchmark"], create_indexes=True) as repository,
            open_repository(other["benchmark"]) as elsewhere,
        ):
            await measure_ratio(repository)
            await measure_many(repository, elsewhere, counter)
        await disconnect(other)
        await disconnect(client)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else DEFAULT_DRIVER))
