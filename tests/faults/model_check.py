"""The model check: random calls of all users and workers at once, each held against a model of the design."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from hypothesis import HealthCheck, Phase, Verbosity, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from sessions.mongod import find_mongod, running_mongod
from sessions.store.clients import connect, connect_double
from tests.faults.campaign import Form, Setting, Tally, Unable
from tests.faults.model_machine import Machine
from tests.faults.model_world import World


class Size(NamedTuple):
    """How much one form plays."""

    examples_on_the_double: int
    examples_on_a_server: int
    steps: int
    """Rules in one example."""


SIZES: Final[Mapping[Form, Size]] = {Form.SHORT: Size(80, 15, 40), Form.LONG: Size(1_750, 450, 60)}


class Checked(NamedTuple):
    """What one backend was played with."""

    counted: Counter[str]
    succeeded: Counter[str]


def _play(connected: Callable[[], Any], name: str, size: Size, number: int, told: Callable[[], None]) -> Checked:
    """Play one backend, in a thread and on a loop of its own: Hypothesis waits for each step."""
    examples = size.examples_on_the_double if name == "double" else size.examples_on_a_server
    with asyncio.Runner() as runner:

        async def made() -> World:
            world = World(connected(), name=name, told=told)
            await world.open()
            return world

        played = runner.run(made())

        class Played(Machine):
            world = played
            wait_for = staticmethod(runner.get_loop().run_until_complete)

        quiet = settings(
            max_examples=examples,
            stateful_step_count=size.steps,
            deadline=None,
            database=None,
            verbosity=Verbosity.quiet,
            print_blob=False,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        )
        logger = logging.getLogger("sessions")
        level = logger.level
        logger.setLevel(logging.CRITICAL)  # what fails here is meant to
        try:
            run_state_machine_as_test(seed(number)(Played), settings=quiet)
        finally:
            logger.setLevel(level)
            runner.run(played.close())
    return Checked(played.counted, played.succeeded)


async def check(setting: Setting, name: str, *, uri: str = "") -> Checked:
    """Play the rules on one backend: ``double``, ``motor`` or ``pymongo``."""
    connected: Callable[[], Any] = connect_double if name == "double" else lambda: connect(uri, driver=name)
    return await asyncio.to_thread(_play, connected, name, SIZES[setting.form], setting.seed, setting.advance)


async def run(setting: Setting) -> Tally:
    """On the double and on a server of its own."""
    if (binary := find_mongod()) is None:
        raise Unable("no mongod on PATH, and the `server` extra has none for this platform")
    double = await check(setting, "double")
    async with running_mongod(binary) as uri:
        real = await check(setting, setting.driver, uri=uri)
    told = double.counted + real.counted
    return {
        "steps": told.total(),
        "on the double": double.counted.total(),
        f"on {setting.driver}": real.counted.total(),
        "not refused": (double.succeeded + real.succeeded).total(),
        "methods": len(told),
        "illegal": 0,
    }
