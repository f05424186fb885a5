"""What becomes of a chat message: it is routed, the graph runs for it at most once, and the outcome says what came."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import pytest

from sessions import (
    ActiveScheduleSessionSnapshot,
    AlreadyHandled,
    Asked,
    AskUser,
    Close,
    Closed,
    ConflictReason,
    Dismissed,
    Fail,
    FreeChat,
    Held,
    InvalidSessionInput,
    InvalidTransition,
    LeaseLost,
    NotAnAnswer,
    PreviewShown,
    RerunFailed,
    SessionBridge,
    SessionNotFound,
    SessionRepository,
    SessionStatus,
    ShowPreview,
    StalePreview,
    StaleReply,
    Superseded,
    TransitionConflict,
    Turn,
    open_repository,
)
from sessions.bridge.graph import GraphResult
from sessions.domain.errors import SessionRef
from sessions.testing import MovedClock, SessionMaker

if TYPE_CHECKING:
    from sessions.store.clients import Database

PRIVATE: Final = "my doctor's name"


class Graph:
    """A graph that answers from a script and remembers what it was given; ``gate`` holds it up."""

    def __init__(self, *answers: GraphResult | BaseException | object) -> None:
        self.answers = list(answers)
        self.turns: list[Turn] = []
        self.gate: asyncio.Event | None = None
        self.started = asyncio.Event()

    async def __call__(self, turn: Turn) -> Any:
        """Go on with one message."""
        self.turns.append(turn)
        self.started.set()
        if self.gate is not None:
            await self.gate.wait()
        answer = self.answers.pop(0) if self.answers else NotAnAnswer()
        if isinstance(answer, BaseException):
            raise answer
        return answer


async def asked(repository: SessionRepository, trigger_id: str = "t", **more: Any) -> ActiveScheduleSessionSnapshot:
    """A session of user 1 that asks in conversation ``c``."""
    return await repository.create(1, trigger_id, conversation_id="c", pending_question="Which day?", **more)


async def shown(repository: SessionRepository, trigger_id: str = "t", **more: Any) -> ActiveScheduleSessionSnapshot:
    """A session of user 1 that shows ``preview-1`` in conversation ``c``."""
    return await repository.create(1, trigger_id, conversation_id="c", preview_id="preview-1", **more)


async def test_free_chat_passes(repository: SessionRepository) -> None:
    """Where nobody governs the conversation, ordinary chat answers and no graph runs."""
    graph = Graph()
    outcome = await SessionBridge(repository, graph).handle(1, "c", "hello", message_id="m1")
    assert outcome == FreeChat(None)
    assert not graph.turns


async def test_an_answer_runs_the_graph(repository: SessionRepository) -> None:
    """The graph is given the message and the session under its claim; its answer is stored, its payload handed on."""
    session = await asked(repository)
    graph = Graph(AskUser("At what time?", candidate_id="k", payload={"card": 1}))
    outcome = await SessionBridge(repository, graph).handle(1, "c", "  Tuesday ", message_id="m1")
    stored = await repository.get(session.session_id, user_id=1)
    assert outcome == Asked(stored, {"card": 1})
    assert (stored.status, stored.state.pending_question, stored.question_number) == (
        SessionStatus.WAITING_USER_REPLY,
        "At what time?",
        2,
    )
    assert stored.state.last_candidate_id == "k"
    assert stored.answered_reply_ids == ("m1",)
    (turn,) = graph.turns
    assert (turn.text, turn.message_id, turn.attempt) == ("  Tuesday ", "m1", 1)
    assert turn.idempotency_key == f"{session.key_prefix}:m1"
    assert turn.session.status is SessionStatus.RERUNNING
    assert turn.session.state.pending_question == "Which day?"


@pytest.mark.parametrize(
    ("answer", "outcome", "status", "action"),
    [
        (AskUser(missing_info=["room"], payload=7), Asked, SessionStatus.WAITING_USER_REPLY, "resume"),
        (ShowPreview("preview-2", payload=7), PreviewShown, SessionStatus.READY_PREVIEW, "free_chat"),
        (Close("moved back", payload=7), Closed, SessionStatus.IGNORED, "free_chat"),
        (Fail("no free room", payload=7), RerunFailed, SessionStatus.FAILED, "free_chat"),
        (NotAnAnswer(payload=7), FreeChat, SessionStatus.WAITING_USER_REPLY, "resume"),
    ],
)
async def test_each_answer_has_its_outcome(
    repository: SessionRepository, answer: GraphResult, outcome: type, status: SessionStatus, action: str
) -> None:
    """The graph's answer decides the status, the outcome's kind and whether chat is free; its payload goes through."""
    session = await asked(repository)
    got = await SessionBridge(repository, Graph(answer)).handle(1, "c", "Tuesday", message_id="m1")
    assert type(got) is outcome
    assert got.payload == 7
    stored = await repository.get(session.session_id, user_id=1)
    assert got.session == stored
    assert stored.status is status
    assert stored.lease is None
    assert (await repository.route(1, "c")).action == action


async def test_a_side_question_leaves_the_question_standing(repository: SessionRepository) -> None:
    """`NotAnAnswer` gives the claim back as it was: nothing is consumed, and the same message may be tried again."""
    before = await asked(repository)
    graph = Graph(NotAnAnswer(), ShowPreview("preview-1"))
    bridge = SessionBridge(repository, graph)
    outcome = await bridge.handle(1, "c", "what is the weather?", message_id="m1")
    assert isinstance(outcome, FreeChat)
    assert outcome.session is not None
    assert (outcome.session.state, outcome.session.question_id) == (before.state, before.question_id)
    assert (outcome.session.attempts, outcome.session.answered_reply_ids) == (0, ())
    assert isinstance(await bridge.handle(1, "c", "Tuesday", message_id="m1"), PreviewShown)
    assert [turn.attempt for turn in graph.turns] == [1, 1]


@pytest.mark.parametrize("blank", ["", "   ", "\n\t "])
async def test_an_empty_message_asks_again(repository: SessionRepository, blank: str) -> None:
    """A sticker or an empty line is no answer: the question is shown again, no graph runs, nothing is written."""
    session = await asked(repository)
    graph = Graph()
    outcome = await SessionBridge(repository, graph).handle(1, "c", blank, message_id="m1")
    assert outcome == Asked(session)
    assert not graph.turns
    assert await repository.get(session.session_id, user_id=1) == session


async def test_an_empty_message_waits_and_passes_like_any_other(repository: SessionRepository) -> None:
    """While a rerun is under way an empty message is held, and free chat gets it where nobody governs."""
    bridge = SessionBridge(repository, Graph())
    assert await bridge.handle(1, "c", " ", message_id="m1") == FreeChat(None)
    session = await asked(repository)
    await repository.claim_rerun(session.session_id, user_id=1, reply_id="m2")
    assert isinstance(await bridge.handle(1, "c", " ", message_id="m1"), Held)


async def test_what_arrives_while_another_runs_is_held(repository: SessionRepository) -> None:
    """Neither the same message nor another starts a second run; the outcome of the first is what is stored."""
    await asked(repository)
    graph = Graph(AskUser("At what time?"))
    graph.gate = asyncio.Event()
    bridge = SessionBridge(repository, graph)
    first = asyncio.create_task(bridge.handle(1, "c", "Tuesday", message_id="m1"))
    await graph.started.wait()
    for message_id in ("m1", "m2"):
        held = await bridge.handle(1, "c", "Tuesday", message_id=message_id)
        assert isinstance(held, Held)
        assert held.session.status is SessionStatus.RERUNNING
    graph.gate.set()
    assert isinstance(await first, Asked)
    assert isinstance(await bridge.handle(1, "c", "Tuesday", message_id="m1"), AlreadyHandled)
    assert len(graph.turns) == 1


async def test_ten_deliveries_at_once_run_once(repository: SessionRepository) -> None:
    """Of ten deliveries of one message one runs the graph; the others are held or told that it was handled."""
    await asked(repository)
    graph = Graph(AskUser("And?"))
    bridge = SessionBridge(repository, graph)
    outcomes = await asyncio.gather(*(bridge.handle(1, "c", "Tuesday", message_id="m1") for _ in range(10)))
    assert sum(isinstance(outcome, Asked) for outcome in outcomes) == 1
    assert {type(outcome) for outcome in outcomes} <= {Asked, Held, AlreadyHandled}
    assert len(graph.turns) == 1


async def test_a_message_delivered_again_to_a_free_conversation(repository: SessionRepository) -> None:
    """Once the conversation is free only `redelivered=True` makes the bridge look whether the message was handled."""
    await asked(repository)
    graph = Graph(ShowPreview("preview-1"))
    bridge = SessionBridge(repository, graph)
    await bridge.handle(1, "c", "Tuesday", message_id="m1")
    again = await bridge.handle(1, "c", "Tuesday", message_id="m1", redelivered=True)
    assert isinstance(again, PreviewShown)  # nothing has happened since: whoever did not see it sees it now
    assert (again.session.status, again.payload) == (SessionStatus.READY_PREVIEW, None)
    assert await bridge.handle(1, "c", "Tuesday", message_id="m1") == FreeChat(None)
    assert await bridge.handle(1, "c", "new", message_id="m2", redelivered=True) == FreeChat(None)
    assert await bridge.handle(1, "another", "new", message_id="m1", redelivered=True) == FreeChat(None)
    assert len(graph.turns) == 1


async def test_a_message_delivered_again_answers_no_other_session(
    repository: SessionRepository, session_clock: MovedClock
) -> None:
    """A yes that one session has recorded is none to the next one's question, and does not wait for its rerun."""
    session = await asked(repository)
    graph = Graph(Close(), AskUser("And?"))
    bridge = SessionBridge(repository, graph)
    await bridge.handle(1, "c", "yes", message_id="m1")
    session_clock.advance(seconds=1)
    other = await repository.create(1, "another", conversation_id="c", pending_question="Delete everything?")
    again = await bridge.handle(1, "c", "yes", message_id="m1", redelivered=True)
    assert isinstance(again, Closed)
    assert again.session.session_id == session.session_id
    await repository.claim_rerun(other.session_id, user_id=1, reply_id="m2")
    assert isinstance(await bridge.handle(1, "c", "yes", message_id="m1", redelivered=True), Closed)
    assert isinstance(await bridge.handle(1, "c", "so", message_id="m3", redelivered=True), Held)
    assert len(graph.turns) == 1


