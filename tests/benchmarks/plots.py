"""A run as plots, each as PNG and as SVG."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from tests.benchmarks.measuring import Comparison, Rate, Row
from tests.benchmarks.report import Report
from tests.benchmarks.stacks import BARE, DRIVERS

_COLOURS: Final = {"motor": "#1f6f8b", "pymongo": "#e07a3f"}
_GREY: Final = "#777777"
_WIDTH: Final = 7.2
_ROW: Final = 0.34
_FORMATS: Final = ("png", "svg")


def draw(report: Report, folder: Path) -> list[Path]:
    """Write the plots of what was measured; their paths."""
    import matplotlib as mpl  # noqa: PLC0415 - an extra

    mpl.use("Agg")
    # The texts of an SVG stay texts, and the same figures give the same file.
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "benchmarks", "font.size": 9})
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    for name, plot in _PLOTS.items():
        figure = plot(report)
        if figure is None:
            continue
        for kind in _FORMATS:
            paths.append(folder / f"{name}.{kind}")
            metadata = {"Date": None} if kind == "svg" else None
            figure.savefig(paths[-1], dpi=150, metadata=metadata, bbox_inches="tight")
    return paths


def _figure(height: float, columns: int = 1) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # noqa: PLC0415 - an extra

    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    axes = figure.subplots(1, columns, sharey=columns > 1, squeeze=False)[0]
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _rows(report: Report, *sections: str) -> dict[str, list[Row]]:
    """What was measured of these sections, by driver."""
    found: dict[str, list[Row]] = {}
    for (section, driver), rows in report.sections.items():
        if section in sections and driver in DRIVERS:
            found.setdefault(driver, []).extend(rows)
    return found


def _compared(rows: list[Row], wanted: Callable[[Comparison], bool]) -> dict[str, Comparison]:
    return {f"{row.name}; {row.against}": row for row in rows if isinstance(row, Comparison) and wanted(row)}


def _ratios(found: dict[str, dict[str, Comparison]], title: str, *, keep_against: bool) -> Any:
    """A dot for each ratio, with the range in which it strayed; left of the line this library is the quicker one."""
    labels = list(dict.fromkeys(label for rows in found.values() for label in rows))
    if not labels:
        return None
    figure, (axes,) = _figure(1.1 + _ROW * len(labels))
    for shift, (driver, rows) in enumerate(found.items()):
        places = [labels.index(label) + 0.22 * (shift - 0.5 * (len(found) - 1)) for label in rows]
        values = [row.ratio for row in rows.values()]
        strays = [
            [max(0.0, row.ratio - row.lowest) for row in rows.values()],
            [max(0.0, row.highest - row.ratio) for row in rows.values()],
        ]
        axes.errorbar(values, places, xerr=strays, fmt="o", ms=5, lw=1.2, color=_COLOURS[driver], label=DRIVERS[driver])
    axes.axvline(1.0, color=_GREY, lw=1)
    # A range that other work on the machine has torn wide open does not flatten the rest.
    axes.set_xlim(0, 1.25 * max(1.0, *(row.ratio for rows in found.values() for row in rows.values())))
    axes.set_yticks(range(len(labels)), [label if keep_against else label.partition(";")[0] for label in labels])
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel(title)
    figure.legend(loc="outside upper right", ncols=len(found), frameon=False)
    return figure


def _against_bare(report: Report) -> Any:
    rows = _rows(report, "lookups", "changes")
    found = {driver: _compared(each, lambda row: row.against in {BARE, "update_many"}) for driver, each in rows.items()}
    return _ratios(found, "time of the bare driver's same command = 1 (p50)", keep_against=False)


def _against_rivals(report: Report) -> Any:
    found = {driver: _compared(each, lambda _: True) for driver, each in _rows(report, "rivals").items()}
    return _ratios(found, "time of the other library's call = 1 (p50)", keep_against=True)


def _count_on_x(axes: Any, label: str) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda count, _: f"{count:,.0f}")
    axes.grid(alpha=0.3)
    axes.set_xlabel(label)


def _throughput(report: Report) -> Any:
    found = {
        driver: [row for row in rows if isinstance(row, Rate)] for driver, rows in _rows(report, "throughput").items()
    }
    processes = sorted({rate.processes for rates in found.values() for rate in rates})
    if not processes:
        return None
    figure, all_axes = _figure(3.2, len(processes))
    for axes, number in zip(all_axes, processes, strict=True):
        for driver, rates in found.items():
            chosen = [rate for rate in rates if rate.processes == number]
            tasks = [rate.tasks for rate in chosen]
            axes.plot(tasks, [rate.ours for rate in chosen], "o-", color=_COLOURS[driver], label=DRIVERS[driver])
            bare = f"{DRIVERS[driver]}, bare"
            axes.plot(tasks, [rate.other for rate in chosen], "o--", color=_COLOURS[driver], alpha=0.5, label=bare)
        _count_on_x(axes, "tasks at once")
        axes.set_title(f"{number} process" + ("es" if number > 1 else ""), fontsize=9)
    all_axes[0].set_ylabel("routes a second")
    all_axes[0].set_ylim(bottom=0)
    figure.legend(*all_axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=4, frameon=False)
    return figure


def _growth(report: Report) -> Any:
    found = {
        driver: list(_compared(rows, lambda row: row.against.replace(",", "").isdigit()).values())
        for driver, rows in _rows(report, "growth").items()
    }
    if not any(found.values()):
        return None
    figure, (axes,) = _figure(3.0)
    for driver, rows in found.items():
        if not rows:
            continue
        least = int(rows[0].against.replace(",", ""))
        sizes = [least, *(int("".join(filter(str.isdigit, row.name))) for row in rows)]
        times = [rows[0].other, *(row.ours for row in rows)]
        for share, style in (("p50", "o-"), ("p99", "o:")):
            values = [1_000 * getattr(time, share) for time in times]
            axes.plot(sizes, values, style, color=_COLOURS[driver], label=f"{DRIVERS[driver]}, {share}")
    _count_on_x(axes, "sessions stored")
    axes.set_ylim(bottom=0)
    axes.set_ylabel("a route, ms")
    figure.legend(loc="outside upper right", ncols=4, frameon=False)
    return figure


_PLOTS: Final[dict[str, Callable[[Report], Any]]] = {
    "against-bare": _against_bare,
    "against-others": _against_rivals,
    "throughput": _throughput,
    "growth": _growth,
}
