"""A message while the graph is at work on another one: held, waiting, or in its place; and the Stop button."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import pytest
import pytest_asyncio

from sessions import (
    ActiveScheduleSessionSnapshot,
    AlreadyHandled,
    Asked,
    AskUser,
    FreeChat,
    Handled,
    Held,
    InvalidSessionInput,
    NotAnAnswer,
    PreviewShown,
    SessionBridge,
    SessionNotFound,
    SessionRepository,
    SessionStatus,
    ShowPreview,
    StalePreview,
    StaleReply,
    Stopped,
    Superseded,
    TransitionConflict,
    Turn,
    WhileRunning,
    open_repository,
)
from sessions.bridge.graph import GraphResult
from sessions.testing import CommandCounter, SessionMaker, StoredDocument

if TYPE_CHECKING:
    from sessions.store.clients import Database

LONG: Final = timedelta(seconds=30)
"""A wait that no test waits for: what ends it has to come before."""
SOON: Final = 5.0
"""Seconds that what ends at once may take on a busy machine."""


class Assistant:
    """A graph whose runs are ended by the test, one message at a time."""

    def __init__(self) -> None:
        self.turns: list[Turn] = []
        self.cancelled: list[str] = []
        self._answers: dict[str, asyncio.Future[GraphResult]] = {}
        self._began: dict[str, asyncio.Event] = {}

    def _place(self, message_id: str) -> tuple[asyncio.Event, "asyncio.Future[GraphResult]"]:
        began = self._began.setdefault(message_id, asyncio.Event())
        answer = self._answers.setdefault(message_id, asyncio.get_running_loop().create_future())
        return began, answer

    async def __call__(self, turn: Turn) -> GraphResult:
        """Wait for the test's answer."""
        self.turns.append(turn)
        began, answer = self._place(turn.message_id)
        began.set()
        try:
            return await asyncio.shield(answer)
        except asyncio.CancelledError:
            self.cancelled.append(turn.message_id)
            raise

    async def works_on(self, message_id: str) -> None:
        """Return once the graph runs for a message."""
        async with asyncio.timeout(SOON):
            await self._place(message_id)[0].wait()

    def answer(self, message_id: str, result: GraphResult) -> None:
        """Let the run for a message end."""
        self._place(message_id)[1].set_result(result)


@pytest_asyncio.fixture(loop_scope="session")
async def brief(repository: SessionRepository, database: "Database") -> AsyncIterator[SessionRepository]:
    """The same sessions by the real clock, in a process of its own as far as anybody can see."""
    del repository  # it has created the indexes
    async with open_repository(database, lease=timedelta(seconds=2)) as opened:
        yield opened


async def asked(repository: SessionRepository) -> ActiveScheduleSessionSnapshot:
    """A session of user 1 that asks in conversation ``c``."""
    return await repository.create(1, "t", conversation_id="c", pending_question="Which day?")


def deliver(bridge: SessionBridge, message_id: str, **how: Any) -> "asyncio.Task[Handled]":
    """A message on its way."""
    return asyncio.create_task(bridge.handle(1, "c", "Tuesday", message_id=message_id, **how))


async def end_of(task: "asyncio.Task[Handled]") -> Handled:
    """What came of it, soon."""
    async with asyncio.timeout(SOON):
        return await task


async def at_work(
    repository: SessionRepository,
) -> tuple[ActiveScheduleSessionSnapshot, Assistant, SessionBridge, "asyncio.Task[Handled]"]:
    """A session whose graph works on message ``m1``: the session as it asked, the graph, the bridge, and that call."""
    session = await asked(repository)
    assistant = Assistant()
    bridge = SessionBridge(repository, assistant)
    first = deliver(bridge, "m1")
    await assistant.works_on("m1")
    return session, assistant, bridge, first


