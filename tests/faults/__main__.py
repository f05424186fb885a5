"""The long form of every campaign of faults, and its table: ``python -m tests.faults``.

It starts the servers that it needs. The exit status is 1 if an invariant was broken. It may be stopped at any moment.
"""

import argparse
import asyncio
import logging
import random
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Final, NamedTuple

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from sessions.console import console_for
from sessions.store.clients import default_driver
from tests.benchmarks.report import machine
from tests.faults.campaign import Form, Run, Setting, Tally, Unable, violations

CAMPAIGNS: Final[Mapping[str, str]] = {
    "load": "tests.faults.load",
    "contention": "tests.faults.contention",
    "failover": "tests.faults.failover",
    "deaths": "tests.faults.deaths",
    "cuts": "tests.faults.cuts",
    "clocks": "tests.faults.clocks",
    "mutations": "tests.faults.mutations",
    "model": "tests.faults.model_check",
    "interleavings": "tests.faults.interleavings",
    "cancellations": "tests.faults.cancellations",
    "isolation": "tests.faults.isolation",
    "lost acknowledgements": "tests.faults.lost_acknowledgements",
    "inputs": "tests.faults.inputs",
    "damaged documents": "tests.faults.damage",
}
"""Each campaign's module, which has a coroutine function ``run``, by the name that the table shows."""
BEGIN: Final = "<!-- found -->"
END: Final = "<!-- end -->"
_BROKEN: Final = 1
_STOPPED: Final = 130
_WIDTH: Final = 80


class Found(NamedTuple):
    """What came of one campaign."""

    name: str
    seconds: float
    tally: Tally
    unable: str = ""


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--short", action="store_true", help="as much as CI does")
    parser.add_argument("--seed", type=int, help="the seed of an earlier run; else one is drawn, and printed")
    parser.add_argument("--only", action="append", choices=CAMPAIGNS, help="only this campaign; may be repeated")
    parser.add_argument("--docs", type=Path, metavar="PAGE", help="put the table in its place on a Markdown page")
    return parser.parse_args(given)


async def carry_out(name: str, setting: Setting) -> Found:
    """One campaign."""
    run: Run = import_module(CAMPAIGNS[name]).run
    began = time.monotonic()
    try:
        tally, unable = await run(setting), ""
    except Unable as error:
        tally, unable = {}, str(error)
    return Found(name, time.monotonic() - began, tally, unable)


def line_of(found: Found) -> str:
    """A campaign's line of the table, in Markdown."""
    counted = "; ".join(f"{name} {count:,g}" for name, count in found.tally.items())
    return f"| {found.name} | {found.seconds:,.0f} s | {counted or f'skipped: {found.unable}'} |"


def table_of(asked: argparse.Namespace, seed: int, told: list[Found], about: Mapping[str, str]) -> str:
    """The whole table, with where it was made and how to make it again."""
    where = "; ".join(f"{name} {value}" for name, value in about.items())
    head = ["| campaign | took | found |", "| --- | --- | --- |"]
    options = "".join([" --short" if asked.short else "", *(f" --only {name!r}" for name in asked.only or ())])
    command = f"`python -m tests.faults --seed {seed}{options}`"
    return "\n".join([f"{command}: {where}", "", *head, *map(line_of, told)])


def filled(page: str, table: str) -> str:
    """A page with the table in its place."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{after}"


async def _all(asked: argparse.Namespace, seed: int, console: Console) -> list[Found]:
    told = []
    terminal = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TextColumn("{task.completed:,}"), TimeElapsedColumn())
    form = Form.SHORT if asked.short else Form.LONG
    for name in asked.only or CAMPAIGNS:
        with Progress(*columns, console=terminal, transient=True, disable=not terminal.is_terminal) as progress:
            task = progress.add_task(name, total=None)
            setting = Setting(form, seed, default_driver(), partial(progress.advance, task))
            found = await carry_out(name, setting)
        told.append(found)
        console.print(line_of(found))
    return told


async def _until_stopped(asked: argparse.Namespace, seed: int, console: Console) -> list[Found]:
    # SIGTERM ends it as Ctrl-C does: by a cancellation, which takes the servers along.
    running = asyncio.create_task(_all(asked, seed, console))
    with suppress(NotImplementedError):
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
    return await running


def run(given: list[str] | None = None) -> int:
    """Run the command; its exit status."""
    asked = arguments(given)
    seed = random.SystemRandom().randrange(10**6) if asked.seed is None else asked.seed
    console = console_for(sys.stdout, width_elsewhere=_WIDTH)
    logging.getLogger("sessions").setLevel(logging.CRITICAL)  # what fails and passes is what the campaigns are for
    console.print(f"seed {seed}, driver {default_driver()}")
    try:
        told = asyncio.run(_until_stopped(asked, seed, console))
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.stderr.write("stopped\n")
        return _STOPPED
    if asked.docs:
        table = table_of(asked, seed, told, machine("6.0"))
        asked.docs.write_text(filled(asked.docs.read_text(encoding="utf-8"), table), encoding="utf-8")
    broken = {found.name: wrong for found in told if (wrong := violations(found.tally))}
    for name, wrong in broken.items():
        console.print(f"{name}: {', '.join(f'{count:g} {what}' for what, count in wrong.items())}")
    return _BROKEN if broken else 0


if __name__ == "__main__":
    sys.exit(run())
