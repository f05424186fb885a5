"""The demo of the command line: one story, on a real server if there is one, printed and checked step by step."""

import asyncio
import contextlib
import os
import secrets
import signal
import sys
import textwrap
from collections.abc import AsyncIterator, Iterable, Sequence
from importlib.metadata import version
from typing import Any, Final

import pymongo
from pymongo.errors import PyMongoError
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sessions.console import console_for
from sessions.demo.story import LEASE, STORY, DemoClock, Play, Step, StepError, check
from sessions.domain.errors import SessionError, StoreUnavailable
from sessions.domain.models import Transition
from sessions.mongod import MongodFailed, find_mongod, running_mongod
from sessions.repository import open_repository
from sessions.store.clients import UNUSABLE, Client, Database, connect, connect_double, default_driver, disconnect
from sessions.store.collection import SessionCollection

EXIT_OK: Final = 0
EXIT_STEP_FAILED: Final = 1
EXIT_NO_STORE: Final = 2

WIDTH: Final = 80
_INDENT: Final = "    "
_CONTACT_SECONDS: Final = 5.0
_REMOVAL_SECONDS: Final = 10.0


class NoStoreError(Exception):
    """The demo has no database to run on, or could not remove its own; the text is one line."""


def _say(console: Console, text: str, style: str = "") -> None:
    for line in textwrap.wrap(text, console.width - len(_INDENT)):
        console.print(Text(_INDENT + line, style=style))


async def _take(step: Step, play: Play) -> tuple[str, str | None]:
    """What the step says at its end, or how it ended otherwise."""
    before = await play.route()
    check(before is step.before, f"the route is {before} before it, and should be {step.before}")
    told = await step.act(play)
    after = await play.route()
    wrong = None if after is step.after else f"the route is {after} after it, and should be {step.after}"
    return told, wrong


async def tell(play: Play, console: Console, steps: Iterable[Step]) -> bool:
    """Play the steps, print each, and stop at the first that does not end as it says.

    Args:
        play: What the steps share.
        console: Where they are printed.
        steps: The story.

    Returns:
        Whether every step ended as it says.
    """
    for number, step in enumerate(steps, start=1):
        console.print(Text.assemble((f"{number:>2}. ", "bold cyan"), (step.title, "bold")))
        try:
            told, wrong = await _take(step, play)
        except StepError as error:
            told, wrong = "", str(error)
        except Exception as error:  # noqa: BLE001 - whatever a step raises is how it ended, and is printed
            told, wrong = "", f"{type(error).__name__}: {error}"
        _say(console, told)
        if wrong is not None:
            _say(console, f"FAILED: {wrong}", style="bold red")
            return False
        route = f"{_INDENT}route: {step.before} -> {step.after}"
        console.print(
            Text.assemble(
                (f"{_INDENT}route: ", "dim"),
                (f"{step.before} -> {step.after}", "yellow" if step.before is not step.after else ""),
                ("ok".rjust(max(console.width - len(route), 3)), "green"),
            )
        )
    return True


