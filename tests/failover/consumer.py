"""A consumer to be killed: notes each change with its token, and begins behind the last one that it noted.

Run as ``python consumer.py URI DATABASE DRIVER NOTES``.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any, TextIO

from sessions import open_repository
from sessions.store.clients import connect, disconnect


def _last_token(notes: Path) -> str | None:
    lines = notes.read_text().split("\n") if notes.exists() else [""]
    # What a kill has cut off was not noted.
    notes.write_text("\n".join([*lines[:-1], ""]))
    token: str | None = json.loads(lines[-2])["token"] if len(lines) > 1 else None
    return token


async def _consume(uri: str, database: str, driver: str, token: str | None, noted: TextIO) -> None:
    client: Any = connect(uri, driver=driver)
    try:
        async with open_repository(client[database]) as repository, repository.watch(resume_after=token) as watch:
            async for change in watch:
                note = {"session_id": change.snapshot.session_id, "revision": change.snapshot.revision}
                noted.write(json.dumps({**note, "token": change.token}) + "\n")
                noted.flush()
    finally:
        await disconnect(client)


def _main(uri: str, database: str, driver: str, path: str) -> None:
    token = _last_token(Path(path))
    with Path(path).open("a") as noted:
        asyncio.run(_consume(uri, database, driver, token, noted))


if __name__ == "__main__":
    _main(*sys.argv[1:5])
