"""Whose time limit holds for what: a caller's for its call, the repository's for all that follows and goes on."""

import asyncio
import time
from datetime import timedelta
from typing import Any

import pymongo
import pytest

from sessions import (
    Applied,
    ApplyClaim,
    Asked,
    AskUser,
    PreviewShown,
    RerunFailed,
    SessionBridge,
    SessionRepository,
    SessionStatus,
    ShowPreview,
    StoreUnavailable,
    Turn,
    WriteOutcome,
    open_repository,
)
from sessions.steady_clock import steady
from sessions.store.collection import SessionCollection
from sessions.store.writes import Write
from sessions.testing import SessionMaker
from tests.support.fail_points import failing

PATIENCE = 15.0


async def no_graph(_turn: Turn) -> AskUser:
    """Never called."""
    raise AssertionError


@pytest.mark.needs("server")
async def test_what_begins_under_a_deadline_works_on_after_it(database: Any) -> None:
    """Clock and upkeep of a repository that was opened within a time limit are not bound to it."""
    async with open_repository(database, create_indexes=True):
        pass
    done = asyncio.Event()

    async def write_back(_claim: ApplyClaim) -> None:
        done.set()

    with pymongo.timeout(1.0):
        repository = await open_repository(database, lease=timedelta(milliseconds=300))
        upkeep = SessionBridge(repository, no_graph, write_back=write_back).upkeep(every=timedelta(milliseconds=100))
        await upkeep.__aenter__()
    await asyncio.sleep(1.1)
    session = await repository.create(1, "t", preview_id="preview-1")
    await repository.claim_apply(session.session_id, user_id=1, preview_id="preview-1")
    async with asyncio.timeout(PATIENCE):
        await done.wait()
        while (await repository.get(session.session_id, user_id=1)).status is not SessionStatus.APPLIED:  # noqa: ASYNC110 - the store announces nothing
            await asyncio.sleep(0.01)
    await upkeep.__aexit__(None, None, None)
    await repository.close()


@pytest.mark.needs("server")
async def test_a_run_that_outlasts_its_callers_deadline_is_recorded(repository: SessionRepository) -> None:
    """The time limit of a request bounds its calls, not the outcome of what the graph and the write-back have done."""
    await repository.create(1, "t", conversation_id="c", pending_question="Which day?")

    async def graph(turn: Turn) -> AskUser | ShowPreview:
        await asyncio.sleep(0.6)
        return ShowPreview("preview-1") if turn.text == "Monday" else AskUser("Monday?")

    async def write_back(_claim: ApplyClaim) -> None:
        await asyncio.sleep(0.6)

    bridge = SessionBridge(repository, graph, write_back=write_back)
    for text, expected in (("early", Asked), ("Monday", PreviewShown)):
        with pymongo.timeout(0.5):
            assert isinstance(await bridge.handle(1, "c", text, message_id=text), expected)
    session = await repository.latest(1, "c")
    assert session is not None
    with pymongo.timeout(0.5):
        assert isinstance(await bridge.confirm(1, session.session_id, preview_id="preview-1"), Applied)


@pytest.mark.needs("server")
async def test_a_claim_that_a_deadline_cut_off_is_given_back(repository: SessionRepository) -> None:
    """A graph that its request's time limit stops leaves no lease behind."""
    await repository.create(1, "t", conversation_id="c", pending_question="Which day?")
    started = asyncio.Event()

    async def graph(_turn: Turn) -> AskUser:
        started.set()
        await asyncio.Event().wait()
        raise AssertionError

    async def request() -> None:
        with pymongo.timeout(0.3):
            await SessionBridge(repository, graph).handle(1, "c", "Monday", message_id="m")

    handling = asyncio.create_task(request())
    await started.wait()
    await asyncio.sleep(0.4)
    handling.cancel()
    await asyncio.wait({handling})
    session = await repository.latest(1, "c")
    assert session is not None
    assert (session.status, session.lease) == (SessionStatus.WAITING_USER_REPLY, None)


@pytest.mark.needs("server")
async def test_a_callers_shorter_deadline_holds_for_its_call(
    repository: SessionRepository, database: Any, make_session: SessionMaker
) -> None:
    """A request that has little time learns soon that the database does not answer."""
    await make_session(conversation_id="c")
    began = time.monotonic()
    async with failing(database, "find", blockConnection=True, blockTimeMS=3_000, mode={"times": 1}):
        with pymongo.timeout(0.5), pytest.raises(StoreUnavailable):
            await repository.route(1, "c")
        assert time.monotonic() - began < 2.5


