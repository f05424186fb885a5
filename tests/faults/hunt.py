"""One campaign after the other until a promise is broken: run as ``python -m tests.faults.hunt NAME URI SEED DRIVER``.

It runs in the folder of a mutated library, and prints which rules were broken, as JSON.
"""

import asyncio
import json
import logging
import random
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Final

from sessions.mongod import find_mongod, running_replica_set
from tests.faults import contention
from tests.faults.campaign import Form, Setting
from tests.faults.crew import Crew, bounds_of, evidence_of, judged, prepared, settle, started
from tests.faults.disturbances import DISTURBANCES, disturb
from tests.faults.mutation_table import CONTENTION, STRANDED
from tests.faults.people import PLAYS, act_until
from tests.faults.workers import Orders, on_stage

SECONDS: Final = (2.5, 5.0, 10.0, 20.0, 40.0)
"""How long each try lasts; the first finds most."""
MARK: Final = "broken "
STRANDINGS: Final = 2


async def _broken(orders: Orders, seed: int) -> list[str]:
    left = await settle(orders, seed, within=2.0)
    _, found = judged(await evidence_of(orders, bounds_of(orders)))
    return sorted({finding.rule for finding in found} | ({"left behind"} if left else set()))


async def in_the_way(uri: str, setting: Setting, seconds: float) -> list[str]:
    """Two applications in each other's way; in one process, since that is up in half the time."""
    over, play = asyncio.Event(), PLAYS[contention.ORDERS.play]
    async with prepared(replace(contention.ORDERS, lease=1.0), uri, setting) as orders:
        async with (
            on_stage(orders, "here", setting.seed) as here,
            on_stage(orders, "there", setting.seed + 1) as there,
            asyncio.TaskGroup() as tasks,
        ):
            for number in range(orders.tasks):
                for scene in (here, there):
                    tasks.create_task(act_until(over, scene, f"c{number % orders.conversations}", play))
            await asyncio.sleep(seconds)
            over.set()
        return await _broken(orders, setting.seed)


async def stranded(_uri: str, setting: Setting, _seconds: float) -> list[str]:
    """A primary dies with writes that nobody else has."""
    binary = find_mongod()
    assert binary is not None
    new = Orders(play="mixed", tasks=6, conversations=12)
    async with running_replica_set(binary) as replica_set, prepared(new, replica_set.uri, setting) as orders:
        async with started([Crew(orders)], each=1, seed=setting.seed):
            await disturb(
                replica_set,
                {"stranded": DISTURBANCES["stranded"]},
                times=STRANDINGS,
                quiet=1.0,
                chance=random.Random(setting.seed),
                advance=setting.advance,
            )
        return await _broken(orders, setting.seed)


HUNTS: Final[Mapping[str, Callable[[str, Setting, float], Awaitable[list[str]]]]] = {
    CONTENTION: in_the_way,
    STRANDED: stranded,
}


async def hunt(name: str, uri: str, seed: int, driver: str) -> list[str]:
    """The rules that were broken first; none if nothing was found."""
    for turn, seconds in enumerate(SECONDS):
        try:
            broken = await HUNTS[name](uri, Setting(Form.SHORT, seed + turn, driver), seconds)
        except Exception as error:  # noqa: BLE001 - a crash is no broken promise: it is told, and does not count
            sys.stderr.write(f"{name}: {error!r}\n")
            continue
        if broken:
            return broken
    return []


async def _until_stopped(name: str, uri: str, seed: int, driver: str) -> list[str]:
    # By a cancellation, which takes servers and folders along.
    hunting = asyncio.create_task(hunt(name, uri, seed, driver))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, hunting.cancel)
    return await hunting


if __name__ == "__main__":
    logging.getLogger("sessions").setLevel(logging.CRITICAL)
    told = asyncio.run(_until_stopped(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]))
    sys.stdout.write(MARK + json.dumps(told) + "\n")
