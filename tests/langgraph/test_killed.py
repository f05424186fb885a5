"""A worker that dies under `GraphRerun`: at each of its checkpointer's writes, and as a process."""

import asyncio
import os
import signal
import sys
from copy import copy
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from langgraph.checkpoint.base import BaseCheckpointSaver

from sessions import Asked, AskUser, Closed, PreviewShown, SessionBridge, SessionRepository, open_repository
from sessions.store.clients import default_driver
from sessions.testing import MovedClock
from tests.support.held_graph import HeldGraph
from tests.support.killed_graph import KilledGraph

if TYPE_CHECKING:
    from sessions.store.clients import Database

Saver = BaseCheckpointSaver[Any]


class Death:
    """Where a process dies: at the n-th write of its checkpointer; that one and all later ones are never sent."""

    def __init__(self, saver: Saver, write: int) -> None:
        self.saver = copy(saver)
        self._left = iter(range(write))
        self._died = asyncio.Event()
        self._buried = asyncio.Event()

        async def alive() -> None:
            if next(self._left, None) is None:
                self._died.set()
                await self._buried.wait()
                raise ConnectionError

        async def aput(*given: Any) -> Any:
            await alive()
            return await saver.aput(*given)

        async def aput_writes(*given: Any) -> None:
            await alive()
            await saver.aput_writes(*given)

        vars(self.saver).update(aput=aput, aput_writes=aput_writes)

    async def meets(self, work: "asyncio.Task[Any]") -> bool:
        """Whether it comes before the work's end."""
        death = asyncio.create_task(self._died.wait())
        await asyncio.wait({work, death}, return_when=asyncio.FIRST_COMPLETED)
        death.cancel()
        return not work.done()

    async def bury(self, work: "asyncio.Task[Any]") -> None:
        """Let what hangs end, so that the test can."""
        self._buried.set()
        await asyncio.wait({work})


@pytest.mark.parametrize("message_id", ["m1", "m2"], ids=["the same message", "another message"])
@pytest.mark.parametrize("is_nested", [False, True], ids=["a graph", "a subgraph"])
async def test_killed_at_each_write(
    repository: SessionRepository, session_clock: MovedClock, saver: Saver, *, is_nested: bool, message_id: str
) -> None:
    """The same message repeats at most the node that was killed; another one takes a clean path of its own."""
    for write in count():
        graph = HeldGraph(saver, is_nested=is_nested)
        bridge = SessionBridge(repository, graph.rerun)
        trigger_id, conversation_id = f"t{write}", f"c{write}"
        first = await graph.rerun.begin(7, trigger_id, {"lesson": "lesson-1"})
        await bridge.start(7, trigger_id, first, conversation_id=conversation_id)
        graph.effects.clear()

        death = Death(saver, write)
        dead = HeldGraph(death.saver, is_nested=is_nested)
        killed = SessionBridge(repository, dead.rerun).handle(7, conversation_id, "Tuesday", message_id="m1")
        running = asyncio.create_task(killed)
        if not await death.meets(running):
            assert isinstance(await running, Asked)
            break
        session_clock.advance(seconds=61)
        text = "Tuesday" if message_id == "m1" else "Friday"
        outcome = await bridge.handle(7, conversation_id, text, message_id=message_id)
        assert isinstance(outcome, Asked)
        assert outcome.session.state.pending_question == f"{text}, at what time?"
        clean = [f"find {text}", f"check {text}"]
        if message_id == "m1":
            assert sorted({*dead.effects, *graph.effects}) == sorted(clean)
            assert len(dead.effects) + len(graph.effects) <= len(clean) + 1
        else:
            assert graph.effects == clean
        shown = await bridge.handle(7, conversation_id, "10:00", message_id="m3")
        assert isinstance(shown, Closed if is_nested else PreviewShown)
        assert graph.effects[-1] == f"book {text} 10:00"
        await death.bury(running)
    assert write > 5


async def test_a_trigger_killed_at_each_write(saver: Saver) -> None:
    """Delivered again it gives its answer, and repeats at most the node that was killed."""
    for write in count():
        death = Death(saver, write)
        dead, graph = HeldGraph(death.saver), HeldGraph(saver)
        running = asyncio.create_task(dead.rerun.begin(7, f"t{write}", {"lesson": "lesson-1"}))
        is_dead = await death.meets(running)
        assert await graph.rerun.begin(7, f"t{write}", {"lesson": "lesson-1"}) == AskUser("Which day?")
        assert {*dead.effects, *graph.effects} == {"look lesson-1"}
        assert len(dead.effects) + len(graph.effects) <= 2
        await death.bury(running)
        if not is_dead:
            assert graph.effects == []
            break
    assert write > 5


@pytest.mark.slow
@pytest.mark.needs("server")
async def test_a_killed_process(
    repository: SessionRepository, session_clock: MovedClock, saver: Saver, database: "Database", mongod_uri: str
) -> None:
    """A process that was killed in a node has left what the ended nodes did, and the next worker goes on there."""
    graph = KilledGraph(saver, database)
    bridge = SessionBridge(repository, graph.rerun)
    await bridge.start(7, "t", await graph.rerun.begin(7, "t", {"lesson": "lesson-1"}), conversation_id="c")
    victim = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.support.killed_graph", mongod_uri, str(database.name), default_driver()),
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    assert await asyncio.wait_for(victim.wait(), 60) == -signal.SIGKILL
    # The victim claimed by the server's clock.
    async with open_repository(database) as by_the_server:
        session = await by_the_server.latest(7, "c")
    assert session is not None
    assert session.lease is not None
    session_clock.at = session.lease.expires_at
    outcome = await bridge.handle(7, "c", "Tuesday", message_id="m1")
    assert isinstance(outcome, Asked)
    assert outcome.session.state.pending_question == "Tuesday, at what time?"
    assert sorted(await graph.done()) == ["check Tuesday", "find Tuesday", "look lesson-1"]
