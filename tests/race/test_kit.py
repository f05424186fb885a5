"""The kit finds the bugs of naive workers, passes a worker on the bridge, and certifies nothing on the double."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pymongo.errors import PyMongoError

from sessions import AlreadyHandled, Held, LeaseLost, PreviewShown, SessionRepository, SessionStatus, TransitionConflict
from sessions.testing import (
    Backend,
    DoubleShowsNoRace,
    MovedClock,
    SessionMaker,
    assert_legal_history,
    deliver_together,
    lost_acknowledgements,
    repositories_apart,
    stop_at_each_await,
)
from sessions.testing.deliveries import _READY_WITHIN_SECONDS
from tests.support.chat_workers import (
    PREVIEW,
    BeginsAnew,
    CannotConnect,
    InItsOwnProcess,
    KeepsItsClaim,
    Message,
    OnTheBridge,
    SendsBeforeItRecords,
    WithoutAClaim,
    is_shown,
    send,
    times_sent,
)

if TYPE_CHECKING:
    from sessions import Database

needs_server = pytest.mark.needs("server")


@pytest.fixture
def arrange(sessions_maker: SessionMaker) -> Callable[[], Awaitable[Message]]:
    """A new session that waits for an answer, and the answer."""
    numbers = count()

    async def arranged() -> Message:
        message = Message(f"chat-{next(numbers)}")
        await sessions_maker(conversation_id=message.conversation_id)
        return message

    return arranged


Arrange = Callable[[], Awaitable[Message]]


@needs_server
async def test_a_worker_without_a_claim_answers_many_times(
    sessions_repository: SessionRepository, sessions_database: "Database", sessions_maker: SessionMaker
) -> None:
    """Each copy finds the question open; the history shows that somebody has written past the repository."""
    session = await sessions_maker(conversation_id="chat-1")
    worker = WithoutAClaim(sessions_repository, sessions_database)
    answers = await deliver_together(worker, Message("chat-1"), database=sessions_database)
    assert answers.count(PREVIEW) > 1
    assert await times_sent(sessions_database, Message("chat-1")) == answers.count(PREVIEW)
    with pytest.raises(AssertionError, match="is ready_preview, and no recorded step has led there"):
        await assert_legal_history(sessions_repository, session)


@needs_server
async def test_a_worker_on_the_bridge_answers_once(
    sessions_repository: SessionRepository, sessions_database: Any, sessions_maker: SessionMaker
) -> None:
    """One of the copies runs the graph; the others are held or told that it is done."""
    session = await sessions_maker(conversation_id="chat-1")
    worker = OnTheBridge(sessions_repository, sessions_database)
    message = Message("chat-1", redelivered=True)
    answers = await deliver_together(worker, message, database=sessions_database, copies=20)
    assert {type(answer) for answer in answers} <= {PreviewShown, Held, AlreadyHandled}
    assert any(map(is_shown, answers))
    assert await sessions_database["previews"].count_documents({}) == 1
    assert (await assert_legal_history(sessions_repository, session)).status is SessionStatus.READY_PREVIEW


@needs_server
async def test_several_processes(
    sessions_repository: SessionRepository,
    sessions_database: Any,
    sessions_maker: SessionMaker,
    sessions_mongod_uri: str,
    sessions_backend: Backend,
) -> None:
    """Each enters the handler for a connection of its own; their answers come back whole."""
    session = await sessions_maker(conversation_id="chat-1")
    worker = InItsOwnProcess(sessions_mongod_uri, sessions_database.name, sessions_backend.name)
    message = Message("chat-1", redelivered=True)
    answers = await deliver_together(worker, message, database=sessions_database, copies=5, processes=2)
    assert len(answers) == 5
    assert {type(answer) for answer in answers} <= {PreviewShown, Held, AlreadyHandled}
    assert any(map(is_shown, answers))
    assert await sessions_database["previews"].count_documents({}) == 1
    await assert_legal_history(sessions_repository, session)


@needs_server
async def test_what_cannot_be_sent_to_another_process(
    sessions_repository: SessionRepository, sessions_database: "Database"
) -> None:
    """A handler with a live connection is refused in a sentence, before any process is started."""
    worker = OnTheBridge(sessions_repository, sessions_database)
    with pytest.raises(TypeError, match="opens its connection when it is entered"):
        await deliver_together(worker, Message("c"), database=sessions_database, processes=2)
    with pytest.raises(ValueError, match="at least 2"):
        await deliver_together(worker, Message("c"), database=sessions_database, copies=1)


@needs_server
async def test_a_process_that_cannot_begin(sessions_database: "Database", tmp_path: Path) -> None:
    """Its error is told at once; the others, which waited for it, are let go."""
    began = time.monotonic()
    with pytest.raises(ConnectionError, match="no server there"):
        await deliver_together(CannotConnect(tmp_path / "first"), Message("c"), database=sessions_database, processes=2)
    assert time.monotonic() - began < _READY_WITHIN_SECONDS


@needs_server
async def test_what_a_handler_raises_is_among_the_answers(
    sessions_repository: SessionRepository, sessions_database: "Database", arrange: Arrange
) -> None:
    """A refusal of one copy neither hides the others' answers nor stops them."""
    answers = await deliver_together(
        KeepsItsClaim(sessions_repository), await arrange(), database=sessions_database, copies=5
    )
    assert answers.count(PREVIEW) == 1
    assert sum(isinstance(answer, TransitionConflict | AssertionError) for answer in answers) == 4


