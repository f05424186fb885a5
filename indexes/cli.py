"""The command line, ``python -m indexes`` or ``session-indexes``. It never prints the URI: that may hold a password."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TextIO, TypeVar

import typer
from pymongo.errors import OperationFailure
from rich.console import Console

from indexes import errors, rendering
from indexes.applier import DEFAULT_COMMIT_QUORUM, Applied, apply
from indexes.declared import load
from indexes.errors import BadChoice, IndexToolError
from indexes.lock import DEFAULT_LEASE
from indexes.planner import Plan, check, plan
from indexes.session_collection.explaining import Explanation, explain
from indexes.session_collection.session_document import DEFAULT_DOCUMENTS
from indexes.session_collection.sharding import shard
from indexes.session_collection.superseding import Resolution
from sessions.console import console_for
from sessions.store.clients import Database
from sessions.store.named_database import DatabaseNotNamed, named_database, names_uri, without_uri

if TYPE_CHECKING:
    from beanie import Document


_COMMAND: Final = "python -m indexes"
# An application's URI may limit its queries, but a build must not be cut short. Quick commands set their own limit.
_NO_LIMITS: Final[dict[str, Any]] = {"timeoutMS": 0, "socketTimeoutMS": 0}

app = typer.Typer(
    name="session-indexes",
    help="The indexes that Beanie documents declare, on a live database.",
    epilog=(
        f"Exit status: {errors.DONE} done; {errors.DIFFERENCES} differences, or a failed check; "
        f"{errors.USAGE_OR_UNREACHABLE} wrong usage, a missing right, or no server reached; "
        f"{errors.CONFLICTS} conflicts in the data; {errors.STOPPED} stopped by a signal."
    ),
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Shown = TypeVar("Shown", Plan, Applied, Explanation)

Uri = Annotated[
    str | None,
    typer.Option(
        "--uri", help="The server's connection string; default: the variable MONGODB_URI.", show_default=False
    ),
]
DatabaseName = Annotated[
    str | None,
    typer.Option(
        "--database", metavar="NAME", help="Default: the database that the connection string names.", show_default=False
    ),
]
Documents = Annotated[
    list[str] | None,
    typer.Option(
        "--document",
        metavar="MODULE:CLASS",
        help="A Beanie document, package.module:Class; may be repeated. Default: the session document.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
DropUndeclared = Annotated[
    bool, typer.Option("--drop-undeclared", help="Hide and then drop indexes that nobody declared.")
]
HideOnly = Annotated[bool, typer.Option("--hide-only", help="Hide indexes that nobody declared, and stop there.")]


def _console(stream: TextIO) -> Console:
    return console_for(stream, width_elsewhere=rendering.WIDTH_WITHOUT_TERMINAL)


def _show(found: Shown, show: Callable[[Console, Shown], None], *, as_json: bool) -> None:
    if as_json:
        typer.echo(rendering.as_json(found))
    else:
        show(_console(sys.stdout), found)


def _documents(paths: list[str] | None) -> "Sequence[type[Document]]":
    if not paths:
        return DEFAULT_DOCUMENTS
    # An application's package is in the folder where the command is run, which a console script does not search.
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    return [load(path) for path in paths]


async def _on_database(uri: str | None, name: str | None, work: Callable[[Database], Awaitable[int]]) -> int:
    try:
        async with named_database(uri, name, **_NO_LIMITS) as database:
            return await work(database)
    except DatabaseNotNamed as error:
        raise BadChoice(str(error)) from None


def _run(uri: str | None, name: str | None, work: Callable[[Database], Awaitable[int]]) -> int:
    try:
        return asyncio.run(_on_database(uri, name, work))
    except OperationFailure as error:
        # Its text may quote a stored document, and the code is enough to look it up.
        said = f" ({error.details['codeName']})" if error.details and "codeName" in error.details else ""
        raise IndexToolError(f"the server refused with code {error.code}{said}; nothing more was done") from None


@app.command("plan")
def plan_command(
    *,
    uri: Uri = None,
    database: DatabaseName = None,
    document: Documents = None,
    as_json: AsJson = False,
    drop_undeclared: DropUndeclared = False,
    hide_only: HideOnly = False,
) -> int:
    """Compare declared with present, and show what apply would do. Reads only."""
    documents = _documents(document)

    async def work(held: Database) -> int:
        found = await plan(held, documents=documents, drop_undeclared=drop_undeclared, hide_only=hide_only)
        _show(found, rendering.show_plan, as_json=as_json)
        if found.conflicts:
            return errors.CONFLICTS
        return errors.DIFFERENCES if found.steps or found.blocked else errors.DONE

    return _run(uri, database, work)


@app.command("apply")
def apply_command(
    *,
    uri: Uri = None,
    database: DatabaseName = None,
    document: Documents = None,
    as_json: AsJson = False,
    drop_undeclared: DropUndeclared = False,
    hide_only: HideOnly = False,
    resolve: Annotated[
        Resolution | None,
        typer.Option(
            "--resolve",
            help="End the older of the sessions that govern one conversation, then build.",
            show_default=False,
        ),
    ] = None,
    commit_quorum: Annotated[
        str,
        typer.Option(
            "--commit-quorum",
            metavar="QUORUM",
            help="Members that must have built an index: majority, a number, a tag.",
        ),
    ] = DEFAULT_COMMIT_QUORUM,
    lock_lease: Annotated[
        int,
        typer.Option(
            "--lock-lease",
            metavar="SECONDS",
            min=1,
            max=3600,
            help="How long the next run waits if this one is killed.",
        ),
    ] = int(DEFAULT_LEASE.total_seconds()),
) -> int:
    """Build what is missing and repair what differs, one index at a time; may be killed and run again."""
    documents = _documents(document)
    quorum = int(commit_quorum) if commit_quorum.isdecimal() else commit_quorum

    async def work(held: Database) -> int:
        # With --json the steps are shown on standard error, so that standard output is one document.
        with rendering.Teller(_console(sys.stderr if as_json else sys.stdout)) as tell:
            done = await apply(
                held,
                documents=documents,
                drop_undeclared=drop_undeclared,
                hide_only=hide_only,
                resolve=resolve,
                commit_quorum=quorum,
                lock_lease=timedelta(seconds=lock_lease),
                tell=tell,
            )
        _show(done, rendering.show_applied, as_json=as_json)
        if done.conflicts:
            return errors.CONFLICTS
        return errors.DONE if done.plan.is_as_declared and not done.plan.steps else errors.DIFFERENCES

    return _run(uri, database, work)


@app.command("check")
def check_command(
    *, uri: Uri = None, database: DatabaseName = None, document: Documents = None, as_json: AsJson = False
) -> int:
    """Succeed only if everything declared is present, equal and visible; for deployments and health probes."""
    documents = _documents(document)

    async def work(held: Database) -> int:
        found = await check(held, documents=documents)
        _show(found, rendering.show_check, as_json=as_json)
        return errors.DONE if found.is_as_declared else errors.DIFFERENCES

    return _run(uri, database, work)


@app.command("explain")
def explain_command(*, uri: Uri = None, database: DatabaseName = None, as_json: AsJson = False) -> int:
    """Run every query of the repository through the server's explain, and fail if an index does not serve it."""

    async def work(held: Database) -> int:
        found = await explain(held)
        _show(found, rendering.show_explanation, as_json=as_json)
        return errors.DONE if found.is_fine else errors.DIFFERENCES

    return _run(uri, database, work)


