"""README and every page of docs/: the code runs, the tables are those of the library, the links lead somewhere."""

import ast
import inspect
import logging
import os
import re
import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, get_args

import pytest

import sessions as library
from sessions import SessionBridge, SessionError, SessionRepository, Turn, open_repository
from sessions.bridge import outcomes
from sessions.bridge.graph import GraphResult
from sessions.cli.diagram import lifecycle_svg
from sessions.domain import errors, limits
from sessions.domain.lifecycle import lifecycle_diagram
from sessions.domain.models import ActiveScheduleSessionSnapshot, ActiveScheduleSessionState
from sessions.testing import Backend

if TYPE_CHECKING:
    from sessions.store.clients import Database

ROOT: Final = Path(__file__).parents[2]
DOCS: Final = ROOT / "docs"
FILES: Final = (ROOT / "README.md", *sorted(DOCS.rglob("*.md")))
PAGES: Final = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in FILES}
README: Final = PAGES["README.md"]
AS_A_PROGRAM: Final = "docs/first-steps.md"
"""Its blocks are one program, which is run as its reader runs it."""
MOTOR_ONLY: Final = ("await database.client.start_session()", "database.client.start_session()")
"""What a page writes for Motor, and what its reader writes for PyMongo Async instead."""
NEEDS: Final = {
    "init_beanie": "beanie",
    "from indexes": "server",
    "client_session": "transactions",
    ".watch(": "change_streams",
    "CachedRouter": "change_streams",
}
"""A word in a page's blocks, and what a backend has to have for it."""


class Block(NamedTuple):
    """A fenced block, and the line of its page on which its text begins."""

    text: str
    line: int


def blocks(language: str, page: str) -> list[Block]:
    """The fenced blocks of a language, in order."""
    fenced = re.finditer(rf"^```{language}\n(.*?)^```$", PAGES[page], flags=re.MULTILINE | re.DOTALL)
    return [Block(found[1], PAGES[page].count("\n", 0, found.start(1)) + 1) for found in fenced]


def rows(page: str, title: str) -> list[list[str]]:
    """The cells of the first table under a heading, without its head."""
    section = re.split(rf"^#+ {title}\n", PAGES[page], maxsplit=1, flags=re.MULTILINE)[1].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


# --- README is a front door -------------------------------------------------------------------------------------


def test_readme_is_short() -> None:
    """A newcomer reads it to its end."""
    assert len(README.splitlines()) <= 150


def test_the_first_example_has_ten_lines() -> None:
    """It stays as short as README promises a newcomer."""
    example = blocks("python", "README.md")[0].text
    assert len([line for line in example.splitlines() if line.strip()]) <= 10


def test_the_two_commands_stand_in_readme() -> None:
    """The demo and the tests, as everybody starts them."""
    shell = "".join(block.text for block in blocks("sh", "README.md"))
    assert "pip install -e '.[demo]' && python -m sessions demo\n" in shell
    assert "pip install -e '.[test]' && pytest\n" in shell


def test_every_page_can_be_reached() -> None:
    """Each page can be reached: from the index of the pages, and from the site's navigation."""
    index = PAGES["docs/index.md"]
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in PAGES.keys() - {"README.md", "docs/index.md"}:
        name = page.removeprefix("docs/")
        assert f"]({name}" in index, f"docs/index.md does not name {page}"
        assert re.search(rf": {re.escape(name)}$", navigation, flags=re.MULTILINE), f"mkdocs.yml does not name {page}"


# --- tables and diagrams are those of the code ------------------------------------------------------------------


def test_the_diagram_is_the_table() -> None:
    """The page draws the lifecycle that the code obeys."""
    drawn = [block.text.rstrip("\n") for page in PAGES for block in blocks("mermaid", page)]
    assert drawn == [lifecycle_diagram()]
    picture = (DOCS / "images" / "lifecycle.svg").read_text(encoding="utf-8")
    assert picture.strip() == lifecycle_svg().strip(), "python -m sessions diagram --format svg draws it"


def test_the_errors_are_those_of_the_code() -> None:
    """The page names every error a caller can meet, each with the HTTP status that it carries."""
    declared = {
        name: kind.http_status
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, SessionError) and kind is not SessionError
    }
    assert {name.strip("`"): int(status) for name, status, _ in rows("docs/errors.md", "Errors")} == declared