@needs_server
async def test_a_stop_between_sending_and_recording_is_found(
    sessions_repository: SessionRepository, sessions_database: "Database", arrange: Arrange
) -> None:
    """A worker whose claim is in order sends twice if it is stopped at one await; the note says at which."""

    async def sent_once(message: Message, answer: object) -> None:
        assert answer in {PREVIEW, None}
        assert await times_sent(sessions_database, message) == 1

    worker = SendsBeforeItRecords(sessions_repository, sessions_database)
    with pytest.raises(AssertionError) as found:
        await stop_at_each_await(worker, arrange=arrange, check=sent_once, database=sessions_database)
    (note,) = found.value.__notes__
    assert "chat_workers.py:" in note
    assert note.endswith((" in __call__.", " in send."))


@needs_server
async def test_a_claim_that_is_not_given_back_is_found(
    sessions_repository: SessionRepository, sessions_database: "Database", arrange: Arrange
) -> None:
    """The message that is delivered again is refused, since the stopped worker still holds the session."""

    async def shown(_: Message, answer: object) -> None:
        assert answer == PREVIEW

    with pytest.raises(TransitionConflict) as found:
        await stop_at_each_await(
            KeepsItsClaim(sessions_repository), arrange=arrange, check=shown, database=sessions_database
        )
    assert found.value.reason == "in_progress"
    assert "in __call__" in found.value.__notes__[0]


@needs_server
async def test_a_worker_on_the_bridge_can_be_stopped_anywhere(
    sessions_repository: SessionRepository, sessions_database: Any, arrange: Arrange
) -> None:
    """At each await of the worker and of its graph, which the bridge runs in a task of its own."""
    worker = OnTheBridge(sessions_repository, sessions_database)

    async def shown_once(message: Message, answer: object) -> None:
        assert is_shown(answer)
        session = await sessions_repository.latest(1, message.conversation_id)
        assert session is not None
        assert await sessions_database["previews"].count_documents({"conversation_id": message.conversation_id}) == 1
        now = await assert_legal_history(sessions_repository, session)
        assert now.answered_reply_ids == (message.message_id,)

    places = await stop_at_each_await(
        worker,
        arrange=arrange,
        check=shown_once,
        database=sessions_database,
        again=lambda message: worker(replace(message, redelivered=True)),
    )
    assert {place.rpartition(" ")[2] for place in places} == {"__call__", "rerun"}


@needs_server
async def test_a_worker_that_never_waits_shows_nothing(sessions_database: "Database", arrange: Arrange) -> None:
    """A test that could not have failed is no pass."""

    async def idle(_: Message) -> None: ...

    async def unchecked(_: Message, answer: object) -> None: ...

    with pytest.raises(AssertionError, match="waits for nothing"):
        await stop_at_each_await(idle, arrange=arrange, check=unchecked, database=sessions_database)


