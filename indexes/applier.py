"""Carries a plan out, one step at a time; each is computed anew from what the database then holds."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, assert_never

from pymongo.errors import OperationFailure

from indexes.codes import Code
from indexes.conflicts import Conflict, find_conflicts
from indexes.declared import Declared, declared_by
from indexes.errors import BadChoice, IndexToolError, Unsettled
from indexes.lock import DEFAULT_LEASE, DEFAULT_WAIT, Lock, locked
from indexes.planner import Plan, look, plan_on
from indexes.present import is_building
from indexes.progress import Progress, Tell, follow
from indexes.server import Server, is_router
from indexes.session_collection.session_document import DEFAULT_DOCUMENTS
from indexes.session_collection.superseding import Resolution, can_resolve, supersede_older
from indexes.steps import NEVER_SECONDS, Action, Choices, Step, next_step
from sessions.store.clients import Database
from sessions.store.index_definitions import keys_of

if TYPE_CHECKING:
    from beanie import Document


DEFAULT_COMMIT_QUORUM: Final = "majority"
_POLL_SECONDS: Final = 0.2
_MOST_REPLANS: Final = 20
_MOST_RESOLUTIONS: Final = 3
_SHORTEST_LEASE: Final = timedelta(seconds=1)

_VIOLATED: Final = frozenset({Code.DUPLICATE_KEY, Code.CANNOT_CONVERT_INDEX_TO_UNIQUE})
_STANDS_IN_THE_WAY: Final = frozenset({Code.INDEX_OPTIONS_CONFLICT, Code.INDEX_KEY_SPECS_CONFLICT})
# Somebody else changed the indexes between the look and the step.
_OVERTAKEN: Final = _STANDS_IN_THE_WAY | {
    Code.NAMESPACE_NOT_FOUND,
    Code.INDEX_NOT_FOUND,
    Code.INDEX_ALREADY_EXISTS,
    Code.CONFLICTING_OPERATION_IN_PROGRESS,
    Code.MAX_TIME_MS_EXPIRED,  # a drop had to wait for another operation for longer than it may
    Code.INDEX_BUILD_ABORTED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What a run did, and how the database stands after it.

    Attributes:
        steps: What was done, in order.
        plan: The plan after it. Its steps are what is left to do.
        conflicts: Documents that violate a unique index, which was therefore not built.
        superseded: The ids of the sessions that were ended, so that the governor index could be built.
    """

    steps: tuple[Step, ...]
    plan: Plan
    conflicts: tuple[Conflict, ...] = ()
    superseded: tuple[str, ...] = ()


class _StoppedByConflicts(Exception):
    def __init__(self, found: Sequence[Conflict]) -> None:
        super().__init__()
        self.found = tuple(found)


class _Run:
    """One run of `apply`, under its lock."""

    def __init__(
        self,
        database: Database,
        server: Server,
        lock: Lock,
        choices: Choices,
        *,
        quorum: str | int | None,
        tell: Tell,
        resolve: bool,
    ) -> None:
        self._database = database
        self._server = server
        self._lock = lock
        self._choices = choices
        self._quorum = quorum
        self._tell = tell
        self._resolutions_left = _MOST_RESOLUTIONS if resolve else 0
        self.done: list[Step] = []
        self.superseded: list[str] = []

    async def bring(self, declared: Declared) -> None:
        """Take the steps of one collection until it is as declared."""
        replans = 0
        while True:
            await self._lock.confirm()
            found = await look(self._server, declared)
            step = next_step(found.declared, found.present, self._choices)
            if step is None:
                return
            try:
                taken = await self._take(step, found.present.get(step.index))
            except OperationFailure as error:
                await self._prepare_retry(error, found.declared)
                replans += 1
                if replans > _MOST_REPLANS:
                    raise await self._unsettled(step, error) from error
                await asyncio.sleep(_POLL_SECONDS)
                continue
            replans = 0
            if taken and step.action is not Action.WAIT:
                self.done.append(step)

    async def _prepare_retry(self, error: OperationFailure, declared: Declared) -> None:
        """Do what a refused step needs before it is tried again; a refusal that no retry helps is raised again."""
        if error.code in _VIOLATED:
            unique = [target for target in declared.indexes.values() if target.get("unique")]
            # None if whichever session violated it was ended meanwhile.
            if found := await find_conflicts(self._server, declared.collection, unique):
                await self.resolve(found)
        elif error.code not in _OVERTAKEN:
            raise error

    async def _unsettled(self, step: Step, error: OperationFailure) -> Unsettled:
        refused = f"{step.action} of {step.index} was refused {_MOST_REPLANS + 1} times, code {error.code}"
        if not step.builds or error.code not in _STANDS_IN_THE_WAY:
            return Unsettled(
                f"somebody else keeps changing these indexes ({refused}): run this again when they are done"
            )
        keys = keys_of(step.definition)
        present = await self._server.indexes(step.collection) or {}
        names = [name for name, held in present.items() if name == step.index or keys_of(held) == keys]
        taken = " or ".join(names) or "another"
        said = f"the server takes {taken} for the same index in another spelling ({refused})"
        return Unsettled(f"{said}: drop it at a quiet time")

    async def resolve(self, found: Sequence[Conflict]) -> None:
        """End the older governors if the caller asked for that, else stop the run."""
        if not self._resolutions_left or not can_resolve(found):
            raise _StoppedByConflicts(found)
        self._resolutions_left -= 1
        self.superseded += await supersede_older(self._database, self._server)

    async def _take(self, step: Step, read: Mapping[str, Any] | None) -> bool:
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
                        await self.resolve(found)
                else:
                    return
        except BaseException:
            # Else it would go on refusing the application's writes to the documents that violate it.
            with contextlib.suppress(OperationFailure, IndexToolError):
                await asyncio.shield(self._modify(step, prepareUnique=False))
            raise


