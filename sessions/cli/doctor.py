"""The command ``doctor``: can this database serve, and is it in order? A line for each question."""

from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Final

import pymongo
import typer
from pymongo.errors import PyMongoError
from rich.text import Text

from sessions.cli import options, rendering
from sessions.cli.desk import Desk, at_desk
from sessions.cli.documents import damage_of, every_document
from sessions.cli.ending import DONE, FOUND, USAGE_OR_UNREACHABLE
from sessions.cli.rendering import counted, emit, printable
from sessions.domain.errors import SessionError, StoreUnavailable
from sessions.store.clock import ServerClock
from sessions.store.document import COLLECTION, INDEXES
from sessions.store.driver_errors import cause_of
from sessions.store.index_definitions import compare
from sessions.store.index_listing import NoPlainCollection, why_unfit_for_sessions

_OLDEST: Final = (6, 0)
_WIRE_OF_OLDEST: Final = 17
_QUICK_SECONDS: Final = 5.0
_CLOCK_ERROR: Final = timedelta(milliseconds=250)
"""A quarter of a second: far below the shortest lease that makes sense, far above any idle network."""
_NEEDED: Final = ("find", "insert", "update", "remove", "changeStream", "listIndexes")
_SHOWN: Final = 3
_CHECK: Final = "run `python -m indexes plan`, then apply"


class Verdict(StrEnum):
    """How a question was answered."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


_STYLES: Final[Mapping[Verdict, str]] = {Verdict.OK: "green", Verdict.WARNING: "yellow", Verdict.FAILED: "bold red"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One question and its answer."""

    question: str
    verdict: Verdict
    text: str


def _ok(question: str, text: str) -> Finding:
    return Finding(question=question, verdict=Verdict.OK, text=text)


def _warning(question: str, text: str) -> Finding:
    return Finding(question=question, verdict=Verdict.WARNING, text=text)


def _failed(question: str, text: str) -> Finding:
    return Finding(question=question, verdict=Verdict.FAILED, text=text)


async def _command(database: Any, command: dict[str, Any]) -> dict[str, Any]:
    with pymongo.timeout(_QUICK_SECONDS):
        answer: dict[str, Any] = await database.client.admin.command(command)
    return answer


async def _server(database: Any, hello: Mapping[str, Any]) -> Finding:
    oldest = ".".join(map(str, _OLDEST))
    try:
        told = await _command(database, {"buildInfo": 1})
    except PyMongoError:  # the strict stable API has no such command
        is_new = hello.get("maxWireVersion", 0) >= _WIRE_OF_OLDEST
        return _ok("server", f"MongoDB {oldest} or newer") if is_new else _failed("server", f"older than {oldest}")
    version = printable(told["version"])
    if tuple(told["versionArray"][:2]) < _OLDEST:
        return _failed("server", f"MongoDB {version}: {oldest} or newer is needed")
    return _ok("server", f"MongoDB {version}")


def _replica_set(hello: Mapping[str, Any]) -> Finding:
    if hello.get("msg") == "isdbgrid":
        return _ok("replica set", "a sharded cluster")
    if "setName" not in hello:
        advice = "no change streams (watch, cache) and no transactions: start mongod with --replSet"
        return _failed("replica set", f"a standalone server, {advice}")
    return _ok("replica set", f"{printable(hello['setName'])}, {counted(len(hello.get('hosts', ())), 'member')}")


def _covers(resource: Mapping[str, Any], database: str) -> bool:
    if resource.get("anyResource"):
        return True
    return resource.get("db") in ("", database) and resource.get("collection") in ("", COLLECTION)


async def _rights(database: Any) -> Finding:
    try:
        told = await _command(database, {"connectionStatus": 1, "showPrivileges": True})
    except PyMongoError as error:
        return _warning("rights", f"the server does not tell them ({cause_of(error)})")
    known = told["authInfo"]
    if not known["authenticatedUsers"]:
        return _warning("rights", "not logged in: whoever reaches this server may do what this user may")
    held = {
        action
        for privilege in known["authenticatedUserPrivileges"]
        if _covers(privilege["resource"], database.name)
        for action in privilege["actions"]
    }
    if lacking := [action for action in _NEEDED if action not in held]:
        where = f"{database.name}.{COLLECTION}"
        return _failed("rights", f"no {', '.join(lacking)} on {where}: grant the role readWrite")
    return _ok("rights", "reads, writes and follows changes")


