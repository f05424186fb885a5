"""What is done to a replica set while others work on it. Each leaves it whole, however it ends."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Final

from sessions.mongod import ReplicaSet

Disturbance = Callable[[ReplicaSet, random.Random], Awaitable[None]]


async def kill(replica_set: ReplicaSet, chance: random.Random) -> None:
    """The primary dies, and comes back after an election."""
    primary = await replica_set.primary()
    await primary.kill()
    await replica_set.primary()
    await asyncio.sleep(chance.uniform(0.0, 1.0))
    primary.start()


async def freeze(replica_set: ReplicaSet, chance: random.Random) -> None:
    """The primary stands still, and goes on in the belief that it still is one."""
    primary = await replica_set.primary()
    primary.freeze()
    try:
        await asyncio.sleep(chance.uniform(0.5, 4.0))
    finally:
        primary.thaw()


async def step_down(replica_set: ReplicaSet, chance: random.Random) -> None:
    """The primary gives way when it is asked to."""
    primary = await replica_set.primary()
    await primary.ask("replSetStepDown", chance.randint(2, 5))


async def strand(replica_set: ReplicaSet, chance: random.Random) -> None:
    """The primary dies with writes that nobody else has; the others come back first, and elect one of themselves.

    They are killed, not frozen: what the primary has sent to a frozen process waits there to be read.
    """
    primary = await replica_set.primary()
    others = [member for member in replica_set.members if member is not primary]
    await asyncio.gather(*(member.kill() for member in others))
    await asyncio.sleep(chance.uniform(0.3, 0.8))
    await primary.kill()
    for member in others:
        member.start()
    await replica_set.primary()
    primary.start()


async def kill_another(replica_set: ReplicaSet, chance: random.Random) -> None:
    """One of the others dies: nobody should notice."""
    primary = await replica_set.primary()
    other = chance.choice([member for member in replica_set.members if member is not primary])
    await other.kill()
    await asyncio.sleep(chance.uniform(0.0, 1.0))
    other.start()


DISTURBANCES: Final[Mapping[str, Disturbance]] = {
    "killed": kill,
    "frozen": freeze,
    "stepped down": step_down,
    "stranded": strand,
    "another killed": kill_another,
}


def chosen(names: tuple[str, ...], times: int, chance: random.Random) -> Iterator[str]:
    """So many of them, each equally often, in a random order."""
    order = [names[number % len(names)] for number in range(times)]
    chance.shuffle(order)
    return iter(order)


async def disturb(
    replica_set: ReplicaSet,
    disturbances: Mapping[str, Disturbance],
    *,
    times: int,
    quiet: float,
    chance: random.Random,
    advance: Callable[[], None],
) -> Counter[str]:
    """One disturbance after the other, each when the set is whole again.

    Args:
        replica_set: Whom to disturb.
        disturbances: Which there are.
        times: How many.
        quiet: The pause between two, in seconds.
        chance: Chooses them.
        advance: Told of each.

    Returns:
        How often each was done.
    """
    done: Counter[str] = Counter()
    for name in chosen(tuple(disturbances), times, chance):
        await asyncio.sleep(chance.uniform(0.5, 1.5) * quiet)
        await disturbances[name](replica_set, chance)
        await replica_set.until_complete()
        done[name] += 1
        advance()
    await asyncio.sleep(quiet)
    return done
