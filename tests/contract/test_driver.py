"""What lies between repository and server: killed queries, lost indexes, client options, the server's clock."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any, Final
from uuid import uuid4

import pytest
import pytest_asyncio
from beanie import init_beanie
from bson.son import SON
from pymongo import AsyncMongoClient

from sessions import (
    ActiveScheduleSession,
    CachedRouter,
    InvalidSessionInput,
    RouteAction,
    SessionRepository,
    SessionStatus,
    StoreUnavailable,
    open_repository,
)
from sessions.domain.errors import SessionRef, WriteOutcome
from sessions.store.clients import disconnect
from sessions.store.clock import ServerClock
from sessions.store.collection import SessionCollection
from sessions.store.document import COLLECTION, LATEST_INDEX, ROUTING_INDEX
from sessions.testing import Backend, CommandCounter, MovedClock, SessionMaker
from tests.support.fail_points import failing

AT: Final = datetime(2026, 1, 1, tzinfo=UTC)
KILLED: Final = 175
"""The error of a query whose index was dropped under it."""


@pytest.mark.needs("server")
async def test_a_lookup_that_a_dropped_index_killed_is_sent_again(
    repository: SessionRepository, make_session: SessionMaker, database: Any, command_counter: CommandCounter
) -> None:
    """Error 175 is no refusal of the store: an operator's work on indexes is not seen by a chat user."""
    session = await make_session(conversation_id="c")
    async with failing(database, "find", mode={"times": 2}, errorCode=KILLED):
        with command_counter.counting() as counts:
            route = await repository.route(1, "c")
    assert route.session == session
    assert counts["find"] == 3


@pytest.mark.needs("server")
async def test_a_write_that_a_dropped_index_killed_is_sent_again(
    repository: SessionRepository, make_session: SessionMaker, database: Any, command_counter: CommandCounter
) -> None:
    """The same guarded write is repeated, and it is written once."""
    session = await make_session(conversation_id="c")
    async with failing(database, "findAndModify", mode={"times": 2}, errorCode=KILLED):
        with command_counter.counting() as counts:
            claim = await repository.claim_rerun(session.session_id, user_id=1, reply_id="r")
    assert counts == {"findAndModify": 3}
    assert (claim.token, claim.attempt, claim.session.revision) == (1, 1, session.revision + 1)


@pytest.mark.needs("server")
@pytest.mark.parametrize("command", ["find", "findAndModify"])
async def test_what_is_killed_each_time_ends_in_time(
    repository: SessionRepository, make_session: SessionMaker, database: Any, command: str
) -> None:
    """Repeating stops at the repository's ``timeout``; a killed command has written nothing."""
    session = await make_session(conversation_id="c")
    async with (
        open_repository(database, timeout=1, clock=lambda: AT) as impatient,
        failing(database, command, errorCode=KILLED),
    ):
        began = monotonic()
        with pytest.raises(StoreUnavailable, match="code 175") as refusal:
            await (impatient.route(1, "c") if command == "find" else impatient.ignore(session.session_id, user_id=1))
        took = monotonic() - began
    assert refusal.value.outcome is WriteOutcome.NOT_WRITTEN
    assert took < 3
    assert await repository.get(session.session_id, user_id=1) == session


async def hide(database: Any, name: str) -> None:
    """Keep the planner from an index, as an operator does before dropping it."""
    await database.command({"collMod": COLLECTION, "index": {"name": name, "hidden": True}})


async def unhide(database: Any, name: str) -> None:
    """Show it again."""
    await database.command({"collMod": COLLECTION, "index": {"name": name, "hidden": False}})


async def drop(database: Any, name: str) -> None:
    """Drop an index under the repository."""
    await database[COLLECTION].drop_index(name)


@pytest.mark.needs("server")
@pytest.mark.parametrize("take_away", [hide, drop])
async def test_a_lost_index_costs_a_find_and_not_the_answer(
    repository: SessionRepository,
    make_session: SessionMaker,
    database: Any,
    command_counter: CommandCounter,
    caplog: pytest.LogCaptureFixture,
    take_away: Callable[[Any, str], Any],
) -> None:
    """Where the hinted index is hidden or absent the lookup runs once more without it."""
    session = await make_session(conversation_id="c")
    await make_session(SessionStatus.APPLIED, conversation_id="ended")
    for name in (ROUTING_INDEX, LATEST_INDEX):
        await take_away(database, name)
    for look, index in (
        (lambda: repository.route(1, "c"), ROUTING_INDEX),
        (lambda: repository.route_many(1, ["c", "ended"]), ROUTING_INDEX),
        (lambda: repository.latest(1, "c"), LATEST_INDEX),
    ):
        with command_counter.counting() as counts:
            found: Any = await look()
        assert counts == {"find": 2}
        assert index in caplog.text
        if isinstance(found, dict):
            assert found["ended"].action is RouteAction.FREE_CHAT
            found = found["c"]
        assert (found if index is LATEST_INDEX else found.session) == session