def test_the_clock_that_carries_time_cannot_be_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tools that freeze time replace the functions of `time`; leases would end an hour ago."""
    for name in ("monotonic", "time", "perf_counter"):
        monkeypatch.setattr(time, name, lambda: 0.0)
    first = steady()
    assert first > 0.0
    for _ in range(1_000_000):
        if steady() > first:
            return
    raise AssertionError("it stands still")


@pytest.mark.needs("server")
async def test_a_write_back_longer_than_a_rerun_may_take(repository: SessionRepository) -> None:
    """The upkeep finishes by the bridge's limit for write-backs, and does not stop each take-over until it fails."""
    brief = timedelta(milliseconds=100)

    async def slow(_claim: ApplyClaim) -> None:
        await asyncio.sleep(0.4)

    bridge = SessionBridge(repository, no_graph, write_back=slow, max_rerun=brief, max_write_back=timedelta(seconds=20))
    session = await repository.create(1, "t", preview_id="preview-1")
    assert isinstance(await bridge.confirm(1, session.session_id, preview_id="preview-1"), Applied)
    upkeep = bridge.upkeep()
    assert upkeep._max_write_back == timedelta(seconds=20)
    assert SessionBridge(repository, no_graph, write_back=slow, max_rerun=brief).upkeep()._max_write_back == brief


async def test_a_reason_names_what_stands_behind_an_error(
    repository: SessionRepository, caplog: pytest.LogCaptureFixture
) -> None:
    """Where a graph raises from another error, both kinds are told, and the place where the first one was raised."""
    await repository.create(1, "t", conversation_id="c", pending_question="Which day?")

    async def book_the_room(room: str) -> None:
        raise KeyError(room)

    async def graph(turn: Turn) -> AskUser:
        try:
            await book_the_room(turn.text)
        except KeyError as error:
            raise RuntimeError(turn.text) from error
        raise AssertionError

    outcome = await SessionBridge(repository, graph).handle(1, "c", "PRIVATE", message_id="m")
    assert isinstance(outcome, RerunFailed)
    assert outcome.session.state.failed_reason == "the graph raised RuntimeError (KeyError)"
    assert "in book_the_room" in caplog.text
    assert "PRIVATE" not in caplog.text


@pytest.mark.needs("server")
@pytest.mark.parametrize("obstacle", ["validator", "view", "foreign unique index"])
async def test_what_cannot_pass_is_said_and_not_tried_again(
    repository: SessionRepository, database: Any, make_session: SessionMaker, obstacle: str
) -> None:
    """An error that trying again does not help says what it is, by name, and that it does not pass."""
    name = "active_schedule_sessions"
    await make_session()
    if obstacle == "validator":
        await database.command({"collMod": name, "validator": {"trigger_id": "none"}})
        expected = "a validator of the collection refuses the document"
    elif obstacle == "view":
        await database.drop_collection(name)
        await database.command({"create": name, "viewOn": "others", "pipeline": []})
        expected = "the collection is a view"
    else:
        await database[name].create_index("fencing_token", unique=True)
        expected = "a unique index that this library does not declare, on fencing_token"
    with pytest.raises(StoreUnavailable, match=expected) as refusal:
        await repository.create(1, "t", preview_id="preview-1")
    assert not refusal.value.may_pass
    assert "try again later" not in str(refusal.value)


@pytest.mark.needs("server")
async def test_a_sweep_that_ends_on_the_way_does_not_say_that_nothing_was_written(
    repository: SessionRepository, database: Any
) -> None:
    """The server keeps what it had changed when it met the document that it refuses."""
    refused = {"status": "ignored", "trigger_id": "t2"}
    await database.command({"collMod": "active_schedule_sessions", "validator": {"$nor": [refused]}})
    made = [await repository.create(1, f"t{number}", pending_question="Which day?") for number in (1, 2)]
    sweep = Write({"_id": {"$in": [session.session_id for session in made]}}, {"$set": {"status": "ignored"}})
    with pytest.raises(StoreUnavailable) as refusal:
        await repository._collection.for_one_call().update_many(sweep)
    assert (await repository.get(made[0].session_id, user_id=1)).status is SessionStatus.IGNORED
    assert refusal.value.outcome is WriteOutcome.UNKNOWN
    assert not refusal.value.may_pass


@pytest.mark.needs("server")
async def test_a_server_that_is_away_may_come_back(database: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What may pass by itself says so."""
    async with open_repository(database, create_indexes=True) as repository:
        monkeypatch.setattr(SessionCollection, "_ends", lambda _self: steady() + 0.5)
        async with failing(database, "find", errorCode=91):
            with pytest.raises(StoreUnavailable) as refusal:
                await repository.route(1, "c")
    assert refusal.value.may_pass
