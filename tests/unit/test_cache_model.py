"""Random interleavings of writes, events, lookups, failovers and time: no route is older than the database held it.

The real `CachedRouter` runs on a loop whose clock the test moves. The store, the stream and both halves of a lookup
(when the server reads, when the answer arrives) are played step by step, so that a failing run is the same each time.
"""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Final, cast

import pytest

from sessions import ActiveScheduleSessionSnapshot, CachedRouter, Route, SessionRepository, StoreUnavailable
from sessions.cache import entries
from sessions.cache.entries import Key
from sessions.changes.events import Event
from sessions.domain.routing import route_of
from sessions.store.observed_collection import Doubt

START: Final = datetime(2026, 1, 1, tzinfo=UTC)
MAX_STALENESS: Final = 5.0
CLOCK_ERROR: Final = 0.5
MAX_ENTRIES: Final = 2
KEYS: Final[tuple[Key, ...]] = ((1, "a"), (1, "b"), (2, "c"))
HISTORIES: Final = 100
STEPS_EACH: Final = 400

Snapshot = ActiveScheduleSessionSnapshot | None


class PlayedLoop(asyncio.SelectorEventLoop):
    """A loop whose time is the test's."""

    now = 1000.0

    def time(self) -> float:
        """The test's moment."""
        return self.now

    def settle(self) -> None:
        """Run whatever can run without time passing."""
        for _ in range(12):
            self.call_soon(self.stop)
            self.run_forever()


@dataclass
class Op:
    """A write in the order of the server's log."""

    kind: str
    key: Key
    session_id: str
    revision: int
    written_at: float
    governs: Snapshot
    """Who governs the conversation after it."""
    document: dict[str, Any] | None
    committed_at: float | None = None


@dataclass
class Store:
    """The sessions and their log; ``committed`` operations are what the present primary shows of it to a majority."""

    log: list[Op] = field(default_factory=list)
    committed: int = 0

    def states(self, key: Key) -> list[tuple[int, float, Snapshot]]:
        """Who governed: from which operation, from when, and who."""
        found: list[tuple[int, float, Snapshot]] = [(0, float("-inf"), None)]
        found += [(n + 1, op.written_at, op.governs) for n, op in enumerate(self.log) if op.key == key]
        return found

    def governor(self, key: Key, *, after: int) -> Snapshot:
        """Who governs once so many operations are carried out."""
        return [governs for number, _, governs in self.states(key) if number <= after][-1]

    def document(self, session_id: str, *, after: int) -> dict[str, Any] | None:
        """A session once so many operations are carried out."""
        found = [op.document for op in self.log[:after] if op.session_id == session_id]
        return found[-1] if found else None

    def commit(self, number: int, at: float) -> None:
        """A majority has so many operations."""
        for op in self.log[self.committed : number]:
            op.committed_at = at if op.committed_at is None else op.committed_at
        self.committed = max(self.committed, min(number, len(self.log)))


@dataclass
class Asked:
    """A lookup that the router has sent."""

    key: Key
    committed: bool
    answer: asyncio.Future[Snapshot]
    read: list[Snapshot] = field(default_factory=list)


class PlayedUpstream:
    """What the router gets of a repository, answered by the test."""

    timeout = 60.0

    def __init__(self, loop: PlayedLoop) -> None:
        self._loop = loop
        self.present = 1
        self.asked: list[Asked] = []
        self.confirming: list[asyncio.Future[None]] = []

    def now(self) -> datetime:
        """The repository's clock."""
        return START + timedelta(seconds=self._loop.now)

    def monotonic(self) -> float:
        """The clock of age."""
        return self._loop.now

    def as_of(self, wall_time: datetime) -> float:
        """Exact, less what the server's clock may be wrong by."""
        return (wall_time - START).total_seconds() - CLOCK_ERROR

    def primary(self) -> object:
        """What the driver believes."""
        return self.present

    def look_at_clock(self) -> None:
        """There is one clock."""

    async def governor(self, user_id: int, conversation_id: str, *, committed: bool) -> Snapshot:
        """Answered when the test says so."""
        asked = Asked((user_id, conversation_id), committed, self._loop.create_future())
        self.asked.append(asked)
        return await asked.answer

    async def confirm_primary(self) -> None:
        """Confirmed when the test says so."""
        self.confirming.append(self._loop.create_future())
        await self.confirming[-1]

    async def open(self, cache: CachedRouter, *, wait: float) -> None:
        """The test tells of changes itself."""

    async def close(self, cache: CachedRouter) -> None:
        """Nothing to end."""


