"""The suite uses the fixtures that the library ships; at the end it says how much ran on which backend."""

from collections import Counter

import pytest

pytest_plugins = ["sessions.testing"]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Count per backend, so that a suite that was skipped on one of them does not read as passed."""
    for backend in ("double", "motor", "pymongo"):
        counted = Counter(
            outcome
            for outcome in ("passed", "failed", "skipped")
            for report in terminalreporter.stats.get(outcome, ())
            if f"[{backend}" in report.nodeid or f"-{backend}" in report.nodeid
        )
        terminalreporter.write_line(
            f"{backend}: {counted['passed']} ran and passed, {counted['failed']} failed, {counted['skipped']} skipped"
        )
