"""What following changes costs a process, and how soon its cache, or a graph at work in it, learns of one."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, NamedTuple

from tests.benchmarks import cache_lag, run_ends, stream_cost
from tests.benchmarks.measuring import Advance, Effort, Figure, Row
from tests.benchmarks.stacks import Stack

Measure = Callable[[str, str, bool], Awaitable[dict[str, float]]]

_MEASURES: Final[tuple[Measure, ...]] = (cache_lag.measure, run_ends.measure, stream_cost.measure)


class _Told(NamedTuple):
    """How a figure is told of."""

    name: str
    unit: str
    aim: float | None = None


_TOLD: Final = {
    "transition_lag_p50_ms": _Told("one change, until a cache elsewhere shows it, p50", "ms"),
    "transition_lag_p99_ms": _Told("one change, until a cache elsewhere shows it, p99", "ms"),
    **{
        f"{how}_{part}_ms": _Told(f"a run is {how}, until its graph elsewhere is cancelled, {part}", "ms", aim)
        for how in ("stopped", "replaced")
        for part, aim in (("p50", None), ("p99", 1_000.0))
    },
    **{f"bare_us_{rate}": _Told(f"{rate:,} changes/s: processor each, bare", "µs") for rate in stream_cost.RATES},
    **{f"followed_us_{rate}": _Told(f"{rate:,} changes/s: processor each, cache", "µs") for rate in stream_cost.RATES},
    **{f"ratio_{rate}": _Told(f"{rate:,} changes/s: ratio", "", 1.25) for rate in stream_cost.RATES},
    "written_a_second": _Told("changes/s while the lag was measured", ""),
    "lag_p50_ms": _Told("the cache's lag then, p50", "ms", 100.0),
    "lag_max_ms": _Told("the cache's lag then, longest", "ms"),
}


async def streams(stack: Stack, effort: Effort, advance: Advance) -> AsyncIterator[Row]:
    """All of them."""
    for measure in _MEASURES:
        for key, value in (await measure(stack.driver, stack.uri, effort.is_quick)).items():
            told = _TOLD[key]
            yield Figure(told.name, value, told.unit, told.aim)
        advance()
