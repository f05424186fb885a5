"""From a graph's first result to a stored session: one for each trigger, however often it is delivered."""

import inspect
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sessions import (
    ActiveScheduleSessionSnapshot,
    AlreadyHandled,
    Asked,
    AskUser,
    Close,
    Closed,
    ConversationBusy,
    Fail,
    InvalidSessionInput,
    NotAnAnswer,
    PreviewShown,
    RouteAction,
    SessionBridge,
    SessionRepository,
    SessionStatus,
    ShowPreview,
    TransitionConflict,
    Turn,
    action_url,
)
from sessions.domain.errors import ConflictReason, SessionRef
from sessions.testing import CommandCounter, MovedClock


async def no_answer(turn: Turn) -> NotAnAnswer:
    """A graph that takes every message for a side question."""
    del turn
    return NotAnAnswer()


@pytest.fixture
def bridge(repository: SessionRepository) -> SessionBridge:
    """A bridge whose graph answers nothing."""
    return SessionBridge(repository, no_answer)


Result = AskUser | ShowPreview | Close


async def _claimed(repository: SessionRepository, session_id: str) -> None:
    await repository.claim_rerun(session_id, user_id=1, reply_id="m")


async def _dismissed(repository: SessionRepository, session_id: str) -> None:
    await repository.ignore(session_id, user_id=1)


async def _notified(repository: SessionRepository, session_id: str) -> None:
    await repository.record_notification(session_id, "n", user_id=1)


@pytest.mark.parametrize(
    ("goes_on", "outcome"), [(_claimed, AlreadyHandled), (_dismissed, AlreadyHandled), (_notified, Asked)]
)
async def test_what_was_begun_unseen_has_gone_on(
    bridge: SessionBridge,
    repository: SessionRepository,
    monkeypatch: pytest.MonkeyPatch,
    goes_on: Callable[[SessionRepository, str], Awaitable[None]],
    outcome: type,
) -> None:
    """A creation whose answer was lost is found when it is tried again, and others may have seen it before."""
    get_or_create = repository.get_or_create

    async def answered_late(*args: Any, **more: Any) -> tuple[ActiveScheduleSessionSnapshot, bool]:
        session, created = await get_or_create(*args, **more)
        await goes_on(repository, session.session_id)
        return await repository.get(session.session_id, user_id=1), created

    monkeypatch.setattr(repository, "get_or_create", answered_late)
    told = await bridge.start(1, "t", AskUser("Which day?", payload=7), conversation_id="c")
    assert type(told) is outcome
    assert told.session.revision == 2


@pytest.mark.parametrize(
    ("result", "outcome", "status"),
    [
        (AskUser("Which day?", candidate_id="k", payload=7), Asked, SessionStatus.WAITING_USER_REPLY),
        (AskUser(missing_info=[" day ", "day"], payload=7), Asked, SessionStatus.WAITING_USER_REPLY),
        (ShowPreview("preview-1", candidate_id="k", payload=7), PreviewShown, SessionStatus.READY_PREVIEW),
        (Close("nothing moved", payload=7), Closed, SessionStatus.IGNORED),
    ],
)
async def test_a_first_result_is_stored(
    bridge: SessionBridge, repository: SessionRepository, result: Result, outcome: type, status: SessionStatus
) -> None:
    """It is stored bound to its conversation, then returned for the notification; a second delivery says the same."""
    for _ in range(2):
        started = await bridge.start(1, "t", result, conversation_id="c", notification_id="n")
        assert type(started) is outcome
        assert started.payload == 7
        assert started.session == await repository.find_by_trigger("t", user_id=1)
        assert started.session.status is status
        assert (started.session.conversation_id, started.session.state.last_notification_id) == ("c", "n")
        assert action_url(started.session) == "/assistant/c"
        assert started.session.revision == 1
    if isinstance(result, Close):
        assert (await repository.history(started.session.session_id, user_id=1))[0].reason == "nothing moved"


@pytest.mark.needs("server")
async def test_a_start_is_one_write(
    bridge: SessionBridge, repository: SessionRepository, command_counter: CommandCounter
) -> None:
    """A session is bound and stored in one insert: no crash leaves half of it."""
    del repository
    with command_counter.counting() as counts:
        await bridge.start(1, "t", AskUser("Which day?"), conversation_id="c")
    assert counts == {"insert": 1}


