"""Three servers whose clocks are apart, one after the other primary: what lapses is early or late, nothing is wrong."""

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Final

from sessions.mongod import find_mongod
from tests.faults.campaign import Form, Setting, Tally, Unable
from tests.faults.disturbances import DISTURBANCES
from tests.faults.failover import Size, under
from tests.faults.members import Place, placed

SIZES: Final[Mapping[Form, Size]] = {
    Form.SHORT: Size(faults=2, workers=2, tasks=6),
    Form.LONG: Size(faults=20, workers=4, tasks=12),
}
APART: Final = (-2, 0, 2)
"""By how many seconds each member's clock is off."""
KINDS: Final = ("stepped down", "killed", "frozen")
SHORT_OF_THEM: Final = ("stepped down", "killed")
_SLACK: Final = 1.0
SOURCE: Final = Path(__file__).with_name("clock_ahead.c")


@contextlib.asynccontextmanager
async def compiled() -> AsyncIterator[Path]:
    """The library that puts a process's wall clock ahead, until the end of the block.

    Raises:
        Unable: There is no C compiler, or it cannot make it.
    """
    if (compiler := shutil.which("cc")) is None:
        raise Unable("no C compiler was found, by which a server is given a clock of its own")
    with tempfile.TemporaryDirectory(prefix="sessions-faults-clock-") as folder:
        made = Path(folder) / "clock_ahead.so"
        process = await asyncio.create_subprocess_exec(
            *(compiler, "-shared", "-fPIC", "-O2", "-o", str(made), str(SOURCE), "-ldl", "-lpthread"),
            stderr=asyncio.subprocess.PIPE,
        )
        _, told = await process.communicate()
        if process.returncode:
            raise Unable(f"no clock of a server's own: {told.decode().strip()}")
        yield made


def by_clock(library: Path, seconds: int) -> Place:
    """A place where it is so many seconds later."""
    return Place(before=("env", f"LD_PRELOAD={library}", f"CLOCK_AHEAD={seconds}"))


async def run(setting: Setting) -> Tally:
    """Let each of them be primary, and judge what was done by its clock."""
    binary = find_mongod()
    if binary is None:
        raise Unable("no mongod was found")
    kinds = {name: DISTURBANCES[name] for name in (SHORT_OF_THEM if setting.is_short else KINDS)}
    apart = max(APART) - min(APART) + _SLACK
    async with (
        compiled() as library,
        placed(binary, [by_clock(library, seconds) for seconds in APART]) as replica_set,
    ):
        return await under(kinds, replica_set, setting, SIZES[setting.form], clocks_apart=apart)