def _ignore(_progress: Progress) -> None:
    """Show nothing."""


def _checked_resolution(resolve: str | None) -> bool:
    if resolve is None:
        return False
    if resolve not in list(Resolution):
        raise BadChoice(f"resolve must be None or one of {', '.join(Resolution)}")
    return True


async def _quorum_of(server: Server, wanted: str | int) -> str | int | None:
    if isinstance(wanted, bool) or not wanted:
        raise BadChoice("commit_quorum must be majority, votingMembers, a tag, or a number of members from 1")
    hello = await server.hello()
    # A standalone server refuses a quorum.
    return wanted if "setName" in hello or is_router(hello) else None


async def apply(
    database: Database,
    *,
    documents: "Sequence[type[Document]]" = DEFAULT_DOCUMENTS,
    drop_undeclared: bool = False,
    hide_only: bool = False,
    resolve: str | None = None,
    commit_quorum: str | int = DEFAULT_COMMIT_QUORUM,
    wait: timedelta = DEFAULT_WAIT,
    lock_lease: timedelta = DEFAULT_LEASE,
    tell: Tell = _ignore,
) -> Applied:
    """Bring a database's indexes to what some documents declare, without a moment that lacks an index.

    It may be killed at any moment and run again. One run at a time works on a database, and a second one waits.

    Args:
        drop_undeclared: Hide and then drop what nobody declared.
        hide_only: Hide it, and stop there.
        resolve: ``"supersede-older"`` ends the older of the sessions that govern one conversation, so that the
            governor index can be built. None refuses, and lists them.
        commit_quorum: How many members of a replica set must have built an index before it counts: ``"majority"``,
            ``"votingMembers"``, a number from 1, or a tag. The server's own default waits while a member is down.
        wait: How long to wait for another run, as a `timedelta`.
        lock_lease: How long a killed run keeps others waiting, from 1 second.
        tell: Called with each `Progress`.

    Returns:
        What was done, and the plan after it. If documents violate a unique index at the start, nothing is changed.

    Raises:
        LockHeld: Another run was at work for longer than ``wait``, or took over while this one stood still.
        Unsettled: Somebody else changed the indexes before each try of a step.

    Round trips:
        If all is as declared, those of `plan`. Else for each step two ``listIndexes``, a renewal of the lock and one
        command, and during a build a ``currentOp`` each quarter of a second.
    """
    choices = Choices(drop_undeclared=drop_undeclared, hide_only=hide_only)
    resolves = _checked_resolution(resolve)
    if lock_lease < _SHORTEST_LEASE:
        raise BadChoice(f"lock_lease must be a timedelta from {_SHORTEST_LEASE.total_seconds():g} second")
    server = Server(database)
    declared = declared_by(documents)
    before = await plan_on(server, declared, choices)
    if not before.steps:
        return Applied(steps=(), plan=before)
    if before.conflicts and not (resolves and can_resolve(before.conflicts)):
        return Applied(steps=(), plan=before, conflicts=before.conflicts)
    quorum = await _quorum_of(server, commit_quorum)
    conflicts: tuple[Conflict, ...] = ()
    async with locked(server, lease=lock_lease, wait=wait, on_wait=lambda: tell(Progress(step=None))) as lock:
        run = _Run(database, server, lock, choices, quorum=quorum, tell=tell, resolve=resolves)
        try:
            for one in declared:
                await run.bring(one)
        except _StoppedByConflicts as stopped:
            conflicts = stopped.found
    after = await plan_on(server, declared, choices)
    return Applied(
        steps=tuple(run.done),
        plan=after,
        conflicts=conflicts or after.conflicts,
        superseded=tuple(run.superseded),
    )