@pytest.mark.needs("server")
async def test_a_lost_index_is_warned_of_once(
    repository: SessionRepository, database: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Not at each lookup, of which there is one a message; again only if it is back meanwhile and goes once more."""

    async def look() -> None:
        await asyncio.gather(*(repository.route(1, f"c{number}") for number in range(20)))
        await repository.route_many(1, ["c", "d"])
        await repository.latest(1, "c")

    def warned(index: str) -> int:
        return sum(index in record.getMessage() for record in caplog.records)

    for name in (ROUTING_INDEX, LATEST_INDEX):
        await hide(database, name)
    for _ in range(3):
        await look()
    assert (warned(ROUTING_INDEX), warned(LATEST_INDEX)) == (1, 1)
    await unhide(database, ROUTING_INDEX)
    await look()
    await hide(database, ROUTING_INDEX)
    for _ in range(3):
        await look()
    assert (warned(ROUTING_INDEX), warned(LATEST_INDEX)) == (2, 1)
    (first, *_) = [record.getMessage() for record in caplog.records if ROUTING_INDEX in record.getMessage()]
    assert f"{database.name}.{COLLECTION}" in first
    assert "python -m indexes apply" in first


@pytest_asyncio.fixture(loop_scope="session")
async def second_database(database: Any) -> AsyncIterator[Any]:
    """Another empty database on the same client."""
    other = database.client[f"sessions_test_{uuid4().hex[:16]}"]
    yield other
    await database.client.drop_database(other.name)


async def test_two_repositories_do_not_disturb_each_other(
    repository: SessionRepository, make_session: SessionMaker, second_database: Any, session_clock: MovedClock
) -> None:
    """The same conversation of the same user is governed in each database on its own."""
    async with open_repository(second_database, create_indexes=True, clock=session_clock) as second:
        first_session = await make_session(conversation_id="c")
        second_session = await second.create(1, "elsewhere", conversation_id="c", pending_question="Which?")
        assert (await repository.route(1, "c")).session == first_session
        assert (await second.route(1, "c")).session == second_session
        await second.ignore(second_session.session_id, user_id=1)
        assert (await repository.route(1, "c")).session == first_session
        assert (await second.route(1, "c")).action is RouteAction.FREE_CHAT
        assert await repository.find_by_trigger("elsewhere", user_id=1) is None


@pytest.mark.needs("beanie")
async def test_binding_the_class_elsewhere_moves_nothing(
    repository: SessionRepository, make_session: SessionMaker, database: Any, second_database: Any
) -> None:
    """``init_beanie`` binds a class for the whole process; the repository's own handle stays where it was."""
    before = await make_session(conversation_id="c")
    await init_beanie(database=second_database, document_models=[ActiveScheduleSession], skip_indexes=True)
    after = await make_session(conversation_id="d")
    assert (await repository.route(1, "c")).session == before
    assert (await repository.route(1, "d")).session == after
    assert await database[COLLECTION].count_documents({}) == 2
    assert await second_database[COLLECTION].count_documents({}) == 0


@pytest_asyncio.fixture(loop_scope="session")
async def odd_client(backend: Backend, mongod_uri: str) -> AsyncIterator[tuple[Any, CommandCounter]]:
    """A client whose every option is another than the repository needs."""
    counter = CommandCounter()
    kind: Any = AsyncMongoClient
    if backend.name == "motor":
        kind = pytest.importorskip("motor.motor_asyncio").AsyncIOMotorClient
    options = {"readPreference": "secondaryPreferred", "w": 1, "tz_aware": False, "document_class": SON}
    client = kind(mongod_uri, event_listeners=[counter], **options)
    yield client, counter
    await disconnect(client)


@pytest.mark.needs("server")
async def test_the_clients_options_are_not_the_repositorys(
    database: Any, odd_client: tuple[Any, CommandCounter], session_clock: MovedClock
) -> None:
    """Every write waits for a majority, every read asks the primary, every moment is aware, whatever the client."""
    client, counter = odd_client
    with counter.counting() as counts:
        async with open_repository(client[database.name], create_indexes=True, clock=session_clock) as repository:
            session = await repository.create(
                *(1, "t"),
                conversation_id="c",
                pending_question="Which?",
                expires_at=session_clock() + timedelta(minutes=1),
            )
            assert (await repository.route(1, "c")).session == session
            assert await repository.count_by_status()
            claim = await repository.claim_rerun(session.session_id, user_id=1, reply_id="r")
            await repository.release(claim)
            session_clock.advance(minutes=2)
            assert await repository.expire_due() == 1
            ended = await repository.get(session.session_id, user_id=1)
            assert ended.updated_at == session_clock()
            assert (await repository.history(session.session_id, user_id=1))[-1].at.tzinfo is not None
            session_clock.advance(minutes=2)
            assert await repository.purge(ended_before=session_clock()) == 1
    written = {"insert", "findAndModify", "update", "delete"}
    assert written <= set(counts)
    for command in counter.commands:
        name = next(iter(command))
        if name in written:
            assert command["writeConcern"]["w"] == "majority", name
        assert command.get("$readPreference", {"mode": "primary"})["mode"] != "secondaryPreferred", name


@pytest.mark.needs("server")
async def test_the_time_is_the_servers(database: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repository opened without a clock keeps the server's time; the worker's own wall clock is never asked."""

    def never() -> datetime:
        pytest.fail("the wall clock was read")

    monkeypatch.setattr("sessions.repository.session_repository.system_time", never)
    async with open_repository(database, create_indexes=True) as repository:
        tolerance = timedelta(milliseconds=100)
        before = (await database.client.admin.command("hello"))["localTime"].replace(tzinfo=UTC)
        session = await repository.create(1, "t", pending_question="Which?")
        after = (await database.client.admin.command("hello"))["localTime"].replace(tzinfo=UTC)
        assert before - tolerance <= session.created_at <= after + tolerance
        assert session.created_at.microsecond % 1000 == 0


@pytest.mark.needs("server")
async def test_the_time_is_learned_anew_when_the_primary_changes(
    database: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Another primary has another clock; until it has been read the last measurement serves on, with a warning."""
    monkeypatch.setattr("sessions.store.clock._RETRY_SECONDS", 0.01)
    read = SessionCollection.server_time
    failures = iter([True])

    async def read_after_a_failure(collection: SessionCollection) -> datetime:
        if next(failures, False):
            raise StoreUnavailable(SessionRef(), outcome=WriteOutcome.NOT_WRITTEN, cause="AutoReconnect")
        return await read(collection) + timedelta(hours=1)

    async with open_repository(database, verify_indexes=False) as repository:
        clock = repository._clock
        assert isinstance(clock, ServerClock)
        now = clock.now()
        monkeypatch.setattr(SessionCollection, "server_time", read_after_a_failure)
        clock._primary = ("another.example", 27017)
        with caplog.at_level(logging.WARNING, logger="sessions"):
            async with asyncio.timeout(20):
                while clock.now() < now + timedelta(minutes=30):  # noqa: ASYNC110 - the clock announces nothing
                    await asyncio.sleep(0.01)
        assert "the last measurement serves on" in caplog.text
        assert timedelta(0) <= clock.error < timedelta(seconds=5)


@pytest.mark.needs("change_streams")
async def test_a_cache_has_the_time_learned_anew(database: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that only routes through its cache learns another primary's clock when the stream is opened anew."""
    read = SessionCollection.server_time

    async def an_hour_later(collection: SessionCollection) -> datetime:
        return await read(collection) + timedelta(hours=1)

    async with open_repository(database, create_indexes=True) as repository, CachedRouter(repository) as router:
        clock = repository._clock
        assert isinstance(clock, ServerClock)
        began = clock.reading()
        monkeypatch.setattr(SessionCollection, "server_time", an_hour_later)
        clock._primary = ("another.example", 27017)
        await router.route(1, "c")
        router._listener.opened()
        async with asyncio.timeout(20):
            while clock.reading() < began + timedelta(minutes=30):  # noqa: ASYNC110 - the clock announces nothing
                await asyncio.sleep(0.01)


async def test_a_naive_clock_is_refused_at_opening(database: Any) -> None:
    """A clock without a time zone would write moments that nobody can compare."""
    with pytest.raises(InvalidSessionInput) as refusal:
        await open_repository(database, verify_indexes=False, clock=lambda: datetime(2026, 1, 1))  # noqa: DTZ001 - the case
    assert refusal.value.argument == "clock"


async def test_a_clock_that_turns_naive_writes_nothing(
    repository: SessionRepository, make_session: SessionMaker, session_clock: MovedClock
) -> None:
    """A clock is checked at each reading, before anything is sent."""
    session = await make_session(conversation_id="c")
    right = session_clock.at
    session_clock.at = right.replace(tzinfo=None)
    with pytest.raises(InvalidSessionInput):
        await repository.ignore(session.session_id, user_id=1)
    session_clock.at = right
    assert await repository.get(session.session_id, user_id=1) == session


@pytest.mark.parametrize("given", [None, "sessions", object()])
def test_only_a_database_can_be_opened(given: Any) -> None:
    """A client or a name in place of the database is told as such."""
    with pytest.raises(InvalidSessionInput, match="database must be a database of Motor"):
        open_repository(given)
