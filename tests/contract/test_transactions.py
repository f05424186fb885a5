"""Inside the application's transaction: what a call writes takes effect with it, or not at all."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from pymongo.errors import OperationFailure, PyMongoError

from sessions import (
    ConflictReason,
    ConversationBusy,
    InvalidSessionInput,
    InvalidTransition,
    RouteAction,
    SessionExists,
    SessionRepository,
    SessionStatus,
    TransitionConflict,
    open_repository,
)
from sessions.domain.lifecycle import CALLS, CallName
from sessions.store.clients import connect, disconnect
from sessions.testing import Backend, CommandCounter, MovedClock, SessionMaker, StoredDocument
from tests.support.ready_call import ready_call

if TYPE_CHECKING:
    from sessions.store.clients import ClientSession, Database

in_a_transaction = pytest.mark.needs("transactions")
WRITES = [*CALLS, CallName.CREATE, CallName.GET_OR_CREATE]


class Undone(Exception):
    """Raised to abort a transaction."""


@asynccontextmanager
async def a_session(database: Any) -> AsyncIterator[Any]:
    """A session of the database's own client, on either driver."""
    started = database.client.start_session()
    session = await started if inspect.isawaitable(started) else started
    async with session:
        yield session


@asynccontextmanager
async def a_transaction(database: Any) -> AsyncIterator["ClientSession"]:
    """A transaction: committed at the end of the block, aborted by an error in it."""
    async with a_session(database) as session:
        started = session.start_transaction()
        async with await started if inspect.isawaitable(started) else started:
            yield session


async def committed(database: Any, do: Callable[[Any], Awaitable[object]]) -> Any:
    """What it does in one transaction, and its answer."""
    async with a_transaction(database) as within:
        return await do(within)


async def aborted(database: Any, do: Callable[[Any], Awaitable[object]]) -> None:
    """The same, thrown away after it was done."""

    async def done_and_undone() -> None:
        async with a_transaction(database) as within:
            await do(within)
            raise Undone

    with pytest.raises(Undone):
        await done_and_undone()


@in_a_transaction
@pytest.mark.parametrize("call", WRITES)
async def test_each_write_takes_effect_with_its_transaction(
    repository: SessionRepository, make_session: SessionMaker, database: Any, stored: StoredDocument, call: CallName
) -> None:
    """Aborted, not a byte has changed; committed, it is what the call would have written alone."""
    ready = await ready_call(make_session, call)
    before = await stored(ready.session_id)

    async def carry_out(within: Any) -> Any:
        answer = await ready(repository, client_session=within)
        assert await stored(ready.session_id) == before
        return answer

    await aborted(database, carry_out)
    assert await stored(ready.session_id) == before
    answer = await committed(database, carry_out)
    answer = answer[0] if isinstance(answer, tuple) else answer
    written = getattr(answer, "session", answer)
    assert written == await repository.get(ready.session_id, user_id=1)
    assert written.revision == (before["revision"] if before is not None else 0) + 1


@in_a_transaction
async def test_schedule_and_session_change_together(
    repository: SessionRepository, make_session: SessionMaker, database: Any
) -> None:
    """An application that keeps its schedule in the same database applies in one transaction, without a claim."""
    session = await make_session(SessionStatus.READY_PREVIEW)
    schedule = database["schedule"]
    await schedule.insert_one({"_id": "lesson-12", "day": "Monday"})

    async def move(within: Any) -> None:
        await schedule.update_one({"_id": "lesson-12"}, {"$set": {"day": "Friday"}}, session=within)
        await repository.apply(session.session_id, user_id=1, preview_id="preview-1", client_session=within)

    await aborted(database, move)
    assert (await schedule.find_one({"_id": "lesson-12"}))["day"] == "Monday"
    assert await repository.get(session.session_id, user_id=1) == session
    await committed(database, move)
    assert (await schedule.find_one({"_id": "lesson-12"}))["day"] == "Friday"
    assert (await repository.get(session.session_id, user_id=1)).status is SessionStatus.APPLIED


