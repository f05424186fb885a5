"""Each way in which an index can differ is repaired while the application runs, and the application does not notice."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count, cycle
from typing import Any, ClassVar, Final
from uuid import uuid4

import pytest
import pytest_asyncio
from beanie import Document
from pymongo import IndexModel
from pymongo.errors import OperationFailure

from indexes import Progress, apply, check
from indexes.actions import Action
from indexes.server import Server
from sessions import (
    ActiveScheduleSession,
    ActiveScheduleSessionSnapshot,
    ConversationBusy,
    InvalidTransition,
    RouteAction,
    SessionRepository,
    SessionStatus,
    open_repository,
)
from sessions.domain.lifecycle import ALL
from sessions.store import reads
from sessions.store.clients import connect, disconnect
from sessions.store.document import COLLECTION, INDEXES, LATEST_INDEX, ROUTING_INDEX

pytestmark = pytest.mark.race


class Receipt(Document):
    """Another document of the application, deleted after an hour."""

    at: datetime
    shown_at: datetime

    class Settings:
        """Two indexes, one of them a TTL."""

        name = "receipts"
        indexes: ClassVar[list[IndexModel]] = [
            IndexModel([("at", 1)], name="receipts_at", expireAfterSeconds=3600),
            IndexModel([("shown_at", 1)], name="receipts_shown_at"),
        ]


TRIGGER: Final = f"idx_{COLLECTION}_trigger_id"
EXPIRES: Final = f"idx_{COLLECTION}_expires_at"
DECLARED: Final[dict[str, Mapping[str, Any]]] = {
    index.document["name"]: index.document for index in [*INDEXES, *Receipt.Settings.indexes]
}
STATUSES: Final = {"$in": ["waiting_user_reply", "rerunning"]}
# Only strings compare with a string, so that this filter holds the same sessions.
SAME_SESSIONS: Final = {"status": STATUSES, "conversation_id": {"$gte": ""}}
LONGEST: Final = 2_147_483_647


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """A change made by hand.

    Attributes:
        index: The declared index that is replaced.
        changes: What is put in place of its options; None leaves one out.
        most_keys: What a route may examine; two, unless the changed index itself costs more while it is there.
        is_unique: Whether two sessions can't govern one conversation in spite of it.
        options: For `apply`.
    """

    index: str
    changes: Mapping[str, Any]
    most_keys: int = 2
    is_unique: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)


LIVE_PER_USER: Final = 3
FOREIGN: Final = {"drop_undeclared": True}
DRIFTS: Final[dict[str, Drift]] = {
    "governor, other key order": Drift(index=ROUTING_INDEX, changes={"key": {"conversation_id": 1, "user_id": 1}}),
    "governor, reversed": Drift(index=ROUTING_INDEX, changes={"key": {"user_id": -1, "conversation_id": -1}}),
    "governor, lost uniqueness": Drift(
        index=ROUTING_INDEX, changes={"unique": None}, is_unique=False, options={"resolve": "supersede-older"}
    ),
    "governor, other filter": Drift(index=ROUTING_INDEX, changes={"partialFilterExpression": SAME_SESSIONS}),
    "governor, hidden": Drift(index=ROUTING_INDEX, changes={"hidden": True}),
    # A route can't search an index that orders strings differently, so it reads all the entries of its user.
    "governor, collation": Drift(
        index=ROUTING_INDEX, changes={"collation": {"locale": "en"}}, most_keys=LIVE_PER_USER * 4
    ),
    "governor, other name": Drift(index=ROUTING_INDEX, changes={"name": "made_by_hand"}, options=FOREIGN),
    "lookup, other key order": Drift(
        index=LATEST_INDEX, changes={"key": {"conversation_id": 1, "updated_at": 1, "status": 1}}
    ),
    "lookup, reversed": Drift(
        index=LATEST_INDEX, changes={"key": {"conversation_id": -1, "status": -1, "updated_at": -1}}
    ),
    "lookup, unique": Drift(index=TRIGGER, changes={"unique": True}),
    "lookup, filter": Drift(
        index=LATEST_INDEX,
        changes={"partialFilterExpression": {"status": {"$in": [status.value for status in ALL]}}},
    ),
    "lookup, hidden": Drift(index=LATEST_INDEX, changes={"hidden": True}),
    "lookup, sparse": Drift(index=TRIGGER, changes={"sparse": True}),
    "lookup, collation": Drift(index=LATEST_INDEX, changes={"collation": {"locale": "en", "strength": 1}}),
    "lookup, a TTL": Drift(index=EXPIRES, changes={"expireAfterSeconds": 86_400}),
    "foreign": Drift(
        index=TRIGGER,
        changes={"name": "made_by_hand", "key": {"status": 1, "user_id": 1, "trigger_id": 1}},
        options=FOREIGN,
    ),
    "other document, TTL changed": Drift(index="receipts_at", changes={"expireAfterSeconds": 60}),
    "other document, TTL lost": Drift(index="receipts_at", changes={"expireAfterSeconds": None}),
    "other document, a TTL": Drift(index="receipts_shown_at", changes={"expireAfterSeconds": 60}),
}
CHANGES: Final = frozenset({"createIndexes", "dropIndexes", "collMod"})
USERS: Final = range(1, 4)
ENDED_EACH: Final = 150
LEAST_CHECKS: Final = 5
OTHERS: Final = 600
START: Final = datetime(2026, 1, 1, tzinfo=UTC)
MORE_THAN_ONE: Final[list[dict[str, Any]]] = [
    {"$match": {"status": STATUSES, "conversation_id": {"$type": "string"}}},
    {"$group": {"_id": {"user": "$user_id", "conversation": "$conversation_id"}, "governors": {"$sum": 1}}},
    {"$match": {"governors": {"$gt": 1}}},
]
TASKS: Final = ("write", "read", "contend", "count", "explain")
BAD_HINT: Final = 2
# The collection's indexes changed during the read, or between its snapshot and the read, so it is sent again.
CHANGED_MEANWHILE: Final = frozenset({175, 239, 246})


@pytest_asyncio.fixture(loop_scope="session")
async def database(mongod_uri: str) -> AsyncIterator[Any]:
    """A database on the real server, through the default driver."""
    client: Any = connect(mongod_uri)
    own = client[f"sessions_load_{uuid4().hex[:16]}"]
    yield own
    await client.drop_database(own.name)
    await disconnect(client)


def _ended(user_id: int, conversation_id: str, number: int) -> dict[str, Any]:
    at = START + timedelta(seconds=number)
    return {
        "_id": f"{user_id}-{conversation_id}-{number}",
        "user_id": user_id,
        "conversation_id": conversation_id,
        "trigger_id": f"old-{user_id}-{conversation_id}-{number}",
        "current_preview_id": None,
        "status": "applied" if number % 2 else "ignored",
        "state": {"expires_at": at},
        **dict.fromkeys(("question_number", "fencing_token", "attempts"), 0),
        "answered_reply_ids": [],
        "revision": 2,
        "history": [],
        "created_at": at,
        "updated_at": at,
    }


@dataclass(frozen=True, slots=True)
class Known:
    """What a lookup of a conversation must find, as far as its only writer knows."""

    action: RouteAction
    latest: ActiveScheduleSessionSnapshot


class Load:
    """An application at work, through the repository, on conversations with many ended sessions."""

    def __init__(self, database: Any, repository: SessionRepository, *, is_unique: bool) -> None:
        self._database = database
        self._repository = repository
        self._numbers = count(1)
        self._ended = asyncio.Event()
        self._turned = asyncio.Condition()
        self.is_unique = is_unique
        self.is_mending = not is_unique
        self.known: dict[tuple[int, str], Known | None] = dict.fromkeys(self._conversations())
        self.turns: Counter[str] = Counter()
        self.created = self.compared = self.counted = 0
        self.explained: Counter[int] = Counter()
        self._places = cycle(self._conversations())
        self._last_changed = next(self._places)

    async def prepare(self) -> None:
        """Store what was there before."""
        documents = [
            _ended(user_id, conversation_id, number)
            for user_id, conversation_id in self._conversations()
            for number in range(ENDED_EACH)
        ]
        documents += [_ended(9, f"other-{number}", number) for number in range(OTHERS)]
        await self._database[COLLECTION].insert_many(documents)
        self.created = len(documents)

    def _conversations(self) -> list[tuple[int, str]]:
        return [(user_id, f"u{user_id}-c{number}") for user_id in USERS for number in range(LIVE_PER_USER)]

    async def turn(self) -> None:
        """Wait until each task has done something more."""
        before = dict(self.turns)

        def is_over() -> bool:
            return self._ended.is_set() or all(self.turns[name] >= before.get(name, 0) + 2 for name in TASKS)

        async with self._turned:
            await self._turned.wait_for(is_over)

    @property
    def checked(self) -> int:
        """How often what is checked least was checked."""
        return min(self.compared, self.counted, self.explained.total())

    async def until_checked(self) -> None:
        """Go on while something was checked too seldom, since on a busy machine few turns fit into a run."""
        while self.checked <= LEAST_CHECKS and not self._ended.is_set():
            await self.turn()

    def _tasks(self) -> dict[str, Callable[[], Awaitable[None]]]:
        steps = {place: self._steps(*place) for place in self._conversations()}
        places = cycle(steps)

        async def write() -> None:
            await steps[next(places)].__anext__()

        return {
            "write": write,
            "read": self._read,
            "contend": self._contend,
            "count": self._count,
            "explain": self._explain,
        }

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the application within the block."""

        async def repeat(name: str, task: Callable[[], Awaitable[None]]) -> None:
            try:
                while not self._ended.is_set():
                    await task()
                    async with self._turned:
                        self.turns[name] += 1
                        self._turned.notify_all()
                    await asyncio.sleep(0.001)
            finally:
                await self._end()

        async with asyncio.TaskGroup() as group:
            for name, task in self._tasks().items():
                group.create_task(repeat(name, task), name=name)
            try:
                await self.turn()
                yield
                await self.turn()
            finally:
                await self._end()

    async def _end(self) -> None:
        async with self._turned:
            self._ended.set()
            self._turned.notify_all()

    # --- the writer, and what it knows ---

    async def _steps(self, user_id: int, conversation_id: str) -> AsyncIterator[None]:
        """Go through the lifecycle, one call at a time; while a call runs, its result is not known."""
        repository, place = self._repository, (user_id, conversation_id)

        def now(action: RouteAction, session: ActiveScheduleSessionSnapshot) -> None:
            self.known[place] = Known(action, session)
            self._last_changed = place

        while True:
            number = next(self._numbers)
            trigger_id = f"trigger-{number}"
            self.known[place] = None
            session = await repository.create(
                user_id, trigger_id, conversation_id=conversation_id, pending_question="Which?"
            )
            self.created += 1
            now(RouteAction.RESUME, session)
            yield
            if self.is_unique:
                with pytest.raises(ConversationBusy) as refusal:
                    await repository.create(
                        user_id, f"rival-{number}", conversation_id=conversation_id, missing_info=["that"]
                    )
                assert refusal.value.governing_session_id == session.session_id
            for reply in range(2):
                self.known[place] = None
                claim = await repository.claim_rerun(
                    session.session_id, user_id=user_id, reply_id=f"{trigger_id}-{reply}"
                )
                now(RouteAction.HOLD, claim.session)
                yield
                self.known[place] = None
                if reply:
                    session = await repository.present_preview(claim, preview_id=f"preview-{number}")
                    now(RouteAction.FREE_CHAT, session)
                else:
                    session = await repository.ask_again(claim, pending_question="And when?")
                    now(RouteAction.RESUME, session)
                yield
            self.known[place] = None
            session = await repository.apply(session.session_id, user_id=user_id, preview_id=f"preview-{number}")
            now(RouteAction.FREE_CHAT, session)
            yield

    # --- the reader, which compares ---

    async def _read(self) -> None:
        # The conversation that will be the last to change again.
        user_id, conversation_id = place = self._last_changed
        known = self.known[place]
        if known is None:
            return
        repository, latest = self._repository, known.latest
        route = await repository.route(user_id, conversation_id)
        several = await repository.route_many(user_id, [conversation_id])
        found = [
            await repository.latest(user_id, conversation_id),
            await repository.find_by_trigger(latest.trigger_id, user_id=user_id),
            await repository.get(latest.session_id, user_id=user_id),
        ]
        if latest.current_preview_id is not None:
            found.append(await repository.find_by_preview(latest.current_preview_id, user_id=user_id))
        page = await repository.list_sessions(user_id, statuses=[latest.status], limit=LIVE_PER_USER)
        if self.known[place] is not known:
            return  # changed meanwhile
        self.compared += 1
        governs = known.action is not RouteAction.FREE_CHAT
        assert (route.action, route.session) == (known.action, latest if governs else None)
        assert several == {conversation_id: route}
        assert found == [latest] * len(found)
        assert latest in page.sessions

    async def _explain(self) -> None:
        """Ask what a route costs now, as the repository sends it: with the hint, and without it if that is refused."""
        lookup = reads.governor(*next(self._places))
        command = {"find": COLLECTION, "filter": lookup.filter, "limit": 1}
        try:
            told = await self._told({**command, "hint": lookup.hint})
        except OperationFailure as error:
            if error.code != BAD_HINT:
                raise
            told = await self._told(command)
        if told is not None:
            self.explained[told["executionStats"]["totalKeysExamined"]] += 1

    async def _told(self, command: Mapping[str, Any]) -> dict[str, Any] | None:
        explain = {"explain": command, "verbosity": "executionStats"}
        return await self._unless_changed(explain)

    async def _unless_changed(self, command: Mapping[str, Any]) -> dict[str, Any] | None:
        try:
            answer: dict[str, Any] = await self._database.command(command)
        except OperationFailure as error:
            if error.code not in CHANGED_MEANWHILE:
                raise
            return None
        return answer

    # --- rivals, and the count of governors ---

    async def _contender(self, number: int, side: int) -> ActiveScheduleSessionSnapshot | None:
        try:
            session = await self._repository.create(
                8, f"contend-{number}-{side}", conversation_id=f"contended-{number % 3}", pending_question="Which?"
            )
        except ConversationBusy:
            return None
        self.created += 1
        return session

    async def _contend(self) -> None:
        was_mending = self.is_mending
        number = next(self._numbers)
        made = await asyncio.gather(*(self._contender(number, side) for side in range(2)))
        won = [session for session in made if session is not None]
        assert won
        assert was_mending or len(won) == 1
        for session in won:
            try:
                await self._repository.ignore(session.session_id, user_id=8)
            except InvalidTransition as refusal:
                assert was_mending  # superseded
                assert refusal.status is SessionStatus.IGNORED  # noqa: PT017 - no refusal is right too

    async def _count(self) -> None:
        was_mending = self.is_mending
        command = {
            "aggregate": COLLECTION,
            "pipeline": MORE_THAN_ONE,
            "cursor": {},
            # Of one moment, since a scan that goes on while sessions end and begin would count some of both.
            "readConcern": {"level": "snapshot"},
        }
        if (answer := await self._unless_changed(command)) is not None:
            assert was_mending or answer["cursor"]["firstBatch"] == []
            self.counted += 1


