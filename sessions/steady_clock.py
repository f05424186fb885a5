"""A clock that only goes forward, for deadlines and for what is carried on from one moment to another."""

import time
from collections.abc import Callable
from functools import partial
from typing import Final

# It goes on while the machine sleeps, and tools that freeze time for tests leave it alone, since they do not know it.
_BOOT: Final[int | None] = getattr(time, "CLOCK_BOOTTIME", None)

steady: Final[Callable[[], float]] = time.monotonic if _BOOT is None else partial(time.clock_gettime, _BOOT)
"""Seconds since some moment; only differences mean something."""
