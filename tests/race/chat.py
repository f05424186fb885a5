"""One of several processes that serve the same conversations: it delivers the messages of its plan until each is done.

Run as ``python chat.py URI DATABASE DRIVER``; its input is one line, a JSON list of deliveries, and its output one
line, a JSON list of what came of each. What is held, or answers a question not yet asked, is tried again.
"""

import asyncio
import json
import random
import sys
import time
from datetime import timedelta
from typing import Any, Final

from pymongo.errors import DuplicateKeyError

from sessions import AskUser, Held, SessionBridge, ShowPreview, StaleReply, Turn, open_repository
from sessions.store.clients import connect, disconnect

MARK: Final = "answer "
QUESTIONS: Final = 4


class Graph:
    """Asks `QUESTIONS` questions, then shows a preview; it notes each run, and whether another was under way."""

    def __init__(self, database: Any) -> None:
        self.database = database

    async def __call__(self, turn: Turn) -> AskUser | ShowPreview:
        """Go on with one message."""
        session = turn.session
        try:
            await self.database["running"].insert_one({"_id": session.conversation_id})
        except DuplicateKeyError:
            await self.database["overlaps"].insert_one({"conversation_id": session.conversation_id})
        run = {"message_id": turn.message_id, "question_id": session.question_id, "attempt": turn.attempt}
        await self.database["runs"].insert_one(run)
        await asyncio.sleep(random.uniform(0, 0.03))
        await self.database["running"].delete_one({"_id": session.conversation_id})
        if session.question_number < QUESTIONS:
            return AskUser(f"Question {session.question_number + 1}?")
        return ShowPreview(f"preview-{session.trigger_id}")


async def _deliver(bridge: SessionBridge, delivery: dict[str, Any]) -> list[str]:
    await asyncio.sleep(max(0.0, delivery["starts"] - time.time()))
    named: str | None = delivery["question_id"]
    while True:
        try:
            outcome = await bridge.handle(
                1,
                delivery["conversation_id"],
                "an answer",
                message_id=delivery["message_id"],
                question_id=named,
                redelivered=delivery["redelivered"],
            )
        except StaleReply as stale:
            now = stale.current_question_number
            if named is None or now is None or now >= int(named.rpartition(":")[2]):
                return [delivery["message_id"], "StaleReply"]
        else:
            if not isinstance(outcome, Held):
                return [delivery["message_id"], type(outcome).__name__]
        await asyncio.sleep(random.uniform(0.1, 0.3))


async def _serve(uri: str, database: str, driver: str) -> None:
    client: Any = connect(uri, driver=driver)
    async with open_repository(client[database], timeout=60, lease=timedelta(seconds=60)) as repository:
        bridge = SessionBridge(repository, Graph(client[database]))
        deliveries = json.loads(await asyncio.to_thread(sys.stdin.readline))
        answers = await asyncio.gather(*(_deliver(bridge, delivery) for delivery in deliveries))
    sys.stdout.write(MARK + json.dumps(answers) + "\n")
    sys.stdout.flush()
    await disconnect(client)


if __name__ == "__main__":
    asyncio.run(_serve(*sys.argv[1:4]))
