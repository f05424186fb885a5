"""What a call costs the server: keys and documents examined, and commands sent."""

from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest
import pytest_asyncio

from sessions import ApplyClaim, RerunClaim, SessionRepository, SessionStatus
from sessions.domain.lifecycle import ALL, ENDED, CallName
from sessions.store import reads
from sessions.store.document import COLLECTION
from sessions.testing import CommandCounter, MovedClock, SessionMaker
from tests.support.explained_plans import explained

if TYPE_CHECKING:
    from sessions.store.clients import Database

pytestmark = pytest.mark.needs("server")

START: Final = datetime(2026, 1, 1, tzinfo=UTC)
ENDED_SESSIONS: Final = 10_000


def _ended_sessions() -> Iterator[dict[str, Any]]:
    statuses = sorted(ENDED)
    for number in range(ENDED_SESSIONS):
        status = statuses[number % len(statuses)].value
        at = START - timedelta(seconds=number + 1)
        yield {
            "_id": f"ended-{number:05}",
            "user_id": 1,
            "conversation_id": "c",
            "trigger_id": f"ended-trigger-{number}",
            "current_preview_id": f"ended-preview-{number}",
            "status": status,
            "state": {"failed_reason": "it broke"} if status == "failed" else {},
            "question_number": 0,
            "fencing_token": 0,
            "attempts": 0,
            "answered_reply_ids": [],
            "revision": 2,
            "history": [],
            "created_at": at,
            "updated_at": at,
        }


@pytest_asyncio.fixture(loop_scope="session")
async def crowded(repository: SessionRepository, database: "Database", make_session: SessionMaker) -> "Database":
    """One conversation with ten thousand ended sessions and one that governs; beside it something of each status."""
    collection: Any = database[COLLECTION]
    await collection.insert_many(list(_ended_sessions()))
    await make_session(conversation_id="c", expires_at=START + timedelta(days=1))
    await make_session.claim(conversation_id="claimed")
    await make_session.refinement(conversation_id="refined")
    await make_session.apply_claim()
    await make_session(SessionStatus.READY_PREVIEW, expires_at=START + timedelta(days=1))
    return database


async def test_a_route_costs_one_key_and_one_document(crowded: "Database") -> None:
    """Ten thousand ended sessions in the conversation do not make its routing lookup dearer."""
    stages, keys, documents = await explained(crowded, reads.governor(1, "c"))
    assert stages.isdisjoint({"SORT", "COLLSCAN"})
    assert (keys, documents) == (1, 1)
    stages, keys, documents = await explained(crowded, reads.governor(2, "c"))
    assert (keys, documents) == (0, 0)


async def test_many_routes_cost_a_key_or_two_each(crowded: "Database") -> None:
    """The lookup for many conversations reads live sessions only."""
    wanted = ["c", "claimed", "refined", *(f"unknown-{number}" for number in range(50))]
    stages, keys, documents = await explained(crowded, reads.governors(1, wanted))
    assert stages.isdisjoint({"SORT", "COLLSCAN"})
    assert keys <= 2 * len(wanted)
    assert documents == 3


async def test_the_latest_session_needs_no_sort(crowded: "Database") -> None:
    """Of ten thousand the one that changed last is found at the end of its index."""
    stages, keys, documents = await explained(crowded, reads.latest(1, "c"))
    assert stages.isdisjoint({"SORT", "COLLSCAN"})
    # One key opens each status's range; ranges without a session cost none.
    assert keys <= len(ALL)
    assert documents <= len(ALL)


@pytest.mark.parametrize(
    "statuses", [frozenset(ALL), frozenset({SessionStatus.APPLIED}), ENDED], ids=["all", "one", "ended"]
)
async def test_a_page_needs_no_sort(crowded: "Database", statuses: frozenset[SessionStatus]) -> None:
    """The first page and every later one come from the index in order; `SORT_MERGE` only merges ordered ranges."""
    for after in (None, (START - timedelta(hours=1), "ended-03599")):
        stages, keys, documents = await explained(crowded, reads.page(1, statuses, limit=50, after=after))
        assert stages.isdisjoint({"SORT", "COLLSCAN"})
        assert keys <= 51 + 3 * len(ALL)
        assert documents <= 51 + len(ALL)


