"""The demo's story: its steps as a table, each with the route before and after it, and what each one checks."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar

from sessions.domain.errors import (
    ConflictReason,
    LeaseLost,
    SessionError,
    SessionNotFound,
    StalePreview,
    TransitionConflict,
)
from sessions.domain.lifecycle import INITIAL, LIFECYCLE, SessionStatus
from sessions.domain.models import RerunClaim, RouteAction, Transition
from sessions.repository import SessionRepository

LEASE: Final = timedelta(seconds=60)

_USER: Final = 7
_OTHER_USER: Final = 8
_CONVERSATION: Final = "chat-42"
_TRIGGER: Final = "lesson-12-moved"
_COPIES: Final = 10
_LEASE_AND_A_BIT: Final = timedelta(seconds=61)

Refusal = TypeVar("Refusal", bound=SessionError)


class StepError(Exception):
    """A step did not end as it says; the text says what happened instead."""


class DemoClock:
    """The real time, and as much more as the demo has moved it on."""

    def __init__(self) -> None:
        self._ahead = timedelta()

    def __call__(self) -> datetime:
        """The time as an aware datetime."""
        return datetime.now(UTC) + self._ahead

    def advance(self, by: timedelta) -> None:
        """Move on without waiting."""
        self._ahead += by


def check(holds: bool, otherwise: str) -> None:  # noqa: FBT001 - it reads as a sentence: check(this, "else that")
    """Go on if it holds.

    Raises:
        StepError: It does not; the text is ``otherwise``.
    """
    if not holds:
        raise StepError(otherwise)


async def refused(call: Awaitable[object], kind: type[Refusal]) -> Refusal:
    """The refusal that a call ends in.

    Raises:
        StepError: It was not refused. A refusal of another kind passes through.
    """
    try:
        await call
    except kind as refusal:
        return refusal
    raise StepError(f"it was accepted, and should have been refused with {kind.__name__}")


@dataclass(slots=True)
class Play:
    """What the steps share: the repository, the clock, and what earlier steps made."""

    repository: SessionRepository
    clock: DemoClock
    session_id: str = ""
    claims: list[RerunClaim] = field(default_factory=list)
    history: list[Transition] = field(default_factory=list)

    async def route(self) -> RouteAction:
        """Where the next chat message of this user in this conversation goes."""
        return (await self.repository.route(_USER, _CONVERSATION)).action

    async def revision(self) -> int:
        """The session's revision as it is stored."""
        return (await self.repository.get(self.session_id, user_id=_USER)).revision

    async def trigger_twice(self) -> str:
        """Two deliveries of one trigger, at once."""
        deliveries = await asyncio.gather(
            *(self.repository.get_or_create(_USER, _TRIGGER, pending_question="Which lesson may move?") for _ in "12")
        )
        ids = {session.session_id for session, _ in deliveries}
        made = sum(created for _, created in deliveries)
        check(len(ids) == 1 and made == 1, f"{len(ids)} sessions, {made} of them made now")
        self.session_id = ids.pop()
        return f"One session, {self.session_id}. No conversation is bound to it yet."

    async def other_user(self) -> str:
        """Another user's session is as one that does not exist."""
        unknown = "0" * len(self.session_id)
        theirs = await refused(self.repository.get(self.session_id, user_id=_OTHER_USER), SessionNotFound)
        none = await refused(self.repository.get(unknown, user_id=_OTHER_USER), SessionNotFound)
        same = str(theirs).replace(self.session_id, unknown) == str(none)
        check(same, f"an id that exists can be told from one that does not: {theirs}")
        return "Refused: SessionNotFound, as for an id that does not exist."

    async def ask(self) -> str:
        """The question reaches the chat: the conversation is bound."""
        await self.repository.bind_conversation(
            self.session_id, _CONVERSATION, user_id=_USER, notification_id="notification-1"
        )
        governor = (await self.repository.route(_USER, _CONVERSATION)).session
        check(governor is not None and governor.session_id == self.session_id, "another session governs")
        return "From now on a message in this conversation is the answer."

    async def ten_replies(self) -> str:
        """Ten copies of one reply: one claim."""
        ends = await asyncio.gather(
            *(
                self.repository.claim_rerun(self.session_id, user_id=_USER, reply_id="message-1")
                for _ in range(_COPIES)
            ),
            return_exceptions=True,
        )
        self.claims += [end for end in ends if isinstance(end, RerunClaim)]
        in_progress = [
            end
            for end in ends
            if isinstance(end, TransitionConflict)
            and end.reason is ConflictReason.IN_PROGRESS
            and end.status is SessionStatus.RERUNNING
        ]
        others = [repr(end) for end in ends if not isinstance(end, RerunClaim) and end not in in_progress]
        counted = f"{len(self.claims)} claimed, {len(in_progress)} refused as in progress, else: {others}"
        check(len(self.claims) == 1 and len(in_progress) == _COPIES - 1, counted)
        return f"One claim; {len(in_progress)} refused: TransitionConflict, in_progress."

    async def worker_dies(self) -> str:
        """Nothing is written; time passes."""
        revision = await self.revision()
        self.clock.advance(_LEASE_AND_A_BIT)
        check(await self.revision() == revision, "the session was written")
        seconds = int(_LEASE_AND_A_BIT.total_seconds())
        return f"The demo moves its clock on by {seconds} s: the lease of {int(LEASE.total_seconds())} s has lapsed."

    async def take_over(self) -> str:
        """The next message claims what the dead worker held."""
        claim = await self.repository.claim_rerun(self.session_id, user_id=_USER, reply_id="message-2")
        dead = self.claims[-1]
        self.claims.append(claim)
        check(claim.token > dead.token, f"fencing token {claim.token} after {dead.token}")
        check(claim.attempt == dead.attempt + 1, f"attempt {claim.attempt} after {dead.attempt}")
        return f"Taken over: fencing token {dead.token} -> {claim.token}, attempt {claim.attempt}."

    async def late_write(self) -> str:
        """The dead worker's token is out of date."""
        revision = await self.revision()
        await refused(self.repository.present_preview(self.claims[0], preview_id="preview-late"), LeaseLost)
        check(await self.revision() == revision, "the late write changed the session")
        return "Refused: LeaseLost. Nothing was written."

    async def ask_again(self) -> str:
        """The graph asks its next question."""
        before = self.claims[-1].session.question_number
        session = await self.repository.ask_again(
            self.claims[-1], pending_question="On which day?", missing_info=["day"]
        )
        check(session.question_number == before + 1, f"question {session.question_number} after {before}")
        return f"Question {session.question_number} stands; it misses: {', '.join(session.state.missing_info)}."

    async def answer(self) -> str:
        """The reply names the question that it answers."""
        question = (await self.repository.get(self.session_id, user_id=_USER)).question_number
        claim = await self.repository.claim_rerun(
            self.session_id, user_id=_USER, reply_id="message-3", question_number=question
        )
        self.claims.append(claim)
        check(claim.attempt == 1, f"attempt {claim.attempt}, though the last rerun was recorded")
        return f"Claimed for question {question}, attempt {claim.attempt}."

    async def preview(self) -> str:
        """The rerun ends in a preview."""
        return await self._present("preview-1")

    async def free_chat(self) -> str:
        """A message that is nobody's answer."""
        revision = await self.revision()
        route = await self.repository.route(_USER, _CONVERSATION)
        check(route.session is None, f"session {route.session} governs")
        check(await self.revision() == revision, "the session was written")
        return "Nobody governs: ordinary chat answers it. The preview stands."

    async def refine(self) -> str:
        """The user wants the preview changed."""
        claim = await self.repository.claim_refinement(
            self.session_id, user_id=_USER, preview_id="preview-1", reply_id="message-5"
        )
        self.claims.append(claim)
        return f"Claimed as a {claim.kind} of preview-1."

    async def next_preview(self) -> str:
        """A changed preview has an id of its own."""
        return await self._present("preview-2")

    async def stale_confirmation(self) -> str:
        """A confirmation of what is no longer on offer."""
        refusal = await refused(
            self.repository.apply(self.session_id, user_id=_USER, preview_id="preview-1"), StalePreview
        )
        check(refusal.current_preview_id == "preview-2", f"the preview on offer is {refusal.current_preview_id}")
        return f"Refused: StalePreview; {refusal.current_preview_id} is on offer now."

    async def apply(self) -> str:
        """The confirmation of what the user saw."""
        session = await self.repository.apply(self.session_id, user_id=_USER, preview_id="preview-2")
        check(session.status is SessionStatus.APPLIED, f"the status is {session.status}")
        return f"The session has ended: {session.status}."

    async def read_history(self) -> str:
        """Each change of status is one that the lifecycle allows."""
        self.history = await self.repository.history(self.session_id, user_id=_USER)
        illegal = [
            f"{step.from_status} -> {step.to_status}"
            for step in self.history
            if step.to_status not in (LIFECYCLE[step.from_status].leads_to if step.from_status else INITIAL)
        ]
        check(not illegal, f"not in the lifecycle: {', '.join(illegal)}")
        path = tuple(step.to_status for step in self.history)
        check(path == _PATH, f"the statuses were {', '.join(path)}")
        return f"{len(self.history)} entries, each allowed by the lifecycle."

    async def _present(self, preview_id: str) -> str:
        session = await self.repository.present_preview(self.claims[-1], preview_id=preview_id)
        check(session.current_preview_id == preview_id, f"the preview on offer is {session.current_preview_id}")
        return f"{preview_id} is on offer, and chat is free again."