def test_the_limits_are_those_of_the_code() -> None:
    """The page names every argument that has a limit, and what it must be."""
    arguments: dict[str, list[str]] = {}
    tables = (limits.IDENTIFIERS, limits.TEXTS, limits.TEXT_LISTS, limits.INTEGERS, limits.DURATIONS)
    for name, limit in (item for table in tables for item in table.items()):
        told = limit.in_seconds if name == "timeout" and isinstance(limit, limits.DurationLimit) else str(limit)
        named = "`limit` of `list_sessions`" if name == "page limit" else f"`{name}`"
        arguments.setdefault(told, []).append(named)
    assert rows("docs/errors.md", "Limits") == [[", ".join(names), told] for told, names in arguments.items()]


def test_what_a_graph_is_given_and_answers() -> None:
    """The page names every field of a `Turn`, and each answer with the arguments that it takes."""
    page, given = "docs/chat-entry-point.md", [field.name for field in fields(Turn)]
    assert {name.strip("`") for name, _ in rows(page, "What the graph is given")} == {*given, "idempotency_key"}
    answers = {name.strip("`"): arguments for name, arguments, _ in rows(page, "What the graph answers")}
    taken = {kind.__name__: inspect.signature(kind).parameters for kind in get_args(GraphResult)}
    assert answers == {name: ", ".join(f"`{each}`" for each in arguments) for name, arguments in taken.items()}


def test_the_outcomes_are_those_of_the_code() -> None:
    """The page names every outcome, each beside the calls that can return it."""
    calls_of_the_bridge = ("start", "handle", "refine", "stop", "confirm", "dismiss")
    returned: dict[str, set[str]] = {}
    for call in calls_of_the_bridge:
        for kind in get_args(inspect.signature(getattr(SessionBridge, call)).return_annotation):
            returned.setdefault(kind.__name__, set()).add(call)
    told = {name.strip("`"): calls for name, calls, _ in rows("docs/chat-entry-point.md", "Outcomes")}
    every = set(calls_of_the_bridge)
    shown = {}
    for name, calls in told.items():
        named = set(re.findall(r"`(\w+)`", calls))
        shown[name] = every - named if calls.startswith("all but") else named
    assert shown == returned
    assert set(shown) == {kind.__name__ for kind in (*outcomes.Outcome.__subclasses__(), outcomes.FreeChat)}


def test_what_a_confirmation_comes_to_is_that_of_the_code() -> None:
    """The table beside the button names each outcome of ``confirm``, and no other."""
    told = [name.strip("`") for name, *_ in rows("docs/confirm.md", "With a write-back")]
    assert sorted(told) == sorted(kind.__name__ for kind in get_args(library.Confirmed))


def test_the_relational_table_names_stored_fields() -> None:
    """Each relational column is mapped, and what is said to be stored is a field of the snapshot or its state."""
    page = "docs/relational-model.md"
    mapped = {column.strip("`"): described for column, described in rows(page, "From the relational model")}
    assert list(mapped) == [
        *("session_id", "user_id", "conversation_id", "trigger_id", "current_preview_id"),
        *("status", "state_json", "created_at", "updated_at"),
    ]
    fields = {re.findall(r"`(\w+)`", described)[0] for described in mapped.values()}
    new = re.search(r"^New beside them: (.*?)\.$", PAGES[page], flags=re.MULTILINE | re.DOTALL)
    assert new is not None
    beside = set(re.findall(r"`(\w+)`", new[1])) - {"history"}
    assert fields - {"_id"} | {"session_id"} | beside == set(ActiveScheduleSessionSnapshot.model_fields)
    assert set(re.findall(r"`(\w+)`", mapped["state_json"])) - {"state"} == set(ActiveScheduleSessionState.model_fields)


def test_the_reference_has_every_public_module() -> None:
    """What may be imported is documented, and nothing else."""
    documented = {
        module
        for page, text in PAGES.items()
        if page.startswith("docs/reference/")
        for module in re.findall(r"^::: ([\w.]+)$", text, flags=re.MULTILINE)
    }
    public = {"sessions", "sessions.fastapi", "sessions.langgraph", "sessions.mongod", "sessions.testing", "indexes"}
    assert documented == public