async def _make_by_hand(database: Any, drift: Drift) -> None:
    await apply(database, documents=[ActiveScheduleSession, Receipt])
    collection = COLLECTION if drift.index in {index.document["name"] for index in INDEXES} else "receipts"
    definition = {**DECLARED[drift.index], **drift.changes}
    if definition["name"] == drift.index or drift.changes.keys() == {"name"}:
        await database[collection].drop_index(drift.index)
    wanted = {name: value for name, value in definition.items() if value is not None}
    await database.command({"createIndexes": collection, "indexes": [wanted]})


async def _profiled(database: Any) -> list[dict[str, Any]]:
    """The server's own profile of each lookup of a governor."""
    own = {"op": "query", "ns": f"{database.name}.{COLLECTION}"}
    wanted = dict.fromkeys(("command.filter", "command.hint", "keysExamined", "errCode", "planSummary"), 1)
    return [
        query
        async for query in database["system.profile"].find(own, wanted)
        if query["command"]["filter"].get("status") == STATUSES
    ]


@pytest.fixture
def with_turns(monkeypatch: pytest.MonkeyPatch) -> Callable[[Load], None]:
    """Lets the application work on between any two changes, so that each state in between is met."""

    def let(load: Load) -> None:
        send = Server.command

        async def slowly(server: Server, command: Mapping[str, Any], **options: Any) -> dict[str, Any]:
            if CHANGES & set(command):
                await load.turn()
            return await send(server, command, **options)

        monkeypatch.setattr(Server, "command", slowly)

    return let