async def test_each_sweep_uses_an_index(crowded: "Database") -> None:
    """Upkeep reads what is due, never the whole collection."""
    at = START + timedelta(days=2)
    for lookup in (reads.due(at, limit=100), reads.stalled(at, limit=100), reads.interrupted(at, limit=100)):
        stages, keys, documents = await explained(crowded, lookup)
        assert stages.isdisjoint({"SORT", "COLLSCAN"}), stages
        assert 1 <= documents <= 10
        assert keys <= 10
    stages, keys, documents = await explained(crowded, reads.ended(at, limit=100))
    assert stages.isdisjoint({"SORT", "COLLSCAN"}), stages
    assert documents <= 100 + len(ENDED)
    assert keys <= 100 + 2 * len(ENDED)


@pytest.mark.parametrize("field", reads.REPLY_FIELDS)
async def test_a_message_that_was_handled_is_found_by_one_key(crowded: "Database", field: str) -> None:
    """Ten thousand ended sessions of its conversation make it no dearer, nor whether it was answered or replaced."""
    collection: Any = crowded[COLLECTION]
    await collection.update_one({"_id": "ended-00077"}, {"$set": {field: ["older", "newer"]}})
    for reply_id, found in (("newer", 1), ("unknown", 0)):
        stages, keys, documents = await explained(crowded, reads.by_reply(1, "c", reply_id))
        assert stages.isdisjoint({"SORT", "COLLSCAN"})
        assert (keys, documents) == (found, found)


@pytest.mark.parametrize("by", ["trigger", "preview"])
async def test_a_session_is_found_by_its_own_keys(crowded: "Database", by: str) -> None:
    """By trigger and by preview one key and one document are read."""
    lookups = {
        "trigger": reads.by_trigger(1, "ended-trigger-77"),
        "preview": reads.by_preview(1, "ended-preview-77"),
    }
    _, keys, documents = await explained(crowded, lookups[by])
    assert (keys, documents) == (1, 1)


Carried = Callable[[], Awaitable[object]]


async def _writes(repository: SessionRepository, make_session: SessionMaker) -> dict[CallName, Carried]:
    """Each call that writes one stored session, ready to succeed."""

    async def ready() -> tuple[str, str]:
        session = await make_session(SessionStatus.READY_PREVIEW)
        assert session.current_preview_id is not None
        return session.session_id, session.current_preview_id

    async def held() -> RerunClaim:
        return await make_session.claim(conversation_id=None)

    asked, (refined, refined_preview), (applied, applied_preview) = await make_session(), await ready(), await ready()
    claims = {name: await held() for name in ("renew", "release", "ask", "show", "close", "fail", "interrupt")}
    (confirmed, confirmed_preview) = await ready()
    applies: dict[str, ApplyClaim] = {
        name: await make_session.apply_claim() for name in ("complete", "fail", "postpone")
    }
    unbound, noted, ignored, failed = [(await make_session()).session_id for _ in range(4)]
    return {
        CallName.BIND_CONVERSATION: lambda: repository.bind_conversation(unbound, "bound", user_id=1),
        CallName.RECORD_NOTIFICATION: lambda: repository.record_notification(noted, "n", user_id=1),
        CallName.CLAIM_RERUN: lambda: repository.claim_rerun(asked.session_id, user_id=1, reply_id="r"),
        CallName.CLAIM_REFINEMENT: lambda: repository.claim_refinement(
            refined, user_id=1, preview_id=refined_preview, reply_id="r"
        ),
        CallName.CLAIM_APPLY: lambda: repository.claim_apply(confirmed, user_id=1, preview_id=confirmed_preview),
        CallName.RENEW: lambda: repository.renew(claims["renew"]),
        CallName.RELEASE: lambda: repository.release(claims["release"]),
        CallName.POSTPONE: lambda: repository.postpone(applies["postpone"], after=timedelta(seconds=5)),
        CallName.ASK_AGAIN: lambda: repository.ask_again(claims["ask"], pending_question="And?"),
        CallName.PRESENT_PREVIEW: lambda: repository.present_preview(claims["show"], preview_id="new"),
        CallName.CLOSE_RERUN: lambda: repository.close_rerun(claims["close"]),
        CallName.FAIL_RERUN: lambda: repository.fail_rerun(claims["fail"], reason="it broke"),
        CallName.COMPLETE_APPLY: lambda: repository.complete_apply(applies["complete"]),
        CallName.FAIL_APPLY: lambda: repository.fail_apply(applies["fail"], reason="it broke"),
        CallName.INTERRUPT: lambda: repository.interrupt(claims["interrupt"].session.session_id, user_id=1),
        CallName.APPLY: lambda: repository.apply(applied, user_id=1, preview_id=applied_preview),
        CallName.IGNORE: lambda: repository.ignore(ignored, user_id=1),
        CallName.FAIL: lambda: repository.fail(failed, user_id=1, reason="it broke"),
    }


