"""Workers killed at random moments of whole sessions: nothing is lost or doubled, and nobody is locked out for long."""

import asyncio
import random
from collections.abc import Mapping
from typing import Final, NamedTuple

from sessions.mongod import find_mongod, running_mongod
from tests.faults.campaign import Form, Setting, Tally, Unable
from tests.faults.crew import Crew, prepared, started, verdict
from tests.faults.workers import Orders


class Size(NamedTuple):
    """How much of it."""

    kills: int
    workers: int


SIZES: Final[Mapping[Form, Size]] = {
    Form.SHORT: Size(kills=10, workers=3),
    Form.LONG: Size(kills=500, workers=4),
}
LONGEST_PAUSE: Final = 1.0
ORDERS: Final = Orders(play="mixed", tasks=6, conversations=6)


async def kill_at_random(crew: Crew, size: Size, chance: random.Random, setting: Setting) -> None:
    """Kill one after the other, each somewhere within what it does, and start another one in its place."""
    names = [f"w0-{place}" for place in range(size.workers)]
    for number in range(size.kills):
        await asyncio.sleep(chance.uniform(0.0, LONGEST_PAUSE))
        place = chance.randrange(size.workers)
        await crew.kill(names[place])
        names[place] = f"after-{number}"
        await crew.start(names[place], chance.randrange(10**9))
        setting.advance()


async def run(setting: Setting) -> Tally:
    """Kill them, and judge what they have left."""
    binary = find_mongod()
    if binary is None:
        raise Unable("no mongod was found")
    size = SIZES[setting.form]
    async with running_mongod(binary) as uri, prepared(ORDERS, uri, setting) as orders:
        crew = Crew(orders)
        async with started([crew], each=size.workers, seed=setting.seed):
            await kill_at_random(crew, size, random.Random(setting.seed), setting)
        return {"kills": size.kills, **await verdict(orders, setting.seed)}
