"""The commands that change sessions: ``expire``, ``recover``, ``purge``, ``stop``."""

import sys
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Annotated, Final

import typer

from sessions.cli import options, rendering
from sessions.cli.desk import Desk, at_desk
from sessions.cli.ending import DONE, CommandRefused, NothingSuch
from sessions.cli.rendering import counted, emit, say
from sessions.domain import inputs
from sessions.domain.errors import InvalidTransition
from sessions.repository.session_repository import DEFAULT_MAX_ATTEMPTS
from sessions.store import across_users, reads, sweeps
from sessions.store.reading import to_snapshot
from sessions.store.updates import Filter

_BATCH: Final = 500
_STOPPED_REASON: Final = "an operator stopped it"

EndedBefore = Annotated[
    datetime | None,
    typer.Option(
        "--ended-before",
        metavar="MOMENT",
        parser=options.moment,
        help="Delete what ended before this moment, with its zone: 2026-05-01T00:00Z.",
        show_default=False,
    ),
]
OlderThan = Annotated[
    timedelta | None,
    typer.Option(
        "--older-than",
        metavar="AGE",
        parser=options.age,
        help="Delete what ended so long ago: 90s, 15m, 2h, 30d, 4w.",
        show_default=False,
    ),
]
MaxAttempts = Annotated[
    int,
    typer.Option(
        "--max-attempts",
        metavar="N",
        min=1,
        max=1000,
        help="The application's own max_attempts: a reply that has killed so many workers ends its session as failed.",
    ),
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask; for scripts.")]


def at_terminal() -> bool:
    """Whether somebody can be asked."""
    return sys.stdin.isatty()


async def _swept(what: str, total: int, sweep: Callable[[], Awaitable[int]]) -> int:
    """Repeat a sweep until it finds nothing more; how many it changed."""
    done = 0
    with rendering.progress(what, total) as advance:
        while swept := await sweep():
            done += swept
            advance(done, counted(done))
    return done


def _tell(name: str, number: int, *, as_json: bool, dry_run: bool, done: str) -> int:
    if as_json:
        emit({"command": name, "dry_run": dry_run, "sessions": number})
    else:
        say(f"{counted(number)} {'would be ' if dry_run else ''}{done}.")
    return DONE


def expire(
    *,
    uri: options.Uri = None,
    database: options.DatabaseName = None,
    as_json: options.AsJson = False,
    dry_run: options.DryRun = False,
) -> int:
    """End what is past its end, with nobody at work on it."""

    async def work(desk: Desk) -> int:
        total = await desk.count(sweeps.expire(desk.at).filter)
        if not dry_run:
            total = await _swept("expiring", total, lambda: desk.repository.expire_due(limit=_BATCH))
        return _tell("expire", total, as_json=as_json, dry_run=dry_run, done="ended as expired")

    return at_desk(uri, database, work, writes=not dry_run)


def recover(
    *,
    uri: options.Uri = None,
    database: options.DatabaseName = None,
    as_json: options.AsJson = False,
    dry_run: options.DryRun = False,
    max_attempts: MaxAttempts = DEFAULT_MAX_ATTEMPTS,
) -> int:
    """Give back what dead workers hold.

    A session that is past its end, or out of attempts, ends instead.
    """

    async def work(desk: Desk) -> int:
        total = await desk.count(reads.stalled(desk.at, limit=1).filter)
        if not dry_run:
            total = await _swept("recovering", total, lambda: desk.repository.recover_stalled(limit=_BATCH))
        return _tell("recover", total, as_json=as_json, dry_run=dry_run, done="given back or ended")

    return at_desk(uri, database, work, writes=not dry_run, max_attempts=max_attempts)


class _Purging:
    """What a purge is about; it is asked for between two visits of the database."""

    def __init__(self, ended_before: datetime | None, older_than: timedelta | None) -> None:
        if (ended_before is None) == (older_than is None):
            raise CommandRefused("say what to delete: --ended-before or --older-than, one of the two")
        self._given = ended_before
        self._age = older_than or timedelta(0)
        self.before = ended_before
        self.total = 0

    async def look(self, desk: Desk) -> int:
        """Count."""
        self.before = self._given or desk.at - self._age
        conditions: Filter = sweeps.ended_before(self.before)
        self.total = await desk.count(conditions)
        return DONE

    async def carry_out(self, desk: Desk) -> int:
        """Delete."""
        before = self.before or desk.at - self._age
        self.total = await _swept(
            "deleting", self.total, lambda: desk.repository.purge(ended_before=before, limit=_BATCH)
        )
        return DONE


def purge(
    *,
    uri: options.Uri = None,
    database: options.DatabaseName = None,
    as_json: options.AsJson = False,
    ended_before: EndedBefore = None,
    older_than: OlderThan = None,
    dry_run: options.DryRun = False,
    yes: Yes = False,
) -> int:
    """Delete ended sessions, for good; asks first.

    Their triggers can make sessions again.
    """
    purging = _Purging(ended_before, older_than)
    at_desk(uri, database, purging.look)
    if not dry_run and purging.total:
        if not yes:
            if not at_terminal():
                raise CommandRefused("purge asks first: run it at a terminal, or pass --yes")
            # Out here, since nothing else of a loop would run while it waits, Ctrl-C included.
            asked = f"Delete {counted(purging.total)} that ended before {rendering.moment(purging.before)} UTC?"
            if not typer.confirm(asked, err=True):
                say("Nothing was deleted.")
                return DONE
        at_desk(uri, database, purging.carry_out, writes=True)
    return _tell("purge", purging.total, as_json=as_json, dry_run=dry_run, done="deleted")


def stop(
    session_id: options.SessionId,
    *,
    uri: options.Uri = None,
    database: options.DatabaseName = None,
    as_json: options.AsJson = False,
) -> int:
    """Stop the graph at work on a session.

    Its question or preview stands as before, and its message can be delivered again.
    """
    wanted = inputs.identifier("session_id", session_id)

    async def work(desk: Desk) -> int:
        found = await desk.find(across_users.by_id(wanted))
        if not found:
            raise NothingSuch(f"there is no session {wanted}")
        session = to_snapshot(found[0])
        try:
            session = await desk.repository.interrupt(wanted, user_id=session.user_id, reason=_STOPPED_REASON)
            was_running = True
        except InvalidTransition as error:
            session, was_running = error.session or session, False
        if as_json:
            emit({"session_id": wanted, "stopped": was_running, "status": session.status})
        elif was_running:
            say(f"Stopped: session {wanted} is {session.status} again; its message can be delivered again.")
        else:
            say(f"Nothing was at work on session {wanted}: it is {session.status}.")
        return DONE

    return at_desk(uri, database, work, writes=True)