async def test_each_transition_is_one_round_trip(
    repository: SessionRepository, make_session: SessionMaker, command_counter: CommandCounter
) -> None:
    """A call that succeeds is exactly one `findAndModify` with `w: majority`, nothing read before or after it."""
    writes = await _writes(repository, make_session)
    sweeps_and_creations = {CallName.CREATE, CallName.GET_OR_CREATE, CallName.EXPIRE_DUE, CallName.RECOVER_STALLED}
    assert writes.keys() == set(CallName) - sweeps_and_creations
    for name, carry_out in writes.items():
        with command_counter.counting() as counts:
            await carry_out()
        assert counts == {"findAndModify": 1}, name
        assert command_counter.commands[0]["writeConcern"] == {"w": "majority"}


async def test_a_creation_is_one_insert(repository: SessionRepository, command_counter: CommandCounter) -> None:
    """A new session costs one round trip; finding that it exists costs a second."""
    with command_counter.counting() as counts:
        await repository.create(1, "t1", conversation_id="c", pending_question="Which?")
    assert counts == {"insert": 1}
    assert command_counter.commands[0]["writeConcern"] == {"w": "majority"}
    with command_counter.counting() as counts:
        _, created = await repository.get_or_create(1, "t2", preview_id="p")
    assert (counts, created) == ({"insert": 1}, True)
    with command_counter.counting() as counts:
        _, created = await repository.get_or_create(1, "t2", preview_id="p")
    assert (counts, created) == ({"insert": 1, "find": 1}, False)


async def test_a_take_over_is_one_round_trip(
    repository: SessionRepository,
    make_session: SessionMaker,
    session_clock: MovedClock,
    command_counter: CommandCounter,
) -> None:
    """A dead worker's lease is taken over by the claim's own write."""
    claim = await make_session.claim(conversation_id="c")
    session_clock.at = claim.expires_at
    with command_counter.counting() as counts:
        await repository.claim_rerun(claim.session.session_id, user_id=1, reply_id="next")
    assert counts == {"findAndModify": 1}


async def test_each_lookup_is_one_find(
    repository: SessionRepository, make_session: SessionMaker, command_counter: CommandCounter
) -> None:
    """Every way to look a session up costs one round trip, found or not."""
    session = await make_session(SessionStatus.READY_PREVIEW, conversation_id="c")
    assert session.current_preview_id is not None
    lookups: dict[str, Carried] = {
        "route": lambda: repository.route(1, "c"),
        "get": lambda: repository.get(session.session_id, user_id=1),
        "history": lambda: repository.history(session.session_id, user_id=1),
        "latest": lambda: repository.latest(1, "c"),
        "find_by_trigger": lambda: repository.find_by_trigger(session.trigger_id, user_id=1),
        "find_by_preview": lambda: repository.find_by_preview("unknown", user_id=1),
        "find_by_reply": lambda: repository.find_by_reply("r", user_id=1, conversation_id="c"),
        "list_sessions": lambda: repository.list_sessions(1),
    }
    for name, look in lookups.items():
        with command_counter.counting() as counts:
            await look()
        assert counts == {"find": 1}, name