async def test_a_late_reply_is_told_what_its_session_counts_as(
    repository: SessionRepository, session_clock: MovedClock
) -> None:
    """The refusal says ``expired`` before any sweep has stored it."""
    session = await asked(repository, expires_at=session_clock() + timedelta(seconds=1))
    session_clock.advance(seconds=2)
    bridge = SessionBridge(repository, Graph())
    with pytest.raises(StaleReply) as late:
        await bridge.handle(1, "c", "Tuesday", message_id="m1", question_id=session.question_id)
    assert late.value.status is SessionStatus.EXPIRED
    assert late.value.session == session


async def test_a_dead_workers_message_is_taken_over(repository: SessionRepository, session_clock: MovedClock) -> None:
    """After its worker died the same message runs again, under the same idempotency key."""
    session = await asked(repository)
    dead = await repository.claim_rerun(session.session_id, user_id=1, reply_id="m1")
    graph = Graph(AskUser("And?"))
    bridge = SessionBridge(repository, graph)
    assert isinstance(await bridge.handle(1, "c", "Tuesday", message_id="m1"), Held)
    session_clock.at = dead.expires_at
    assert isinstance(await bridge.handle(1, "c", "Tuesday", message_id="m1"), Asked)
    assert (graph.turns[0].attempt, graph.turns[0].idempotency_key) == (2, dead.idempotency_key)