_PATH: Final = (
    SessionStatus.WAITING_USER_REPLY,
    SessionStatus.RERUNNING,
    SessionStatus.RERUNNING,
    SessionStatus.WAITING_USER_REPLY,
    SessionStatus.RERUNNING,
    SessionStatus.READY_PREVIEW,
    SessionStatus.RERUNNING,
    SessionStatus.READY_PREVIEW,
    SessionStatus.APPLIED,
)


@dataclass(frozen=True, slots=True)
class Step:
    """One step: what happens, and where a chat message goes before and after it."""

    title: str
    before: RouteAction
    after: RouteAction
    act: Callable[[Play], Awaitable[str]]


_FREE: Final = RouteAction.FREE_CHAT
_RESUME: Final = RouteAction.RESUME
_HOLD: Final = RouteAction.HOLD

STORY: Final = (
    Step("A lesson moved: its trigger is delivered twice at once.", _FREE, _FREE, Play.trigger_twice),
    Step("Another user asks for this session by its id.", _FREE, _FREE, Play.other_user),
    Step('The question is asked in chat: "Which lesson may move?"', _FREE, _RESUME, Play.ask),
    Step("The user answers; ten copies of the reply arrive at once.", _RESUME, _HOLD, Play.ten_replies),
    Step("The worker that won the claim dies.", _HOLD, _RESUME, Play.worker_dies),
    Step("The user's next message comes.", _RESUME, _HOLD, Play.take_over),
    Step("The dead worker wakes up and writes its result.", _HOLD, _HOLD, Play.late_write),
    Step('The graph still misses something and asks: "On which day?"', _HOLD, _RESUME, Play.ask_again),
    Step("The user answers.", _RESUME, _HOLD, Play.answer),
    Step("The graph shows a preview.", _HOLD, _FREE, Play.preview),
    Step("The user writes about something else.", _FREE, _FREE, Play.free_chat),
    Step("The user wants the preview changed.", _FREE, _HOLD, Play.refine),
    Step("The graph shows the changed preview.", _HOLD, _FREE, Play.next_preview),
    Step("An old window confirms the first preview.", _FREE, _FREE, Play.stale_confirmation),
    Step("The user confirms the preview that stands.", _FREE, _FREE, Play.apply),
    Step("The session's history is read back.", _FREE, _FREE, Play.read_history),
)