# --- held, and delivered again ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("result", "comes_to"),
    [
        (ShowPreview("preview-1"), FreeChat),  # chat is free: it answers in order
        (AskUser("And which time?"), StaleReply),  # a question that its sender has not seen
        (NotAnAnswer(), Asked),  # the same question stands: this is its answer
    ],
)
async def test_a_held_message_delivered_again(
    repository: SessionRepository, result: GraphResult, comes_to: type
) -> None:
    """What `Held` names keeps it from answering what was asked after it was written."""
    session, assistant, bridge, first = await at_work(repository)
    held = await bridge.handle(1, "c", "Wednesday", message_id="m2")
    assert isinstance(held, Held)
    assert held.question_id == session.question_id
    again = await bridge.handle(1, "c", "Wednesday", message_id="m2", question_id=held.question_id, redelivered=True)
    assert again == held
    assert isinstance(again, Held)
    assert again.question_id == held.question_id
    assistant.answer("m1", result)
    await end_of(first)
    assistant.answer("m2", AskUser("And which time?"))
    how: Any = {"message_id": "m2", "question_id": held.question_id, "redelivered": True}
    if comes_to is StaleReply:
        with pytest.raises(StaleReply):
            await bridge.handle(1, "c", "Wednesday", **how)
    else:
        assert isinstance(await bridge.handle(1, "c", "Wednesday", **how), comes_to)


async def test_a_message_held_while_a_preview_is_changed(
    repository: SessionRepository, make_session: SessionMaker
) -> None:
    """No question stands then, and what `Held` names is held again, not stale."""
    claim = await make_session.refinement(conversation_id="c")
    bridge = SessionBridge(repository, Assistant())
    held = await bridge.handle(1, "c", "Wednesday", message_id="m2", while_running=WhileRunning.REPLACE)
    assert isinstance(held, Held)
    how: Any = {"message_id": "m2", "question_id": held.question_id, "redelivered": True}
    assert await bridge.handle(1, "c", "Wednesday", **how) == held
    await repository.present_preview(claim, preview_id="another")
    assert await bridge.handle(1, "c", "Wednesday", **how) == FreeChat()


# --- waiting ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("result", "comes_to"),
    [(ShowPreview("preview-1"), FreeChat), (AskUser("And which time?"), Held), (NotAnAnswer(), Asked)],
)
async def test_a_message_that_waits(repository: SessionRepository, result: GraphResult, comes_to: type) -> None:
    """It goes on as soon as the run has ended, and never answers a question asked meanwhile."""
    session, assistant, bridge, first = await at_work(repository)
    second = deliver(bridge, "m2", wait=LONG)
    await asyncio.sleep(0.1)
    assert not second.done()
    assistant.answer("m1", result)
    assistant.answer("m2", AskUser("Which day, please?"))
    await end_of(first)
    outcome = await end_of(second)
    assert type(outcome) is comes_to
    if isinstance(outcome, Held):
        assert outcome.question_id == session.question_id != outcome.session.question_id


async def test_a_wait_that_is_over(repository: SessionRepository) -> None:
    """The run goes on and the message is held, as without a wait."""
    _, assistant, bridge, first = await at_work(repository)
    outcome = await end_of(deliver(bridge, "m2", wait=timedelta(milliseconds=50)))
    assert isinstance(outcome, Held)
    assistant.answer("m1", AskUser("And?"))
    assert isinstance(await end_of(first), Asked)


async def test_a_message_that_waits_for_a_dead_worker(brief: SessionRepository) -> None:
    """Nobody tells of a lease that lapses: the message that waits looks then, and takes the session over."""
    session = await asked(brief)
    await brief.claim_rerun(session.session_id, user_id=1, reply_id="m1", lease=timedelta(milliseconds=300))
    assistant = Assistant()
    assistant.answer("m2", AskUser("And?"))
    bridge = SessionBridge(brief, assistant)
    assert isinstance(await end_of(deliver(bridge, "m2", wait=LONG)), Asked)