@pytest.mark.parametrize("kind", list(DRIFTS))
async def test_a_drift_is_repaired_under_load(database: Any, with_turns: Callable[[Load], None], kind: str) -> None:
    """Each call answers as without it, each route costs two keys at most, and one session governs at any moment."""
    drift = DRIFTS[kind]
    await _make_by_hand(database, drift)
    assert not (await check(database, documents=[ActiveScheduleSession, Receipt])).is_as_declared or drift.options
    await database.create_collection("system.profile", capped=True, size=2**25)
    async with open_repository(database, verify_indexes=False) as repository:
        load = Load(database, repository, is_unique=drift.is_unique)
        await load.prepare()
        with_turns(load)

        def tell(progress: Progress) -> None:
            if progress.step is not None and progress.step.action is Action.MAKE_UNIQUE and progress.ended:
                load.is_mending = False

        await database.command({"profile": 2})
        async with load.running():
            done = await apply(database, documents=[ActiveScheduleSession, Receipt], tell=tell, **dict(drift.options))
            await load.until_checked()
        await database.command({"profile": 0})
    assert done.plan.is_as_declared
    assert not done.plan.steps
    assert done.steps
    assert len(done.plan.indexes) == len(DECLARED)
    assert not load.is_mending
    assert await database[COLLECTION].count_documents({}) == load.created
    routed = await _profiled(database)
    assert len(routed) > 20
    seen = Counter(("hint" in query["command"], query["keysExamined"]) for query in routed if "keysExamined" in query)
    assert max(keys for hinted, keys in seen if hinted) <= drift.most_keys
    assert max((keys for hinted, keys in seen if not hinted), default=0) <= LIVE_PER_USER
    assert max(load.explained) <= drift.most_keys
    assert load.checked > LEAST_CHECKS
