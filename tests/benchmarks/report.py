"""What is kept of a run: every row, and what it was measured on."""

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter

from tests.benchmarks.measuring import Comparison, Figure, Rate, Row, Skipped

_PACKAGES: Final = ("beanie", "motor", "pymongo", "pydantic", "odmantic", "langgraph", "langgraph-checkpoint-mongodb")


def machine(server: str) -> dict[str, str]:
    """What the figures are measured on."""
    told = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "mongod": server,
    }
    for package in _PACKAGES:
        try:
            told[package] = version(package)
        except PackageNotFoundError:
            told[package] = "not installed"
    return told


@dataclass(slots=True)
class Report:
    """The rows of a run, by section and driver."""

    machine: dict[str, str]
    is_quick: bool
    sections: dict[tuple[str, str], list[Row]] = field(default_factory=dict)

    def add(self, section: str, driver: str, row: Row) -> None:
        """Keep one row more."""
        self.sections.setdefault((section, driver), []).append(row)

    def write_json(self, path: Path) -> None:
        """Write everything that is known, times in seconds."""
        rows = [
            {"section": section, "driver": driver, "kind": type(row).__name__.lower(), **asdict(row)}
            for (section, driver), found in self.sections.items()
            for row in found
        ]
        told = {"machine": self.machine, "quick": self.is_quick, "rows": rows}
        path.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")

    @staticmethod
    def read_json(path: Path) -> "Report":
        """A run that was kept."""
        told = json.loads(path.read_text(encoding="utf-8"))
        report = Report(told["machine"], told["quick"])
        for row in told["rows"]:
            report.add(row["section"], row["driver"], _READ[row["kind"]].validate_python(row))
        return report


_READ: Final[Mapping[str, TypeAdapter[Any]]] = {
    kind.__name__.lower(): TypeAdapter(kind) for kind in (Comparison, Rate, Figure, Skipped)
}
