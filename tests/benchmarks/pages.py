"""A run on a page of the documentation: each section's table stands between two comments that name it."""

import re
from collections.abc import Callable, Sequence
from typing import Final

from tests.benchmarks.measuring import Comparison, Figure, Rate, Row, Skipped
from tests.benchmarks.report import Report
from tests.benchmarks.stacks import DRIVERS
from tests.benchmarks.tables import milliseconds, plain_number, ratio

_PLACE: Final = re.compile(r"(<!-- measured: (?P<name>[a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_MACHINE: Final = "machine"
_NOTHING: Final = "-"


def filled(page: str, report: Report) -> str:
    """The page with what this run has measured in its places; what it has not is left as it is."""

    def fill(place: re.Match[str]) -> str:
        name = place["name"]
        lines = _machine(report) if name == _MACHINE else _section(report, name)
        return place[0] if lines is None else "\n".join([place[1].rstrip(), *lines, place[3]])

    return _PLACE.sub(fill, page)


def _machine(report: Report) -> list[str]:
    told = [f"{name} {value}" for name, value in report.machine.items() if name not in {"at", "system"}]
    day, _, _ = report.machine["at"].partition("T")
    line = f"Measured on {day}: {report.machine['system']}, {', '.join(told)}."
    return ["", line + " A quick run: the figures are rough." if report.is_quick else line, ""]


def _section(report: Report, name: str) -> list[str] | None:
    of_drivers = {driver: rows for (section, driver), rows in report.sections.items() if section == name}
    if not of_drivers:
        return None
    lines = [""]
    for kind, tell, columns in (
        (Comparison, _comparison, ("p50, p99", "of the other", "ratio")),
        (Rate, _rate, ("ours", "bare", "ratio")),
        (Figure, _figure, ("",)),
    ):
        lines += _table(of_drivers, kind, tell, columns)
    skipped = [
        f"- Skipped: {_named(driver)}{each.name}, since {each.reason}."
        for driver, rows in of_drivers.items()
        for each in rows
        if isinstance(each, Skipped)
    ]
    return [*lines, *skipped, ""] if skipped else lines


def _named(driver: str) -> str:
    return f"{DRIVERS[driver]}: " if driver else ""


def _label(row: Row) -> str:
    if isinstance(row, Comparison):
        return f"{row.name} / {row.against}"
    if isinstance(row, Rate):
        return f"{row.processes} x {row.tasks:,}"
    return row.name


def _table(
    of_drivers: dict[str, list[Row]], kind: type[Row], tell: Callable[[Row], Sequence[str]], columns: Sequence[str]
) -> list[str]:
    labels = dict.fromkeys(_label(row) for rows in of_drivers.values() for row in rows if isinstance(row, kind))
    if not labels:
        return []
    head = [f"{_named(driver)}{column}".removesuffix(": ") for driver in of_drivers for column in columns]
    table = [["", *head], ["---", *("---:" for _ in head)]]
    for label in labels:
        cells: list[str] = []
        for rows in of_drivers.values():
            found = [row for row in rows if isinstance(row, kind) and _label(row) == label]
            cells += tell(found[0]) if found else [_NOTHING] * len(columns)
        table.append([label, *cells])
    return [*(f"| {' | '.join(line)} |" for line in table), ""]


def _comparison(row: Row) -> Sequence[str]:
    if not isinstance(row, Comparison):
        raise TypeError(row)
    ours, other = (f"{milliseconds(side.p50)}, {milliseconds(side.p99)}" for side in (row.ours, row.other))
    return ours, other, f"**{ratio(row.ratio)}**"


def _rate(row: Row) -> Sequence[str]:
    if not isinstance(row, Rate):
        raise TypeError(row)
    return f"{row.ours:,.0f}", f"{row.other:,.0f}", f"**{ratio(row.ratio)}**"


def _figure(row: Row) -> Sequence[str]:
    if not isinstance(row, Figure):
        raise TypeError(row)
    return (f"{plain_number(row.value)} {row.unit}".strip(),)
