"""Start the chat application: ``python docs/examples/chat``, with its own ``mongod`` unless MONGODB_URI names one."""

import argparse
import asyncio
import os
import signal
import sys
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any, Final

import uvicorn
from chat_server import chat_app
from pymongo import AsyncMongoClient

from sessions.mongod import MongodFailed, running_mongod

_GRACE_SECONDS: Final = 3
"""For what still runs when the server is to stop; then it is cancelled, and gives its claim back."""


async def serve(options: argparse.Namespace) -> None:
    """Serve until SIGINT or SIGTERM."""
    async with AsyncExitStack() as stack:
        uri = os.environ.get("MONGODB_URI") or await stack.enter_async_context(running_mongod())
        client = await stack.enter_async_context(AsyncMongoClient[dict[str, Any]](uri))
        app = chat_app(
            client[options.database],
            lease=timedelta(seconds=options.lease),
            heartbeat=timedelta(seconds=options.heartbeat),
        )
        config = uvicorn.Config(
            app,
            host="127.0.0.1",
            port=options.port,
            log_level="warning",
            lifespan="on",
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
        server = uvicorn.Server(config)
        stack.push_async_callback(_finished, server)
        if not options.quiet:
            print(f"Lesson chat: http://127.0.0.1:{options.port}/ (stop it with Ctrl-C)", flush=True)
        # uvicorn raises the signal again when it has served: then there is still a mongod to stop.
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_IGN)
        await server.serve()


async def _finished(server: uvicorn.Server) -> None:
    # What was cancelled needs the client for a moment more.
    if server.server_state.tasks:
        await asyncio.wait(server.server_state.tasks, timeout=_GRACE_SECONDS)


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(prog="python docs/examples/chat", description=__doc__)
    parser.add_argument("--port", type=int, default=8000, help="of the loopback interface; default 8000")
    parser.add_argument("--database", default="lesson_chat", help="its name; default lesson_chat")
    parser.add_argument("--lease", type=float, default=60.0, help="seconds a dead process holds a conversation")
    parser.add_argument("--heartbeat", type=float, default=15.0, help="seconds the event stream may be silent")
    parser.add_argument("--quiet", action="store_true", help="print nothing")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        asyncio.run(serve(options))
    except KeyboardInterrupt:
        sys.exit(0)
    except MongodFailed as failed:
        sys.exit(f"{failed}; MONGODB_URI may name one")


if __name__ == "__main__":
    main()
