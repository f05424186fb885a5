"""A network that is cut between three servers, with clients on both sides, and healed again."""

import asyncio
import random
from collections.abc import Mapping
from functools import partial
from typing import Final, NamedTuple

from sessions.mongod import ReplicaSet, find_mongod
from tests.faults.campaign import Form, Setting, Tally, Unable
from tests.faults.crew import Crew, prepared, started, verdict
from tests.faults.disturbances import Disturbance, disturb
from tests.faults.members import Place, placed
from tests.faults.namespaces import ISLE, Network, network
from tests.faults.workers import Orders


class Size(NamedTuple):
    """How much of it."""

    cuts: int
    workers: int
    """On each side."""
    tasks: int


SIZES: Final[Mapping[Form, Size]] = {
    Form.SHORT: Size(cuts=2, workers=1, tasks=8),
    Form.LONG: Size(cuts=20, workers=2, tasks=25),
}
QUIET: Final = 2.0
LONGEST_CUT: Final = 6.0
MEMBERS: Final = 3
CLIENTS: Final = (MEMBERS, MEMBERS + 1)
"""The namespaces of the clients, behind those of the members."""


async def _cut(over: Network, isle: list[int], chance: random.Random) -> None:
    try:
        for guest in isle:
            await over.place(guest, ISLE)
        await asyncio.sleep(chance.uniform(1.0, LONGEST_CUT))
    finally:
        await over.heal()


async def _primary(over: Network, replica_set: ReplicaSet) -> int:
    return replica_set.members.index(await replica_set.primary())


async def cut_primary_off(over: Network, replica_set: ReplicaSet, chance: random.Random) -> None:
    """The primary is alone with some of the clients, and does not know that it is none any more."""
    await _cut(over, [await _primary(over, replica_set), CLIENTS[0]], chance)


async def cut_primary_off_alone(over: Network, replica_set: ReplicaSet, chance: random.Random) -> None:
    """The primary is alone; all clients are with the others."""
    await _cut(over, [await _primary(over, replica_set)], chance)


async def cut_clients_off(over: Network, replica_set: ReplicaSet, chance: random.Random) -> None:
    """Some clients reach a follower only: they can read nothing and write nothing, and are told so."""
    primary = await _primary(over, replica_set)
    await _cut(over, [chance.choice([each for each in range(MEMBERS) if each != primary]), CLIENTS[1]], chance)


async def cut_all_apart(over: Network, replica_set: ReplicaSet, chance: random.Random) -> None:
    """No majority is left: the primary and one client here, each of the others elsewhere."""
    primary = await _primary(over, replica_set)
    other = chance.choice([each for each in range(MEMBERS) if each != primary])
    replica_set.members[other].freeze()
    try:
        await _cut(over, [primary, CLIENTS[0]], chance)
    finally:
        replica_set.members[other].thaw()


CUTS: Final = {
    "primary cut off with clients": cut_primary_off,
    "primary cut off": cut_primary_off_alone,
    "clients cut off": cut_clients_off,
    "no majority": cut_all_apart,
}


async def run(setting: Setting) -> Tally:
    """Cut and heal, and judge what the clients of both sides have done."""
    binary = find_mongod()
    if binary is None:
        raise Unable("no mongod was found")
    size = SIZES[setting.form]
    new = Orders(play="mixed", tasks=size.tasks, conversations=size.tasks)
    async with (
        network(MEMBERS + len(CLIENTS)) as over,
        placed(binary, [Place(over.guests[each], over.before(each)) for each in range(MEMBERS)]) as replica_set,
        prepared(new, replica_set.uri, setting) as orders,
    ):
        crews = [Crew(orders, before=over.before(guest)) for guest in CLIENTS]
        cuts: dict[str, Disturbance] = {name: partial(cut, over) for name, cut in CUTS.items()}
        async with started(crews, each=size.workers, seed=setting.seed):
            done = await disturb(
                replica_set,
                cuts,
                times=size.cuts,
                quiet=QUIET,
                chance=random.Random(setting.seed),
                advance=setting.advance,
            )
        return {"faults": done.total(), **done, **await verdict(orders, setting.seed)}
