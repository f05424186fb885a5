"""A run as it is read on a terminal or in a log of 80 columns."""

from collections.abc import Sequence
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from tests.benchmarks.measuring import Comparison, Figure, Rate, Row, Skipped

_MILLISECONDS: Final = 1_000
_SMALL: Final = 0.1
_LARGE: Final = 100.0


def milliseconds(seconds: float) -> str:
    """A time in milliseconds, with the figures that count."""
    told = seconds * _MILLISECONDS
    if told < _SMALL:
        return f"{told:.4f}"
    return f"{told:.2f}" if told < _LARGE else f"{told:,.0f}"


def ratio(value: float) -> str:
    """A ratio, with the figures that count; a small one as a fraction."""
    return f"{value:.2f}" if value >= _SMALL else f"1/{1 / value:.0f}"


def plain_number(value: float) -> str:
    """A figure as it is read."""
    return f"{value:,.0f}" if abs(value) >= _LARGE or value == int(value) else f"{value:.2f}"


def print_machine(console: Console, told: dict[str, str]) -> None:
    """Where it runs, in a few lines."""
    console.print("; ".join(f"{name} {value}" for name, value in told.items() if name != "at"))


def _table(title: str, *names: str, left: int) -> Table:
    """An empty table whose first columns are texts and whose others are numbers."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=0)
    for place, name in enumerate(names):
        table.add_column(name, justify="left" if place < left else "right", no_wrap=place >= left)
    return table


def print_section(console: Console, title: str, rows: Sequence[Row]) -> None:
    """The table of what is compared, and below it what is not."""
    compared = [row for row in rows if isinstance(row, Comparison)]
    if compared:
        headings = ("call", "against", "p50", "p99", "its p50", "p99", "ratio", "±", "aim")
        table = _table(f"{title} (milliseconds)", *headings, left=2)
        for row in compared:
            times = [milliseconds(time) for side in (row.ours, row.other) for time in (side.p50, side.p99)]
            strays = f"{(row.highest - row.lowest) / 2 / row.ratio:.0%}"
            aim = "" if row.aim is None else ratio(row.aim)
            table.add_row(row.name, row.against, *times, ratio(row.ratio), strays, aim)
        console.print(table)
    rates = [row for row in rows if isinstance(row, Rate)]
    if rates:
        headings = ("call", "against", "tasks", "processes", "ours", "bare", "ratio", "±", "aim")
        table = _table(f"{title} (calls a second)", *headings, left=2)
        for rate in rates:
            strays = f"{(rate.highest - rate.lowest) / 2 / rate.ratio:.0%}"
            counted = (f"{rate.tasks:,}", str(rate.processes), f"{rate.ours:,.0f}", f"{rate.other:,.0f}")
            aim = "" if rate.aim is None else ratio(rate.aim)
            table.add_row(rate.name, rate.against, *counted, ratio(rate.ratio), strays, aim)
        console.print(table)
    figures = [row for row in rows if isinstance(row, Figure)]
    if figures:
        table = _table(title, "what", "figure", "aim", left=1)
        for figure in figures:
            aim = "" if figure.aim is None else plain_number(figure.aim)
            table.add_row(figure.name, f"{plain_number(figure.value)} {figure.unit}", aim)
        console.print(table)
    for skipped in (row for row in rows if isinstance(row, Skipped)):
        console.print(f"skipped: {skipped.name}: {skipped.reason}")
