"""Sessions for tests: in any status, each by calls that the lifecycle allows, by a clock that the test moves."""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import count
from typing import Any, Final, TypedDict, Unpack

from sessions.domain.lifecycle import CALLS, CallName, LeaseKind, SessionStatus
from sessions.domain.models import ActiveScheduleSessionSnapshot, ApplyClaim, RerunClaim, derive_session_id
from sessions.repository import SessionRepository


class MovedClock:
    """A clock that stands still until the test moves it."""

    def __init__(self, at: datetime) -> None:
        self.at = at

    def __call__(self) -> datetime:
        """The present moment."""
        return self.at

    def advance(self, **by: float) -> None:
        """Move on by a `timedelta`'s arguments: ``clock.advance(seconds=61)``."""
        self.at += timedelta(**by)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyCall:
    """A call that writes one session, with arguments that let it succeed as things stand."""

    name: CallName
    session_id: str
    arguments: Mapping[str, Any]

    async def __call__(self, repository: SessionRepository, **more: Any) -> Any:
        """Make it."""
        return await getattr(repository, self.name.value)(**self.arguments, **more)


class Given(TypedDict, total=False):
    """What a test may say of the session that it wants."""

    user_id: int
    conversation_id: str | None
    expires_at: datetime | None


def _own(kind: str, session: ActiveScheduleSessionSnapshot) -> str:
    """The id of a made session's preview or reply: each has its trigger's number."""
    return f"{kind}-{session.trigger_id.removeprefix('trigger-')}"


@dataclass(frozen=True, slots=True)
class SessionMaker:
    """Makes sessions in any status, each by calls that the lifecycle allows; each has a trigger of its own."""

    repository: SessionRepository
    clock: MovedClock
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))

    async def __call__(
        self,
        status: SessionStatus = SessionStatus.WAITING_USER_REPLY,
        *,
        user_id: int = 1,
        conversation_id: str | None = None,
        expires_at: datetime | None = None,
    ) -> ActiveScheduleSessionSnapshot:
        """A session in this status; its preview is ``preview-N``, the reply it ran for ``reply-N``."""
        number = next(self._numbers)
        if status is SessionStatus.RERUNNING:
            claim = await self.claim(user_id=user_id, conversation_id=conversation_id, expires_at=expires_at)
            return claim.session
        asked = status in (SessionStatus.WAITING_USER_REPLY, SessionStatus.EXPIRED, SessionStatus.FAILED)
        if status is SessionStatus.EXPIRED and expires_at is None:
            expires_at = self.clock() + timedelta(seconds=1)
        session = await self.repository.create(
            user_id,
            f"trigger-{number}",
            conversation_id=conversation_id,
            pending_question="Which lesson?" if asked else "",
            preview_id=f"preview-{number}" if not asked else None,
            expires_at=expires_at,
        )
        if status is SessionStatus.APPLIED:
            preview_id = f"preview-{number}"
            return await self.repository.apply(session.session_id, user_id=user_id, preview_id=preview_id)
        if status is SessionStatus.IGNORED:
            return await self.repository.ignore(session.session_id, user_id=user_id)
        if status is SessionStatus.FAILED:
            return await self.repository.fail(session.session_id, user_id=user_id, reason="made to fail")
        if status is SessionStatus.EXPIRED:
            assert expires_at is not None
            self.clock.at = max(self.clock.at, expires_at)
            await self.repository.expire_due()
            return await self.repository.get(session.session_id, user_id=user_id)
        return session

    async def claim(self, *, lease: timedelta | None = None, **given: Unpack[Given]) -> RerunClaim:
        """A reply claim on a new session, held."""
        session = await self(**given)
        return await self.repository.claim_rerun(
            session.session_id, user_id=session.user_id, reply_id=_own("reply", session), lease=lease
        )

    async def refinement(self, *, lease: timedelta | None = None, **given: Unpack[Given]) -> RerunClaim:
        """A refinement claim on a new session, held."""
        session = await self(SessionStatus.READY_PREVIEW, **given)
        return await self.repository.claim_refinement(
            session.session_id,
            user_id=session.user_id,
            preview_id=_own("preview", session),
            reply_id=_own("reply", session),
            lease=lease,
        )

    async def apply_claim(self, *, lease: timedelta | None = None, **given: Unpack[Given]) -> ApplyClaim:
        """A claim on a new session whose user has confirmed its preview, held."""
        session = await self(SessionStatus.READY_PREVIEW, **given)
        return await self.repository.claim_apply(
            session.session_id, user_id=session.user_id, preview_id=_own("preview", session), lease=lease
        )

    async def ready(self, name: CallName, *, kind: LeaseKind | None = None) -> ReadyCall:
        """A call of this name, its session made for it; ``kind`` chooses the lease of a holder's call."""
        more = _ARGUMENTS.get(name, {})
        if name in (CallName.CREATE, CallName.GET_OR_CREATE):
            trigger_id = f"trigger-{next(self._numbers)}"
            own = {"user_id": 1, "trigger_id": trigger_id, "conversation_id": f"of-{trigger_id}"}
            return ReadyCall(name=name, session_id=derive_session_id(1, trigger_id), arguments={**own, **more})
        rule = CALLS[name]
        if rule.held:
            kind = kind or next(each for each in LeaseKind if each in rule.held)
            makers: Mapping[LeaseKind, Callable[[], Awaitable[RerunClaim | ApplyClaim]]] = {
                LeaseKind.REPLY: self.claim,
                LeaseKind.REFINEMENT: self.refinement,
                LeaseKind.APPLY: self.apply_claim,
            }
            claim = await makers[kind]()
            return ReadyCall(name=name, session_id=claim.session.session_id, arguments={"claim": claim, **more})
        session = await self(next(status for status in SessionStatus if status in rule.starts_from))
        named = {"session_id": session.session_id, "user_id": 1, **more}
        if name in (CallName.CLAIM_REFINEMENT, CallName.CLAIM_APPLY, CallName.APPLY):
            named["preview_id"] = session.current_preview_id
        if name is CallName.BIND_CONVERSATION:
            named["conversation_id"] = f"of-{session.trigger_id}"
        return ReadyCall(name=name, session_id=session.session_id, arguments=named)


_ARGUMENTS: Final[Mapping[CallName, Mapping[str, Any]]] = {
    CallName.CREATE: {"pending_question": "Which lesson?"},
    CallName.GET_OR_CREATE: {"pending_question": "Which lesson?"},
    CallName.RECORD_NOTIFICATION: {"notification_id": "notification"},
    CallName.CLAIM_RERUN: {"reply_id": "reply"},
    CallName.CLAIM_REFINEMENT: {"reply_id": "reply"},
    CallName.ASK_AGAIN: {"pending_question": "And which day?"},
    CallName.PRESENT_PREVIEW: {"preview_id": "fresh-preview"},
    CallName.FAIL_RERUN: {"reason": "it broke"},
    CallName.FAIL_APPLY: {"reason": "it broke"},
    CallName.FAIL: {"reason": "it broke"},
}