@needs_server
async def test_a_lost_answer_is_found(sessions_database: "Database") -> None:
    """A worker that takes the error for a failure has written twice; one write only is lost."""
    with pytest.raises(PyMongoError):
        async with lost_acknowledgements(sessions_database):
            await send(sessions_database, Message("chat-1"))
    assert await times_sent(sessions_database, Message("chat-1")) == 1
    async with lost_acknowledgements(sessions_database, times=2):
        await BeginsAnew(sessions_database)(Message("chat-2"))
    assert await times_sent(sessions_database, Message("chat-2")) == 3


@needs_server
async def test_lost_answers_on_the_bridge(
    sessions_repository: SessionRepository, sessions_database: Any, sessions_maker: SessionMaker
) -> None:
    """A claim is made once, though its answer was lost, and the worker that made it learns so."""
    session = await sessions_maker(conversation_id="chat-1")
    async with lost_acknowledgements(sessions_database):  # the claim's answer
        answer = await OnTheBridge(sessions_repository, sessions_database)(Message("chat-1"))
    assert is_shown(answer)
    now = await assert_legal_history(sessions_repository, session)
    assert now.fencing_token == 1


async def test_clocks_that_differ(
    sessions_database: "Database", sessions_clock: MovedClock, sessions_maker: SessionMaker
) -> None:
    """A worker whose clock is ahead may take over too early; the token keeps the first one's late write out."""
    session = await sessions_maker(conversation_id="chat-1")
    apart = repositories_apart(
        sessions_database, timedelta(), timedelta(seconds=90), timedelta(seconds=-90), clock=sessions_clock
    )
    async with apart as (right, ahead, behind):
        first = await right.claim_rerun(session.session_id, user_id=1, reply_id="message-1")
        with pytest.raises(TransitionConflict):
            await behind.claim_rerun(session.session_id, user_id=1, reply_id="message-1")
        second = await ahead.claim_rerun(session.session_id, user_id=1, reply_id="message-1")
        with pytest.raises(LeaseLost):
            await right.ask_again(first, pending_question="Which day?")
        await ahead.present_preview(second, preview_id="preview-1")
        await assert_legal_history(right, session)


@pytest.mark.parametrize("status", SessionStatus)
async def test_every_made_session_is_legal(
    sessions_repository: SessionRepository, sessions_maker: SessionMaker, status: SessionStatus
) -> None:
    """What the library's own calls have done is never accused."""
    session = await sessions_maker(status, conversation_id="chat-1")
    assert await assert_legal_history(sessions_repository, session) == session


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"status": "applied"}, "it is applied, and no recorded step has led there"),
        ({"history.0.to_status": "applied", "status": "applied"}, "it began as applied"),
        ({"history.0.call": "somebody"}, "step 0 was made by somebody"),
        ({"state.pending_question": None}, "without state.pending_question or state.missing_info"),
        ({"answered_reply_ids": ["m", "m"]}, "a message was recorded twice"),
        ({"history": []}, "nothing was recorded"),
    ],
)
async def test_what_a_history_is_accused_of(
    sessions_repository: SessionRepository,
    sessions_maker: SessionMaker,
    sessions_database: Any,
    change: dict[str, Any],
    told: str,
) -> None:
    """Each kind of a write past the repository is named."""
    session = await sessions_maker(conversation_id="chat-1")
    await sessions_database["active_schedule_sessions"].update_one({"_id": session.session_id}, {"$set": change})
    with pytest.raises(AssertionError, match=told):
        await assert_legal_history(sessions_repository, session)


async def test_the_double_certifies_nothing(
    sessions_database: "Database", sessions_backend: Backend, arrange: Arrange
) -> None:
    """On it a race is refused with what to do, before anything is delivered."""
    if sessions_backend.is_real:
        pytest.skip("of the double")

    async def never(*_: object) -> None:
        raise AssertionError("delivered")

    what_to_do = r'prove nothing here.*pytest\.mark\.needs\("server"\)'
    with pytest.raises(DoubleShowsNoRace, match=what_to_do):
        await deliver_together(never, Message("c"), database=sessions_database)
    with pytest.raises(DoubleShowsNoRace, match=what_to_do):
        await stop_at_each_await(never, arrange=arrange, check=never, database=sessions_database)
    with pytest.raises(DoubleShowsNoRace, match=what_to_do):
        async with lost_acknowledgements(sessions_database):
            await never()
