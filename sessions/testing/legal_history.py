"""Whether a session has got to where it stands by steps that the lifecycle allows."""

from collections.abc import Iterator, Sequence
from typing import Final

from sessions.domain.lifecycle import INITIAL, LEASES, LIFECYCLE, RERUNS, CallName, SessionStatus
from sessions.domain.models import ActiveScheduleSessionSnapshot, Transition
from sessions.repository import SessionRepository
from sessions.store.updates import HISTORY_KEPT

_CALLS: Final = frozenset(CallName)


async def assert_legal_history(
    repository: SessionRepository, session: ActiveScheduleSessionSnapshot
) -> ActiveScheduleSessionSnapshot:
    """Read a session and its history back, when all is quiet, and assert that they agree with the lifecycle.

    What it finds: a step that the table does not allow, a status that no recorded step has led to (somebody has written
    past the repository), a status without what belongs to it, a lease where there can be none, a message that was
    recorded twice.

    Returns:
        The session as it stands.

    Raises:
        AssertionError: All that was found, by ids and statuses.
        SessionNotFound: The session is gone.
        SessionDamaged: The stored document cannot be read.
    """
    now = await repository.get(session.session_id, user_id=session.user_id)
    history = await repository.history(session.session_id, user_id=session.user_id)
    if found := [*_of_the_steps(history), *_of_the_session(now, history)]:
        steps = " -> ".join(step.to_status for step in history)
        raise AssertionError(f"session {now.session_id}: {'; '.join(found)}. Its history: {steps or 'none'}")
    return now


def _of_the_steps(history: Sequence[Transition]) -> Iterator[str]:
    for number, step in enumerate(history):
        if step.call not in _CALLS:
            yield f"step {number} was made by {step.call}, which is no call"
        if step.from_status is None:
            # Of a longer history the first entry that is kept is not its beginning.
            if len(history) < HISTORY_KEPT and step.to_status not in INITIAL:
                yield f"it began as {step.to_status}"
        elif step.to_status not in LIFECYCLE[step.from_status].leads_to:
            yield f"{step.from_status} does not lead to {step.to_status} (step {number}, {step.call})"


def _of_the_session(now: ActiveScheduleSessionSnapshot, history: Sequence[Transition]) -> Iterator[str]:
    if not history:
        yield "nothing was recorded"
    elif history[-1].to_status is not now.status:
        yield f"it is {now.status}, and no recorded step has led there"
    needed = LIFECYCLE[now.status].needs_one_of
    if needed and not any(_at(now, path) for path in needed):
        yield f"it is {now.status} without {' or '.join(needed)}"
    if now.status is SessionStatus.RERUNNING and (now.lease is None or now.lease.kind not in RERUNS):
        yield "it is rerunning and nobody holds it"
    if now.lease is not None and LEASES[now.lease.kind].held_in is not now.status:
        yield f"it is {now.status} under a lease for {now.lease.kind}"
    answered = now.answered_reply_ids
    if len(set(answered)) < len(answered):
        yield "a message was recorded twice"
    if now.revision < len(history):
        yield f"it was written {now.revision} times and has made {len(history)} steps"


def _at(now: ActiveScheduleSessionSnapshot, path: str) -> object:
    found: object = now
    for name in path.split("."):
        found = getattr(found, name)
    return found
