"""Three servers, one after the other killed, frozen or deposed, under whole sessions in several processes."""

import random
from collections.abc import Mapping
from typing import Final, NamedTuple

from sessions.mongod import find_mongod, running_replica_set
from tests.faults.campaign import Form, Setting, Tally, Unable
from tests.faults.crew import Crew, prepared, started, verdict
from tests.faults.disturbances import DISTURBANCES, disturb
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


async def run(setting: Setting) -> Tally:
    """Disturb them, and judge what they have done."""
    binary = find_mongod()
    if binary is None:
        raise Unable("no mongod was found")
    size = SIZES[setting.form]
    kinds = {name: DISTURBANCES[name] for name in (SHORT_OF_THEM if setting.is_short else DISTURBANCES)}
    new = Orders(play="mixed", tasks=size.tasks, conversations=size.tasks)
    async with running_replica_set(binary) as replica_set, prepared(new, replica_set.uri, setting) as orders:
        async with started([Crew(orders)], each=size.workers, seed=setting.seed):
            done = await disturb(
                replica_set,
                kinds,
                times=size.faults,
                quiet=QUIET,
                chance=random.Random(setting.seed),
                advance=setting.advance,
            )
        return {"faults": done.total(), **done, **await verdict(orders, setting.seed)}
