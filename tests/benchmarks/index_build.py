"""A build of the governor index over many sessions that is killed with SIGKILL half-way, and gone on with.

Run as ``python tests/benchmarks/index_build.py [--documents 1000000]``; it starts a ``mongod`` of its own, shows its
progress, and may be stopped at any moment.
"""

import argparse
import asyncio
import os
import sys
from collections import Counter
from datetime import UTC, datetime
from time import monotonic
from typing import Any, Final, Self

from pymongo.errors import OperationFailure
from rich.console import Console
from rich.progress import track

from indexes import apply, check
from indexes.server import Server
from sessions import open_repository
from sessions.mongod import find_mongod, running_mongod
from sessions.store import reads
from sessions.store.clients import connect, disconnect
from sessions.store.document import COLLECTION, ROUTING_INDEX

DOCUMENTS: Final = 1_000_000
BATCH: Final = 20_000
LIVE_EACH: Final = 100
HALF: Final = 0.5
BAD_HINT: Final = 2
KILLED: Final = 175  # its index was dropped under it
DATABASE: Final = "benchmark"
console: Final = Console(highlight=False, soft_wrap=True)


def session(number: int) -> dict[str, Any]:
    """A stored session; each hundredth is live, in a conversation of its own."""
    at = datetime(2026, 1, 1, tzinfo=UTC)
    is_live = number % LIVE_EACH == 0
    entry = {"to_status": "waiting_user_reply", "at": at, "reason": "", "operation_id": f"o{number}", "call": "create"}
    return {
        "_id": f"{number:032x}",
        "user_id": number % 50_000 + 1,
        "conversation_id": f"c{number}" if is_live else f"c{number % 100_000}",
        "trigger_id": f"t{number}",
        "current_preview_id": None if is_live else f"p{number}",
        "status": "waiting_user_reply" if is_live else "applied",
        "state": {"pending_question": "Which lesson shall move?"} if is_live else {},
        "question_number": 1,
        "fencing_token": 0,
        "attempts": 0,
        "answered_reply_ids": [],
        "revision": 1,
        "history": [entry],
        "created_at": at,
        "updated_at": at,
    }


async def run_apply(uri: str) -> asyncio.subprocess.Process:
    """``python -m indexes apply`` as a process of its own."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "indexes", "apply", "--database", DATABASE, "--lock-lease", "2"),
        env={**os.environ, "MONGODB_URI": uri},
        stdout=asyncio.subprocess.DEVNULL,
    )


async def routed_keys(server: Server) -> int:
    """Keys examined by the route of a governed conversation, by its index, and without it where that is not."""
    lookup = reads.governor(1, "c0")
    command = {"find": COLLECTION, "filter": lookup.filter, "limit": lookup.limit}
    try:
        told = await server.explain({**command, "hint": lookup.hint}, verbosity="executionStats")
    except OperationFailure as error:
        if error.code != BAD_HINT:
            raise
        told = await server.explain(command, verbosity="executionStats")
    return int(told["executionStats"]["totalKeysExamined"])


class Route:
    """Asks what a route costs, again and again, within the block."""

    def __init__(self, database: Any) -> None:
        self._server = Server(database)
        self._ended = asyncio.Event()
        self.keys: Counter[int] = Counter()

    async def __aenter__(self) -> Self:
        self._asking = asyncio.create_task(self._ask())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ended.set()
        await self._asking

    async def _ask(self) -> None:
        while not self._ended.is_set():
            try:
                self.keys[await routed_keys(self._server)] += 1
            except OperationFailure as error:
                if error.code != KILLED:
                    raise
            await asyncio.sleep(0.01)


async def share_done(server: Server) -> tuple[str, float]:
    """Which successor of the governor index the server builds, and how much of the collection it has scanned."""
    wanted = {"desc": {"$regex": "^IndexBuildsCoordinator"}, "command.indexes.name": {"$regex": f"^{ROUTING_INDEX}"}}
    for operation in await server.aggregate(1, [{"$currentOp": {"allUsers": True}}, {"$match": wanted}], admin=True):
        if told := operation.get("progress"):
            return operation["command"]["indexes"][0]["name"], told["done"] / max(told["total"], 1)
    return "", 0.0


async def kill_half_way(uri: str, server: Server) -> None:
    """Start a run, and kill it when the server has scanned half of the collection."""
    began = monotonic()
    process = await run_apply(uri)
    while True:
        building, share = await share_done(server)
        if share >= HALF:
            break
        if process.returncode is not None:
            sys.exit("the run ended before its build was half done: give it more documents")
    process.kill()
    await process.wait()
    console.print(
        f"killed {monotonic() - began:.1f} s after its start, when {building} had {share:.0%} of the collection scanned"
    )


async def main(documents: int) -> None:
    """Fill, break, kill, run again, and compare."""
    binary = find_mongod()
    if binary is None:
        sys.exit("no mongod on PATH, and the `server` extra has none for this platform")
    async with running_mongod(binary) as uri:
        client: Any = connect(uri)
        database = client[DATABASE]
        for start in track(range(0, documents, BATCH), f"{documents:,} sessions", console=console):
            many = [session(number) for number in range(start, min(start + BATCH, documents))]
            await database[COLLECTION].insert_many(many, ordered=False)
        began = monotonic()
        await apply(database)
        console.print(f"all built, one at a time: {monotonic() - began:.1f} s")
        filtered = (await database[COLLECTION].index_information())[ROUTING_INDEX]["partialFilterExpression"]
        await database[COLLECTION].drop_index(ROUTING_INDEX)
        await database[COLLECTION].create_index(
            [("conversation_id", 1), ("user_id", 1)], name=ROUTING_INDEX, unique=True, partialFilterExpression=filtered
        )
        async with Route(database) as route:
            await kill_half_way(uri, Server(database))
            began = monotonic()
            again = await run_apply(uri)
            await again.wait()
            console.print(f"run again: {monotonic() - began:.1f} s, status {again.returncode}")
        asked = ", ".join(f"{keys} ({times:,} times)" for keys, times in sorted(route.keys.items()))
        console.print(f"keys examined by a route meanwhile: {asked}")
        kept = await database[COLLECTION].count_documents({})
        async with open_repository(database) as repository:
            counted = await repository.count_by_status()
        is_equal = (await check(database)).is_as_declared
        leftovers = [name for name in await database[COLLECTION].index_information() if "__bridge_" in name]
        standing = ", ".join(f"{number:,} {status}" for status, number in counted.items() if number)
        console.print(f"{kept:,} of {documents:,} sessions kept: {standing}")
        console.print(f"as declared: {is_equal}; bridges left: {len(leftovers)}")
        await disconnect(client)
        if kept != documents or not is_equal or leftovers or again.returncode != 0:
            sys.exit("the run did not end as it should")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=DOCUMENTS, help="how many sessions are stored")
    asyncio.run(main(parser.parse_args().documents))