async def test_binding_and_notifying_belong_to_the_start(bridge: SessionBridge, repository: SessionRepository) -> None:
    """What the application does between two deliveries of a trigger to bring it to its user is no answer."""
    first = await bridge.start(1, "t", AskUser("Which day?"))
    with pytest.raises(InvalidSessionInput):
        action_url(first.session)
    await repository.bind_conversation(first.session.session_id, "c", user_id=1)
    await repository.record_notification(first.session.session_id, "n", user_id=1)
    again = await bridge.start(1, "t", AskUser("Which day?"))
    assert isinstance(again, Asked)
    assert action_url(again.session) == "/assistant/c"


async def test_delivered_again_with_blanks(bridge: SessionBridge) -> None:
    """What storing drops makes no other result: the payload still fits."""
    result = AskUser(" Which? ", missing_info=["day", " ", "day "], payload="card")
    first = await bridge.start(1, "t", result)
    assert await bridge.start(1, "t", result) == first


async def test_delivered_again_with_another_result(bridge: SessionBridge) -> None:
    """A graph that ran twice may come to two results: the first stands, without the payload of the second."""
    first = await bridge.start(1, "t", ShowPreview("preview-1", payload="card 1"))
    again = await bridge.start(1, "t", ShowPreview("preview-2", payload="card 2"))
    assert again == PreviewShown(first.session, None)
    third = await bridge.start(1, "t", AskUser("Which day?", payload="card 3"))
    assert third == PreviewShown(first.session, None)
    assert await bridge.start(1, "t", Close(payload="card 4")) == PreviewShown(first.session, None)
    asked = await bridge.start(1, "t2", AskUser("Which day?", payload="card 1"))
    assert await bridge.start(1, "t2", AskUser("What day?", payload="card 2")) == Asked(asked.session, None)


async def test_delivered_again_after_something_happened(bridge: SessionBridge, repository: SessionRepository) -> None:
    """Once the user has reacted a late second delivery must not notify them again."""
    answered = await bridge.start(1, "t1", AskUser("Which day?"), conversation_id="c1")
    claim = await repository.claim_rerun(answered.session.session_id, user_id=1, reply_id="m")
    assert isinstance(await bridge.start(1, "t1", AskUser("Which day?")), AlreadyHandled)
    await repository.ask_again(claim, pending_question="And when?")
    assert isinstance(await bridge.start(1, "t1", AskUser("Which day?")), AlreadyHandled)
    dismissed = await bridge.start(1, "t2", AskUser("Which day?"))
    await bridge.dismiss(1, dismissed.session.session_id)
    for result in (AskUser("Which day?"), Close()):
        assert isinstance(await bridge.start(1, "t2", result), AlreadyHandled)
    shown = await bridge.start(1, "t3", ShowPreview("preview-1"))
    await bridge.dismiss(1, shown.session.session_id)
    assert isinstance(await bridge.start(1, "t3", Close()), AlreadyHandled)
    applied = await bridge.start(1, "t4", ShowPreview("preview-1"))
    await bridge.confirm(1, applied.session.session_id, preview_id="preview-1")
    again = await bridge.start(1, "t4", ShowPreview("preview-1"))
    assert isinstance(again, AlreadyHandled)
    assert again.session.status is SessionStatus.APPLIED


async def test_delivered_again_after_its_end(bridge: SessionBridge, session_clock: MovedClock) -> None:
    """A question whose time is up has ended, swept or not; its own `expires_at` is then no reason to refuse."""
    result = AskUser("Which day?", expires_at=session_clock() + timedelta(seconds=5))
    assert isinstance(await bridge.start(1, "t", result), Asked)
    session_clock.advance(seconds=5)
    assert isinstance(await bridge.start(1, "t", result), AlreadyHandled)
    with pytest.raises(InvalidSessionInput, match="expires_at"):
        await bridge.start(1, "new", result)


