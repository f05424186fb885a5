"""Carrying a plan out: one step at a time, each computed anew from what the database then holds."""

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
from indexes.progress import Progress, Tell, follow
from indexes.server import Server, is_router
from indexes.session_collection.session_document import DEFAULT_DOCUMENTS
from indexes.session_collection.superseding import Resolution, can_resolve, supersede_older
from indexes.steps import NEVER_SECONDS, Action, Choices, Step, is_building, next_step
from sessions.store.index_definitions import keys_of

if TYPE_CHECKING:
    from beanie import Document

    from sessions.store.collection import Database

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
        plan: The plan after it; its steps are what is left to do.
        conflicts: Documents that keep a unique index from being built; nothing was changed for it.
        superseded: The ids of the sessions that were ended to make room.
    """

    steps: tuple[Step, ...]
    plan: Plan
    conflicts: tuple[Conflict, ...] = ()
    superseded: tuple[str, ...] = ()


class _Conflicts(Exception):
    def __init__(self, found: Sequence[Conflict]) -> None:
        super().__init__()
        self.found = tuple(found)


class _Run:
    """One run of `apply`, under its lock."""

    def __init__(
        self,
        database: "Database",
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
        """Take each step of one collection."""
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
                await self._understand(error, found.declared)
                replans += 1
                if replans > _MOST_REPLANS:
                    raise Unsettled(
                        f"{step.action} of {step.index} was refused {replans} times (code {error.code}): "
                        f"{await self._why_refused(step, error)}"
                    ) from error
                await asyncio.sleep(_POLL_SECONDS)
                continue
            replans = 0
            if taken and step.action is not Action.WAIT:
                self.done.append(step)

    async def _understand(self, error: OperationFailure, declared: Declared) -> None:
        """Return where the step may be tried again, after what has to be done before it."""
        if error.code in _VIOLATED:
            unique = [target for target in declared.indexes.values() if target.get("unique")]
            # Empty: whichever session violated it was ended meanwhile.
            if found := await find_conflicts(self._server, declared.collection, unique):
                await self.resolve(found)
        elif error.code not in _OVERTAKEN:
            raise error

    async def _why_refused(self, step: Step, error: OperationFailure) -> str:
        if not step.builds or error.code not in _STANDS_IN_THE_WAY:
            return "somebody else keeps changing these indexes; run this again when they have finished"
        keys = keys_of(step.definition)
        present = await self._server.indexes(step.collection) or {}
        names = [name for name, held in present.items() if name == step.index or keys_of(held) == keys]
        taken = " or ".join(names) or "another"
        return f"the server takes {taken} for the same index, in another spelling; drop it at a quiet time"

    async def resolve(self, found: Sequence[Conflict]) -> None:
        """End the older governors where that was asked for; else stop the run."""
        if not self._resolutions_left or not can_resolve(found):
            raise _Conflicts(found)
        self._resolutions_left -= 1
        self.superseded += await supersede_older(self._database, self._server)

    async def _take(self, step: Step, read: Mapping[str, Any] | None) -> bool:
        """Do one step; False where what was to be dropped is no longer what was read."""
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
        """Wait for a build that a run before this one left to the server."""
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
        """Give a build that somebody else began this run's quorum: with his it may wait for a member that is down."""
        command = {"setIndexCommitQuorum": step.collection, "indexNames": list(names), "commitQuorum": self._quorum}
        # Refused where the build has just ended; otherwise it goes on with the quorum it has.
        with contextlib.suppress(OperationFailure):
            await self._server.change(command, about=step.collection)

    async def _drop(self, step: Step, read: Mapping[str, Any] | None) -> bool:
        # Read again right before: what was judged may have been replaced by somebody else since.
        present = await self._server.indexes(step.collection) or {}
        if present.get(step.index) != read:
            return False
        # A server that can't drop it at once would do so even after the death of whoever asked (*measured*), when the
        # next run may have given the name to a finished index: so it has the time that the lock is ours, no longer.
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
                    # A command of its own: the server takes the two only one after the other.
                    await self._modify(step, unique=True)
                except OperationFailure as error:
                    if error.code != Code.CANNOT_CONVERT_INDEX_TO_UNIQUE:
                        raise
                    # Under prepareUnique no new violation comes while the stored ones are resolved.
                    if found := await find_conflicts(self._server, step.collection, [step.definition]):
                        await self.resolve(found)
                else:
                    return
        except BaseException:
            # Taken back, or it would go on refusing the application's writes to the documents that violate it.
            with contextlib.suppress(OperationFailure, IndexToolError):
                await asyncio.shield(self._modify(step, prepareUnique=False))
            raise


def _ignore(_progress: Progress) -> None:
    """Tell nobody."""


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
    # A standalone server knows no quorum and refuses one.
    return wanted if "setName" in hello or is_router(hello) else None


async def apply(
    database: "Database",
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

    It may be killed at any moment and run again. One run at a time works on a database; a second one waits.

    Args:
        database: A database of Motor or PyMongo Async.
        documents: Beanie document classes; they need not be initialised.
        drop_undeclared: Hide and then drop what nobody declared.
        hide_only: Hide it, and stop there.
        resolve: ``"supersede-older"`` ends the older of the sessions that govern one conversation, so that the
            governor index can be built; None refuses and lists them.
        commit_quorum: How many members of a replica set must have built an index before it counts: ``"majority"``,
            ``"votingMembers"``, a number from 1, or a tag. The server's own default waits while a member is down.
        wait: How long to wait for another run, as a `timedelta`.
        lock_lease: How long a killed run keeps others waiting, from 1 second.
        tell: Called with each `Progress`.

    Returns:
        What was done, and the plan after it. With conflicts nothing was changed.

    Raises:
        BadDocument: The documents declare what no collection can hold.
        BadChoice: An argument is outside its limits; nothing was sent.
        MissingRight: The user may not; what was done before stays.
        Unreachable: The server did not answer; what was done before stays.
        LockHeld: Another run was at work for longer than ``wait``, or took over while this one stood still.
        Unsettled: Somebody else changed the indexes under each step.

    Round trips:
        Where all is as declared those of `plan`; else two ``listIndexes``, a renewal of the lock and one command for
        each step, and a ``currentOp`` each quarter of a second during a build.
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
        except _Conflicts as stopped:
            conflicts = stopped.found
    after = await plan_on(server, declared, choices)
    return Applied(
        steps=tuple(run.done),
        plan=after,
        conflicts=conflicts or after.conflicts,
        superseded=tuple(run.superseded),
    )
