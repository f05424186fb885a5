"""Any call that writes one session, with arguments that let it succeed."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import uuid4

from sessions import ApplyClaim, RerunClaim, SessionRepository, SessionStatus
from sessions.domain.lifecycle import CALLS, CallName, LeaseKind
from sessions.domain.models import derive_session_id
from sessions.testing import SessionMaker


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyCall:
    """A call that writes one session, with arguments that let it succeed as things stand."""

    name: CallName
    session_id: str
    arguments: Mapping[str, Any]

    async def __call__(self, repository: SessionRepository, **more: Any) -> Any:
        """Make it."""
        return await getattr(repository, self.name.value)(**self.arguments, **more)


_ARGUMENTS: Final[Mapping[CallName, Mapping[str, Any]]] = {
    CallName.CREATE: {"pending_question": "Which lesson?"},
    CallName.GET_OR_CREATE: {"pending_question": "Which lesson?"},
    CallName.RECORD_NOTIFICATION: {"notification_id": "notification"},
    CallName.POSTPONE: {"after": timedelta(seconds=5)},
    CallName.CLAIM_RERUN: {"reply_id": "reply"},
    CallName.CLAIM_REFINEMENT: {"reply_id": "reply"},
    CallName.POSTPONE: {"after": timedelta(seconds=5)},
    CallName.ASK_AGAIN: {"pending_question": "And which day?"},
    CallName.PRESENT_PREVIEW: {"preview_id": "fresh-preview"},
    CallName.FAIL_RERUN: {"reason": "it broke"},
    CallName.FAIL_APPLY: {"reason": "it broke"},
    CallName.FAIL: {"reason": "it broke"},
}


async def ready_call(make_session: SessionMaker, name: CallName, *, kind: LeaseKind | None = None) -> ReadyCall:
    """A call of this name, its session made for it; ``kind`` chooses the lease of a holder's call."""
    more = _ARGUMENTS.get(name, {})
    if name in (CallName.CREATE, CallName.GET_OR_CREATE):
        trigger_id = f"made-by-{uuid4().hex}"
        own = {"user_id": 1, "trigger_id": trigger_id, "conversation_id": f"of-{trigger_id}"}
        return ReadyCall(name=name, session_id=derive_session_id(1, trigger_id), arguments={**own, **more})
    rule = CALLS[name]
    if rule.held:
        kind = kind or next(each for each in LeaseKind if each in rule.held)
        makers: Mapping[LeaseKind, Callable[[], Awaitable[RerunClaim | ApplyClaim]]] = {
            LeaseKind.REPLY: make_session.claim,
            LeaseKind.REFINEMENT: make_session.refinement,
            LeaseKind.APPLY: make_session.apply_claim,
        }
        claim = await makers[kind]()
        return ReadyCall(name=name, session_id=claim.session.session_id, arguments={"claim": claim, **more})
    session = await make_session(next(status for status in SessionStatus if status in rule.starts_from))
    named = {"session_id": session.session_id, "user_id": 1, **more}
    if name in (CallName.CLAIM_REFINEMENT, CallName.CLAIM_APPLY, CallName.APPLY):
        named["preview_id"] = session.current_preview_id
    if name is CallName.BIND_CONVERSATION:
        named["conversation_id"] = f"of-{session.trigger_id}"
    return ReadyCall(name=name, session_id=session.session_id, arguments=named)
