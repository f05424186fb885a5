"""The workers of a campaign, from outside: started, killed, ended, and what they have done judged."""

import asyncio
import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final, Self
from uuid import uuid4

import pymongo

from sessions import SessionError, SessionRepository, open_repository
from sessions.store.clients import connect, disconnect
from sessions.store.document import COLLECTION
from tests.faults.campaign import VIOLATIONS, Setting, Tally
from tests.faults.checker import acknowledged, findings, longest_gap
from tests.faults.conversation_rules import Finding
from tests.faults.evidence import Bounds, Evidence
from tests.faults.journal import Journal, read
from tests.faults.people import USER
from tests.faults.workers import MARK, Orders, on_stage

WORKERS: Final = Path(__file__).with_name("workers.py")
_SHOWN: Final = 20
_SAID: Final = 40_000


class WorkerFailed(RuntimeError):
    """A worker ended by itself: what it met is no error that the library promises."""


class Crew:
    """The copies of one process.

    Args:
        orders: What they do.
        before: What stands before the command, to start it somewhere else.
    """

    def __init__(self, orders: Orders, *, before: Sequence[str] = ()) -> None:
        self._orders = orders
        self._before = before
        # They run the library that runs here, wherever it comes from.
        self._environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
        self._process: asyncio.subprocess.Process | None = None
        place = Path(orders.journals) / f"crew-{id(self)}"
        self._journal = Journal(place.with_suffix(".jsonl"), "crew")
        self._complaints = place.with_suffix(".err")
        """What they, and the drivers below, have to say; shown if one of them fails."""

    async def __aenter__(self) -> Self:
        with self._complaints.open("wb") as complaints:
            self._process = await asyncio.create_subprocess_exec(
                *(*self._before, sys.executable, str(WORKERS), json.dumps(asdict(self._orders))),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=complaints,
                env=self._environment,
            )
        return self

    def _failed(self, text: str) -> WorkerFailed:
        said = self._complaints.read_text(encoding="utf-8", errors="replace")
        return WorkerFailed(f"{text}\n{said[-_SAID:]}")

    async def __aexit__(self, *exception: object) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.close()  # by which they all end
        await asyncio.shield(self._process.wait())
        self._journal.close()

    async def _ask(self, **order: Any) -> Any:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        await self._process.stdin.drain()
        answer = await self._process.stdout.readline()
        if not answer:
            raise self._failed("the process of the workers has ended")
        return json.loads(answer.decode().removeprefix(MARK))

    async def start(self, name: str, seed: int) -> None:
        """Start one more."""
        await self._ask(start=name, seed=seed)

    async def kill(self, name: str) -> None:
        """End one at once.

        Raises:
            WorkerFailed: It had ended by itself.
        """
        if (code := await self._ask(kill=name)) >= 0:
            raise self._failed(f"{name} had ended by itself, with {code}")
        self._journal.killed(name)

    async def end(self) -> None:
        """Let all end what they are doing.

        Raises:
            WorkerFailed: One had ended by itself, or would not end.
        """
        codes = await self._ask(end=True)
        if failed := {name: code for name, code in codes.items() if code}:
            raise self._failed(f"ended with {failed}")


@asynccontextmanager
async def prepared(orders: Orders, uri: str, setting: Setting) -> AsyncIterator[Orders]:
    """An empty database with its indexes, and a folder for journals, which is gone after the block."""
    journals = Path(tempfile.mkdtemp(prefix="sessions-faults-"))
    name = f"sessions_faults_{uuid4().hex[:12]}"
    client: Any = connect(uri, driver=setting.driver)
    try:
        async with open_repository(client[name], create_indexes=True, timeout=30):
            pass
        yield replace(orders, journals=str(journals), uri=uri, driver=setting.driver, database=name)
    finally:
        await disconnect(client)
        shutil.rmtree(journals, ignore_errors=True)


@asynccontextmanager
async def started(crews: Sequence[Crew], *, each: int, seed: int) -> AsyncIterator[None]:
    """So many workers in each crew; with the end of the block they end, and whatever they met is raised."""
    async with AsyncExitStack() as stack:
        for number, crew in enumerate(crews):
            await stack.enter_async_context(crew)
            for place in range(each):
                await crew.start(f"w{number}-{place}", seed * 1000 + number * 100 + place)
        yield
        await asyncio.gather(*(crew.end() for crew in crews))


