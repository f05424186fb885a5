"""``python -m indexes`` in a process of its own."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]


async def run_command(
    *arguments: str, uri: str | None = None, stdout: int | None = None, path: Path = ROOT
) -> tuple[int | None, str]:
    """Run ``python -m indexes`` as its users do; its exit status and all that it printed."""
    environment = {name: value for name, value in os.environ.items() if name != "MONGODB_URI"}
    environment["PYTHONPATH"] = str(path)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "indexes", *arguments),
        cwd=ROOT,
        env=environment if uri is None else {**environment, "MONGODB_URI": uri},
        stdout=asyncio.subprocess.PIPE if stdout is None else stdout,
        stderr=asyncio.subprocess.STDOUT,
    )
    printed, _ = await process.communicate()
    return process.returncode, (printed or b"").decode()
