"""``python -m sessions`` in this process, in a thread of its own: what it prints, and how it ends."""

import asyncio
import io
import json
import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any
from unittest import mock

from sessions.__main__ import main


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def objects(self) -> list[dict[str, Any]]:
        """What ``--json`` printed."""
        return [json.loads(line) for line in self.out.splitlines()]


def run_here(*arguments: str, typed: str = "") -> Ended:
    """Run a command in this thread; standard input holds what is typed, at no terminal."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ),
        mock.patch.object(sys, "stdin", io.StringIO(typed)),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        os.environ.pop("MONGODB_URI", None)
        status = main(list(arguments))
    return Ended(status, out.getvalue(), err.getvalue())


@dataclass(frozen=True, slots=True)
class Operator:
    """Runs commands on one database."""

    uri: str
    database: str

    async def __call__(self, command: str, *arguments: str, typed: str = "") -> Ended:
        """Run one, on a loop of its own."""
        named = ("--uri", self.uri, "--database", self.database)
        return await asyncio.to_thread(run_here, command, *arguments, *named, typed=typed)
