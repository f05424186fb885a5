"""What an import costs, each in a process of its own: this library beside Beanie, which it builds on."""

import asyncio
import sys
from collections.abc import AsyncIterator
from random import Random
from typing import Final

from tests.benchmarks.measuring import Advance, Effort, Row, compared

_TIMED: Final = "from time import perf_counter as now; begun = now(); import {}; print(now() - begun)"
_MODULES: Final = ("sessions", "beanie")


async def import_time(module: str) -> float:
    """Seconds that the import takes in a fresh process."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _TIMED.format(module)), stdout=asyncio.subprocess.PIPE
    )
    told, _ = await process.communicate()
    return float(told)


async def startup(effort: Effort, advance: Advance) -> AsyncIterator[Row]:
    """The two in turns."""
    order = Random(1)
    took: dict[str, list[float]] = {module: [] for module in _MODULES}
    for turn in range(-1, effort.starts):
        for module in order.sample(_MODULES, len(_MODULES)):
            lasted = await import_time(module)
            if turn >= 0:  # the first one fills the caches of the disk
                took[module].append(lasted)
        advance()
    yield compared("import sessions", took["sessions"], took["beanie"], against="import beanie", aim=1.1)
