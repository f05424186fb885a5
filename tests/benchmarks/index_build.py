"""A build of the governor index over many sessions that is killed with SIGKILL half-way, and gone on with.

Run as ``python tests/benchmarks/index_build.py [documents]``; it starts a ``mongod`` of its own, shows its progress,
and may be stopped at any moment.
"""

import asyncio
import os
import sys
from datetime import UTC, datetime
from time import monotonic
from typing import Any, Final

from rich.console import Console
from rich.progress import track

from indexes import apply, check, explain
from indexes.server import Server
from sessions import open_repository
from sessions.document import COLLECTION, ROUTING_INDEX
from sessions.driver import connect, disconnect
from sessions.mongod import find_mongod, running_mongod

DOCUMENTS: Final = 1_000_000
BATCH: Final = 20_000
LIVE_EACH: Final = 100
DATABASE: Final = "benchmark"
console: Final = Console(highlight=False)


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


async def routed_keys(database: Any) -> int:
    """Keys examined by the route of a governed conversation, as the server explains it."""
    found = await explain(database)
    return next(query.keys for query in found.queries if query.query == "route")


async def kill_half_way(uri: str, server: Server) -> tuple[float, str]:
    """Start a run, and kill it while the server builds the successor of the governor index."""
    began = monotonic()
    process = await run_apply(uri)
    while True:
        building = [name for name, one in (await server.indexes(COLLECTION) or {}).items() if "buildUUID" in one]
        if any(name.startswith(ROUTING_INDEX) for name in building) or process.returncode is not None:
            break
        await asyncio.sleep(0.01)
    if process.returncode is not None:
        sys.exit("the run ended before its build could be seen: give it more documents")
    process.kill()
    await process.wait()
    return monotonic() - began, ", ".join(building)


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
        console.print(f"all nine built, one at a time: {monotonic() - began:.1f} s")
        filtered = (await database[COLLECTION].index_information())[ROUTING_INDEX]["partialFilterExpression"]
        await database[COLLECTION].drop_index(ROUTING_INDEX)
        await database[COLLECTION].create_index(
            [("conversation_id", 1), ("user_id", 1)], name=ROUTING_INDEX, unique=True, partialFilterExpression=filtered
        )
        ran, building = await kill_half_way(uri, Server(database))
        console.print(f"killed {ran:.1f} s after its start, while the server built {building}")
        began = monotonic()
        again = await run_apply(uri)
        most_keys = 0
        while again.returncode is None:
            most_keys = max(most_keys, await routed_keys(database))
            await asyncio.sleep(0.05)
        console.print(f"run again: {monotonic() - began:.1f} s, status {again.returncode}")
        console.print(f"keys examined by a route meanwhile: {most_keys} at most")
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
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else DOCUMENTS))