async def test_a_cancelled_wait(repository: SessionRepository) -> None:
    """A caller that leaves while it waits leaves nothing behind, and has consumed nothing."""
    _, assistant, bridge, first = await at_work(repository)
    second = deliver(bridge, "m2", wait=LONG)
    await asyncio.sleep(0.05)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    assistant.answer("m1", AskUser("And?"))
    assert isinstance(await end_of(first), Asked)


# --- in its place ----------------------------------------------------------------------------------------------


async def test_a_message_replaces_the_run(brief: SessionRepository) -> None:
    """The older graph is cancelled, its caller superseded; the newer one answers the same question."""
    session, assistant, bridge, first = await at_work(brief)
    second = deliver(bridge, "m2", while_running=WhileRunning.REPLACE)
    await assistant.works_on("m2")
    assert isinstance(await end_of(first), Superseded)
    assert assistant.cancelled == ["m1"]
    third = deliver(bridge, "m3", while_running=WhileRunning.REPLACE)
    await assistant.works_on("m3")
    assistant.answer("m3", AskUser("And which time?"))
    outcome = await end_of(third)
    assert isinstance(await end_of(second), Superseded)
    assert isinstance(outcome, Asked)
    assert outcome.session.answered_reply_ids == ("m3",)
    assert outcome.session.replaced_reply_ids == ("m1", "m2")
    assert [(turn.message_id, turn.replaces) for turn in assistant.turns] == [
        ("m1", ()),
        ("m2", ("m1",)),
        ("m3", ("m1", "m2")),
    ]
    assert {turn.session.question_id for turn in assistant.turns} == {session.question_id}
    for message_id in ("m1", "m2"):
        assert isinstance(await bridge.handle(1, "c", "Tuesday", message_id=message_id), AlreadyHandled)
    assistant.answer("m4", ShowPreview("preview-1"))
    assert isinstance(await bridge.handle(1, "c", "Ten", message_id="m4"), PreviewShown)
    assert assistant.turns[-1].replaces == ()
    again = await bridge.handle(1, "c", "Tuesday", message_id="m1", redelivered=True)
    assert isinstance(again, AlreadyHandled)


async def test_a_message_does_not_replace_itself(repository: SessionRepository) -> None:
    """Delivered twice at once one of them runs, and the other is held."""
    await asked(repository)
    assistant = Assistant()
    bridge = SessionBridge(repository, assistant)
    first = deliver(bridge, "m1", while_running=WhileRunning.REPLACE)
    await assistant.works_on("m1")
    assert isinstance(await bridge.handle(1, "c", "Tuesday", message_id="m1", while_running="replace"), Held)  # type: ignore[arg-type]  # its word does too
    assistant.answer("m1", AskUser("And?"))
    assert isinstance(await end_of(first), Asked)


async def test_a_blank_message_replaces_nothing(repository: SessionRepository) -> None:
    """It is no answer, so the run goes on."""
    _, assistant, bridge, first = await at_work(repository)
    blank = await bridge.handle(1, "c", "  ", message_id="m2", while_running=WhileRunning.REPLACE)
    assert isinstance(blank, Held)
    assistant.answer("m1", AskUser("And?"))
    assert isinstance(await end_of(first), Asked)


async def test_what_was_replaced_stays_so_when_its_successor_is_stopped(brief: SessionRepository) -> None:
    """The successor comes again, and knows of the message that it replaced."""
    session, assistant, bridge, first = await at_work(brief)
    second = deliver(bridge, "m2", while_running=WhileRunning.REPLACE)
    await assistant.works_on("m2")
    await bridge.stop(1, session.session_id)
    assert isinstance(await end_of(first), Superseded)
    assert isinstance(await end_of(second), Superseded)
    assert isinstance(await bridge.handle(1, "c", "Tuesday", message_id="m1"), AlreadyHandled)
    assistant.answer("m2", AskUser("And?"))
    assert isinstance(await bridge.handle(1, "c", "Tuesday", message_id="m2"), Asked)
    assert assistant.turns[-1].replaces == ("m1",)


