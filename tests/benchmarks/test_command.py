"""What the benchmark promises beside its figures: like is compared with like, and every row is told."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.benchmarks.__main__ import OF_A_STACK, OF_NO_STACK, Run, arguments
from tests.benchmarks.bare import Exchange, Unequal, check_exchanges, renamed
from tests.benchmarks.changes import recorded_script
from tests.benchmarks.lookups import bare_lookup, route_hit, store_governed
from tests.benchmarks.measuring import (
    QUICK,
    Comparison,
    Figure,
    Rate,
    Skipped,
    compared,
    interleaved,
    timing_of,
    warm_ups,
)
from tests.benchmarks.pages import filled
from tests.benchmarks.report import Report
from tests.benchmarks.stacks import DRIVERS, opened
from tests.benchmarks.stories import Story

AT = datetime(2026, 1, 1, tzinfo=UTC)
TINY = replace(
    QUICK,
    reads=4,
    writes=2,
    batches=2,
    due=5,
    entries=100,
    cached_routes=2_000,
    tasks=(1, 2),
    rate_rounds=1,
    rate_seconds=0.05,
    sizes=(200, 300),
    ended=20,
    starts=1,
    followers=2,
    follower_seconds=0.2,
    lags=2,
)


def made_report() -> Report:
    """A row of each kind."""
    report = Report({"at": "2026-01-01T00:00:00+00:00", "system": "Linux", "python": "3.11"}, is_quick=True)
    report.add("lookups", "motor", compared("get", [0.002, 0.002], [0.001, 0.001], against="bare driver", aim=1.07))
    report.add("throughput", "motor", Rate("route", "bare driver", 10, 2, 900.0, 1000.0, 0.9, 0.8, 1.0))
    report.add("memory", "", Figure("100 cached routes", 1.5, "MiB"))
    report.add("rivals", "pymongo", Skipped("ODMantic", "it works on Motor only"))
    return report


def test_percentiles() -> None:
    """Of a hundred and one times the middle one and the last but one."""
    timing = timing_of([float(number) for number in range(101)])
    assert (timing.p50, timing.p99, timing.times) == (50.0, 99.0, 101)
    assert timing_of([3.0]).p99 == 3.0


def test_a_ratio_is_of_the_medians_and_tells_how_far_it_strays() -> None:
    """One slow call does not move it; the parts of the run show how sure it is."""
    row = compared("get", [2.0] * 99 + [500.0], [1.0] * 100, against="bare driver")
    assert (row.ratio, row.lowest, row.highest) == (2.0, 2.0, 2.0)


async def test_every_side_is_called_in_every_turn() -> None:
    """Neither side gets ahead of the other, and what warms up is not counted."""
    called: list[tuple[int, int]] = []

    def side(place: int) -> object:
        async def call() -> None:
            called.append((place, len(called) // 2))

        return lambda _: call

    took = await interleaved([side(0), side(1)], 10, warm_up=0.2)  # type: ignore[list-item] # sides
    assert [len(times) for times in took] == [10, 10]
    assert set(called) == {(place, turn) for place in (0, 1) for turn in range(10 + warm_ups(10, 0.2))}


def test_only_ids_and_moments_are_replaced() -> None:
    """What is sent again is what was sent."""
    sent = {"filter": {"_id": "a", "status": {"$in": ["a b"]}}, "at": [AT], "revision": 1}
    again = renamed(sent, {"a": "z"}, later=timedelta(seconds=1))
    assert again == {
        "filter": {"_id": "z", "status": {"$in": ["a b"]}},
        "at": [AT + timedelta(seconds=1)],
        "revision": 1,
    }


def test_a_side_that_does_something_else_stops_the_run() -> None:
    """A bare command without the library's guard would be quicker, and say nothing."""
    ours = [Exchange({"find": "c", "filter": {"_id": "a", "user_id": 1}, "lsid": 1}, {"cursor": {"firstBatch": []}})]
    bare = [Exchange({"find": "c", "filter": {"_id": "b", "user_id": 1}, "lsid": 2}, {"cursor": {"firstBatch": []}})]
    check_exchanges("get", ours, bare, {"a": "b"})
    bare[0].command["filter"].pop("user_id")
    with pytest.raises(Unequal, match="get: the command"):
        check_exchanges("get", ours, bare, {"a": "b"})


@pytest.mark.parametrize("driver", DRIVERS)
async def test_the_driver_leaves_the_same_documents(mongod_uri: str, driver: str) -> None:
    """A whole session and a lookup, recorded and sent again; the comparison within is what is tested."""
    async with opened(driver, mongod_uri) as stack:
        script, story = await recorded_script(stack), Story()
        for call in script.calls_for(story, stack.bare).values():
            await call()
        left = await stack.bare.find_one({"_id": story.session_id})
        assert (left["status"], left["revision"], left["current_preview_id"]) == ("applied", 4, story.preview_id)
        session_id = await store_governed(stack.repository)
        found = await (await bare_lookup(stack, "route", route_hit))()
        assert isinstance(found, dict)
        assert found["_id"] == session_id


def test_a_run_that_is_kept_is_read_again(tmp_path: Path) -> None:
    """Page and plots can be made of it later."""
    report = made_report()
    report.write_json(tmp_path / "run.json")
    assert Report.read_json(tmp_path / "run.json") == report


def test_a_page_is_filled_in_its_places() -> None:
    """What was measured replaces what stood there; what was not is left as it is."""
    page = "A\n<!-- measured: lookups -->\nold\n<!-- end -->\nB\n<!-- measured: growth -->\nkept\n<!-- end -->\n"
    once = filled(page, made_report())
    assert "| get / bare driver | 2.00, 2.00 | 1.00, 1.00 | **2.00** |" in once
    assert "old" not in once
    assert "\nkept\n" in once
    assert filled(once, made_report()) == once


@pytest.mark.slow  # each section once, with as little as it takes
async def test_every_section_is_told(mongod_uri: str, tmp_path: Path) -> None:
    """A run leaves rows of each section, by whatever is installed; what is not is skipped by name."""
    kept = tmp_path / "run.json"
    report = Report({}, is_quick=True)
    await Run(arguments(["--quick", "--stack", "pymongo", "--json", str(kept)]), TINY, report).measure(mongod_uri)
    assert {section for section, _ in report.sections} == {*OF_A_STACK, *OF_NO_STACK}
    assert Report.read_json(kept) == report
    measured = [row for rows in report.sections.values() for row in rows if isinstance(row, Comparison)]
    assert {"route, hit", "create", "whole session", "import sessions"} <= {row.name for row in measured}