def _history_table(history: list[Transition]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column in ("time (UTC)", "from", "to", "by"):
        table.add_column(column, overflow="fold")
    for entry in history:
        taken_over = f" ({entry.reason or 'take-over'})" if entry.from_status is entry.to_status else ""
        table.add_row(
            f"{entry.at:%H:%M:%S}", entry.from_status or "(new)", entry.to_status, f"{entry.call}{taken_over}"
        )
    return table


@contextlib.asynccontextmanager
async def _connected(uri: str) -> AsyncIterator[Client]:
    """A client of a server that answers."""
    try:
        client: Any = connect(uri)
    except UNUSABLE as error:
        raise NoStoreError(f"The server's URI cannot be used: {type(error).__name__}.") from None
    try:
        try:
            await SessionCollection(client["admin"], timeout=_CONTACT_SECONDS).server_time()
        except StoreUnavailable as error:
            raise NoStoreError(f"The server does not answer: {error}.") from None
        yield client
    finally:
        await disconnect(client)


@contextlib.asynccontextmanager
async def _removed_after(client: Any, name: str) -> AsyncIterator[Database]:
    """The named database of a server that is not the demo's own; removed, whatever happens meanwhile."""
    try:
        yield client[name]
    finally:
        reason = f"{ended} " if isinstance(ended := sys.exception(), NoStoreError) else ""
        try:
            with pymongo.timeout(_REMOVAL_SECONDS):
                await client.drop_database(name)
        except PyMongoError as error:
            raise NoStoreError(f"{reason}Database {name} could not be removed: {type(error).__name__}.") from None


@contextlib.asynccontextmanager
async def _a_database(name: str) -> AsyncIterator[tuple[Database, str]]:
    """A database to run on, and a sentence that says where it is."""
    below = f"{default_driver()}, Beanie {version('beanie')}"
    async with contextlib.AsyncExitStack() as stack:
        client: Any
        if given := os.environ.get("MONGODB_URI"):
            client = await stack.enter_async_context(_connected(given))
            where = f"It runs on the server of MONGODB_URI ({below}), in a database of its own, {name}."
            yield await stack.enter_async_context(_removed_after(client, name)), where
        elif binary := find_mongod():
            try:
                uri = await stack.enter_async_context(running_mongod(binary))
            except (MongodFailed, OSError):
                raise NoStoreError(f"{binary.name} did not start; MONGODB_URI may name another server.") from None
            client = await stack.enter_async_context(_connected(uri))
            yield client[name], f"It runs on a real mongod of its own ({below})."
        else:
            client = connect_double()
            stack.push_async_callback(disconnect, client)
            where = (
                "No mongod was found and MONGODB_URI is not set: it runs on the in-memory double, "
                "which tells the same story but proves nothing about a server."
            )
            yield client[name], where


async def run(console: Console, steps: Sequence[Step] = STORY) -> int:
    """Run the demo.

    Args:
        console: Where it is printed.
        steps: The story.

    Returns:
        The exit status: 0, or 1 if a step did not end as it says.

    Raises:
        NoStoreError: There is no database to run on, or the demo's own could not be removed.
    """
    clock = DemoClock()
    async with _a_database(f"sessions_demo_{secrets.token_hex(4)}") as (database, where):
        console.print(Text("One active schedule session, from its trigger to its end", style="bold"))
        for line in textwrap.wrap(
            f"{where} Its clock is its own, starts at the real time and is moved on by the demo, so that "
            "a lease lapses without waiting. A route says where the next chat message goes: free_chat (to "
            "ordinary chat), resume (it is the answer) or hold (a rerun is under way).",
            console.width,
        ):
            console.print(Text(line))
        console.print()
        try:
            repository = await open_repository(database, create_indexes=True, lease=LEASE, clock=clock)
        except SessionError as error:
            raise NoStoreError(f"The database cannot be opened: {error}.") from None
        async with repository:
            play = Play(repository, clock)
            went_well = await tell(play, console, steps)
    console.print()
    if not went_well:
        console.print(Text("The demo stopped: a step did not end as it says.", style="bold red"))
        return EXIT_STEP_FAILED
    console.print(_history_table(play.history))
    console.print()
    console.print(Text(f"All {len(steps)} steps ended as they say; what the demo made is removed.", style="bold green"))
    return EXIT_OK


async def _run_until_stopped(console: Console) -> int:
    task = asyncio.current_task()
    for name in ("SIGTERM", "SIGHUP"):
        # Cancelled rather than killed: the server or the database would be left behind.
        with contextlib.suppress(NotImplementedError, AttributeError):
            asyncio.get_running_loop().add_signal_handler(getattr(signal, name), lambda: task and task.cancel())
    return await run(console)


def main() -> int:
    """Run the demo on standard output.

    Returns:
        The exit status: 0, 1 if a step did not end as it says, 2 if there is nothing to run on,
        130 if it was stopped.
    """
    try:
        return asyncio.run(_run_until_stopped(console_for(sys.stdout, width_elsewhere=WIDTH, widest=WIDTH)))
    except NoStoreError as error:
        print(error, file=sys.stderr)  # noqa: T201 - the one line of a command
        return EXIT_NO_STORE
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("The demo was stopped; what it made is removed.", file=sys.stderr)  # noqa: T201 - the same
        return 128 + signal.SIGINT
