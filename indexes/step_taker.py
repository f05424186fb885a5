"""Does one step: the commands that it takes, and what is told meanwhile."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from time import monotonic
from typing import Any, Final, assert_never

from pymongo.errors import OperationFailure

from indexes.actions import NEVER_SECONDS, Action, Step
from indexes.bridges import is_building
from indexes.codes import Code
from indexes.conflicts import Conflict, find_conflicts
from indexes.errors import IndexToolError
from indexes.lock import Lock
from indexes.progress import Progress, Tell, follow
from indexes.server import Server

_POLL_SECONDS: Final = 0.2


class StepTaker:
    """Does the steps of one run of `apply`, under its lock."""

    def __init__(
        self,
        server: Server,
        lock: Lock,
        *,
        quorum: str | int | None,
        tell: Tell,
        resolve: Callable[[Sequence[Conflict]], Awaitable[None]],
    ) -> None:
        self._server = server
        self._lock = lock
        self._quorum = quorum
        self._tell = tell
        self._resolve = resolve

    async def take(self, step: Step, read: Mapping[str, Any] | None) -> bool:
        """Do one step; False if the index to be dropped is no longer the one that was read."""
        began = monotonic()
        self._tell(Progress(step=step))
        taken = True
        match step.action:
            case Action.BUILD | Action.BUILD_BRIDGE:
                await self._build(step)
            case Action.WAIT:
                await self._wait(step)
            case Action.DROP | Action.DROP_BRIDGE:
                taken = await self._drop(step, read)
            case Action.UNHIDE | Action.HIDE:
                await self._modify(step, hidden=step.action is Action.HIDE)
            case Action.SET_TTL:
                await self._modify(step, expireAfterSeconds=step.definition["expireAfterSeconds"])
            case Action.DEFUSE_TTL:
                await self._modify(step, expireAfterSeconds=NEVER_SECONDS)
            case Action.MAKE_UNIQUE:
                await self._make_unique(step)
            case Action.CANCEL_PREPARE_UNIQUE:
                await self._modify(step, prepareUnique=False)
            case _:
                assert_never(step.action)
        self._tell(Progress(step=step, elapsed=monotonic() - began, ended=True))
        return taken

    @contextlib.asynccontextmanager
    async def _followed(self, step: Step) -> AsyncIterator[None]:
        stopped = asyncio.Event()
        following = asyncio.create_task(follow(self._server, step, self._tell, stopped), name="indexes: progress")
        try:
            yield
        finally:
            stopped.set()
            await following

    async def _build(self, step: Step) -> None:
        command: dict[str, Any] = {"createIndexes": step.collection, "indexes": [dict(step.definition)]}
        if self._quorum is not None:
            command["commitQuorum"] = self._quorum
        async with self._followed(step):
            await self._server.change(command, about=step.collection, quick=False)

    async def _wait(self, step: Step) -> None:
        """Wait for a build that an earlier run left to the server."""
        is_ours = False
        async with self._followed(step):
            while True:
                present = await self._server.indexes(step.collection) or {}
                held = present.get(step.index)
                if held is None or not is_building(held):
                    return
                if not is_ours and self._quorum is not None:
                    build = held["buildUUID"]
                    await self._take_over(
                        step, [name for name, one in present.items() if one.get("buildUUID") == build]
                    )
                    is_ours = True
                await asyncio.sleep(_POLL_SECONDS)

    async def _take_over(self, step: Step, names: Sequence[str]) -> None:
        """Give an earlier run's build this run's quorum; with its own it may wait for a member that is down."""
        command = {"setIndexCommitQuorum": step.collection, "indexNames": list(names), "commitQuorum": self._quorum}
        # Refused if the build has just ended. If it has not, it goes on with the quorum that it has.
        with contextlib.suppress(OperationFailure):
            await self._server.change(command, about=step.collection)

    async def _drop(self, step: Step, read: Mapping[str, Any] | None) -> bool:
        # Read again right before, since somebody may have replaced the index that was judged.
        present = await self._server.indexes(step.collection) or {}
        if present.get(step.index) != read:
            return False
        # A server that can't drop it at once would do so even after this process has died (*measured*). The next run
        # may then have given the name to a finished index, so the drop may take only as long as the lock is ours.
        most = int(self._lock.left.total_seconds() * 1000)
        if most <= 0:
            return False
        command = {"dropIndexes": step.collection, "index": step.index, "maxTimeMS": most}
        await self._server.change(command, about=step.collection, quick=False)
        return True

    async def _modify(self, step: Step, **changes: object) -> None:
        command = {"collMod": step.collection, "index": {"name": step.index, **changes}}
        await self._server.change(command, about=step.collection, quick=False)

    async def _make_unique(self, step: Step) -> None:
        await self._modify(step, prepareUnique=True)
        try:
            while True:
                try:
                    # In a command of its own, since the server refuses both in one.
                    await self._modify(step, unique=True)
                except OperationFailure as error:
                    if error.code != Code.CANNOT_CONVERT_INDEX_TO_UNIQUE:
                        raise
                    # prepareUnique keeps new violations out while the stored ones are resolved.
                    if found := await find_conflicts(self._server, step.collection, [step.definition]):
                        await self._resolve(found)
                else:
                    return
        except BaseException:
            # Else it would go on refusing the application's writes to the documents that violate it.
            with contextlib.suppress(OperationFailure, IndexToolError):
                await asyncio.shield(self._modify(step, prepareUnique=False))
            raise