async def test_a_change_replaces_a_change(brief: SessionRepository) -> None:
    """A refinement likewise, on the preview that its user saw."""
    session = await brief.create(1, "t", conversation_id="c", preview_id="preview-1")
    assistant = Assistant()
    bridge = SessionBridge(brief, assistant)

    def change(message_id: str, **how: Any) -> "asyncio.Task[Handled]":
        return asyncio.create_task(
            bridge.refine(1, session.session_id, "Later", preview_id="preview-1", message_id=message_id, **how)
        )

    first = change("m1")
    await assistant.works_on("m1")
    assert isinstance(await end_of(change("m2")), Held)
    assert isinstance(await end_of(change("m1", while_running=WhileRunning.REPLACE)), Held)
    third = change("m3", while_running=WhileRunning.REPLACE)
    await assistant.works_on("m3")
    assert isinstance(await end_of(first), Superseded)
    fourth = change("m4", wait=LONG)
    await asyncio.sleep(0.05)
    assistant.answer("m3", ShowPreview("preview-2"))
    outcome = await end_of(third)
    assert isinstance(outcome, PreviewShown)
    assert outcome.session.replaced_reply_ids == ("m1",)
    assert assistant.turns[-1].replaces == ("m1",)
    with pytest.raises(StalePreview):  # its user saw another one
        await end_of(fourth)


async def test_a_change_that_waits(brief: SessionRepository) -> None:
    """It goes on once an older one was given back."""
    session = await brief.create(1, "t", conversation_id="c", preview_id="preview-1")
    assistant = Assistant()
    bridge = SessionBridge(brief, assistant)
    older = asyncio.create_task(bridge.refine(1, session.session_id, "So", preview_id="preview-1", message_id="m1"))
    await assistant.works_on("m1")
    how: Any = {"preview_id": "preview-1", "message_id": "m2", "wait": LONG}
    newer = asyncio.create_task(bridge.refine(1, session.session_id, "No", **how))
    await asyncio.sleep(0.05)
    assert isinstance(await bridge.stop(1, session.session_id), Stopped)
    await assistant.works_on("m2")
    assistant.answer("m2", ShowPreview("preview-2"))
    assert isinstance(await end_of(newer), PreviewShown)
    assert isinstance(await end_of(older), Superseded)


async def test_nothing_replaces_a_confirmation(repository: SessionRepository, make_session: SessionMaker) -> None:
    """A yes is carried out."""
    claim = await make_session.apply_claim()
    bridge = SessionBridge(repository, Assistant())
    how: Any = {"preview_id": claim.session.current_preview_id, "message_id": "m1"}
    for more in ({"while_running": WhileRunning.REPLACE}, {"wait": timedelta(milliseconds=20)}):
        assert isinstance(await bridge.refine(1, claim.session.session_id, "No", **how, **more), Held)
    assert isinstance(await bridge.stop(1, claim.session.session_id), Held)
    assert (await repository.complete_apply(claim)).status is SessionStatus.APPLIED


async def test_a_reply_replaces_a_reply_only(
    repository: SessionRepository, make_session: SessionMaker, stored: StoredDocument
) -> None:
    """Whatever lease its caller names: a reply takes over neither a change nor a confirmation, nor a change a reply."""
    asked, changed, confirmed = (
        (await make_session.claim()).session,
        (await make_session.refinement()).session,
        (await make_session.apply_claim()).session,
    )
    assert asked.lease is not None
    assert changed.lease is not None
    assert confirmed.lease is not None
    named: dict[str, Any] = {"user_id": 1, "reply_id": "new"}
    reply = partial(repository.claim_rerun, **named)
    change = partial(repository.claim_refinement, **named)
    tries = (
        (changed, partial(reply, replaces=changed.lease)),
        (changed, partial(reply, replaces=changed.lease.operation_id)),
        (confirmed, partial(reply, replaces=confirmed.lease.operation_id)),
        (confirmed, partial(change, preview_id="preview-3", replaces=confirmed.lease.operation_id)),
        (asked, partial(change, preview_id="preview-1", replaces=asked.lease)),
    )
    for session, claim in tries:
        before = await stored(session.session_id)
        with pytest.raises(TransitionConflict if session is not asked else StalePreview) as refusal:
            await claim(session.session_id)
        assert getattr(refusal.value, "reason", "in_progress") == "in_progress"
        assert await stored(session.session_id) == before


