"""One campaign after the other until a promise is broken: run as ``python -m tests.faults.hunt NAME URI SEED DRIVER``.

It runs in the folder of a mutated library, and prints which rules were broken, as JSON.
"""

import asyncio
import json
import logging
import random
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Final

from sessions.mongod import find_mongod, running_replica_set
from tests.faults import contention
from tests.faults.campaign import Form, Setting
from tests.faults.crew import Crew, WorkerFailed, bounds_of, evidence_of, judged, prepared, settle, started
from tests.faults.disturbances import DISTURBANCES, disturb
from tests.faults.mutation_table import CONTENTION, STRANDED
from tests.faults.workers import Orders

ROUNDS: Final = 4
SECONDS: Final = 4.0
WORKERS: Final = 2
MARK: Final = "broken "
STRANDINGS: Final = 2


async def _broken(orders: Orders, seed: int) -> list[str]:
    left = await settle(orders, seed, within=2.0)
    _, found = judged(await evidence_of(orders, bounds_of(orders)))
    return sorted({finding.rule for finding in found} | ({"left behind"} if left else set()))


async def in_the_way(uri: str, setting: Setting) -> list[str]:
    """Several processes in each other's way."""
    async with prepared(replace(contention.ORDERS, lease=1.0), uri, setting) as orders:
        async with started([Crew(orders)], each=WORKERS, seed=setting.seed):
            await asyncio.sleep(SECONDS)
        return await _broken(orders, setting.seed)


async def stranded(_uri: str, setting: Setting) -> list[str]:
    """A primary dies with writes that nobody else has."""
    binary = find_mongod()
    assert binary is not None
    new = Orders(play="mixed", tasks=6, conversations=12)
    async with running_replica_set(binary) as replica_set, prepared(new, replica_set.uri, setting) as orders:
        async with started([Crew(orders)], each=WORKERS, seed=setting.seed):
            await disturb(
                replica_set,
                {"stranded": DISTURBANCES["stranded"]},
                times=STRANDINGS,
                quiet=1.0,
                chance=random.Random(setting.seed),
                advance=setting.advance,
            )
        return await _broken(orders, setting.seed)


HUNTS: Final[Mapping[str, Callable[[str, Setting], Awaitable[list[str]]]]] = {
    CONTENTION: in_the_way,
    STRANDED: stranded,
}


async def hunt(name: str, uri: str, seed: int, driver: str) -> list[str]:
    """The rules that were broken first; none if nothing was found."""
    for turn in range(ROUNDS):
        try:
            broken = await HUNTS[name](uri, Setting(Form.SHORT, seed + turn, driver))
        except WorkerFailed as error:
            # A crash is no broken promise: it is told, and does not count.
            sys.stderr.write(f"{error}\n")
            continue
        if broken:
            return broken
    return []


if __name__ == "__main__":
    logging.getLogger("sessions").setLevel(logging.CRITICAL)
    told = asyncio.run(hunt(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]))
    sys.stdout.write(MARK + json.dumps(told) + "\n")
