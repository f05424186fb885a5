"""A read that is cancelled is cancelled, whatever the driver makes of it."""

import asyncio
from random import Random

import pytest

from sessions import SessionRepository

CANCELLED = 200


@pytest.mark.needs("server")
async def test_no_cancellation_is_swallowed(repository: SessionRepository) -> None:
    """PyMongo Async answers about one in ten cancelled reads as if nothing had happened; a shutdown would wait on."""
    chance = Random(5)
    swallowed = 0
    for number in range(CANCELLED):
        reading = asyncio.create_task(repository.route(1, "c"))
        if number % 2:
            await asyncio.sleep(chance.uniform(0, 0.002))
        else:
            for _ in range(chance.randint(0, 15)):
                await asyncio.sleep(0)
        if reading.done():
            continue
        reading.cancel()
        await asyncio.wait({reading})
        swallowed += not reading.cancelled()
    assert swallowed == 0


@pytest.mark.needs("server")
async def test_a_cancellation_is_delivered_once(repository: SessionRepository) -> None:
    """A caller that tidies up after its cancellation is not cancelled again for the same one."""
    chance = Random(5)
    tidied = 0

    async def read_then_tidy_up() -> None:
        nonlocal tidied
        try:
            await repository.route(1, "c")
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            await repository.route(1, "c")
            tidied += 1
            raise

    cancelled = 0
    for _ in range(CANCELLED // 2):
        reading = asyncio.create_task(read_then_tidy_up())
        await asyncio.sleep(chance.uniform(0, 0.002))
        cancelled += reading.cancel()
        await asyncio.wait({reading})
    assert tidied == cancelled
