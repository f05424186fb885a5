"""What an import costs, each in a process of its own: this library beside Beanie, which its document builds on."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from random import Random
from typing import Final

from tests.benchmarks.measuring import Advance, Effort, Row, compared

_TIMED: Final = "from time import perf_counter as now; begun = now(); {}; print(now() - begun)"
_BEANIE: Final = "import beanie"
_OURS: Final = {"import sessions": 1.1, "from sessions import ActiveScheduleSession": None}
"""With the aim for each; the Beanie document is imported by its first user."""


async def import_time(statement: str) -> float:
    """Seconds that the import takes in a fresh process."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _TIMED.format(statement)),
        stdout=asyncio.subprocess.PIPE,
        # An application's start finds its modules compiled, and this library's as well.
        env={name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
    )
    told, _ = await process.communicate()
    return float(told)


async def startup(effort: Effort, advance: Advance) -> AsyncIterator[Row]:
    """All in turns."""
    order = Random(1)
    took: dict[str, list[float]] = {statement: [] for statement in (*_OURS, _BEANIE)}
    for turn in range(-1, effort.starts):
        for statement in order.sample(list(took), len(took)):
            lasted = await import_time(statement)
            if turn >= 0:  # the first one fills the caches of the disk
                took[statement].append(lasted)
        advance()
    for statement, aim in _OURS.items():
        yield compared(statement, took[statement], took[_BEANIE], against=_BEANIE, aim=aim)