@pytest.mark.slow
async def test_two_hundred_in_one_place(repository: SessionRepository) -> None:
    """Of two hundred messages at once each replaces what it sees or is held; one of them is recorded."""
    session = await asked(repository)
    runs: list[str] = []

    async def answers(turn: Turn) -> GraphResult:
        await asyncio.sleep(0.5)
        runs.append(turn.message_id)
        return AskUser("And which time?")

    bridge = SessionBridge(repository, answers)
    first = deliver(bridge, "m")
    await asyncio.sleep(0.1)
    newer = [deliver(bridge, f"m{number}", while_running=WhileRunning.REPLACE) for number in range(200)]
    outcomes = [type(outcome) for outcome in await asyncio.gather(first, *newer)]
    assert outcomes.count(Asked) == 1
    assert set(outcomes) <= {Asked, Held, Superseded}
    now = await repository.get(session.session_id, user_id=1)
    assert len(now.answered_reply_ids) == 1
    assert set(now.answered_reply_ids) <= set(runs)
    assert not set(now.answered_reply_ids) & set(now.replaced_reply_ids)
    assert now.fencing_token == 1 + outcomes.count(Superseded)
    history = await repository.history(session.session_id, user_id=1)
    replaced = [step for step in history if step.reason == "replaced by a newer message"]
    assert len(replaced) == min(outcomes.count(Superseded), 30)


@pytest.mark.slow
async def test_two_hundred_stops(repository: SessionRepository) -> None:
    """One of them gives the run back; all of them say that it is stopped."""
    session, _, bridge, first = await at_work(repository)
    outcomes = await asyncio.gather(*(bridge.stop(1, session.session_id) for _ in range(200)))
    assert {type(outcome) for outcome in outcomes} == {Stopped}
    history = await repository.history(session.session_id, user_id=1)
    assert [step.call for step in history] == ["create", "claim_rerun", "interrupt"]
    assert (await repository.get(session.session_id, user_id=1)).revision == 3
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)


# --- the Stop button -------------------------------------------------------------------------------------------


async def test_stop(brief: SessionRepository) -> None:
    """The graph is cancelled, the question stands as before, and the message can come again."""
    session, assistant, bridge, first = await at_work(brief)
    stopped = await bridge.stop(1, session.session_id)
    assert isinstance(stopped, Stopped)
    now = stopped.session
    assert (now.status, now.attempts, now.lease) == (SessionStatus.WAITING_USER_REPLY, 0, None)
    assert (now.state, now.question_id) == (session.state, session.question_id)
    assert isinstance(await end_of(first), Superseded)
    assert assistant.cancelled == ["m1"]
    assistant.answer("m1", AskUser("And?"))
    assert isinstance(await bridge.handle(1, "c", "Tuesday", message_id="m1"), Asked)


@pytest.mark.parametrize("status", [status for status in SessionStatus if status is not SessionStatus.RERUNNING])
async def test_stop_where_nothing_runs(
    repository: SessionRepository, make_session: SessionMaker, status: SessionStatus
) -> None:
    """It says so, and writes nothing."""
    session = await make_session(status)
    bridge = SessionBridge(repository, Assistant())
    assert await bridge.stop(1, session.session_id) == Stopped(session)


async def test_whose_stop(repository: SessionRepository, make_session: SessionMaker) -> None:
    """Another user's session is indistinguishable from none."""
    claim = await make_session.claim()
    bridge = SessionBridge(repository, Assistant())
    with pytest.raises(SessionNotFound):
        await bridge.stop(2, claim.session.session_id)
    await repository.renew(claim)


