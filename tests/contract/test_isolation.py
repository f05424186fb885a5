"""Nobody reaches another user's session: it cannot be told from one that does not exist."""

import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest

from sessions import RouteAction, SessionError, SessionNotFound, SessionRepository, SessionStatus
from sessions.domain.lifecycle import CALLS, CallName
from sessions.domain.models import ActiveScheduleSessionSnapshot, derive_session_id
from sessions.store.document import COLLECTION
from sessions.testing import SessionMaker

if TYPE_CHECKING:
    from sessions.store.clients import Database

OWNER: Final = 1
STRANGER: Final = 2
OWNERS_OPERATION: Final = "owners-operation"

METHODS: Final = {
    name: inspect.signature(method).parameters
    for name, method in inspect.getmembers(SessionRepository, inspect.iscoroutinefunction)
    if not name.startswith("_")
}
BY_SESSION_ID: Final = sorted(name for name, parameters in METHODS.items() if "session_id" in parameters)
BY_CLAIM: Final = sorted(name for name, parameters in METHODS.items() if "claim" in parameters)

# What each argument would be, were the session one's own: the most tempting guess.
GUESSES: Final[Mapping[str, Callable[[ActiveScheduleSessionSnapshot], Any]]] = {
    "conversation_id": lambda session: session.conversation_id,
    "notification_id": lambda session: session.state.last_notification_id or "notification",
    "preview_id": lambda session: session.current_preview_id or "preview",
    "reply_id": lambda _: "reply",
    "reason": lambda _: "because",
    "after": lambda _: timedelta(seconds=5),
    "replaces": lambda session: session.lease.operation_id if session.lease is not None else None,
    "pending_question": lambda _: "Which one?",
    "operation_id": lambda _: OWNERS_OPERATION,
    "expected_revision": lambda session: session.revision,
    "question_number": lambda session: session.question_number,
}


def _guessed(name: str, session: ActiveScheduleSessionSnapshot) -> dict[str, Any]:
    """Every argument that a guess is known for; a method whose new required argument has none fails loudly."""
    return {argument: GUESSES[argument](session) for argument in METHODS[name] if argument in GUESSES}


async def _everything(database: "Database") -> list[dict[str, Any]]:
    collection: Any = database[COLLECTION]
    found: list[dict[str, Any]] = await collection.find({}).sort("_id", 1).to_list(None)
    return found


async def _seen(call: Awaitable[object], session_id: str) -> tuple[object, ...]:
    """All that a caller can see of a refusal, with the ids blanked that the caller passed."""
    with pytest.raises(SessionError) as caught:
        await call
    error = caught.value
    seen = {name: value for name, value in vars(error).items() if name != "session_id"}
    return type(error), str(error).replace(session_id, "<session>"), seen, error.session_id == session_id


async def _one_of_each(make_session: SessionMaker) -> list[ActiveScheduleSessionSnapshot]:
    sessions = [await make_session(status, user_id=OWNER, conversation_id=f"of {status}") for status in SessionStatus]
    refined = await make_session.refinement(user_id=OWNER, conversation_id="of a refinement")
    applied = await make_session.apply_claim(user_id=OWNER, conversation_id="of a yes")
    return [*sessions, refined.session, applied.session]


async def test_another_users_session_counts_as_missing_for_every_call(
    repository: SessionRepository, make_session: SessionMaker, database: "Database"
) -> None:
    """Whatever the session's status and whatever the stranger guesses: the error of an id that does not exist."""
    sessions = await _one_of_each(make_session)
    before = await _everything(database)
    missing = derive_session_id(STRANGER, "never made")
    for session in sessions:
        for name in BY_SESSION_ID:
            call, guesses = getattr(repository, name), _guessed(name, session)
            theirs = await _seen(call(session_id=session.session_id, user_id=STRANGER, **guesses), session.session_id)
            nobodys = await _seen(call(session_id=missing, user_id=STRANGER, **guesses), missing)
            assert theirs == nobodys, (name, session.status)
            assert theirs[0] is SessionNotFound
    assert await _everything(database) == before


