"""What following changes costs: the lag of the cache, and routes beside followers that come back."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Final

from tests.benchmarks import cache_lag
from tests.benchmarks.measuring import Advance, Effort, Figure, Row
from tests.benchmarks.stacks import Stack

Measure = Callable[[str, str, bool], Awaitable[dict[str, float]]]

_STREAM_COST: Final = "tests.benchmarks.stream_cost"
_AIMS: Final[Mapping[str, float]] = {"ratio_200": 1.25, "ratio_2000": 1.25, "lag_p50_ms": 100.0}


def measures() -> list[Measure]:
    """Each measures with a driver, on a server, and may be told to be quick."""
    cost = [import_module(_STREAM_COST).measure] if find_spec(_STREAM_COST) else []
    return [cache_lag.measure, *cost]


async def streams(stack: Stack, effort: Effort, advance: Advance) -> AsyncIterator[Row]:
    """All of them; their figures are named by themselves."""
    for measure in measures():
        for name, value in (await measure(stack.driver, stack.uri, effort.is_quick)).items():
            yield Figure(name.replace("_", " "), value, "", _AIMS.get(name))
        advance()
