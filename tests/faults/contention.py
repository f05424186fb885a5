"""Several processes in each other's way, on a server that nothing disturbs: each rule has something to look at."""

import asyncio
from collections.abc import Mapping
from typing import Final

from sessions.mongod import find_mongod, running_mongod
from tests.faults.campaign import Form, Setting, Tally, Unable
from tests.faults.crew import Crew, prepared, started, verdict
from tests.faults.workers import Orders

SECONDS: Final[Mapping[Form, float]] = {Form.SHORT: 5.0, Form.LONG: 120.0}
WORKERS: Final = 4
ORDERS: Final = Orders(play="getting in the way", tasks=12, conversations=6, max_staleness=0.3)


async def run(setting: Setting) -> Tally:
    """Let them act for a while."""
    binary = find_mongod()
    if binary is None:
        raise Unable("no mongod was found")
    async with running_mongod(binary) as uri, prepared(ORDERS, uri, setting) as orders:
        async with started([Crew(orders)], each=WORKERS, seed=setting.seed):
            await asyncio.sleep(SECONDS[setting.form])
        return await verdict(orders, setting.seed)