async def test_the_owners_operation_id_opens_nothing(
    repository: SessionRepository, make_session: SessionMaker, database: "Database"
) -> None:
    """A replay is recognised for the owner only."""
    session = await make_session(user_id=OWNER)
    await repository.ignore(session.session_id, user_id=OWNER, operation_id=OWNERS_OPERATION)
    before = await _everything(database)
    with pytest.raises(SessionNotFound):
        await repository.ignore(session.session_id, user_id=STRANGER, operation_id=OWNERS_OPERATION)
    assert await _everything(database) == before


async def test_a_claim_under_another_user_holds_nothing(
    repository: SessionRepository, make_session: SessionMaker, database: "Database"
) -> None:
    """A claim whose user was exchanged is refused like one on a session that does not exist."""
    makers = (make_session.claim, make_session.refinement, make_session.apply_claim)
    for claim in [await make(user_id=OWNER) for make in makers]:
        before = await _everything(database)
        missing = derive_session_id(STRANGER, "never made")
        forged = {
            session_id: replace(
                claim, session=claim.session.model_copy(update={"user_id": STRANGER, "session_id": session_id})
            )
            for session_id in (claim.session.session_id, missing)
        }
        for name in BY_CLAIM:
            if claim.kind not in CALLS[CallName(name)].held:
                continue
            arguments = _guessed(name, claim.session)
            if "preview_id" in arguments:
                arguments["preview_id"] = "another"
            seen = [
                await _seen(getattr(repository, name)(claim=held, **arguments), session_id)
                for session_id, held in forged.items()
            ]
            assert seen[0] == seen[1], name
            assert seen[0][0] is SessionNotFound
        assert await _everything(database) == before


async def test_lookups_find_only_ones_own(
    repository: SessionRepository, make_session: SessionMaker, database: "Database"
) -> None:
    """Another user's trigger, preview and conversation lead to nothing."""
    sessions = await _one_of_each(make_session)
    before = await _everything(database)
    for session in sessions:
        conversation_id = session.conversation_id
        assert conversation_id is not None
        assert await repository.find_by_trigger(session.trigger_id, user_id=STRANGER) is None
        if session.current_preview_id is not None:
            assert await repository.find_by_preview(session.current_preview_id, user_id=OWNER) == session
            assert await repository.find_by_preview(session.current_preview_id, user_id=STRANGER) is None
        assert await repository.latest(STRANGER, conversation_id) is None
        for reply_id in session.answered_reply_ids:
            for user_id, found in ((OWNER, session), (STRANGER, None)):
                looked = await repository.find_by_reply(reply_id, user_id=user_id, conversation_id=conversation_id)
                assert looked == found
        route = await repository.route(STRANGER, conversation_id)
        assert (route.action, route.session) == (RouteAction.FREE_CHAT, None)
        assert await repository.route_many(STRANGER, [conversation_id]) == {conversation_id: route}
    assert (await repository.list_sessions(STRANGER)).sessions == ()
    assert await _everything(database) == before


async def test_two_users_keep_out_of_each_others_way(repository: SessionRepository) -> None:
    """The same trigger and the same conversation of two users make two sessions, each governing for its own."""
    mine = await repository.create(OWNER, "t", conversation_id="c", pending_question="Mine?")
    theirs = await repository.create(STRANGER, "t", conversation_id="c", pending_question="Theirs?")
    assert mine.session_id != theirs.session_id
    assert (await repository.route(OWNER, "c")).session == mine
    assert (await repository.route(STRANGER, "c")).session == theirs
    assert await repository.find_by_trigger("t", user_id=OWNER) == mine
    assert await repository.latest(STRANGER, "c") == theirs
    assert (await repository.list_sessions(OWNER)).sessions == (mine,)


def test_every_call_on_a_session_is_tried() -> None:
    """The methods are found by their arguments, so that a new one is tried without being named here."""
    assert {"get", "history", "claim_rerun", "apply", "ignore", "fail"} <= set(BY_SESSION_ID)
    assert {name.value for name, rule in CALLS.items() if rule.by_holder} == set(BY_CLAIM)
