"""What keeps the files easy to take in: each module is short, no two need each other, no list names a file of old."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Final

from tests.conftest import SLOW, SLOW_ON_SERVERS

TOP: Final = Path(__file__).parents[2]
LONGEST: Final = 400  # lines


def named(path: Path) -> str:
    """The module's name: ``sessions/domain/__init__.py`` is ``sessions.domain``."""
    return ".".join(path.relative_to(TOP).with_suffix("").parts).removesuffix(".__init__")


MODULES: Final = {named(path): path for package in ("sessions", "indexes") for path in (TOP / package).rglob("*.py")}


def imported_by(path: Path) -> Iterator[str]:
    """The modules that a file imports, at its top, in a function, or for type checking; ruff allows none by dots."""
    for statement in ast.walk(ast.parse(path.read_text())):
        match statement:
            case ast.Import(names=names):
                yield from (each.name for each in names)
            case ast.ImportFrom(module=str(module), names=names, level=0):
                inner = [f"{module}.{each.name}" for each in names]
                yield from (name if name in MODULES else module for name in inner)


def test_no_module_is_longer_than_a_reader_takes_in() -> None:
    """A longer file holds two jobs; each gets its own."""
    lines = {name: len(path.read_text().splitlines()) for name, path in MODULES.items()}
    assert {name: count for name, count in lines.items() if count > LONGEST} == {}


def test_no_modules_import_each_other_in_a_circle() -> None:
    """A circle, be it for type checking only or through a folder's ``__init__``, can be understood only as one file."""
    needs = {name: MODULES.keys() & set(imported_by(path)) for name, path in MODULES.items()}
    assert needs["sessions.repository"] == {"sessions.repository.session_repository"}  # imports are seen
    assert set(TopologicalSorter(needs).static_order()) == MODULES.keys()  # a CycleError names the circle


def test_what_the_quick_lane_leaves_out_is_there() -> None:
    """A file that was renamed would come back into the quick lane, unnoticed but for the minutes it takes."""
    assert [begin for begin in (*SLOW, *SLOW_ON_SERVERS) if not list(TOP.glob(f"{begin}*"))] == []