def _index_faults(present: Mapping[str, Mapping[str, Any]]) -> Iterable[str]:
    for index in INDEXES:
        declared = dict(index.document)
        yield from (found.text for found in compare(declared, present.get(declared["name"])))


def _shown(faults: list[str]) -> str:
    more = f"; {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
    return "; ".join(faults[:_SHOWN]) + more


async def _indexes(desk: Desk) -> Finding:
    try:
        present = await desk.collection.indexes()
    except NoPlainCollection as error:
        return _failed("indexes", f"{COLLECTION} is {error.kind}, which cannot hold sessions")
    if unfit := why_unfit_for_sessions(present):
        return _failed("indexes", f"{COLLECTION}: {unfit}")
    if faults := list(_index_faults(present)):
        return _failed("indexes", f"{_shown(faults)}: {_CHECK}")
    return _ok("indexes", f"all {len(INDEXES)} present, equal and visible")


async def _clock(desk: Desk) -> Finding:
    clock = ServerClock(desk.collection)
    try:
        await clock.start()
        apart = datetime.now(UTC) - clock.reading()
    finally:
        await clock.close()
    error = clock.error / timedelta(milliseconds=1)
    way = "ahead" if apart > timedelta(0) else "behind"
    beside = f"this machine's own is {abs(apart).total_seconds():.3f} s {way}"
    text = f"the server's, known to ±{error:.1f} ms; {beside}"
    return _warning("clock", text) if clock.error > _CLOCK_ERROR else _ok("clock", text)


async def _documents(desk: Desk) -> Finding:
    read, faults = 0, []
    async for raw in every_document(desk, "looking at every document", with_history=True):
        read += 1
        if damage := damage_of(raw):
            faults.append(printable(damage.session_id or "(an id that is no text)"))
    if faults:
        return _failed("documents", f"{len(faults):,} of {read:,} damaged: {_shown(faults)}: see `sessions damaged`")
    return _ok("documents", f"{counted(read, 'document')}, each can be read")


async def _findings(desk: Desk, *, quick: bool) -> AsyncIterator[Finding]:
    database: Any = desk.database
    hello = await _command(database, {"hello": 1})
    yield await _server(database, hello)
    yield _replica_set(hello)
    yield await _rights(database)
    checks = {"indexes": _indexes, "clock": _clock, **({} if quick else {"documents": _documents})}
    for question, check in checks.items():
        try:
            yield await check(desk)
        except SessionError as error:
            yield _failed(question, str(error))


def _tell(finding: Finding, *, as_json: bool) -> None:
    if as_json:
        emit({"question": finding.question, "verdict": finding.verdict, "text": finding.text})
        return
    line = rendering.table("", "", "")
    line.show_header = False
    line.columns[0].width, line.columns[1].width = 7, 11
    line.add_row(Text(finding.verdict, style=_STYLES[finding.verdict]), finding.question, finding.text)
    rendering.console().print(line)


def doctor(
    *,
    uri: options.Uri = None,
    database: options.DatabaseName = None,
    as_json: options.AsJson = False,
    quick: Annotated[bool, typer.Option("--quick", help="Do not read every document; for health probes.")] = False,
) -> int:
    """Whether this database can serve and is in order; 1 if it is not."""

    async def work(desk: Desk) -> int:
        worst = DONE
        async for finding in _findings(desk, quick=quick):
            _tell(finding, as_json=as_json)
            if finding.verdict is Verdict.FAILED:
                worst = FOUND
        return worst

    try:
        return at_desk(uri, database, work)
    except StoreUnavailable as error:
        _tell(_failed("server", str(error)), as_json=as_json)
        return USAGE_OR_UNREACHABLE