@app.command("shard")
def shard_command(
    *,
    uri: Uri = None,
    database: DatabaseName = None,
    yes: Annotated[bool, typer.Option("--yes", help="Run the commands, rather than only print them.")] = False,
) -> int:
    """Print, and with --yes run, what a sharded cluster needs."""

    async def work(held: Database) -> int:
        for step in await shard(held, carry_out=yes):
            command = json.dumps(step.command)
            typer.echo(f"db.adminCommand({command})" if step.is_admin else f"db.runCommand({command})")
        typer.echo("Done." if yes else "Nothing was run: --yes runs these.")
        return errors.DONE

    return _run(uri, database, work)


def _refuse(text: str, status: int) -> int:
    typer.echo(f"{_COMMAND}: {text}", err=True)
    return status


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit status says how it ended."""
    command = typer.main.get_command(app)
    try:
        status = command.main(
            args=None if arguments is None else list(arguments), prog_name=_COMMAND, standalone_mode=False
        )
    except IndexToolError as error:
        return _refuse(without_uri(str(error)), error.exit_status)
    except (KeyboardInterrupt, asyncio.CancelledError, typer.Abort):
        return _refuse("stopped; what was done stays, run it again to go on", errors.STOPPED)
    except typer.TyperException as error:
        # A usage error quotes what it does not understand. A URI in the wrong place must not reach the terminal.
        said = error.format_message()
        if names_uri(said):
            said = "a connection string stands where none is expected: give it as --uri or in MONGODB_URI"
        return _refuse(
            f"{said} Try --help." if said.endswith(".") else f"{said}. Try --help.", errors.USAGE_OR_UNREACHABLE
        )
    return int(status or 0)
