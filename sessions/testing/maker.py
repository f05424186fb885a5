"""Sessions for tests: in any status, each by calls that the lifecycle allows, by a clock that the test moves."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Final, TypedDict, Unpack

from sessions.domain.lifecycle import SessionStatus
from sessions.domain.models import ActiveScheduleSessionSnapshot, ApplyClaim, RerunClaim
from sessions.repository import SessionRepository

START: Final = datetime(2026, 1, 1, tzinfo=UTC)


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