async def test_an_empty_message_after_a_worker_died(repository: SessionRepository, session_clock: MovedClock) -> None:
    """The question of a dead worker's reply stands, so an empty message asks it again and claims nothing."""
    session = await asked(repository)
    dead = await repository.claim_rerun(session.session_id, user_id=1, reply_id="m1")
    session_clock.at = dead.expires_at
    outcome = await SessionBridge(repository, Graph()).handle(1, "c", "", message_id="m2")
    assert isinstance(outcome, Asked)
    assert outcome.session.state.pending_question == "Which day?"
    assert await repository.get(session.session_id, user_id=1) == dead.session


async def test_a_message_that_kills_its_workers_ends_the_session(
    database: "Database", session_clock: MovedClock, repository: SessionRepository
) -> None:
    """After `max_attempts` dead workers the next message learns that the session has failed."""
    session = await asked(repository)
    few = await open_repository(database, clock=session_clock, max_attempts=2)
    for _ in range(2):
        claim = await few.claim_rerun(session.session_id, user_id=1, reply_id="m1")
        session_clock.at = claim.expires_at
    graph = Graph()
    outcome = await SessionBridge(few, graph).handle(1, "c", "Tuesday", message_id="m1")
    assert isinstance(outcome, RerunFailed)
    assert outcome.session.status is SessionStatus.FAILED
    assert outcome.session.state.failed_reason
    assert not graph.turns


# --- the question that the sender saw --------------------------------------------------------------------------


async def test_a_named_question_that_stands_is_answered(repository: SessionRepository) -> None:
    """A reply that names the question on offer runs; while it does, the same name is held, not stale."""
    session = await asked(repository)
    graph = Graph(AskUser("And?"))
    graph.gate = asyncio.Event()
    bridge = SessionBridge(repository, graph)
    first = asyncio.create_task(bridge.handle(1, "c", "x", message_id="m1", question_id=session.question_id))
    await graph.started.wait()
    assert isinstance(await bridge.handle(1, "c", "x", message_id="m2", question_id=session.question_id), Held)
    graph.gate.set()
    assert isinstance(await first, Asked)


