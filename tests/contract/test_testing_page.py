"""docs/testing.md shows what is true: its tests run as they stand, and the naive worker's is the one that fails."""

import re
from pathlib import Path
from typing import Final

import pytest

import sessions.testing
import sessions_pytest
from sessions.store.clients import default_driver

PAGE: Final = (Path(__file__).parents[2] / "docs" / "testing.md").read_text(encoding="utf-8")


def _column(title: str, number: int) -> list[str]:
    """What the table under a heading names in one of its columns."""
    section = PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    rows = [line.split("|") for line in section.splitlines() if line.startswith("|")]
    return [name for row in rows[2:] for name in re.findall(r"`(\w+)", row[number])[:1]]


def test_its_python_blocks(pytester: pytest.Pytester) -> None:
    """The naive worker is found out, and the worker on the bridge passes everything."""
    pytester.makepyfile("\n".join(re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)))
    pytester.makeini(
        f"""
        [pytest]
        addopts = -p sessions_pytest -p no:cacheprovider -p no:langsmith_plugin
        asyncio_mode = auto
        sessions_backends = double {default_driver()}
        """
    )
    told = pytester.runpytest_subprocess("-rfs")
    told.assert_outcomes(passed=8, failed=1, skipped=5)
    told.stdout.fnmatch_lines([f"FAILED *::test_the_naive_worker[[]{default_driver()}] - *"])


def test_it_names_every_fixture() -> None:
    """By its long name and by its short one."""
    long = [name for name in vars(sessions_pytest) if name.startswith("sessions_")]
    assert sorted(_column("Fixtures", 1)) == sorted(long)
    for name in _column("Fixtures", 2):
        assert hasattr(sessions.testing, name)


def test_it_names_the_whole_kit() -> None:
    """Each function that `sessions.testing` exports."""
    kit = {name for name in sessions.testing.__all__ if name[0].islower()}
    assert set(_column("Does your worker survive a race?", 1)) == kit
