"""One of several processes that serve the same conversations; it can be killed at any moment.

Run as ``python bursts_worker.py URI DATABASE DRIVER LEASE_SECONDS``. Each line on its input is a delivery, a JSON
object with the arguments of `SessionBridge.handle` and the delivery's own ``number``; each line on its output says what
came of one, with that number.
"""

import asyncio
import json
import random
import sys
from datetime import timedelta
from typing import Any, Final

from sessions import AskUser, Held, SessionBridge, SessionError, ShowPreview, Turn, WhileRunning, open_repository
from sessions.store.clients import connect, disconnect

MARK: Final = "answer "
QUESTIONS: Final = 5
LONGEST_RUN_SECONDS: Final = 0.3


class Graph:
    """Asks `QUESTIONS` questions, then shows a preview; it notes each run that came to its end."""

    def __init__(self, runs: Any) -> None:
        self._runs = runs

    async def __call__(self, turn: Turn) -> AskUser | ShowPreview:
        """Go on with one message."""
        await asyncio.sleep(random.uniform(0, LONGEST_RUN_SECONDS))
        session = turn.session
        await self._runs.insert_one(
            {"message_id": turn.message_id, "question_id": session.question_id, "replaces": list(turn.replaces)}
        )
        if session.question_number < QUESTIONS:
            return AskUser(f"Question {session.question_number + 1}?")
        return ShowPreview(f"preview-{session.trigger_id}-{turn.message_id}")


async def _handled(bridge: SessionBridge, delivery: dict[str, Any]) -> dict[str, Any]:
    try:
        outcome = await bridge.handle(
            1,
            delivery["conversation_id"],
            "an answer",
            message_id=delivery["message_id"],
            question_id=delivery["question_id"],
            redelivered=delivery["redelivered"],
            while_running=WhileRunning(delivery["while_running"]),
            wait=timedelta(seconds=delivery["wait"]),
        )
    except SessionError as error:
        return {"outcome": type(error).__name__}
    told: dict[str, Any] = {"outcome": type(outcome).__name__}
    if isinstance(outcome, Held):
        lease = outcome.session.lease
        told |= {"question_id": outcome.question_id, "held_by": None if lease is None else lease.operation_id}
    return told


async def _serve(uri: str, database: str, driver: str, lease: str) -> None:
    client: Any = connect(uri, driver=driver)
    opening = open_repository(client[database], timeout=30, lease=timedelta(seconds=float(lease)))
    async with opening as repository, asyncio.TaskGroup() as tasks:
        bridge = SessionBridge(repository, Graph(client[database]["runs"]))

        async def deliver(delivery: dict[str, Any]) -> None:
            told = await _handled(bridge, delivery)
            sys.stdout.write(MARK + json.dumps({"number": delivery["number"], **told}) + "\n")
            sys.stdout.flush()

        while line := await asyncio.to_thread(sys.stdin.readline):
            tasks.create_task(deliver(json.loads(line)))
    await disconnect(client)


if __name__ == "__main__":
    asyncio.run(_serve(*sys.argv[1:5]))