class PlayedRepository:
    """The door through which a cache gets its upstream."""

    def __init__(self, upstream: PlayedUpstream) -> None:
        self._upstream = upstream

    def _cache_upstream(self) -> PlayedUpstream:
        return self._upstream


@dataclass
class Call:
    """A route that was asked for, and the last operation of this process's own that it has to show."""

    key: Key
    task: asyncio.Task[Route]
    must_show: int


class Interleavings:
    """Each method that `STEPS` names is one step; it says whether it could be taken."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.trail: list[str] = []
        self.loop = PlayedLoop()
        self.upstream = PlayedUpstream(self.loop)
        repository = cast("SessionRepository", PlayedRepository(self.upstream))
        self.router = CachedRouter(repository, max_entries=MAX_ENTRIES, max_staleness=timedelta(seconds=MAX_STALENESS))
        self.store = Store()
        self.is_open = False
        self.position = 0
        self.streams_primary: object = None
        self.reading_since: float | None = None
        self.own: list[int] = []
        self.shown = dict.fromkeys(KEYS, 0)
        self.calls: list[Call] = []
        self.open_stream()

    def teardown(self) -> None:
        """Nothing is left running."""
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        self.loop.settle()
        self.loop.close()

    def _in_loop(self, work: Callable[[], object]) -> None:
        self.loop.call_soon(work)
        self.loop.settle()
        self._check_answers()

    # --- writes ---------------------------------------------------------------------------------------------------

    def _write(self, key: Key, choice: int, *, expires_in: float | None) -> None:
        governs = self.store.governor(key, after=len(self.store.log))
        session_id = f"of-{key[1]}"
        stored = self.store.document(session_id, after=len(self.store.log))
        if governs is not None:
            session_id = governs.session_id
            revision = governs.revision + 1
            ends = choice >= 2
            self._append("update", key, session_id, revision, None if ends else governs.state.expires_at, ends=ends)
        elif stored is None:
            expires_at = None if expires_in is None else self.upstream.now() + timedelta(seconds=expires_in)
            self._append("insert", key, session_id, 1, expires_at, ends=False)
        else:
            op = Op("delete", key, session_id, 0, self.loop.now, None, None)
            self.store.log.append(op)

    def _created_at(self, session_id: str, *, is_new: bool) -> datetime:
        """Tells the lives of a session apart that was purged and made again."""
        stored = self.store.document(session_id, after=len(self.store.log))
        return START + timedelta(seconds=len(self.store.log)) if is_new or stored is None else stored["created_at"]

    def _append(
        self, kind: str, key: Key, session_id: str, revision: int, expires_at: datetime | None, *, ends: bool
    ) -> None:
        snapshot = ActiveScheduleSessionSnapshot.model_validate(
            {
                "session_id": session_id,
                "user_id": key[0],
                "conversation_id": key[1],
                "trigger_id": "t",
                "status": "ignored" if ends else "waiting_user_reply",
                "state": {"expires_at": expires_at},
                "revision": revision,
                "created_at": self._created_at(session_id, is_new=kind == "insert"),
                "updated_at": START,
            }
        )
        document = {"_id": session_id, **snapshot.model_dump(include={"user_id", "conversation_id", "revision"})}
        document["created_at"] = snapshot.created_at
        governs = None if ends else snapshot
        self.store.log.append(Op(kind, key, session_id, revision, self.loop.now, governs, document))

    def _write_something(self, key: Key) -> None:
        expires_in = self.random.choice([None, None, 3.0])
        self._write(key, self.random.randrange(4), expires_in=expires_in)

    def another_process_writes(self) -> bool:
        """Only the stream will tell of it; a session that has ended may be purged before it does."""
        key = self.random.choice(KEYS)
        for _ in range(self.random.choice([1, 1, 3])):
            self._write_something(key)
        return True

    def this_process_writes(self) -> bool:
        """The write has reached the server; the acknowledgement has not come back."""
        self._write_something(self.random.choice(KEYS))
        self.own.append(len(self.store.log))
        return True

    def a_write_of_ones_own_returns(self) -> bool:
        """Acknowledged, since a majority had it; from then on the cache has to show it."""
        acknowledged = [number for number in self.own if self.store.log[number - 1].committed_at is not None]
        if not acknowledged:
            return False
        number = self.random.choice(acknowledged)
        self.own.remove(number)
        op = self.store.log[number - 1]
        if (document := op.document) is None:
            self._in_loop(lambda: self.router._listener.may_have_written(Doubt([op.session_id])))
        else:
            self.shown[op.key] = max(self.shown[op.key], number)
            self._in_loop(lambda: self.router._listener.wrote(document))
        return True

    def a_write_of_ones_own_fails(self) -> bool:
        """It was carried out, but nobody said so."""
        if not self.own:
            return False
        op = self.store.log[self.own.pop(self.random.randrange(len(self.own))) - 1]
        conversation_id = op.key[1] if self.random.random() < 0.5 else None
        self._in_loop(
            lambda: self.router._listener.may_have_written(Doubt([op.session_id], op.key[0], conversation_id))
        )
        return True

    def a_majority_catches_up(self) -> bool:
        """The oldest writes that were not committed are."""
        if self.store.committed == len(self.store.log):
            return False
        self.store.commit(self.store.committed + self.random.choice([1, 3]), self.loop.now)
        return True

    # --- the stream -----------------------------------------------------------------------------------------------

    def open_stream(self) -> bool:
        """It goes on where the one before ended, on the primary that the driver knows now."""
        if self.is_open:
            return False
        self.is_open = True
        self.streams_primary = self.upstream.present
        self.reading_since = None
        self._in_loop(self.router._listener.opened)
        return True

    def lose_stream(self) -> bool:
        """For whatever reason."""
        was_open, self.is_open = self.is_open, False
        if was_open:
            self._in_loop(self.router._listener.lost)
        return was_open

    def notice_another_primary(self) -> bool:
        """What the feed does a moment later."""
        return self.streams_primary != self.upstream.present and self.lose_stream() and self.open_stream()

    def fail_over(self) -> bool:
        """The new primary has all that was acknowledged, but may not know yet that a majority has it."""
        self.upstream.present += 1
        self.store.committed = max(0, self.store.committed - self.random.randrange(4))
        return True

    def confirm(self) -> bool:
        """A majority has confirmed the present primary, and all that it holds."""
        if not self.upstream.confirming:
            return False
        self.store.commit(len(self.store.log), self.loop.now)
        for waiting in self.upstream.confirming:
            if not waiting.done():
                waiting.set_result(None)
        self.upstream.confirming.clear()
        self._in_loop(lambda: None)
        return True

    def _is_believed(self) -> bool:
        # As the feed does: what a stream says is thrown away once the driver knows another primary.
        return self.is_open and self.streams_primary == self.upstream.present

    def begin_read(self) -> bool:
        """A read is sent."""
        if not self._is_believed() or self.reading_since is not None:
            return False
        self.reading_since = self.loop.now
        return True

    def end_read(self) -> bool:
        """It brings the next event, or nothing where there is none."""
        if not self._is_believed() or self.reading_since is None:
            return False
        since, self.reading_since = self.reading_since, None
        if self.position >= self.store.committed:
            # Nothing new is committed here; a primary that lags behind says the same.
            self._in_loop(lambda: self.router._listener.quiet(since))
            return True
        op = self.store.log[self.position]
        self.position += 1
        event = Event(
            kind=op.kind,
            token=f"{self.position:04x}",
            wall_time=START + timedelta(seconds=op.written_at),
            session_id=op.session_id,
            revision=op.revision or None,
            document=None if op.kind == "delete" else self.store.document(op.session_id, after=self.store.committed),
        )
        self._in_loop(lambda: self.router._listener.happened([event]))
        return True

    # --- lookups --------------------------------------------------------------------------------------------------

    def ask(self) -> bool:
        """A chat message comes in."""
        key = self.random.choice(KEYS)
        task = self.loop.create_task(self.router.route(*key))
        self.calls.append(Call(key, task, self.shown[key]))
        self._in_loop(lambda: None)
        return True

    def the_server_reads(self) -> bool:
        """Committed or not, as it was asked."""
        unread = [asked for asked in self.upstream.asked if not asked.read]
        if not unread:
            return False
        asked = self.random.choice(unread)
        after = self.store.committed if asked.committed else len(self.store.log)
        asked.read.append(self.store.governor(asked.key, after=after))
        return True

    def an_answer_arrives(self) -> bool:
        """In whatever order."""
        answered = [asked for asked in self.upstream.asked if asked.read]
        if not answered:
            return False
        asked = self.random.choice(answered)
        self.upstream.asked.remove(asked)
        if not asked.answer.done():
            asked.answer.set_result(asked.read[0])
        self._in_loop(lambda: None)
        return True

    def a_caller_goes_away(self) -> bool:
        """The others still get their answer."""
        if not self.calls:
            return False
        self.calls.pop(self.random.randrange(len(self.calls))).task.cancel()
        self._in_loop(lambda: None)
        return True

    def time_passes(self) -> bool:
        """Nothing else does."""
        self.loop.now += self.random.choice([0.05, 0.1, 0.1, 0.3, 0.6, 1.0, 2.5, 6.0])
        self._in_loop(lambda: None)
        return True

    # --- what must hold -------------------------------------------------------------------------------------------

    def _held(self, call: Call) -> Iterator[Snapshot]:
        """Who governed at some moment of the last `MAX_STALENESS`, from this process's own writes on."""
        states = self.store.states(call.key)
        for (number, _, governs), after in zip(states, [*states[1:], None], strict=True):
            # Until a majority has the write after it, a committed read may still show it.
            until = None if after is None else self.store.log[after[0] - 1].committed_at
            is_recent = until is None or until >= self.loop.now - MAX_STALENESS
            replaced_by_own = after is not None and after[0] <= call.must_show
            if is_recent and not replaced_by_own and number >= 0:
                yield governs

    def _check_answers(self) -> None:
        for call in [call for call in self.calls if call.task.done()]:
            self.calls.remove(call)
            try:
                route = call.task.result()
            except StoreUnavailable:
                continue  # no answer in time is no stale answer
            possible = [route_of(governs, self.upstream.now()) for governs in self._held(call)]
            assert route in possible, f"{call.key}: {route} is none of {possible}"

    def _check_bounds(self) -> None:
        routes = self.router._listener.entries
        assert len(routes) <= MAX_ENTRIES
        governing = {session_id: routes.get(key) for session_id, key in routes._key_of.items()}
        assert all(entry and entry.session and entry.session.session_id == id_ for id_, entry in governing.items())

    def run(self, steps: int) -> None:
        """So many steps, each as likely as `STEPS` says."""
        methods, weights = zip(*STEPS.items(), strict=True)
        for method in self.random.choices(methods, weights, k=steps):
            if method(self):
                self.trail.append(method.__name__)
                self._check_bounds()