@in_a_transaction
@pytest.mark.parametrize("contended", ["schedule", "session"])
async def test_a_write_conflict_is_retried_by_the_drivers_with_transaction(
    repository: SessionRepository, make_session: SessionMaker, database: Any, contended: str
) -> None:
    """The driver's error reaches ``with_transaction`` with its labels, which begins anew: one effect, one entry."""
    session = await make_session(SessionStatus.READY_PREVIEW)
    schedule = database["schedule"]
    await schedule.insert_one({"_id": "lesson-12", "moves": 0})
    tries: list[list[str]] = []

    async def another_writer() -> None:
        if contended == "schedule":
            await schedule.update_one({"_id": "lesson-12"}, {"$set": {"note": "seen"}})
        else:
            await repository.record_notification(session.session_id, "n", user_id=1)

    async def move(within: Any) -> None:
        tries.append([])
        await repository.get(session.session_id, user_id=1, client_session=within)
        if len(tries) == 1:
            await another_writer()
        try:
            await repository.apply(session.session_id, user_id=1, preview_id="preview-1", client_session=within)
            await schedule.update_one({"_id": "lesson-12"}, {"$inc": {"moves": 1}}, session=within)
        except PyMongoError as error:
            tries[-1] = [label for label in ("TransientTransactionError",) if error.has_error_label(label)]
            raise

    async with a_session(database) as within:
        await within.with_transaction(move)
    assert tries == [["TransientTransactionError"], []]
    assert (await schedule.find_one({"_id": "lesson-12"}))["moves"] == 1
    steps = [entry.to_status for entry in await repository.history(session.session_id, user_id=1)]
    assert steps == ["ready_preview", "applied"]


@in_a_transaction
async def test_the_drivers_error_passes_through_unchanged(
    repository: SessionRepository, make_session: SessionMaker, database: Any
) -> None:
    """It is no ``StoreUnavailable``: the transaction's owner has to see it as the driver raised it."""
    session = await make_session()

    async def late(within: Any) -> None:
        await repository.get(session.session_id, user_id=1, client_session=within)
        await repository.record_notification(session.session_id, "n", user_id=1)
        await repository.ignore(session.session_id, user_id=1, client_session=within)

    with pytest.raises(OperationFailure) as refusal:
        await committed(database, late)
    assert refusal.value.has_error_label("TransientTransactionError")
    assert (await repository.get(session.session_id, user_id=1)).status is SessionStatus.WAITING_USER_REPLY


Look = Callable[[SessionRepository, str, Any], Awaitable[Any]]
LOOKS: dict[str, Look] = {
    "route": lambda r, _, s: r.route(1, "c", client_session=s),
    "get": lambda r, id_, s: r.get(id_, user_id=1, client_session=s),
    "history": lambda r, id_, s: r.history(id_, user_id=1, client_session=s),
    "latest": lambda r, _, s: r.latest(1, "c", client_session=s),
    "find_by_trigger": lambda r, _, s: r.find_by_trigger("t", user_id=1, client_session=s),
    "find_by_preview": lambda r, _, s: r.find_by_preview("p", user_id=1, client_session=s),
    "find_by_reply": lambda r, _, s: r.find_by_reply("r", user_id=1, conversation_id="c", client_session=s),
}


@in_a_transaction
@pytest.mark.parametrize("look", list(LOOKS))
async def test_a_lookup_sees_what_its_own_transaction_wrote(
    repository: SessionRepository, database: Any, look: str
) -> None:
    """Inside, the session as it will be; outside, as it was until the commit."""
    asked = await repository.create(1, "t", conversation_id="c", pending_question="Which?")
    claim = await repository.claim_rerun(asked.session_id, user_id=1, reply_id="r")
    session = await repository.present_preview(claim, preview_id="p")
    outside = await LOOKS[look](repository, session.session_id, None)
    async with a_transaction(database) as within:
        await repository.claim_refinement(
            session.session_id, user_id=1, preview_id="p", reply_id="m", client_session=within
        )
        inside = await LOOKS[look](repository, session.session_id, within)
        assert inside != outside
        assert await LOOKS[look](repository, session.session_id, None) == outside
    assert await LOOKS[look](repository, session.session_id, None) == inside


@in_a_transaction
async def test_conversation_and_session_are_made_together(repository: SessionRepository, database: Any) -> None:
    """No notification leads to a conversation that is not there; delivered twice, the transaction finds the first."""
    conversations = database["conversations"]

    async def start(within: Any) -> bool:
        session, created = await repository.get_or_create(
            1, "t", conversation_id="c", pending_question="Which?", client_session=within
        )
        if created:
            await conversations.insert_one({"_id": session.conversation_id}, session=within)
        return created

    await aborted(database, start)
    assert await repository.find_by_trigger("t", user_id=1) is None
    made = []
    for _ in range(2):
        async with a_session(database) as within:
            made.append(await within.with_transaction(start))
    assert made == [True, False]
    assert await conversations.count_documents({}) == 1
    assert (await repository.route(1, "c")).action is RouteAction.RESUME