async def test_a_busy_conversation(bridge: SessionBridge, repository: SessionRepository) -> None:
    """A trigger that finds the conversation governed has stored nothing, and can be delivered again when it is free."""
    first = await bridge.start(1, "t1", AskUser("Which day?"), conversation_id="c")
    with pytest.raises(ConversationBusy) as refusal:
        await bridge.start(1, "t2", AskUser("Which room?"), conversation_id="c")
    assert refusal.value.governing_session_id == first.session.session_id
    assert await repository.find_by_trigger("t2", user_id=1) is None
    await bridge.dismiss(1, first.session.session_id)
    assert isinstance(await bridge.start(1, "t2", AskUser("Which room?"), conversation_id="c"), Asked)


async def test_governors_that_come_and_go(
    bridge: SessionBridge, repository: SessionRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where each try met another governor the conversation was busy, though nobody can say with whom."""

    async def raced(*_: object, **__: object) -> None:
        raise TransitionConflict(SessionRef(session_id="s", user_id=1), reason=ConflictReason.RACED)

    monkeypatch.setattr(repository, "get_or_create", raced)
    with pytest.raises(ConversationBusy) as refusal:
        await bridge.start(1, "t", AskUser("Which room?"), conversation_id="c")
    assert refusal.value.governing_session_id is None


async def test_results_that_start_nothing(bridge: SessionBridge, repository: SessionRepository) -> None:
    """Only a question, a preview or a close can be a trigger's first result; all else is refused, nothing is stored."""
    wrong: list[Any] = [None, "Which day?", Fail("broken"), NotAnAnswer(), AskUser, AskUser(), ShowPreview("")]
    wrong += [AskUser("a\x00b"), AskUser("x", expires_at=datetime(2020, 1, 1, tzinfo=UTC))]
    for result in wrong:
        with pytest.raises(InvalidSessionInput):
            await bridge.start(1, "t", result)
    with pytest.raises(InvalidSessionInput, match="conversation_id"):
        await bridge.start(1, "t", AskUser("Which day?"), conversation_id="")
    with pytest.raises(InvalidSessionInput, match="notification_id"):
        await bridge.start(1, "t", AskUser("Which day?"), notification_id="x" * 129)
    assert await repository.find_by_trigger("t", user_id=1) is None


class Undone(Exception):
    """Raised to abort a transaction."""


@pytest.mark.needs("transactions")
async def test_in_the_applications_transaction(
    bridge: SessionBridge, repository: SessionRepository, database: Any
) -> None:
    """Conversation, session and notification are made together or not at all; a retry finds what the first try made."""
    await database.create_collection("notifications", check_exists=False)

    async def notify(within: Any) -> None:
        started = await bridge.start(1, "t", AskUser("Which day?"), conversation_id="c", client_session=within)
        assert isinstance(started, Asked)
        await database["notifications"].insert_one({"url": action_url(started.session)}, session=within)

    async def notify_and_break(within: Any) -> None:
        await notify(within)
        raise Undone

    opening = database.client.start_session()
    async with await opening if inspect.isawaitable(opening) else opening as within:
        with pytest.raises(Undone):
            await within.with_transaction(notify_and_break)
        assert await repository.find_by_trigger("t", user_id=1) is None
        for _ in range(2):
            await within.with_transaction(notify)
    assert (await repository.route(1, "c")).action is RouteAction.RESUME
    assert await database["notifications"].count_documents({"url": "/assistant/c"}) == 2


@pytest.mark.needs("transactions")
async def test_refused_in_the_applications_transaction(
    bridge: SessionBridge, repository: SessionRepository, database: Any
) -> None:
    """A busy conversation is refused in the transaction too, and the transaction leaves nothing."""
    await bridge.start(1, "t1", AskUser("Which day?"), conversation_id="c")

    async def start(within: Any) -> None:
        await bridge.start(1, "t2", AskUser("Which room?"), conversation_id="c", client_session=within)

    opening = database.client.start_session()
    async with await opening if inspect.isawaitable(opening) else opening as within:
        with pytest.raises(ConversationBusy):
            await within.with_transaction(start)
    assert await repository.find_by_trigger("t2", user_id=1) is None


async def test_what_is_no_transaction(bridge: SessionBridge, repository: SessionRepository) -> None:
    """A transaction that cannot be joined is refused rather than left out."""
    within: Any = object()
    with pytest.raises(InvalidSessionInput, match="client_session"):
        await bridge.start(1, "t", AskUser("Which day?"), client_session=within)
    assert await repository.find_by_trigger("t", user_id=1) is None
