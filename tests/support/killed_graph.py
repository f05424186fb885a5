"""A worker that is killed in a node: ``python -m tests.support.killed_graph URI DATABASE DRIVER``."""

import asyncio
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.mongodb import MongoDBSaver
from pymongo import MongoClient

from sessions import SessionBridge, open_repository
from sessions.store.clients import connect
from tests.support.held_graph import HeldGraph

if TYPE_CHECKING:
    from sessions.store.clients import Database


class KilledGraph(HeldGraph):
    """What its nodes do stands in a collection."""

    kills_in = ""

    def __init__(self, saver: BaseCheckpointSaver[Any], database: "Database") -> None:
        super().__init__(saver)
        self._done: Any = database["done"]

    async def do(self, node: str, what: str = "") -> None:
        """A side effect that outlives the process, unless it is killed before."""
        if node == self.kills_in:
            os.kill(os.getpid(), signal.SIGKILL)
        await self._done.insert_one({"what": f"{node} {what}"})

    async def done(self) -> list[str]:
        """What was done."""
        return [each["what"] async for each in self._done.find()]


async def main(uri: str, name: str, driver: str) -> None:
    """Answer the question, and die on the way."""
    client: Any = connect(uri, driver=driver)
    with MongoClient[dict[str, Any]](uri) as saved:
        graph = KilledGraph(MongoDBSaver(saved, name), client[name])
        graph.kills_in = "check"
        async with open_repository(client[name]) as repository:
            await SessionBridge(repository, graph.rerun).handle(7, "c", "Tuesday", message_id="m1")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