@in_a_transaction
async def test_a_duplicate_key_is_named_and_never_answered_with_a_snapshot(
    repository: SessionRepository, make_session: SessionMaker, database: Any
) -> None:
    """It has aborted the transaction: the caller learns why, and nothing of it is stored."""
    existing = await repository.create(1, "t", conversation_id="c", pending_question="Which?", operation_id="op")
    ready = await make_session(SessionStatus.READY_PREVIEW, conversation_id="c")
    unbound = await make_session()
    calls: dict[str, Callable[[Any], Awaitable[object]]] = {
        "create": lambda s: repository.create(1, "u", conversation_id="c", pending_question="?", client_session=s),
        "get_or_create": lambda s: repository.get_or_create(
            1, "u", conversation_id="c", pending_question="?", client_session=s
        ),
        "bind": lambda s: repository.bind_conversation(unbound.session_id, "c", user_id=1, client_session=s),
        "refine": lambda s: repository.claim_refinement(
            ready.session_id, user_id=1, preview_id=ready.current_preview_id or "", reply_id="m", client_session=s
        ),
    }

    async def with_its_conversation(within: Any, name: str) -> None:
        await database["conversations"].insert_one({"_id": name}, session=within)
        await calls[name](within)

    for name in calls:
        with pytest.raises(ConversationBusy) as busy:
            await committed(database, partial(with_its_conversation, name=name))
        assert busy.value.governing_session_id == existing.session_id

    async def again(within: Any, operation_id: str) -> None:
        await repository.create(1, "t", preview_id="p", operation_id=operation_id, client_session=within)

    for operation_id in ("op", "other"):
        with pytest.raises(SessionExists) as exists:
            await committed(database, partial(again, operation_id=operation_id))
        assert exists.value.session == existing
    assert await database["conversations"].count_documents({}) == 0
    assert await repository.find_by_trigger("u", user_id=1) is None


@in_a_transaction
async def test_what_one_transaction_makes_twice_is_refused_by_name(
    repository: SessionRepository, database: Any
) -> None:
    """Where the transaction's own write was in the way nothing is left to be found, and the kind still says why."""

    async def make(within: Any, triggers: str) -> None:
        for trigger in triggers:
            await repository.create(1, trigger, conversation_id="c", pending_question="?", client_session=within)

    with pytest.raises(SessionExists):
        await committed(database, partial(make, triggers="tt"))
    with pytest.raises(ConversationBusy) as busy:
        await committed(database, partial(make, triggers="tu"))
    assert busy.value.governing_session_id is None
    assert (await repository.list_sessions(1)).sessions == ()


@in_a_transaction
async def test_nothing_is_put_back_or_ended_on_the_way(
    database: "Database", session_clock: MovedClock, stored: StoredDocument
) -> None:
    """What has lapsed and stands in the way is left to a call outside; the transaction may go on."""
    repository = await open_repository(database, create_indexes=True, clock=session_clock, max_attempts=1)
    refined = await repository.create(1, "refined", conversation_id="refined", preview_id="p")
    await repository.claim_refinement(refined.session_id, user_id=1, preview_id="p", reply_id="m")
    asked = await repository.create(1, "asked", pending_question="Which?")
    await repository.claim_rerun(asked.session_id, user_id=1, reply_id="m")
    confirmed = await repository.create(1, "confirmed", preview_id="q")
    await repository.claim_apply(confirmed.session_id, user_id=1, preview_id="q")
    old = await repository.create(
        1, "old", conversation_id="c", pending_question="?", expires_at=session_clock() + timedelta(seconds=1)
    )
    session_clock.advance(minutes=2)
    ids = (refined.session_id, asked.session_id, confirmed.session_id, old.session_id)
    before = [await stored(session_id) for session_id in ids]
    calls: list[tuple[str, Callable[[Any], Awaitable[object]]]] = [
        ("raced", lambda s: repository.apply(refined.session_id, user_id=1, preview_id="p", client_session=s)),
        (
            "attempts_exhausted",
            lambda s: repository.claim_rerun(asked.session_id, user_id=1, reply_id="m", client_session=s),
        ),
        (
            "attempts_exhausted",
            lambda s: repository.claim_apply(confirmed.session_id, user_id=1, preview_id="q", client_session=s),
        ),
    ]
    for reason, call in calls:
        async with a_transaction(database) as within:
            with pytest.raises(TransitionConflict) as refusal:
                await call(within)
            assert refusal.value.reason == ConflictReason(reason)

    async def occupy(within: Any, conversation_id: str) -> None:
        await repository.create(1, "new", conversation_id=conversation_id, pending_question="?", client_session=within)

    for conversation_id, session_id in (("c", old.session_id), ("refined", refined.session_id)):
        with pytest.raises(ConversationBusy) as busy:
            await committed(database, partial(occupy, conversation_id=conversation_id))
        assert busy.value.governing_session_id == session_id
    assert [await stored(session_id) for session_id in ids] == before


