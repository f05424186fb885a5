"""The claims that a repository hands out, and that a holder's call is given: of a kind that the call is for."""

from datetime import timedelta
from typing import Final

from sessions.domain import inputs
from sessions.domain.errors import InvalidSessionInput
from sessions.domain.lifecycle import CALLS, RERUNS, CallName, LeaseKind
from sessions.domain.models import ActiveScheduleSessionSnapshot, ApplyClaim, Claim, RerunClaim

_CLASSES: Final = {kind: RerunClaim if kind in RERUNS else ApplyClaim for kind in LeaseKind}


def rerun_claim_of(session: ActiveScheduleSessionSnapshot, lease: timedelta) -> RerunClaim:
    """What the winner of a rerun is given."""
    held = session.lease
    if held is None or held.reply_id is None:  # pragma: no cover - the guarded write has just put it there
        message = "a claim was carried out without a lease"
        raise TypeError(message)
    return RerunClaim(
        session=session,
        kind=held.kind,
        token=session.fencing_token,
        operation_id=held.operation_id,
        reply_id=held.reply_id,
        attempt=session.attempts,
        expires_at=held.expires_at,
        lease=lease,
    )


def apply_claim_of(session: ActiveScheduleSessionSnapshot, lease: timedelta) -> ApplyClaim:
    """What the one who may write a preview back is given."""
    held = session.lease
    if held is None or held.attempt is None:  # pragma: no cover - the guarded write has just put it there
        message = "a claim was carried out without a lease"
        raise TypeError(message)
    return ApplyClaim(
        session=session,
        kind=held.kind,
        token=session.fencing_token,
        operation_id=held.operation_id,
        attempt=held.attempt,
        expires_at=held.expires_at,
        lease=lease,
    )


def checked_claim(call: CallName, claim: object) -> Claim:
    """A claim for a holder's call; its parts are checked like any other argument."""
    held = CALLS[call].held
    names = {_CLASSES[kind].__name__: None for kind in LeaseKind if kind in held}
    wanted = InvalidSessionInput("claim", f"the {' or '.join(names)} that a claim or a renewal returned, unchanged")
    if not isinstance(claim, RerunClaim | ApplyClaim) or not isinstance(claim.kind, LeaseKind):
        raise wanted
    if claim.kind not in held or not isinstance(claim, _CLASSES[claim.kind]):
        raise wanted
    if not isinstance(claim.session, ActiveScheduleSessionSnapshot):
        raise wanted
    try:
        inputs.integer("token", claim.token, limit=inputs.IntegerLimit(1))
        inputs.identifier("operation_id", claim.operation_id)
        if isinstance(claim, RerunClaim):
            inputs.identifier("reply_id", claim.reply_id)
        inputs.duration("lease", claim.lease)
        # model_copy and model_construct make snapshots without checking them.
        inputs.identifier("session_id", claim.session.session_id)
        inputs.integer("user_id", claim.session.user_id)
    except InvalidSessionInput as error:
        raise wanted from error
    return claim