async def test_a_named_question_that_has_gone_is_refused(repository: SessionRepository) -> None:
    """A late answer to an earlier question answers nothing; the error says which question stands in its place."""
    session = await asked(repository)
    graph = Graph(AskUser("And?"), ShowPreview("preview-1"))
    bridge = SessionBridge(repository, graph)
    await bridge.handle(1, "c", "Tuesday", message_id="m1")
    with pytest.raises(StaleReply) as refusal:
        await bridge.handle(1, "c", "Monday", message_id="late", question_id=session.question_id)
    assert refusal.value.current_question_number == 2
    assert refusal.value.session == await repository.get(session.session_id, user_id=1)
    # The message that did answer it was handled, and that comes first.
    again = await bridge.handle(1, "c", "Tuesday", message_id="m1", question_id=session.question_id)
    assert isinstance(again, AlreadyHandled)
    await bridge.handle(1, "c", "nine", message_id="m2", question_id=f"{session.key_prefix}:2")
    with pytest.raises(StaleReply) as refusal:
        await bridge.handle(1, "c", "ten", message_id="late", question_id=f"{session.key_prefix}:2")
    assert refusal.value.current_question_number is None
    again = await bridge.handle(1, "c", "nine", message_id="m2", question_id=f"{session.key_prefix}:2")
    assert isinstance(again, AlreadyHandled)
    assert len(graph.turns) == 2


async def test_a_named_question_of_another_session(repository: SessionRepository) -> None:
    """A question of a session that does not govern here is stale; one that this user does not have is not found."""
    await asked(repository)
    other = await repository.create(1, "other", conversation_id="d", pending_question="And here?")
    foreign = await repository.create(2, "t", conversation_id="c", pending_question="Whose?")
    graph = Graph()
    bridge = SessionBridge(repository, graph)
    with pytest.raises(StaleReply) as refusal:
        await bridge.handle(1, "c", "x", message_id="m", question_id=other.question_id)
    assert (refusal.value.session_id, refusal.value.current_question_number) == (other.session_id, None)
    for question_id in (foreign.question_id, "nobody:1:1"):
        with pytest.raises(SessionNotFound):
            await bridge.handle(1, "c", "x", message_id="m", question_id=question_id)
    assert not graph.turns


async def test_no_question_stands_while_a_preview_is_changed(repository: SessionRepository) -> None:
    """Under a refinement the last question is over: a reply that names it is stale, one that names none is held."""
    session = await asked(repository)
    bridge = SessionBridge(repository, Graph(ShowPreview("preview-1")))
    await bridge.handle(1, "c", "Tuesday", message_id="m1")
    await repository.claim_refinement(session.session_id, user_id=1, preview_id="preview-1", reply_id="m2")
    with pytest.raises(StaleReply):
        await bridge.handle(1, "c", "x", message_id="m3", question_id=session.question_id)
    assert isinstance(await bridge.handle(1, "c", "x", message_id="m3"), Held)


# --- the session moves between the route and the claim ---------------------------------------------------------

Moving = Callable[[ActiveScheduleSessionSnapshot], Awaitable[object]]


def moving(repository: SessionRepository, monkeypatch: pytest.MonkeyPatch, move: Moving) -> None:
    """Let something happen once, between the next route and what follows it."""
    route = repository.route
    left = [move]

    async def routed(user_id: int, conversation_id: str) -> Any:
        found = await route(user_id, conversation_id)
        if left and found.session is not None:
            await left.pop()(found.session)
        return found

    monkeypatch.setattr(repository, "route", routed)