# --- the code runs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [page for page in PAGES if page != AS_A_PROGRAM and blocks("python", page)])
async def test_the_python_blocks_run(
    page: str, database: "Database", backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The python blocks of a page run as they stand, one after the other, given ``database`` and open ``sessions``."""
    written = blocks("python", page)
    for word, need in NEEDS.items():
        if any(word in block.text for block in written) and (gap := backend.gaps.get(need)):
            pytest.skip(f"{backend.name}: {gap}")
    module = ModuleType("a_page")  # a task queue looks for the module of its tasks
    monkeypatch.setitem(sys.modules, "a_page", module)
    monkeypatch.setattr(logging.getLogger("sessions"), "handlers", [])
    async with open_repository(database, create_indexes=True) as sessions:
        known = vars(module)
        known.update(database=database, sessions=sessions)
        for block in written:
            # Blocks stand in an async function of their reader's. A traceback shows the line of the page.
            text = block.text.replace(*MOTOR_ONLY) if backend.name == "pymongo" else block.text
            source = "\n" * (block.line - 1) + text
            code = compile(source, str(ROOT / page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            running: Any = eval(code, known)  # noqa: S307 - our own pages
            if inspect.isawaitable(running):  # a block that only defines things has run
                await running


def test_the_first_steps_are_a_program(mongod_uri: str, tmp_path: Path) -> None:
    """The blocks of the first steps, put one below the other, print what the page says that they print."""
    program = tmp_path / "chat.py"
    source = "\n\n".join(block.text for block in blocks("python", AS_A_PROGRAM))
    program.write_text(source, encoding="utf-8")
    (typed, printed) = (block.text for block in blocks("text", AS_A_PROGRAM))
    ran = subprocess.run(  # noqa: S603 - our own page
        [sys.executable, str(program)],
        input="".join(line.removeprefix("> ") for line in typed.splitlines(keepends=True) if line.startswith("> ")),
        env={**os.environ, "MONGODB_URI": mongod_uri, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ran.stderr, ran.returncode) == ("", 0)
    assert ran.stdout == printed


def test_a_block_that_is_no_python_says_so() -> None:
    """Each fenced block has its language, and what looks like python is marked so, and is run."""
    languages = {
        (page, language)
        for page, text in PAGES.items()
        for language in re.findall(r"^```(.*)\n(?:.|\n)*?^```$", text, flags=re.MULTILINE)
    }
    assert {language for _, language in languages} <= {"python", "sh", "text", "toml", "mermaid"}


# --- links and names --------------------------------------------------------------------------------------------


def anchor(heading: str) -> str:
    """The id that a heading gets, on a forge and on the site."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


@pytest.mark.parametrize("page", PAGES)
def test_the_links_lead_somewhere(page: str) -> None:
    """No link or picture of a page leads to a file or a heading that is not there."""
    for link in re.findall(r"(?:\]\(|src=\")(?!http)([^)\"]+)", PAGES[page]):
        path, _, heading = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), f"{page} leads to {link}"
        if heading:
            lines = target.read_text(encoding="utf-8").splitlines()
            assert heading in {anchor(line.lstrip("# ")) for line in lines if line.startswith("#")}, f"{page}: {link}"


@pytest.mark.parametrize("page", PAGES)
def test_the_shell_blocks_name_declared_extras(page: str) -> None:
    """The set-up commands install extras that pyproject.toml declares."""
    declared = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    named = re.findall(r"'(?:\.|active-schedule-sessions)\[([\w,-]+)\]'", PAGES[page])
    extras = {extra for group in named for extra in group.split(",")}
    assert [extra for extra in extras if not re.search(rf"^{extra} = \[", declared, flags=re.MULTILINE)] == []


def test_the_extras_are_those_that_are_declared() -> None:
    """The page names each, and says which are for work on the library itself."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    section = PAGES["docs/index.md"].partition("## Installing")[2].partition("\n## ")[0]
    ours = re.findall(r"`([\w-]+)`", section.rpartition("|\n\n")[2])
    named = {name.strip("`") for name, _ in rows("docs/index.md", "Installing")}
    assert named | set(ours) == set(project["optional-dependencies"])


def test_the_methods_that_pages_call_exist() -> None:
    """What a page calls on `sessions` or a bridge by name, in its text too, is a method of theirs."""
    named = {
        (owner, name)
        for text in PAGES.values()
        for owner, name in re.findall(r"\b(sessions|bridge)\.([a-z_]+)\(", text)
    }
    owners: dict[str, Any] = {"sessions": SessionRepository, "bridge": SessionBridge}
    assert [f"{owner}.{name}" for owner, name in named if not hasattr(owners[owner], name)] == []