async def settle(orders: Orders, seed: int, *, within: float = 30.0) -> int:
    """Finish what was left behind, as upkeep does; how many sessions are still in somebody's hands after that.

    Args:
        orders: Of the workers that have ended.
        seed: For what is left to chance.
        within: How many seconds longer than a lease it may take.
    """
    async with on_stage(orders, "settler", seed) as scene:
        loop = asyncio.get_running_loop()
        ends = loop.time() + orders.lease + within
        while loop.time() < ends:
            try:
                while await scene.repository.recover_stalled() or await scene.repository.expire_due():
                    pass
                for session in await scene.repository.interrupted_applies():
                    if session.current_preview_id is not None:
                        await scene.bridge.confirm(USER, session.session_id, preview_id=session.current_preview_id)
                if not (left := await _in_hands(scene.repository, orders)):
                    return 0
            except SessionError:
                pass  # looked at once more
            await asyncio.sleep(0.1)
    return left


async def _in_hands(repository: SessionRepository, orders: Orders) -> int:
    documents = await asyncio.to_thread(_documents, orders)
    return sum(raw.get("lease") is not None for raw in documents)


def _documents(orders: Orders) -> list[dict[str, Any]]:
    # By the plain driver: what the library would read is not what is judged.
    with pymongo.MongoClient[dict[str, Any]](orders.uri, readConcernLevel="majority") as client:
        return list(client[orders.database][COLLECTION].find())


def _effects(orders: Orders) -> dict[str, int]:
    with pymongo.MongoClient[dict[str, Any]](orders.uri, readConcernLevel="majority") as client:
        return {raw["_id"]: raw["tries"] for raw in client[orders.database]["effects"].find()}


async def evidence_of(orders: Orders, bounds: Bounds) -> Evidence:
    """All that was written down and stored."""
    documents = await asyncio.to_thread(_documents, orders)
    effects = await asyncio.to_thread(_effects, orders)
    log = await asyncio.to_thread(lambda: read(sorted(Path(orders.journals).glob("*.jsonl"))))
    return Evidence(log, documents, effects, bounds)


def bounds_of(orders: Orders, *, clocks_apart: float = 1.0) -> Bounds:
    """What the checker has to know of the orders."""
    return Bounds(max_staleness=orders.max_staleness, lease=orders.lease, clocks_apart=clocks_apart + orders.timeout)


def judged(evidence: Evidence) -> tuple[dict[str, float], list[Finding]]:
    """What the table says of a campaign, and each violation."""
    found = findings(evidence)
    kinds = Counter(finding.kind for finding in found)
    return {
        "sessions": len(evidence.stories),
        "acknowledged": acknowledged(evidence.log),
        **{kind: kinds[kind] for kind in sorted(VIOLATIONS - {"left behind", "missed"})},
        "longest gap (s)": round(longest_gap(evidence.log), 1),
    }, found


def tell(found: Sequence[Finding], orders: Orders) -> None:
    """Show the first violations, and keep the journals by which they can be looked into."""
    if not found:
        return
    kept = Path(tempfile.mkdtemp(prefix="sessions-faults-evidence-"))
    shutil.copytree(orders.journals, kept, dirs_exist_ok=True)
    (kept / "documents.txt").write_text("\n".join(map(repr, _documents(orders))), encoding="utf-8")
    for finding in found[:_SHOWN]:
        sys.stderr.write(f"{finding.rule}: session {finding.session_id}: {finding.text}\n")
    sys.stderr.write(f"{len(found)} violations; the journals and documents are kept in {kept}\n")


async def verdict(orders: Orders, seed: int, *, clocks_apart: float = 1.0) -> Tally:
    """Finish what was left behind, and judge the campaign."""
    left = await settle(orders, seed)
    tally, found = judged(await evidence_of(orders, bounds_of(orders, clocks_apart=clocks_apart)))
    await asyncio.to_thread(tell, found, orders)
    return {**tally, "left behind": left}
