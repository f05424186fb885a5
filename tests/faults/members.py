"""A replica set of which each member has a place of its own: another network, another clock."""

import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import NamedTuple

from sessions.mongod import Member, ReplicaSet


class Place(NamedTuple):
    """Where a member runs."""

    host: str = "127.0.0.1"
    before: Sequence[str] = ()
    """What stands before its command."""


@contextlib.asynccontextmanager
async def placed(binary: Path, places: Sequence[Place]) -> AsyncIterator[ReplicaSet]:
    """A replica set with a member in each place; nothing of it is left behind the block."""
    home = Path(tempfile.mkdtemp(prefix="sessions-faults-members-"))
    running: list[Member] = []
    try:
        for number, place in enumerate(places):
            running.append(Member(binary, home / str(number), host=place.host, before=place.before))
        replica_set = ReplicaSet(tuple(running))
        await replica_set.initiate()
        yield replica_set
    finally:
        for member in running:
            await member.kill()
        shutil.rmtree(home, ignore_errors=True)
