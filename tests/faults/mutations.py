"""The campaigns are shown to bite: copies of the library with one line wrong, each of which they have to find."""

import asyncio
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import sessions
from sessions.mongod import find_mongod, running_mongod
from tests.faults.campaign import Form, Setting, Tally, Unable
from tests.faults.hunt import MARK
from tests.faults.mutation_table import MUTATIONS, Mutation

IN_CI: Final = (
    "a call that arrives twice is carried out twice",
    "a holder's token and operation are not checked",
    "an outcome leaves its lease behind",
)
CHOSEN: Final[Mapping[Form, Sequence[Mutation]]] = {
    Form.SHORT: [mutation for mutation in MUTATIONS if mutation.name in IN_CI],
    Form.LONG: MUTATIONS,
}
PACKAGE: Final = Path(sessions.__file__).parent
_CHECKOUT: Final = Path(__file__).parents[2]


class NoLongerApplies(Exception):
    """The library has changed where a mutation was to change it."""


def mutated(mutation: Mutation) -> str:
    """The text of the mutation's file with it.

    Raises:
        NoLongerApplies: Its text does not stand there exactly once.
    """
    stands = (PACKAGE / mutation.file).read_text(encoding="utf-8")
    if (times := stands.count(mutation.text)) != 1:
        raise NoLongerApplies(f"{mutation.name}: its text stands {times} times in {mutation.file}")
    return stands.replace(mutation.text, mutation.replacement)


@contextmanager
def copied(mutation: Mutation) -> Iterator[Path]:
    """A folder with the mutated library and these tests, which is gone after the block."""
    with tempfile.TemporaryDirectory(prefix="sessions-mutation-") as folder:
        place = Path(folder)
        shutil.copytree(PACKAGE, place / PACKAGE.name)
        (place / PACKAGE.name / mutation.file).write_text(mutated(mutation), encoding="utf-8")
        (place / "tests").symlink_to(_CHECKOUT / "tests", target_is_directory=True)
        yield place


async def broken_by(mutation: Mutation, uri: str, setting: Setting) -> list[str]:
    """The rules that a campaign says are broken."""
    with copied(mutation) as place:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.faults.hunt", mutation.hunt, uri, str(setting.seed), setting.driver),
            cwd=place,
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            told, _ = await process.communicate()
        except asyncio.CancelledError:
            process.terminate()
            await process.wait()
            raise
    answers = [line.removeprefix(MARK) for line in told.decode().splitlines() if line.startswith(MARK)]
    broken: list[str] = json.loads(answers[0]) if answers else []
    return broken


async def run(setting: Setting) -> Tally:
    """Try to find each; ``missed`` counts those that were not."""
    binary = find_mongod()
    if binary is None:
        raise Unable("no mongod was found")
    found = expected = 0
    async with running_mongod(binary) as uri:
        for mutation in (chosen := CHOSEN[setting.form]):
            broken = await broken_by(mutation, uri, setting)
            found += bool(broken)
            expected += mutation.breaks in broken
            if mutation.breaks not in broken:
                sys.stderr.write(f"{mutation.name}: {', '.join(broken) or 'not found'}, not {mutation.breaks}\n")
            setting.advance()
    return {"mutations": len(chosen), "found": found, "by their own rule": expected, "missed": len(chosen) - found}