# --- told at once ----------------------------------------------------------------------------------------------


@pytest.mark.needs("change_streams")
@pytest.mark.parametrize("how", ["replaced", "stopped", "ended", "failed"])
async def test_a_run_is_cancelled_at_once(repository: SessionRepository, database: "Database", how: str) -> None:
    """By another process's write, long before its next renewal, and by the one stream that all share."""
    session = await asked(repository)
    assistant = Assistant()
    mine = SessionBridge(repository, assistant)
    first = deliver(mine, "m1")
    await assistant.works_on("m1")
    async with open_repository(database) as other:
        if how == "replaced":
            lease = (await other.get(session.session_id, user_id=1)).lease
            await other.claim_rerun(session.session_id, user_id=1, reply_id="m2", replaces=lease)
        elif how == "stopped":
            await SessionBridge(other, Assistant()).stop(1, session.session_id)
        elif how == "ended":
            await SessionBridge(other, Assistant()).dismiss(1, session.session_id)
        else:
            await other.fail(session.session_id, user_id=1, reason="given up")
    assert isinstance(await end_of(first), Superseded)
    assert assistant.cancelled == ["m1"]


async def test_without_change_streams_a_run_learns_by_its_renewal(brief: SessionRepository) -> None:
    """On the double and on a standalone; never later than the next renewal."""
    session, _, _, first = await at_work(brief)
    await brief.interrupt(session.session_id, user_id=1)
    assert isinstance(await end_of(first), Superseded)


# --- what it costs ---------------------------------------------------------------------------------------------


@pytest.mark.needs("server")
async def test_round_trips(repository: SessionRepository, command_counter: CommandCounter) -> None:
    """`HOLD` costs its route, `REPLACE` one claim and one outcome more, `stop` one write; short runs no stream."""
    session = await asked(repository)
    assistant = Assistant()
    bridge = SessionBridge(repository, assistant)
    with command_counter.counting() as sent:
        first = deliver(bridge, "m1")
        await assistant.works_on("m1")
    assert dict(sent) == {"find": 1, "findAndModify": 1}
    with command_counter.counting() as sent:
        assert isinstance(await bridge.handle(1, "c", "So", message_id="m2"), Held)
    assert dict(sent) == {"find": 1}
    with command_counter.counting() as sent:
        second = deliver(bridge, "m3", while_running=WhileRunning.REPLACE)
        await assistant.works_on("m3")
        assistant.answer("m3", AskUser("And?"))
        assert isinstance(await end_of(second), Asked)
    assert dict(sent) == {"find": 1, "findAndModify": 2}
    third = deliver(bridge, "m4")
    await assistant.works_on("m4")
    with command_counter.counting() as sent:
        assert isinstance(await bridge.stop(1, session.session_id), Stopped)
    assert dict(sent) == {"findAndModify": 1}
    for task in (first, third):
        task.cancel()
    await asyncio.gather(first, third, return_exceptions=True)


@pytest.mark.parametrize(
    "how",
    [
        {"while_running": "wait"},
        {"while_running": None},
        {"while_running": 1},
        {"wait": timedelta(seconds=-1)},
        {"wait": timedelta(hours=2)},
        {"wait": 3},
    ],
)
async def test_what_a_message_cannot_do(repository: SessionRepository, how: dict[str, Any]) -> None:
    """It is named with its limit, and nothing is sent."""
    bridge = SessionBridge(repository, Assistant())
    with pytest.raises(InvalidSessionInput) as refusal:
        await bridge.handle(1, "c", "Tuesday", message_id="m1", **how)
    assert refusal.value.argument in how
    with pytest.raises(InvalidSessionInput) as refusal:
        await bridge.refine(1, "s", "Tuesday", preview_id="p", message_id="m1", **how)
    assert refusal.value.argument in how
