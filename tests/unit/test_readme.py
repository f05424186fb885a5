import ast
import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import pytest

from sessions import SessionBridge, SessionError, open_repository
from sessions.bridge import outcomes
from sessions.domain import errors
from sessions.domain.lifecycle import lifecycle_diagram
from sessions.domain.models import ActiveScheduleSessionSnapshot, ActiveScheduleSessionState
from sessions.testing import Backend

if TYPE_CHECKING:
    from sessions.store.clients import Database

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def rows(title: str, *, level: int = 2) -> list[list[str]]:
    """The cells of the first table under a heading, without its head."""
    section = README.partition(f"\n{'#' * level} {title}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_diagram_is_the_table() -> None:
    """README draws the lifecycle that the code obeys."""
    assert [block.rstrip("\n") for block in blocks("mermaid")] == [lifecycle_diagram()]


def test_the_errors_are_those_of_the_code() -> None:
    """README names every error a caller can meet, each with the HTTP status that it carries."""
    declared = {
        name: kind.http_status
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, SessionError) and kind is not SessionError
    }
    assert {name.strip("`"): int(status) for name, status, _ in rows("Errors")} == declared


def test_the_outcomes_are_those_of_the_code() -> None:
    """README names every outcome, each beside the calls that can return it."""
    calls_of_the_bridge = ("start", "handle", "refine", "stop", "confirm", "dismiss")
    returned: dict[str, set[str]] = {}
    for call in calls_of_the_bridge:
        for kind in get_args(inspect.signature(getattr(SessionBridge, call)).return_annotation):
            returned.setdefault(kind.__name__, set()).add(call)
    told = {name.strip("`"): calls for name, calls, _ in rows("Outcomes", level=3)}
    every = set(calls_of_the_bridge)
    shown = {}
    for name, calls in told.items():
        named = set(re.findall(r"`(\w+)`", calls))
        shown[name] = every - named if calls.startswith("all but") else named
    assert shown == returned
    assert set(shown) == {kind.__name__ for kind in (*outcomes.Outcome.__subclasses__(), outcomes.FreeChat)}


def test_the_relational_table_names_stored_fields() -> None:
    """Each relational column is mapped, and what README says is stored is a field of the snapshot or its state."""
    mapped = {column.strip("`"): described for column, described in rows("From the relational model")}
    assert list(mapped) == [
        *("session_id", "user_id", "conversation_id", "trigger_id", "current_preview_id"),
        *("status", "state_json", "created_at", "updated_at"),
    ]
    fields = {re.findall(r"`(\w+)`", described)[0] for described in mapped.values()}
    new = re.search(r"^New beside them: (.*)\.$", README, flags=re.MULTILINE)
    assert new is not None
    beside = set(re.findall(r"`(\w+)`", new[1])) - {"history"}
    assert fields - {"_id"} | {"session_id"} | beside == set(ActiveScheduleSessionSnapshot.model_fields)
    assert set(re.findall(r"`(\w+)`", mapped["state_json"])) - {"state"} == set(ActiveScheduleSessionState.model_fields)


def test_the_example_has_ten_lines() -> None:
    """The first example stays as short as README promises a newcomer."""
    example = blocks("python")[0]
    assert len([line for line in example.splitlines() if line.strip()]) <= 10


@pytest.mark.parametrize("number", range(len(blocks("python"))))
async def test_the_python_blocks_run(number: int, database: "Database", backend: Backend) -> None:
    """Each python block of README runs as it stands, given a ``database``."""
    source = blocks("python")[number]
    for word, need in (
        ("init_beanie", "beanie"),
        ("from indexes", "server"),
        ("client_session", "transactions"),
        (".watch(", "change_streams"),
    ):
        if word in source and (gap := backend.gaps.get(need)):
            pytest.skip(f"{backend.name}: {gap}")
    if backend.name == "pymongo":
        source = source.replace("await database.client.start_session()", "database.client.start_session()")
    # README blocks stand in an async function of their reader's, after what earlier ones have opened.
    code = compile(source, f"README.md, block {number}", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    async with open_repository(database, create_indexes=True) as sessions:
        ready = await sessions.create(7, "lesson-13", preview_id="preview-2")
        known = {"database": database, "sessions": sessions, "session_id": ready.session_id}
        running: Any = eval(code, known)  # noqa: S307 - our own README
        if inspect.isawaitable(running):  # a block that only defines things has run
            await running


def test_the_paths_it_names_exist() -> None:
    """No link of README leads nowhere."""
    linked = re.findall(r"\]\((?!http)([^)]+)\)", README)
    assert linked
    assert [path for path in linked if not (ROOT / path).exists()] == []


def test_the_shell_blocks_name_declared_extras() -> None:
    """The set-up commands install extras that pyproject.toml declares."""
    declared = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    named = set(re.findall(r"'\.\[([\w,-]+)\]'", README))
    assert {"demo", "test"} <= named
    assert [extra for extra in named if not re.search(rf"^{extra} = \[", declared, flags=re.MULTILINE)] == []
