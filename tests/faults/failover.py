"""Three servers, one after the other killed, frozen or deposed, under whole sessions in several processes."""

import random
from collections.abc import Mapping
from typing import Final, NamedTuple

from sessions.mongod import ReplicaSet, find_mongod, running_replica_set
from tests.faults.campaign import Form, Setting, Tally, Unable
from tests.faults.crew import Crew, prepared, started, verdict
from tests.faults.disturbances import DISTURBANCES, Disturbance, disturb
from tests.faults.workers import Orders


class Size(NamedTuple):
    """How much of it."""

    faults: int
    workers: int
    tasks: int


SIZES: Final[Mapping[Form, Size]] = {
    Form.SHORT: Size(faults=3, workers=2, tasks=8),
    Form.LONG: Size(faults=30, workers=4, tasks=25),
}
QUIET: Final = 2.0
SHORT_OF_THEM: Final = ("killed", "frozen", "stepped down")


async def under(
    kinds: Mapping[str, Disturbance],
    replica_set: ReplicaSet,
    setting: Setting,
    size: Size,
    *,
    clocks_apart: float = 1.0,
) -> Tally:
    """Whole sessions on a replica set that is disturbed, and what is found of them.

    Args:
        kinds: What is done to it.
        replica_set: Whom.
        setting: The campaign's.
        size: How often, and under how many.
        clocks_apart: By how much the members' clocks differ, and a little more.
    """
    new = Orders(play="mixed", tasks=size.tasks, conversations=size.tasks)
    async with prepared(new, replica_set.uri, setting) as orders:
        async with started([Crew(orders)], each=size.workers, seed=setting.seed):
            done = await disturb(
                replica_set,
                kinds,
                times=size.faults,
                quiet=QUIET,
                chance=random.Random(setting.seed),
                advance=setting.advance,
            )
        return {"faults": done.total(), **done, **await verdict(orders, setting.seed, clocks_apart=clocks_apart)}


async def run(setting: Setting) -> Tally:
    """Disturb them, and judge what they have done."""
    binary = find_mongod()
    if binary is None:
        raise Unable("no mongod was found")
    kinds = {name: DISTURBANCES[name] for name in (SHORT_OF_THEM if setting.is_short else DISTURBANCES)}
    async with running_replica_set(binary) as replica_set:
        return await under(kinds, replica_set, setting, SIZES[setting.form])
