"""A build of the governor index over many sessions that is killed with SIGKILL half-way, and gone on with."""

import asyncio
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator
from time import monotonic
from typing import Any, Final, Self

from pymongo.errors import OperationFailure

from indexes import apply, check
from indexes.server import Server
from sessions.store import reads
from sessions.store.document import COLLECTION, ROUTING_INDEX
from tests.benchmarks.bare import Unequal, check_equal
from tests.benchmarks.growth import place, spread, store, templates
from tests.benchmarks.measuring import Advance, Effort, Figure, Row, Skipped
from tests.benchmarks.stacks import Stack, drop

HALF: Final = 0.5
BAD_HINT: Final = 2
KILLED: Final = 175  # its index was dropped under it
DATABASE: Final = "sessions_benchmark_build"


async def run_apply(uri: str) -> asyncio.subprocess.Process:
    """``python -m indexes apply`` as a process of its own."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "indexes", "apply", "--database", DATABASE, "--lock-lease", "2"),
        env={**os.environ, "MONGODB_URI": uri},
        stdout=asyncio.subprocess.DEVNULL,
    )


async def routed_keys(server: Server) -> int:
    """Keys examined by the route of a governed conversation, by its index, and without it where that is not."""
    lookup = reads.governor(*place(0))
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


async def share_done(server: Server) -> float:
    """How much of the collection the server has scanned for a successor of the governor index."""
    wanted = {"desc": {"$regex": "^IndexBuildsCoordinator"}, "command.indexes.name": {"$regex": f"^{ROUTING_INDEX}"}}
    for operation in await server.aggregate(1, [{"$currentOp": {"allUsers": True}}, {"$match": wanted}], admin=True):
        if told := operation.get("progress"):
            return float(told["done"] / max(told["total"], 1))
    return 0.0


async def kill_half_way(uri: str, server: Server) -> float:
    """Start a run, and kill it when the server has scanned half of the collection; after how many seconds that was."""
    began = monotonic()
    process = await run_apply(uri)
    try:
        while (await share_done(server)) < HALF:
            if process.returncode is not None:
                raise Unequal("the run ended before its build was half done: give it more documents")
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
    return monotonic() - began


async def index_build(stack: Stack, effort: Effort, advance: Advance) -> AsyncIterator[Row]:
    """Fill, break, kill, run again, and compare."""
    documents = effort.index_build
    if not documents:
        yield Skipped("a killed build of an index", "it takes a million sessions: not with --quick")
        return
    database = stack.database.client[DATABASE]
    await drop(stack.driver, stack.uri, DATABASE)
    await store(database, spread(*await templates(stack)), documents, advance)
    began = monotonic()
    await apply(database)
    yield Figure(f"{documents:,} sessions, all indexes built", monotonic() - began, "s")
    filtered = (await database[COLLECTION].index_information())[ROUTING_INDEX]["partialFilterExpression"]
    await database[COLLECTION].drop_index(ROUTING_INDEX)
    await database[COLLECTION].create_index(
        [("conversation_id", 1), ("user_id", 1)], name=ROUTING_INDEX, unique=True, partialFilterExpression=filtered
    )
    async with Route(database) as route:
        yield Figure("another one killed half-way, after", await kill_half_way(stack.uri, Server(database)), "s")
        began = monotonic()
        again = await run_apply(stack.uri)
        check_equal("the second run's status", 0, await again.wait())
        yield Figure("the next run ended it within", monotonic() - began, "s")
    yield Figure("most keys that a route examined meanwhile", max(route.keys), "")
    check_equal("the sessions kept", documents, await database[COLLECTION].count_documents({}))
    check_equal("whether the indexes are as declared", True, (await check(database)).is_as_declared)  # noqa: FBT003
    leftovers = [name for name in await database[COLLECTION].index_information() if "__bridge_" in name]
    check_equal("the bridges left", [], leftovers)
    await drop(stack.driver, stack.uri, DATABASE)