STEPS: Final[dict[Callable[[Interleavings], bool], int]] = {
    Interleavings.another_process_writes: 3,
    Interleavings.this_process_writes: 3,
    Interleavings.a_write_of_ones_own_returns: 8,
    Interleavings.a_write_of_ones_own_fails: 1,
    Interleavings.a_majority_catches_up: 12,
    Interleavings.open_stream: 15,
    Interleavings.lose_stream: 1,
    Interleavings.notice_another_primary: 15,
    Interleavings.fail_over: 1,
    Interleavings.confirm: 15,
    Interleavings.begin_read: 30,
    Interleavings.end_read: 30,
    Interleavings.ask: 40,
    Interleavings.the_server_reads: 30,
    Interleavings.an_answer_arrives: 30,
    Interleavings.a_caller_goes_away: 1,
    Interleavings.time_passes: 20,
}


def played(seed: int) -> Interleavings:
    """One history; where it goes wrong, the steps that led there are told."""
    history = Interleavings(seed)
    try:
        history.run(STEPS_EACH)
    except AssertionError as error:
        error.add_note(f"seed {seed}: " + ", ".join(history.trail))
        raise
    finally:
        history.teardown()
    return history


@pytest.fixture(autouse=True)
def packing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two entries one is packed, as most of a full cache are."""
    monkeypatch.setattr(entries, "_READY", 1)


def test_no_route_is_older_than_it_may_be() -> None:
    """Whatever happens in whatever order, the database held each route within `max_staleness`; own writes show."""
    hits = refusals = evictions = 0
    for seed in range(HISTORIES):
        stats = played(seed).router.stats()
        hits, refusals, evictions = hits + stats.hits, refusals + stats.stale_refusals, evictions + stats.evictions
    # What never happens is not checked.
    assert min(hits, refusals, evictions) > HISTORIES


@pytest.fixture
def history() -> Iterator[Interleavings]:
    """Steps that the test takes itself, from an open stream on a confirmed primary on."""
    taken = Interleavings(0)
    taken.confirm()
    yield taken
    taken.teardown()


def governed(history: Interleavings) -> None:
    """A session governs the first conversation, and everybody knows."""
    history._write(KEYS[0], 0, expires_in=None)
    history.store.commit(1, history.loop.now)
    tell(history)


def tell(history: Interleavings) -> None:
    """The stream brings the next event, or nothing."""
    history.begin_read()
    history.end_read()


def asked(history: Interleavings) -> Call:
    """Somebody asks about the first conversation."""
    call = Call(KEYS[0], history.loop.create_task(history.router.route(*KEYS[0])), 0)
    history._in_loop(lambda: None)
    return call


def test_an_entry_is_as_old_as_its_lookup_was_sent(history: Interleavings) -> None:
    """An answer that came late has aged on its way; without a word from the stream it is not served for longer."""
    governed(history)
    call = asked(history)
    history.the_server_reads()
    history.loop.now += MAX_STALENESS - 1
    history.an_answer_arrives()
    assert call.task.result().session is not None
    history.loop.now += 0.9
    assert asked(history).task.done()
    history.loop.now += 0.2
    assert not asked(history).task.done()
    assert history.router.stats().stale_refusals == 1


def test_an_answer_that_is_seen_too_late_is_none(history: Interleavings) -> None:
    """A process that stood still while the answer lay there does not hand it on."""
    governed(history)
    call = asked(history)
    history.the_server_reads()
    history.upstream.asked[0].answer.set_result(history.upstream.asked[0].read[0])
    history.loop.now += MAX_STALENESS + 1
    history.loop.settle()
    assert isinstance(call.task.exception(), StoreUnavailable)


def test_a_lookup_that_found_what_is_gone_is_not_kept(history: Interleavings) -> None:
    """The event of a session that was purged meanwhile does not say where it governed: no lookup under way is kept."""
    governed(history)
    call = asked(history)
    history.the_server_reads()
    history._write(KEYS[0], 2, expires_in=None)
    history._write(KEYS[0], 0, expires_in=None)
    history.store.commit(3, history.loop.now)
    tell(history)
    tell(history)
    history.an_answer_arrives()
    assert call.task.result().session is not None
    assert history.router.stats().entries == 0
    assert not asked(history).task.done()


def test_what_is_gone_is_known_by_its_session(history: Interleavings) -> None:
    """The same event, after the lookup: the entry goes, since it is known which conversation the session governed."""
    governed(history)
    asked(history)
    history.the_server_reads()
    history.an_answer_arrives()
    assert history.router.stats().entries == 1
    history._write(KEYS[0], 2, expires_in=None)
    history._write(KEYS[0], 0, expires_in=None)
    history.store.commit(3, history.loop.now)
    tell(history)
    assert history.router.stats().entries == 0
