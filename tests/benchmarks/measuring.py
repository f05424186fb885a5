"""How calls are timed: in turns, within one run, so that whatever else the machine does slows all of them alike."""

import gc
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median, quantiles
from time import perf_counter
from typing import Final

Call = Callable[[], Awaitable[object]]
"""What is timed, ready to be sent."""
Side = Callable[[int], Call]
"""Gives the call of each turn; what it does to prepare it is not timed."""
Prepare = Callable[[], Awaitable[None]]
"""What has to be in the database before a call; it is not timed."""
Advance = Callable[[], None]
"""Told of each turn, for a progress bar."""

PARTS: Final = 5
"""In so many parts a run is cut to see how far its ratio strays."""


@dataclass(frozen=True, slots=True)
class Timing:
    """How long one call took, in seconds."""

    p50: float
    p99: float
    times: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """A call of this library beside what it is compared with.

    Attributes:
        ratio: Of the two medians.
        lowest: The least ratio among the parts of the run; a difference below this range is noise.
        highest: The greatest.
        aim: What the ratio is to stay within; None if nobody has said.
    """

    name: str
    against: str
    ours: Timing
    other: Timing
    ratio: float
    lowest: float
    highest: float
    aim: float | None = None


@dataclass(frozen=True, slots=True)
class Rate:
    """Calls a second by this library beside those that it is compared with, by many tasks at once.

    Attributes:
        ratio: Of the medians; above one this library does more.
        aim: What the ratio is to reach.
    """

    name: str
    against: str
    tasks: int
    processes: int
    ours: float
    other: float
    ratio: float
    lowest: float
    highest: float
    aim: float | None = None


@dataclass(frozen=True, slots=True)
class Figure:
    """A number that is compared with nothing else."""

    name: str
    value: float
    unit: str
    aim: float | None = None


@dataclass(frozen=True, slots=True)
class Skipped:
    """What could not be measured here, and why."""

    name: str
    reason: str


Row = Comparison | Rate | Figure | Skipped


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How often each thing is done."""

    reads: int
    writes: int
    batches: int
    """Calls that touch a hundred documents or more."""
    due: int
    """Sessions that one sweep ends."""
    warm_up: float = 0.1
    """Turns before the timed ones, as a part of them."""
    entries: int
    """What a cache holds."""
    cached_routes: int
    tasks: tuple[int, ...]
    rate_rounds: int
    rate_seconds: float
    sizes: tuple[int, ...]
    """Sessions stored."""
    ended: int
    """Sessions that have ended in one conversation."""
    starts: int
    """Processes started."""
    followers: int
    follower_rounds: int
    follower_seconds: float
    lags: int
    index_build: int
    """Sessions over which an index is built; 0 leaves it out."""

    section_seconds: float = 3_600.0
    """A section that hangs is given up after so long."""

    @property
    def is_quick(self) -> bool:
        """Whether it is a glance only."""
        return self.reads < FULL.reads


FULL: Final = Effort(
    reads=2_000,
    writes=500,
    batches=100,
    due=1_000,
    entries=100_000,
    cached_routes=1_000_000,
    tasks=(1, 10, 100, 1_000),
    rate_rounds=20,
    rate_seconds=0.5,
    sizes=(1_000, 10_000, 100_000, 1_000_000),
    ended=100_000,
    starts=20,
    followers=100,
    follower_rounds=8,
    follower_seconds=2.0,
    lags=500,
    index_build=1_000_000,
)
QUICK: Final = Effort(
    reads=200,
    writes=50,
    batches=20,
    due=1_000,
    entries=20_000,
    cached_routes=50_000,
    tasks=(1, 10, 100, 1_000),
    rate_rounds=2,
    rate_seconds=0.3,
    sizes=(1_000, 10_000),
    ended=10_000,
    starts=5,
    followers=20,
    follower_rounds=1,
    follower_seconds=2.0,
    lags=50,
    index_build=0,
    section_seconds=600.0,
)


def timing_of(took: Sequence[float]) -> Timing:
    """The median and the 99th percentile."""
    if len(took) == 1:
        return Timing(took[0], took[0], 1)
    return Timing(median(took), quantiles(took, n=100, method="inclusive")[98], len(took))


def parts_of(series: Sequence[float]) -> list[float]:
    """The medians of the parts of a series, each of which goes over the whole time."""
    parts = min(PARTS, len(series))
    return [median(series[part::parts]) for part in range(parts)]


def compared(
    name: str, ours: Sequence[float], other: Sequence[float], *, against: str, aim: float | None = None
) -> Comparison:
    """Two series of one interleaved run as a row."""
    ratios = [one / two for one, two in zip(parts_of(ours), parts_of(other), strict=True)]
    ratio = median(ours) / median(other)
    return Comparison(name, against, timing_of(ours), timing_of(other), ratio, min(ratios), max(ratios), aim)


@contextmanager
def collector_at_rest() -> Iterator[None]:
    """No garbage collection within the block: a pause of it would be counted to whichever call it meets."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


def always(calls: Sequence[Call]) -> list[Side]:
    """Sides that send the same call in each turn."""
    return [partial(_again, call) for call in calls]


def _again(call: Call, _: int) -> Call:
    return call


async def _nothing() -> None:
    pass


async def interleaved(
    sides: Sequence[Side],
    times: int,
    *,
    warm_up: float,
    advance: Advance = lambda: None,
    prepare: Prepare = _nothing,
) -> list[list[float]]:
    """How long each side's calls took; in each turn every side is called once, in random order.

    Args:
        sides: Their numbers go from 0 over the warm-up and the timed turns.
        times: Timed turns.
        warm_up: Turns before these, as a part of them.
        advance: Told of each turn.
        prepare: Awaited before each call.
    """
    order = random.Random(1)
    before = warm_ups(times, warm_up)
    took: list[list[float]] = [[] for _ in sides]
    turn = list(range(len(sides)))
    with collector_at_rest():
        for number in range(before + times):
            order.shuffle(turn)
            for place in turn:
                await prepare()
                call = sides[place](number)
                begun = perf_counter()
                await call()
                lasted = perf_counter() - begun
                if number >= before:
                    took[place].append(lasted)
            advance()
    return took


def warm_ups(times: int, part: float) -> int:
    """How many turns come before the timed ones."""
    return max(1, round(times * part))
