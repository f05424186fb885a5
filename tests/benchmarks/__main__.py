"""Measure this library beside the bare driver and beside what people use instead: ``python -m tests.benchmarks``.

It starts a ``mongod`` of its own. Whatever is compared is called in turns within one run, after a check that both sides
find or write the same. It may be stopped at any moment.
"""

import argparse
import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from sessions import StoreUnavailable
from sessions.console import console_for
from sessions.mongod import find_mongod, running_mongod
from sessions.store.clients import connect, disconnect
from tests.benchmarks.bare import Unequal
from tests.benchmarks.cached import cached
from tests.benchmarks.changes import changes
from tests.benchmarks.growth import growth
from tests.benchmarks.index_build import index_build
from tests.benchmarks.lookups import lookups
from tests.benchmarks.measuring import FULL, QUICK, Advance, Effort, Row, Skipped
from tests.benchmarks.memory import memory
from tests.benchmarks.pages import filled
from tests.benchmarks.plots import draw
from tests.benchmarks.report import Report, machine
from tests.benchmarks.returning_followers import followers
from tests.benchmarks.rivals import rivals
from tests.benchmarks.stacks import DRIVERS, Stack, lacking, opened
from tests.benchmarks.startup import startup
from tests.benchmarks.streams import streams
from tests.benchmarks.tables import print_machine, print_section
from tests.benchmarks.throughput import throughput

OF_A_STACK: Final[Mapping[str, Callable[[Stack, Effort, Advance], AsyncIterator[Row]]]] = {
    "lookups": lookups,
    "changes": changes,
    "rivals": rivals,
    "throughput": throughput,
    "growth": growth,
    "cached": cached,
    "streams": streams,
    "followers": followers,
    "index-build": index_build,
}
OF_NO_STACK: Final[Mapping[str, Callable[[Effort, Advance], AsyncIterator[Row]]]] = {
    "startup": startup,
    "memory": memory,
}
_WIDTH: Final = 80
_WIDEST: Final = 120
_STOPPED: Final = 130
_UNEQUAL: Final = 1
_UNUSABLE: Final = 2


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the repetitions, and nothing large")
    parser.add_argument("--stack", choices=(*DRIVERS, "both"), default="both", help="which driver is below")
    parser.add_argument(
        "--section",
        action="append",
        choices=(*OF_A_STACK, *OF_NO_STACK),
        help="only this; may be repeated",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure")
    parser.add_argument("--plot", type=Path, metavar="FOLDER", help="draw the plots, as PNG and as SVG")
    parser.add_argument("--docs", type=Path, metavar="PAGE", help="put the tables in their places on a Markdown page")
    parser.add_argument("--read", type=Path, metavar="FILE", help="measure nothing: tell what --json has written")
    return parser.parse_args(given)


class Run:
    """One run of the command: what it measures, and where that is told."""

    def __init__(self, asked: argparse.Namespace, effort: Effort, report: Report) -> None:
        self._sections = asked.section or [*OF_A_STACK, *OF_NO_STACK]
        self._drivers = list(DRIVERS) if asked.stack == "both" else [asked.stack]
        self._json: Path | None = asked.json
        self._effort = effort
        self._report = report
        self._console = _console()

    async def measure(self, uri: str) -> None:
        """All sections, each told as soon as it is done."""
        print_machine(self._console, self._report.machine)
        for driver in self._drivers:
            if reason := lacking(driver):
                self._report.add("stacks", driver, Skipped(DRIVERS[driver], reason))
                self._told("stacks", driver)
                continue
            for name, section in OF_A_STACK.items():
                if name in self._sections:
                    async with opened(driver, uri) as stack:
                        await self._rows(name, driver, partial(section, stack))
        for name, alone in OF_NO_STACK.items():
            if name in self._sections:
                await self._rows(name, "", alone)

    async def _rows(self, name: str, driver: str, section: Callable[[Effort, Advance], AsyncIterator[Row]]) -> None:
        with _progress() as progress:
            task = progress.add_task(_title(name, driver), total=None)
            try:
                async with asyncio.timeout(self._effort.section_seconds):
                    async for row in section(self._effort, lambda: progress.advance(task)):
                        self._report.add(name, driver, row)
                        progress.update(task, description=f"{_title(name, driver)}, {row.name} done")
            except TimeoutError:
                self._report.add(name, driver, Skipped("the rest", "it took too long"))
            except StoreUnavailable as error:  # a machine that is too busy for one thing may do for the next
                self._report.add(name, driver, Skipped("the rest", f"a call was not answered in time ({error})"))
        self._told(name, driver)

    def _told(self, name: str, driver: str) -> None:
        print_section(self._console, _title(name, driver), self._report.sections[name, driver])
        if self._json is not None:
            # After each section, so that a run that is stopped leaves what it has.
            self._report.write_json(self._json)


def _console() -> Console:
    return console_for(sys.stdout, width_elsewhere=_WIDTH, widest=_WIDEST)


def _title(section: str, driver: str) -> str:
    return f"{DRIVERS[driver]}: {section}" if driver else section


def _progress() -> Progress:
    """A line on the terminal that shows that it goes on; nothing in a log."""
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TextColumn("{task.completed:,}"), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


async def measured(asked: argparse.Namespace) -> Report:
    """Start a server, and measure."""
    binary = find_mongod()
    if binary is None:
        sys.stderr.write("no mongod on PATH, and the `server` extra has none for this platform\n")
        sys.exit(_UNUSABLE)
    async with running_mongod(binary) as uri:
        client: Any = connect(uri)
        server = (await client.admin.command("buildInfo"))["version"]
        await disconnect(client)
        report = Report(machine(server), is_quick=asked.quick)
        await Run(asked, QUICK if asked.quick else FULL, report).measure(uri)
    return report


def told_again(path: Path) -> Report:
    """Print a run that was kept."""
    report = Report.read_json(path)
    print_machine(_console(), report.machine)
    for (name, driver), rows in report.sections.items():
        print_section(_console(), _title(name, driver), rows)
    return report


async def _until_stopped(asked: argparse.Namespace) -> Report:
    # SIGTERM ends it as Ctrl-C does: by a cancellation, which takes the server along.
    running = asyncio.create_task(measured(asked))
    with suppress(NotImplementedError):
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
    return await running


def run(given: list[str] | None = None) -> int:
    """Run the command; its exit status."""
    asked = arguments(given)
    try:
        report = told_again(asked.read) if asked.read else asyncio.run(_until_stopped(asked))
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.stderr.write("stopped\n")
        return _STOPPED
    except Unequal as error:
        sys.stderr.write(f"{error}\n")
        return _UNEQUAL
    if asked.docs:
        asked.docs.write_text(filled(asked.docs.read_text(encoding="utf-8"), report), encoding="utf-8")
    if asked.plot:
        draw(report, asked.plot)
    return 0


if __name__ == "__main__":
    sys.exit(run())
