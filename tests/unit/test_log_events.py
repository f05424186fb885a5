"""What is logged: each event by one name, with its fields on the record, and nobody's words in it."""

import ast
import logging
from pathlib import Path
from typing import Final

import pytest

import sessions
from sessions.failures import all_within, reason_of, traces_of
from sessions.log_events import LogEvent, log
from sessions.telemetry import INSTRUMENTS

PRIVATE: Final = "my doctor's name"
SOURCES: Final = sorted(Path(sessions.__file__).parent.rglob("*.py"))
OF_A_RECORD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


@pytest.mark.parametrize("event", LogEvent)
def test_each_event_carries_its_fields(event: LogEvent, caplog: pytest.LogCaptureFixture) -> None:
    """Its name and its fields are attributes of the record, none of which the record has already."""
    assert event.fields
    assert not OF_A_RECORD & {*event.fields, "event"}
    with caplog.at_level(logging.INFO, "sessions"):
        log(event, **{name: f"<{name}>" for name in event.fields})
    record = caplog.records[-1]
    assert (vars(record)["event"], record.levelno, record.name) == (event.event_name, event.level, "sessions")
    assert {name: vars(record)[name] for name in event.fields} == {name: f"<{name}>" for name in event.fields}
    assert all(f"<{name}>" in record.getMessage() for name in event.fields)


def _calls(name: str) -> list[ast.Call]:
    found = [node for path in SOURCES for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    return [node for node in found if isinstance(node, ast.Call) and getattr(node.func, "id", None) == name]


def test_nothing_else_is_logged() -> None:
    """Each event is logged somewhere, with the fields that it declares; no module has a logger of its own."""
    logged = set()
    for call in _calls("log"):
        event = call.args[0]
        assert isinstance(event, ast.Attribute)
        logged.add(event.attr)
        given = {keyword.arg for keyword in call.keywords}
        assert set(LogEvent[event.attr].fields) <= given
    assert logged == {event.name for event in LogEvent}
    own = [path.name for path in SOURCES if "getLogger(" in path.read_text(encoding="utf-8")]
    assert own == ["log_events.py"]


def test_a_failure_is_told_by_its_kinds() -> None:
    """The types of all that stands behind it, and where each was raised; no text of any."""
    error = ExceptionGroup(PRIVATE, [ValueError(PRIVATE), TypeError(PRIVATE)])
    error.__cause__ = KeyError(PRIVATE)
    with pytest.raises(ExceptionGroup):
        raise error
    assert [type(each).__name__ for each in all_within(error)] == [
        *("ExceptionGroup", "ValueError", "TypeError", "KeyError"),
    ]
    assert reason_of("the graph", error) == "the graph raised ExceptionGroup (ValueError, TypeError, KeyError)"
    assert Path(__file__).name in traces_of(error)
    assert PRIVATE not in reason_of("it", error) + traces_of(error)


def test_errors_that_stand_behind_each_other() -> None:
    """A circle of causes ends, and so does a chain of thousands."""
    first, second = ValueError(), TypeError()
    first.__cause__, second.__cause__ = second, first
    assert all_within(first) == [first, second]
    chain: Exception = ValueError()
    for _ in range(5_000):
        outer = RuntimeError()
        outer.__cause__ = chain
        chain = outer
    assert len(all_within(chain)) == 1_000


def test_the_page_names_each_event() -> None:
    """The documentation's table is that of the code."""
    page = (Path(__file__).parents[2] / "docs" / "observability.md").read_text(encoding="utf-8")
    for event in LogEvent:
        fields = ", ".join(f"`{name}`" for name in event.fields)
        assert f"| `{event.event_name}` | {logging.getLevelName(event.level).lower()} | {fields} |" in page
    assert page.count("| `sessions.") == len(LogEvent) + len(INSTRUMENTS)
    for name, each in INSTRUMENTS.items():
        by = ", ".join(f"`{attribute}`" for attribute in each.by) or "-"
        assert f"| `{name}` | {each.kind.replace('_', ' ')} | {each.unit} | {by} | {each.says} |" in page
