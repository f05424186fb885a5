"""Carries a plan out, one step at a time; each is computed anew from what the database then holds."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from pymongo.errors import OperationFailure

from indexes.actions import Action, Blocked, Choices, Step
from indexes.bridges import is_building, target_of_bridge
from indexes.codes import Code
from indexes.conflicts import Conflict, find_conflicts
from indexes.declared import Declared, declared_by
from indexes.errors import BadChoice, Unsettled
from indexes.lock import DEFAULT_LEASE, DEFAULT_WAIT, Lock, locked
from indexes.planner import CollectionState, Plan, look, plan_on
from indexes.progress import Progress, Tell
from indexes.refusals import reason_of
from indexes.server import Server, is_router
from indexes.session_collection.session_document import DEFAULT_DOCUMENTS
from indexes.session_collection.superseding import Resolution, can_resolve, supersede_older
from indexes.step_taker import StepTaker
from indexes.steps import IN_PLACE, next_step
from sessions.store.clients import Database
from sessions.store.index_definitions import compare, keys_of

if TYPE_CHECKING:
    from beanie import Document


DEFAULT_COMMIT_QUORUM: Final = "majority"
_POLL_SECONDS: Final = 0.2
_MOST_REPLANS: Final = 20
_MOST_REPEATS: Final = 3
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


_OF_THE_QUORUM: Final = frozenset(
    {Code.UNKNOWN_REPL_WRITE_CONCERN, Code.CANNOT_SATISFY_WRITE_CONCERN, Code.UNSATISFIABLE_COMMIT_QUORUM}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What a run did, and how the database stands after it.

    Attributes:
        steps: What was done, in order.
        plan: The plan after it. Its steps are what is left to do.
        refused: Steps that the server refused in this run, or that had no effect, each with the reason.
        conflicts: Documents that violate a unique index, which was therefore not built.
        superseded: The ids of the sessions that were ended, so that the governor index could be built.
    """

    steps: tuple[Step, ...]
    plan: Plan
    refused: tuple[Blocked, ...] = ()
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
        self._taker = StepTaker(server, lock, quorum=quorum, tell=tell, resolve=self.resolve)
        self._resolutions_left = _MOST_RESOLUTIONS if resolve else 0
        self.done: list[Step] = []
        self.refused: list[Blocked] = []
        self.unsettled: list[Unsettled] = []
        self.superseded: list[str] = []

    async def bring(self, declared: Declared) -> None:
        """Take the steps of one collection until it is as declared, but for those that are refused."""
        replans = 0
        while True:
            await self._lock.confirm()
            found = await look(self._server, declared)
            step = next_step(found.declared, found.present, self._choices)
            if vain := self._in_vain(found, step):
                declared = self._left_alone(declared, *vain)
                continue
            if step is None:
                return
            try:
                taken = await self._taker.take(step, found.present.get(step.index))
            except OperationFailure as error:
                if refusal := await self._prepare_retry(error, found.declared):
                    declared = self._left_alone(declared, step, reason_of(refusal))
                elif (replans := replans + 1) > _MOST_REPLANS:
                    # Raised when the run ends, since it does not concern what is still to be done.
                    self.unsettled.append(await self._unsettled(step, error))
                    declared = self._left_alone(declared, step, str(self.unsettled[-1]))
                    replans = 0
                else:
                    await asyncio.sleep(_POLL_SECONDS)
                continue
            replans = 0
            if taken and step.action is not Action.WAIT:
                self.done.append(step)

    def _left_alone(self, declared: Declared, step: Step, reason: str) -> Declared:
        """The same, but nothing more is done about the index of this step; about a bridge's target if it builds one."""
        target = target_of_bridge(step.index, step.definition) if step.action is Action.BUILD_BRIDGE else None
        refused = Blocked(step.collection, target or step.index, f"{step.action}: {reason}")
        self.refused.append(refused)
        return declared.without(target or step.index, refused.reason)

    def _in_vain(self, found: CollectionState, step: Step | None) -> tuple[Step, str] | None:
        """A step that was done and has not brought about what it is for, and what is wrong.

        Somebody else may have changed the index since, so that a step is repeated, but not for ever.
        """
        last = self.done[-1] if self.done else None
        if last is not None and last.builds and last.collection == found.declared.collection:
            held = found.present.get(last.index)
            differences = () if held is None or is_building(held) else compare(last.definition, held)
            others = [one.text for one in differences if one.aspect not in IN_PLACE]
            if others and last.index not in found.declared.refused:
                return last, f"the server keeps it otherwise than it was built ({'; '.join(others)})"
        if step is not None and self.done.count(step) >= _MOST_REPEATS:
            return step, f"the server reported success {_MOST_REPEATS} times, but it had no effect"
        return None

    async def _prepare_retry(self, error: OperationFailure, declared: Declared) -> OperationFailure | None:
        """Do what a refused step needs before it is tried again; the refusal itself if no retry helps."""
        if error.code in _OF_THE_QUORUM:
            raise BadChoice(
                f"the members of this replica set can't meet the commit quorum {self._quorum!r} (code {error.code}): "
                "choose another commit_quorum"
            ) from error
        if error.code in _VIOLATED:
            targets = [target for name, target in declared.indexes.items() if name not in declared.refused]
            unique = [target for target in targets if target.get("unique")]
            try:
                # None if whichever session violated it was ended meanwhile.
                if found := await find_conflicts(self._server, declared.collection, unique):
                    await self.resolve(found)
            except OperationFailure as refusal:
                return refusal
        elif error.code not in _OVERTAKEN:
            return error
        return None

    async def _unsettled(self, step: Step, error: OperationFailure) -> Unsettled:
        what = f"{step.action} of {step.index} of {step.collection}"
        refused = f"{what} was refused {_MOST_REPLANS + 1} times, code {error.code}"
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
        BadChoice: Also if no members of the replica set can meet ``commit_quorum``. What was done before stays.
        Unsettled: Somebody else changed the indexes before each try of a step. All else was done.

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
    if run.unsettled and not conflicts:
        raise run.unsettled[0]
    after = await plan_on(server, declared, choices)
    return Applied(
        steps=tuple(run.done),
        plan=after,
        refused=tuple(run.refused),
        conflicts=conflicts or after.conflicts,
        superseded=tuple(run.superseded),
    )
