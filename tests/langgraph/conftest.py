"""The checkpointers that a LangGraph graph is tried on."""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.mongodb import MongoDBSaver
from pymongo import MongoClient

from sessions.testing import Backend

if TYPE_CHECKING:
    from sessions.store.clients import Database


@pytest_asyncio.fixture(loop_scope="session")
async def saver(
    backend: Backend, database: "Database", request: pytest.FixtureRequest
) -> AsyncIterator[BaseCheckpointSaver[Any]]:
    """A checkpointer beside the sessions: in memory beside the double, else in the database of the sessions."""
    if not backend.is_real:
        yield InMemorySaver()
        return
    with MongoClient[dict[str, Any]](request.getfixturevalue("mongod_uri")) as client:
        yield MongoDBSaver(client, database.name)


@pytest.fixture(autouse=True)
def _untold(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that counts as dead, or late, here lives on in the process: nothing wakes it to renew its lease."""
    monkeypatch.setattr("sessions.bridge.leased_work._LISTENS_AFTER", 3_600.0)
