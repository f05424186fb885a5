"""How far a build is, from the server's ``currentOp``. A user who lacks the right for that sees only the time."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final

from pymongo.errors import OperationFailure

from indexes.actions import Step
from indexes.errors import MissingRight, Unreachable
from indexes.server import Server
from sessions.tasks import until_set

logger = logging.getLogger("indexes")

_EVERY_SECONDS: Final = 0.25
_PHASES: Final = {"scanning collection": "scanning", "inserting keys": "inserting", "draining writes": "draining"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What is known of the step under way.

    Attributes:
        step: The step; None while this run waits for another one's lock.
        elapsed: Seconds since it began.
        phase: ``scanning``, ``inserting`` or ``draining``; empty if it is not known.
        done: Documents or keys of this phase so far; None if they are not known.
        total: How many there are in this phase.
        ended: Whether the step is done.
    """

    step: Step | None
    elapsed: float = 0.0
    phase: str = ""
    done: int | None = None
    total: int | None = None
    ended: bool = False


Tell = Callable[[Progress], None]


def _phase_of(operation: dict[str, Any]) -> str:
    message = operation.get("msg", "")
    return next((phase for said, phase in _PHASES.items() if said in message), "")


async def _ask(server: Server, step: Step) -> dict[str, Any]:
    """The operation in which the server runs a build; empty between its phases."""
    names = {
        "desc": {"$regex": "^IndexBuildsCoordinator"},
        "command.createIndexes": step.collection,
        "command.indexes.name": step.index,
        "command.$db": server.name,
    }
    found = await server.aggregate(1, [{"$currentOp": {"allUsers": True}}, {"$match": names}], admin=True)
    return found[0] if found else {}


async def follow(server: Server, step: Step, tell: Tell, stopped: asyncio.Event) -> None:
    """Tell how far a build is, until ``stopped`` is set; as for `Lock.keep`, cancelling might not stop it."""
    began = monotonic()
    may_ask = True
    while not stopped.is_set():
        operation: dict[str, Any] = {}
        if may_ask:
            try:
                operation = await _ask(server, step)
            except (MissingRight, OperationFailure):
                may_ask = False  # optional: without the right `inprog` only the time is told
            except Unreachable as error:
                logger.debug("the progress could not be asked for: %s", error)
        counted = operation.get("progress", {})
        tell(
            Progress(
                step=step,
                elapsed=monotonic() - began,
                phase=_phase_of(operation),
                done=counted.get("done"),
                total=counted.get("total"),
            )
        )
        await until_set(stopped, within=_EVERY_SECONDS)
