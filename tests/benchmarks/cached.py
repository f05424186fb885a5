"""Very many cached routes while another repository changes sessions: how many lookups they cost."""

import asyncio
import random
from collections.abc import AsyncIterator
from time import perf_counter
from typing import Final

from sessions import CachedRouter, open_repository
from tests.benchmarks.measuring import Advance, Effort, Figure, Row
from tests.benchmarks.stacks import Stack
from tests.benchmarks.stories import QUESTION, USER

_CONVERSATIONS_OF: Final = 100
_CHANGES_OF: Final = 1_000
_TURN: Final = 100


async def cached(stack: Stack, effort: Effort, advance: Advance) -> AsyncIterator[Row]:
    """One in a thousand routes goes along with a change; each conversation is asked for a hundred times."""
    routes = effort.cached_routes
    conversations, changes = routes // _CONVERSATIONS_OF, routes // _CHANGES_OF
    chosen = random.Random(1)
    async with open_repository(stack.database) as elsewhere:
        governed = [
            await elsewhere.create(USER, f"many-{n}", conversation_id=f"many-{n}", pending_question=QUESTION)
            for n in range(changes)
        ]
        async with CachedRouter(stack.repository) as router:
            begun = perf_counter()
            for number in range(routes):
                await router.route(USER, f"many-{chosen.randrange(conversations)}")
                if number % _CHANGES_OF == 0:
                    await elsewhere.record_notification(governed.pop().session_id, "seen", user_id=USER)
                if number % _TURN == 0:
                    await asyncio.sleep(0)
                    advance()
            lasted = perf_counter() - begun
            stats = router.stats()
    yield Figure(f"{routes:,} cached routes, {changes:,} changes", lasted, "s")
    yield Figure("their lookups", stats.misses, "", aim=conversations + changes)
    yield Figure("their stale refusals", stats.stale_refusals, "")
