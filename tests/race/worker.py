"""A process of its own for the races: each line on its input is a round, each line on its output what came of it.

Run as ``python worker.py URI DATABASE DRIVER``; a round is a JSON object with ``starts``, the moment at which all
workers begin, ``clock``, an ISO moment or null for the server's clock, and ``calls``, each a method and its arguments.
"""

import asyncio
import json
import sys
import time
from datetime import datetime
from typing import Any, Final

from sessions import SessionError, SessionRepository, open_repository
from sessions.store.clients import connect, disconnect

MARK: Final = "answer "


def _told(error: SessionError) -> dict[str, Any]:
    names = ("session_id", "user_id", "status", "revision", "reason", "governing_session_id")
    return {"error": type(error).__name__, **{name: getattr(error, name, None) for name in names}}


async def _made(repository: SessionRepository, method: str, arguments: dict[str, Any]) -> dict[str, Any]:
    try:
        answer = await getattr(repository, method)(**arguments)
    except SessionError as error:
        return _told(error)
    session = getattr(answer, "session", answer)
    return {"error": None, "session_id": session.session_id, "status": session.status, "revision": session.revision}


async def _serve(uri: str, database: str, driver: str) -> None:
    client: Any = connect(uri, driver=driver)
    told: list[datetime | None] = [None]

    def clock() -> datetime:
        assert told[0] is not None
        return told[0]

    by_server = await open_repository(client[database], timeout=30.0)
    told[0] = datetime.fromisoformat("2026-01-01T00:00:00+00:00")
    by_test = await open_repository(client[database], timeout=30.0, clock=clock)
    try:
        while line := await asyncio.to_thread(sys.stdin.readline):
            order = json.loads(line)
            repository = by_server if order["clock"] is None else by_test
            if order["clock"] is not None:
                told[0] = datetime.fromisoformat(order["clock"])
            calls = [_made(repository, method, arguments) for method, arguments in order["calls"]]
            await asyncio.sleep(max(0.0, order["starts"] - time.time()))
            answers = await asyncio.gather(*calls)
            sys.stdout.write(MARK + json.dumps(answers) + "\n")
            sys.stdout.flush()
    finally:
        await by_server.close()
        await by_test.close()
        await disconnect(client)


if __name__ == "__main__":
    asyncio.run(_serve(*sys.argv[1:4]))
