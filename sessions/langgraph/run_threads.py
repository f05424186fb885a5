"""The runs of a graph in its checkpointer: each in a thread of its own, which begins with a copy of another's.

What a stopped or replaced worker still writes stays in its own thread. A copy keeps the checkpoints' ids, and with them
the ids of tasks, interrupts and subgraphs, so that what was done before stays done.
"""

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any, Final, NamedTuple, cast
from uuid import UUID

from sessions.extras import needs_extra

with needs_extra("langgraph", "sessions.langgraph"):
    from langchain_core.runnables import RunnableConfig
    from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointMetadata, CheckpointTuple, empty_checkpoint
    from langgraph.checkpoint.serde.types import RESUME

THREAD: Final = "session_thread"
MESSAGE: Final = "session_message_id"
STOOD_AT: Final = "session_stood_at"
IDEMPOTENCY_KEY: Final = "session_idempotency_key"
_MARKS: Final = (THREAD, MESSAGE, STOOD_AT, IDEMPOTENCY_KEY)

_BEGUN: Final = "sessions_begun"
_FIRST: Final = "sessions_first"
_REGISTER: Final = str(UUID(int=0))
"""The one checkpoint of a trigger's own thread: its writes say which runs have begun, and which ended first."""


class Run(NamedTuple):
    """A run as it is stored: what it was for, and its newest checkpoint in each namespace, after what that needs."""

    thread: str
    marks: Mapping[str, str]
    checkpoints: Mapping[str, Sequence[CheckpointTuple]]

    @property
    def step(self) -> int:
        """How far it came."""
        return self.checkpoints[""][-1].metadata.get("step", -1)

    def resumes(self) -> dict[tuple[str, str], int]:
        """How many answers each of its pending tasks has kept."""
        return {
            (namespace, task): len(value) if isinstance(value, list) else 1
            for namespace, chain in self.checkpoints.items()
            for task, channel, value in chain[-1].pending_writes or ()
            if channel == RESUME
        }


def config_of(thread: str, marks: Mapping[str, str] | None = None) -> RunnableConfig:
    """The configuration of a thread, and of a run for what its marks say."""
    return {"configurable": {"thread_id": thread}, "metadata": dict(marks or {})}


def without_paths(saver: BaseCheckpointSaver[Any]) -> BaseCheckpointSaver[Any]:
    """A checkpointer's twin that stores a task's writes without the task's path.

    What is read of a checkpoint does not tell the paths of its tasks, so a copy has none. MongoDBSaver takes a write
    with a path for another than the one without, and its unique index, which knows no paths, refuses the second.
    """

    async def aput_writes(config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str) -> None:
        await saver.aput_writes(config, writes, task_id)

    def put_writes(config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str) -> None:
        saver.put_writes(config, writes, task_id)

    twin = copy(saver)
    # LangGraph looks at the signature, and gives no path to a method that takes none.
    vars(twin).update(aput_writes=aput_writes, put_writes=put_writes)
    return twin


class RunThreads:
    """A checkpointer's threads, by what every checkpointer can do."""

    def __init__(self, saver: BaseCheckpointSaver[Any]) -> None:
        self._saver = saver

    async def read(self, thread: str) -> Run | None:
        """A run's own thread; None if it never came so far as to have its first checkpoint."""
        found: dict[str, dict[str, CheckpointTuple]] = {}
        async for each in self._saver.alist({"configurable": {"thread_id": thread}}):
            found.setdefault(each.config["configurable"]["checkpoint_ns"], {})[each.checkpoint["id"]] = each
        chains = {namespace: _newest(stored) for namespace, stored in found.items()}
        marks = cast("Mapping[str, str]", chains[""][-1].metadata) if "" in chains else {}
        return Run(thread, marks, chains) if marks.get(THREAD) == thread else None

    async def copy(self, run: Run, thread: str, marks: Mapping[str, str]) -> None:
        """Store a run's newest checkpoints in another thread, under the ids that they have."""
        # The graph's own one comes last: without it the copy counts as none.
        for namespace in sorted(run.checkpoints, reverse=True):
            *before, newest = run.checkpoints[namespace]
            for each in before:
                await self._store(each, thread, namespace, {}, parent=each is not before[0])
            await self._store(newest, thread, namespace, marks, parent=bool(before))

    async def _store(
        self, kept: CheckpointTuple, thread: str, namespace: str, marks: Mapping[str, str], *, parent: bool
    ) -> None:
        place: dict[str, str] = {"thread_id": thread, "checkpoint_ns": namespace}
        by_task: dict[str, list[tuple[str, Any]]] = {}
        for task, channel, value in kept.pending_writes or ():
            by_task.setdefault(task, []).append((channel, value))
        config: RunnableConfig = {"configurable": {**place, "checkpoint_id": kept.checkpoint["id"]}}
        for task, writes in by_task.items():
            await self._saver.aput_writes(config, writes, task)
        own = {key: value for key, value in kept.metadata.items() if key not in _MARKS}
        if parent and kept.parent_config is not None:
            place["checkpoint_id"] = kept.parent_config["configurable"]["checkpoint_id"]
        values = kept.checkpoint["channel_values"]
        versions = {name: at for name, at in kept.checkpoint["channel_versions"].items() if name in values}
        metadata = cast("CheckpointMetadata", {**own, **marks})
        await self._saver.aput({"configurable": place}, kept.checkpoint, metadata, versions)

    async def register(self, thread: str) -> tuple[list[str], str | None] | None:
        """Which threads a trigger's runs have begun in, and which ended first; None before the first one."""
        kept = await self._saver.aget_tuple(_registered(thread))
        if kept is None:
            return None
        writes = [(channel, value) for _, channel, value in kept.pending_writes or ()]
        begun = [value for channel, value in writes if channel == _BEGUN]
        return begun, next((value for channel, value in writes if channel == _FIRST), None)

    async def make_register(self, thread: str) -> None:
        """Make a trigger's own thread; again and at once: no change."""
        place: RunnableConfig = {"configurable": {"thread_id": thread, "checkpoint_ns": ""}}
        await self._saver.aput(place, {**empty_checkpoint(), "id": _REGISTER}, {}, {})

    async def has_begun(self, thread: str, run: str) -> None:
        """Enter a run."""
        await self._saver.aput_writes(_registered(thread), [(_BEGUN, run)], run)

    async def has_ended(self, thread: str, run: str) -> None:
        """Enter a run as the first that has ended; a checkpointer keeps the first of two equal writes."""
        await self._saver.aput_writes(_registered(thread), [(_FIRST, run)], _FIRST)

    async def delete(self, thread: str) -> None:
        """Delete a thread."""
        await self._saver.adelete_thread(thread)


def _registered(thread: str) -> RunnableConfig:
    return {"configurable": {"thread_id": thread, "checkpoint_ns": "", "checkpoint_id": _REGISTER}}


def _newest(stored: Mapping[str, CheckpointTuple]) -> list[CheckpointTuple]:
    """The newest checkpoint of a namespace, after those that its delta channels are read from."""
    chain = [stored[max(stored)]]
    counters = cast("Mapping[str, Any]", chain[0].metadata).get("counters_since_delta_snapshot") or {}
    for _ in range(max((supersteps for _, supersteps in counters.values()), default=0)):
        parent = chain[0].parent_config
        before = stored.get(parent["configurable"]["checkpoint_id"]) if parent is not None else None
        if before is None:
            break
        chain.insert(0, before)
    return chain