@in_a_transaction
async def test_a_refusal_inside_leaves_the_transaction_usable(
    repository: SessionRepository, make_session: SessionMaker, database: Any
) -> None:
    """A guard that does not match is no error of the server: the caller may decide to commit the rest."""
    ended, open_ = await make_session(SessionStatus.APPLIED), await make_session()
    async with a_transaction(database) as within:
        with pytest.raises(InvalidTransition):
            await repository.ignore(ended.session_id, user_id=1, client_session=within)
        await repository.ignore(open_.session_id, user_id=1, client_session=within)
    assert (await repository.get(open_.session_id, user_id=1)).status is SessionStatus.IGNORED


@in_a_transaction
async def test_the_concerns_are_the_transactions(
    repository: SessionRepository, make_session: SessionMaker, database: Any, command_counter: CommandCounter
) -> None:
    """The server refuses a write concern on a command within a transaction; a session alone changes nothing else."""
    session = await make_session(conversation_id="c")
    with command_counter.counting() as counts:
        async with a_transaction(database) as within:
            await repository.route(1, "c", client_session=within)
            claim = await repository.claim_rerun(session.session_id, user_id=1, reply_id="m", client_session=within)
    assert counts == {"find": 1, "findAndModify": 1, "commitTransaction": 1}
    for command in command_counter.commands[:2]:
        assert command["autocommit"] is False
        assert "writeConcern" not in command
        assert "hint" not in command
    with command_counter.counting() as counts:
        async with a_session(database) as alone:
            await repository.release(claim, client_session=alone)
    assert counts == {"findAndModify": 1}
    assert command_counter.commands[0]["writeConcern"] == {"w": "majority"}


async def test_the_double_has_no_transactions(
    repository: SessionRepository, make_session: SessionMaker, backend: Backend, stored: StoredDocument
) -> None:
    """What is no session of the repository's own client is refused by name, on the double whatever it is."""
    session = await make_session()
    before = await stored(session.session_id)
    wrong: Any = object()
    with pytest.raises(InvalidSessionInput, match="double" if not backend.is_real else "own client") as refusal:
        await repository.ignore(session.session_id, user_id=1, client_session=wrong)
    assert refusal.value.argument == "client_session"
    assert await stored(session.session_id) == before


@in_a_transaction
async def test_a_session_of_another_client_is_refused(
    repository: SessionRepository, make_session: SessionMaker, database: Any, mongod_uri: str, backend: Backend
) -> None:
    """So is one that has ended, and one of the other driver."""
    session = await make_session()
    drivers = {backend.name, "pymongo"}
    for driver in sorted(drivers):
        other: Any = connect(mongod_uri, driver=driver)
        try:
            async with a_session(other["elsewhere"]) as foreign:
                with pytest.raises(InvalidSessionInput) as refusal:
                    await repository.get(session.session_id, user_id=1, client_session=foreign)
                assert refusal.value.argument == "client_session"
        finally:
            await disconnect(other)
    async with a_session(database) as own:
        pass
    with pytest.raises(InvalidSessionInput, match="has not ended"):
        await repository.get(session.session_id, user_id=1, client_session=own)


def test_every_call_on_one_session_can_join() -> None:
    """Whatever reads or writes one session takes a ``client_session``; sweeps, pages and counts take none."""
    many = {"route_many", "list_sessions", "expire_due", "recover_stalled", "purge", "interrupted_applies"}
    many |= {"count_by_status", "close"}
    joins = {
        name: "client_session" in inspect.signature(method).parameters
        for name, method in inspect.getmembers(SessionRepository, inspect.iscoroutinefunction)
        if not name.startswith("_")
    }
    assert {name for name, can in joins.items() if not can} == many


@in_a_transaction
async def test_a_cancelled_call_leaves_the_session_to_its_owner(
    repository: SessionRepository, make_session: SessionMaker, database: Any, stored: StoredDocument
) -> None:
    """What was on its way is finished first, so that the abort finds the session idle; nothing is given back."""
    session = await make_session()
    before = await stored(session.session_id)

    async def cancelled(within: Any) -> None:
        running = asyncio.ensure_future(
            repository.claim_rerun(session.session_id, user_id=1, reply_id="m", client_session=within)
        )
        await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        claimed = await repository.get(session.session_id, user_id=1, client_session=within)
        assert claimed.status is SessionStatus.RERUNNING

    await aborted(database, cancelled)
    assert await stored(session.session_id) == before