async def test_a_question_asked_in_between_is_not_answered(
    repository: SessionRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message routed to one question never answers the next: it is held, and stale where it named its question."""
    session = await asked(repository)
    graph = Graph()
    bridge = SessionBridge(repository, graph)
    number = iter(range(9))

    async def ask_another(found: ActiveScheduleSessionSnapshot) -> None:
        claim = await repository.claim_rerun(found.session_id, user_id=1, reply_id=f"between-{next(number)}")
        await repository.ask_again(claim, pending_question="Another?")

    moving(repository, monkeypatch, ask_another)
    held = await bridge.handle(1, "c", "x", message_id="m1")
    assert isinstance(held, Held)
    assert held.session.question_number == 2
    moving(repository, monkeypatch, ask_another)
    with pytest.raises(StaleReply):
        await bridge.handle(1, "c", "x", message_id="m1", question_id=f"{session.key_prefix}:2")
    assert not graph.turns


@pytest.mark.parametrize("ending", ["ignore", "preview", "purge"])
async def test_a_session_that_left_in_between(
    repository: SessionRepository, monkeypatch: pytest.MonkeyPatch, ending: str, session_clock: MovedClock
) -> None:
    """A session that left its question since the route is routed once more: the conversation is free."""
    await asked(repository)
    graph = Graph()

    async def leave(found: ActiveScheduleSessionSnapshot) -> None:
        if ending == "preview":
            claim = await repository.claim_rerun(found.session_id, user_id=1, reply_id="between")
            await repository.present_preview(claim, preview_id="preview-1")
            return
        await repository.ignore(found.session_id, user_id=1)
        if ending == "purge":
            await repository.purge(ended_before=session_clock() + timedelta(seconds=1))

    moving(repository, monkeypatch, leave)
    assert await SessionBridge(repository, graph).handle(1, "c", "x", message_id="m1") == FreeChat(None)
    assert not graph.turns


async def test_a_conversation_governed_anew_in_between(
    repository: SessionRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where another session asks by then, the message is held: its sender cannot have seen that question."""
    await asked(repository)
    graph = Graph()

    async def replace_it(found: ActiveScheduleSessionSnapshot) -> None:
        await repository.ignore(found.session_id, user_id=1)
        await asked(repository, "another")

    moving(repository, monkeypatch, replace_it)
    held = await SessionBridge(repository, graph).handle(1, "c", "x", message_id="m1")
    assert isinstance(held, Held)
    assert held.session.trigger_id == "another"
    assert not graph.turns


async def test_the_same_message_was_handled_in_between(
    repository: SessionRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy that was routed before the other copy's answer was recorded is told so, and runs nothing."""
    await asked(repository)
    graph = Graph()

    async def answer(found: ActiveScheduleSessionSnapshot) -> None:
        claim = await repository.claim_rerun(found.session_id, user_id=1, reply_id="m1")
        await repository.present_preview(claim, preview_id="preview-1")

    moving(repository, monkeypatch, answer)
    assert isinstance(await SessionBridge(repository, graph).handle(1, "c", "x", message_id="m1"), AlreadyHandled)
    assert not graph.turns


OUTCOMES: Final[dict[ConflictReason, type]] = {
    ConflictReason.IN_PROGRESS: Held,
    ConflictReason.APPLYING: Held,
    ConflictReason.RACED: Held,
    ConflictReason.ALREADY_ANSWERED: AlreadyHandled,
    ConflictReason.ATTEMPTS_EXHAUSTED: RerunFailed,
}


@pytest.mark.parametrize("reason", list(ConflictReason))
async def test_every_conflict_is_told_apart(
    repository: SessionRepository, monkeypatch: pytest.MonkeyPatch, reason: ConflictReason
) -> None:
    """Each reason that a claim can be refused for is an outcome; what a bridge cannot meet is raised, not hidden."""
    session = await asked(repository)
    graph = Graph()
    bridge = SessionBridge(repository, graph)

    async def refuse(*_: object, **__: object) -> None:
        raise TransitionConflict(SessionRef(session_id=session.session_id, session=session), reason=reason)

    for claim in ("claim_rerun", "claim_refinement", "ignore"):
        monkeypatch.setattr(repository, claim, refuse)
    calls = [
        bridge.handle(1, "c", "x", message_id="m"),
        bridge.refine(1, session.session_id, "x", preview_id="p", message_id="m"),
    ]
    for call in calls:
        if reason in OUTCOMES:
            outcome = await call
            assert type(outcome) is OUTCOMES[reason]
            assert outcome.session == session
        else:
            with pytest.raises(TransitionConflict):
                await call
    if OUTCOMES.get(reason) is Held:
        assert await bridge.dismiss(1, session.session_id) == Held(session)
    else:
        with pytest.raises(TransitionConflict):
            await bridge.dismiss(1, session.session_id)
    assert not graph.turns


async def test_a_claim_that_was_lost_at_once(repository: SessionRepository, monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim that came back only to find its lease gone runs no graph."""
    session = await asked(repository)
    graph = Graph()

    async def lost(*_: object, **__: object) -> None:
        raise LeaseLost(SessionRef(session_id=session.session_id, session=session))

    monkeypatch.setattr(repository, "claim_rerun", lost)
    assert await SessionBridge(repository, graph).handle(1, "c", "x", message_id="m") == Superseded(session)
    assert not graph.turns


async def test_an_answer_that_was_raced(repository: SessionRepository, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where an answer could not be recorded for others who kept changing the session, the message is held."""
    session = await asked(repository)

    async def raced(*_: object, **__: object) -> None:
        raise TransitionConflict(
            SessionRef(session_id=session.session_id, session=session), reason=ConflictReason.RACED
        )

    monkeypatch.setattr(repository, "ask_again", raced)
    bridge = SessionBridge(repository, Graph(AskUser("And?"), AskUser("And?")))
    assert await bridge.handle(1, "c", "x", message_id="m") == Held(session)
    monkeypatch.undo()
    assert isinstance(await bridge.handle(1, "c", "x", message_id="m"), Asked)


# --- a graph that breaks ---------------------------------------------------------------------------------------


class GraphError(Exception):
    """What the application's graph raises."""


class Halt(BaseException):
    """What no handler of Exception catches."""


@pytest.mark.parametrize(
    "error",
    [GraphError(PRIVATE), Halt(PRIVATE), asyncio.CancelledError(PRIVATE), ExceptionGroup(PRIVATE, [GraphError()])],
)
async def test_an_exception_fails_the_session(
    repository: SessionRepository, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    """The reason and the log name the exception's type and where it was raised, never its text or the user's."""
    session = await asked(repository)
    with caplog.at_level(logging.DEBUG):
        outcome = await SessionBridge(repository, Graph(error)).handle(1, "c", PRIVATE, message_id="m1")
    assert isinstance(outcome, RerunFailed)
    assert outcome.session.status is SessionStatus.FAILED
    inside = " (GraphError)" if isinstance(error, ExceptionGroup) else ""
    assert outcome.session.state.failed_reason == f"the graph raised {type(error).__name__}{inside}"
    (entry,) = [
        entry for entry in await repository.history(session.session_id, user_id=1) if entry.call == "fail_rerun"
    ]
    assert entry.reason == outcome.session.state.failed_reason
    assert type(error).__name__ in caplog.text
    assert PRIVATE not in caplog.text
    assert PRIVATE not in repr(outcome)


UNTYPED: Final[Any] = None
INVALID_ANSWERS: Final[tuple[Any, ...]] = (
    None,
    "Which day?",
    AskUser,
    AskUser(),
    AskUser(pending_question=UNTYPED),
    AskUser(missing_info=UNTYPED),
    AskUser("And?", candidate_id=""),
    AskUser("And?", expires_at=datetime(2027, 1, 1)),  # noqa: DTZ001 - a naive moment is the case
    AskUser("And?", expires_at=datetime(2000, 1, 1, tzinfo=UTC)),
    ShowPreview(""),
    ShowPreview("x" * 129),
    ShowPreview(UNTYPED),
    Close("x" * 2_001),
    Close("\x00"),
    Fail(""),
    Fail("x" * 2_001),
    type("y" * 3_000, (), {})(),
)


async def test_an_invalid_answer_fails_the_session(repository: SessionRepository) -> None:
    """Whatever a graph answers that cannot be stored counts as its failure: no claim stays behind, no crash."""
    for number, answer in enumerate(INVALID_ANSWERS):
        await asked(repository, f"t{number}")
        outcome = await SessionBridge(repository, Graph(answer)).handle(1, "c", "Tuesday", message_id="m1")
        assert isinstance(outcome, RerunFailed), answer
        assert outcome.session.status is SessionStatus.FAILED
        assert outcome.session.lease is None
        assert "xxx" not in outcome.session.state.failed_reason


async def test_a_verbose_graph_ends_no_session(repository: SessionRepository, caplog: pytest.LogCaptureFixture) -> None:
    """What a model writes too much of is cut with an ellipsis, and half an emoji replaced; the log says that."""
    verbose = AskUser(f"{PRIVATE} \ud83d".ljust(4_004, "x"), missing_info=["y" * 201, *(f"{n}" for n in range(40))])
    session = await asked(repository)
    with caplog.at_level(logging.WARNING):
        outcome = await SessionBridge(repository, Graph(verbose)).handle(1, "c", "ok \ud83d", message_id="m1")
    assert isinstance(outcome, Asked)
    question = outcome.session.state.pending_question
    assert (len(question), question[-2:]) == (4_000, "x…")
    assert question.startswith(f"{PRIVATE} \ufffd")
    assert (len(outcome.session.state.missing_info), outcome.session.state.missing_info[0]) == (32, "y" * 199 + "…")
    assert "4004 characters" in caplog.text
    assert PRIVATE not in caplog.text
    again = await SessionBridge(repository, Graph()).start(2, "t", verbose)
    assert isinstance(again, Asked)
    assert again.session.state == outcome.session.state
    assert session.user_id != again.session.user_id


async def test_a_photo_without_a_caption_is_an_answer(repository: SessionRepository) -> None:
    """A blank text asks the question again, unless the message carries something else."""
    await asked(repository)
    graph = Graph(ShowPreview("preview-1"))
    bridge = SessionBridge(repository, graph)
    assert isinstance(await bridge.handle(1, "c", " ", message_id="m1"), Asked)
    assert isinstance(await bridge.handle(1, "c", "", message_id="m2", has_attachment=True), PreviewShown)
    assert [turn.text for turn in graph.turns] == [""]


async def test_an_expired_question_is_not_told_of(repository: SessionRepository, session_clock: MovedClock) -> None:
    """A side question that comes back after the session's end is free chat, and nothing stands beside it."""
    await asked(repository, expires_at=session_clock() + timedelta(seconds=30))

    async def slow(_turn: Turn) -> GraphResult:
        session_clock.advance(seconds=31)
        return NotAnAnswer()

    assert await SessionBridge(repository, slow).handle(1, "c", "What?", message_id="m1") == FreeChat(None)


class Hostile(AskUser):
    """An answer that cannot even be read."""

    __slots__ = ()

    def __getattribute__(self, name: str) -> Any:
        if name == "missing_info":
            raise ValueError(PRIVATE)
        return super().__getattribute__(name)


async def test_an_answer_that_cannot_be_read(repository: SessionRepository) -> None:
    """An answer of the graph's own making that raises when it is read counts as its failure too."""
    await asked(repository)
    outcome = await SessionBridge(repository, Graph(Hostile("And?"))).handle(1, "c", "Tuesday", message_id="m1")
    assert isinstance(outcome, RerunFailed)
    assert outcome.session.state.failed_reason == "reading the graph's answer raised ValueError"


async def test_a_used_preview_id_fails_the_session(repository: SessionRepository) -> None:
    """A changed preview under the old id could be confirmed by a user who saw the old one; the graph is at fault."""
    session = await shown(repository)
    outcome = await SessionBridge(repository, Graph(ShowPreview("preview-1"))).refine(
        1, session.session_id, "later", preview_id="preview-1", message_id="m1"
    )
    assert isinstance(outcome, RerunFailed)
    assert outcome.session.status is SessionStatus.FAILED


async def test_a_graph_that_is_no_async_function(repository: SessionRepository) -> None:
    """A plain function would be carried out and then fail: it is refused when the bridge is made, and a partial too."""

    def plain(turn: Turn) -> GraphResult:
        return AskUser(turn.text)

    for mistaken in (plain, partial(plain), partial(partial(plain)), "graph"):
        wrong: Any = mistaken
        with pytest.raises(InvalidSessionInput, match="rerun must be an async function"):
            SessionBridge(repository, wrong)
        with pytest.raises(InvalidSessionInput, match="write_back must be an async function"):
            SessionBridge(repository, Graph(), write_back=wrong)


async def test_what_gives_something_to_await_is_a_graph(repository: SessionRepository) -> None:
    """A lambda, a partial, a method, an object that is called: whatever an application has."""

    async def graph(day: str, turn: Turn) -> GraphResult:
        return AskUser(f"{day} or {turn.text}?")

    class Assistant:
        async def __call__(self, turn: Turn) -> GraphResult:
            return AskUser(f"Monday or {turn.text}?")

        async def answer(self, turn: Turn) -> GraphResult:
            return await self(turn)

    ways: tuple[Any, ...] = (
        partial(graph, "Monday"),
        lambda turn: graph("Monday", turn),
        Assistant(),
        Assistant().answer,
    )
    for number, way in enumerate(ways):
        await repository.create(number + 1, "t", conversation_id="c", pending_question="Which day?")
        outcome = await SessionBridge(repository, way).handle(number + 1, "c", "Tuesday", message_id="m1")
        assert isinstance(outcome, Asked)
        assert outcome.session.state.pending_question == "Monday or Tuesday?"


# --- changing a preview, dismissing ----------------------------------------------------------------------------


async def test_a_preview_is_changed(repository: SessionRepository) -> None:
    """The graph sees which preview to change; meanwhile chat is held; the new preview replaces the old one."""
    session = await shown(repository)
    graph = Graph(ShowPreview("preview-2", payload="card"))
    graph.gate = asyncio.Event()
    bridge = SessionBridge(repository, graph)
    change = asyncio.create_task(
        bridge.refine(1, session.session_id, "an hour later", preview_id="preview-1", message_id="m1")
    )
    await graph.started.wait()
    assert isinstance(await bridge.handle(1, "c", "hello", message_id="m2"), Held)
    for message_id in ("m1", "m3"):
        again = await bridge.refine(1, session.session_id, "x", preview_id="preview-1", message_id=message_id)
        assert isinstance(again, Held)
    graph.gate.set()
    outcome = await change
    assert isinstance(outcome, PreviewShown)
    assert (outcome.session.current_preview_id, outcome.payload) == ("preview-2", "card")
    assert graph.turns[0].session.current_preview_id == "preview-1"
    assert graph.turns[0].text == "an hour later"
    again = await bridge.refine(1, session.session_id, "x", preview_id="preview-1", message_id="m1")
    assert isinstance(again, AlreadyHandled)
    assert len(graph.turns) == 1


async def test_a_change_that_is_none_leaves_the_preview(repository: SessionRepository) -> None:
    """`NotAnAnswer` to a refinement gives the preview back as it was."""
    session = await shown(repository)
    outcome = await SessionBridge(repository, Graph(NotAnAnswer())).refine(
        1, session.session_id, "nice", preview_id="preview-1", message_id="m1"
    )
    assert isinstance(outcome, FreeChat)
    assert outcome.session is not None
    assert (outcome.session.status, outcome.session.current_preview_id) == (SessionStatus.READY_PREVIEW, "preview-1")


async def test_refinements_that_are_refused(
    repository: SessionRepository, database: "Database", session_clock: MovedClock
) -> None:
    """Stale and late are raised, another user's session is missing, a busy conversation holds, spent attempts tell."""
    session = await shown(repository)
    bridge = SessionBridge(repository, Graph())

    async def refine(user_id: int = 1, preview_id: str = "preview-1") -> object:
        return await bridge.refine(user_id, session.session_id, "x", preview_id=preview_id, message_id="m")

    with pytest.raises(StalePreview):
        await refine(preview_id="preview-0")
    with pytest.raises(SessionNotFound):
        await refine(user_id=2)
    other = await asked(repository, "other")
    held = await refine()
    assert isinstance(held, Held)
    assert held.session.session_id == session.session_id
    await repository.ignore(other.session_id, user_id=1)
    few = await open_repository(database, clock=session_clock, max_attempts=1)
    claim = await few.claim_refinement(session.session_id, user_id=1, preview_id="preview-1", reply_id="killer")
    session_clock.at = claim.expires_at
    spent = await SessionBridge(few, Graph()).refine(
        1, session.session_id, "x", preview_id="preview-1", message_id="killer"
    )
    assert isinstance(spent, RerunFailed)
    assert repository.present_status(spent.session) is SessionStatus.READY_PREVIEW
    await repository.ignore(session.session_id, user_id=1)
    with pytest.raises(InvalidTransition):
        await refine()


async def test_dismissing(repository: SessionRepository, make_session: SessionMaker) -> None:
    """A session is dismissed from wherever it waits, twice too; what has ended otherwise cannot be any more."""
    bridge = SessionBridge(repository, Graph())
    session = await asked(repository)
    first = await bridge.dismiss(1, session.session_id, reason="not now")
    assert isinstance(first, Dismissed)
    assert first.session.status is SessionStatus.IGNORED
    assert (await repository.history(session.session_id, user_id=1))[-1].reason == "not now"
    assert await bridge.dismiss(1, session.session_id) == first
    for status in (SessionStatus.APPLIED, SessionStatus.FAILED, SessionStatus.EXPIRED):
        ended = await make_session(status)
        with pytest.raises(InvalidTransition):
            await bridge.dismiss(1, ended.session_id)
    with pytest.raises(SessionNotFound):
        await bridge.dismiss(2, session.session_id)


async def test_dismissed_while_the_graph_runs(repository: SessionRepository) -> None:
    """The user may dismiss what is being worked on: the graph's answer is then thrown away."""
    session = await asked(repository)
    graph = Graph(AskUser("And?"))
    graph.gate = asyncio.Event()
    bridge = SessionBridge(repository, graph)
    running = asyncio.create_task(bridge.handle(1, "c", "Tuesday", message_id="m1"))
    await graph.started.wait()
    dismissed = await bridge.dismiss(1, session.session_id)
    graph.gate.set()
    outcome = await running
    assert isinstance(outcome, Superseded)
    assert outcome.session == dismissed.session


# --- input -----------------------------------------------------------------------------------------------------

GOOD: Final[dict[str, Any]] = {"user_id": 1, "conversation_id": "c", "text": "x", "message_id": "m"}


BAD: Final[dict[str, tuple[object, ...]]] = {
    "user_id": (0, "1", True, 2**63),
    "conversation_id": ("", None, "x" * 257, {"$ne": 1}),
    "text": (None, 7, b"x", "a\x00b", "x" * 1_000_001),
    "message_id": ("", " m", None, "x" * 257),
    "question_id": ("", "s", "s:1", "s:1:", ":1:1", "s:1:-1", "s:1:01", "s:x:1", "s:1: 1", "s:1:\u0661", 1, "s" * 99),
    "redelivered": (1, None, "yes"),
    "has_attachment": (1, None, "photo"),
}


async def test_bad_input_reaches_nobody(repository: SessionRepository) -> None:
    """Outside its limits an argument is named, and neither graph nor server sees it."""
    session = await asked(repository)
    graph = Graph()
    bridge = SessionBridge(repository, graph)
    for argument, value in ((argument, value) for argument, values in BAD.items() for value in values):
        with pytest.raises(InvalidSessionInput) as refusal:
            await bridge.handle(**{**GOOD, argument: value})
        assert refusal.value.argument == argument
    change: dict[str, Any] = {"user_id": 1, "session_id": session.session_id, "preview_id": "p", "message_id": "m"}
    with pytest.raises(InvalidSessionInput, match="text"):
        await bridge.refine(**change, text=UNTYPED)
    with pytest.raises(InvalidSessionInput, match="message_id"):
        await bridge.refine(**{**change, "message_id": ""}, text="x")
    assert not graph.turns
    assert await repository.get(session.session_id, user_id=1) == session


async def test_bad_construction(repository: SessionRepository) -> None:
    """A bridge that could not run says so when it is made."""
    wrong: Any = None
    with pytest.raises(InvalidSessionInput, match="rerun"):
        SessionBridge(repository, wrong)
    with pytest.raises(InvalidSessionInput, match="max_rerun"):
        SessionBridge(repository, Graph(), max_rerun=timedelta(0))
