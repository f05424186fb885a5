"""What following changes costs a process, and how soon its cache shows one."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Final

from tests.benchmarks import cache_lag, stream_cost
from tests.benchmarks.measuring import Advance, Effort, Figure, Row
from tests.benchmarks.stacks import Stack

Measure = Callable[[str, str, bool], Awaitable[dict[str, float]]]

_MEASURES: Final[tuple[Measure, ...]] = (cache_lag.measure, stream_cost.measure)
_AIMS: Final[Mapping[str, float]] = {"ratio_50": 1.25, "ratio_200": 1.25, "ratio_2000": 1.25, "lag_p50_ms": 100.0}


async def streams(stack: Stack, effort: Effort, advance: Advance) -> AsyncIterator[Row]:
    """All of them; their figures are named by themselves."""
    for measure in _MEASURES:
        for name, value in (await measure(stack.driver, stack.uri, effort.is_quick)).items():
            yield Figure(name.replace("_", " "), value, "", _AIMS.get(name))
        advance()
