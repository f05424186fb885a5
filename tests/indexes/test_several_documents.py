"""A run about several documents: each line tells its collection, and only what can help is offered."""

import re
from pathlib import Path
from typing import Any, Final

import pytest

from sessions.store.document import COLLECTION
from tests.support.index_command import run_command

pytestmark = pytest.mark.needs("server")

MODULE: Final = """
from beanie import Document
from pymongo import IndexModel

class Cat(Document):
    class Settings:
        name = "cats"
        indexes = [[("a", 1)], IndexModel([("tag", 1)], name="tag", unique=True), [("h", "hashed")]]

class Dog(Document):
    class Settings:
        name = "dogs"
        indexes = [[("a", 1)], IndexModel([("tag", 1)], name="tag", unique=True), [("h", "hashed")]]
"""
BOTH: Final = ("--document", "pets:Cat", "--document", "pets:Dog")
SESSIONS: Final = ("--document", "sessions:ActiveScheduleSession")


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """The folder of a module with two documents, whose indexes have the same names."""
    (tmp_path / "pets.py").write_text(MODULE)
    return tmp_path


def told_of(printed: str, what: str) -> list[str]:
    """The collection that each line which tells this names in itself."""
    lines = [line for line in printed.splitlines() if re.search(what, line)]
    return sorted(" and ".join(sorted(set(re.findall(r"\b(cats|dogs)\b", line)))) for line in lines)


async def test_each_line_tells_its_collection(database: Any, mongod_uri: str, pets: Path) -> None:
    """What is missing, differs, is built, bridged, dropped, hidden, left alone or refused, and what a plan would do."""

    async def say(command: str, *options: str) -> str:
        named = ("--database", database.name)
        status, printed = await run_command(command, *named, *BOTH, *options, uri=mongod_uri, path=pets)
        assert status in (0, 1), printed
        return printed

    assert told_of(await say("check"), "is missing") == ["cats"] * 3 + ["dogs"] * 3
    assert told_of(await say("plan"), r"^ *\d+\. build ") == ["cats"] * 3 + ["dogs"] * 3
    assert told_of(await say("apply"), "^built ") == ["cats"] * 3 + ["dogs"] * 3
    for name in ("cats", "dogs"):
        await database[name].create_index([("b", 1)], name="theirs")
        await database[name].drop_index("a_1")
        await database[name].create_index([("a", -1)], name="a_1", sparse=True)
        await database[name].drop_index("h_hashed")
        await database[name].create_index([("h", 1)], name="h_hashed")
    for command in ("check", "plan"):
        assert told_of(await say(command), "has the keys") == ["cats", "cats", "dogs", "dogs"]
    planned = await say("plan", "--drop-undeclared")
    for what in (r"\d+\. build bridge ", r"\d+\. drop a_1", r"\d+\. hide theirs", r"\d+\. drop theirs", "^left alone"):
        assert told_of(planned, what) == ["cats", "dogs"], what
    applied = await say("apply", "--drop-undeclared")
    for what in ("^built bridge ", "^dropped a_1", "^dropped bridge", "^hid ", "^dropped theirs", "^left alone"):
        assert told_of(applied, what) == ["cats", "dogs"], what


RIVALS: Final = [
    {"_id": each, "user_id": 1, "conversation_id": "c", "status": "rerunning", "revision": 1, "created_at": number}
    for number, each in enumerate("ab")
]


@pytest.mark.parametrize(
    ("rivals", "twins", "is_offered"), [(True, False, True), (False, True, False), (True, True, False)]
)
async def test_a_resolution_is_offered_only_if_it_helps(
    database: Any, mongod_uri: str, pets: Path, *, rivals: bool, twins: bool, is_offered: bool
) -> None:
    """It ends sessions. Of other documents nobody can know which may go, and beside those it refuses the run."""
    if rivals:
        await database[COLLECTION].insert_many([dict(one) for one in RIVALS])
    if twins:
        await database["cats"].insert_many([{"tag": 1}, {"tag": 1}])
    named = ("--database", database.name, *BOTH, *SESSIONS)
    for command in (("plan",), ("apply",), ("apply", "--resolve", "supersede-older")):
        status, printed = await run_command(*command, *named, uri=mongod_uri, path=pets)
        if len(command) > 1 and is_offered:
            assert status == 0, printed
        else:
            assert status == 3, printed
            assert ("--resolve" in printed) is is_offered
            assert ("documents of cats" in printed) is twins
            assert (f"documents of {COLLECTION}" in printed) is rivals
