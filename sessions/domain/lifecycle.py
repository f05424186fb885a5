"""The lifecycle of a session, declared once as data: statuses, steps, and where each call may start."""

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Final, NamedTuple


class SessionStatus(StrEnum):
    """Where a session stands; two statuses intercept chat, four are final."""

    WAITING_USER_REPLY = "waiting_user_reply"
    RERUNNING = "rerunning"
    READY_PREVIEW = "ready_preview"
    APPLIED = "applied"
    IGNORED = "ignored"
    EXPIRED = "expired"
    FAILED = "failed"

    @property
    def intercepts(self) -> bool:
        """Whether a chat message belongs to the session rather than to ordinary chat."""
        return LIFECYCLE[self].intercepts

    @property
    def is_final(self) -> bool:
        """Whether the session has ended; nothing leads out of a final status."""
        return not LIFECYCLE[self].leads_to


class StatusRule(NamedTuple):
    """One row of the lifecycle: what a status means and what its entry asks for."""

    entered_when: str
    is_initial: bool = False
    intercepts: bool = False
    leads_to: frozenset[SessionStatus] = frozenset()
    needs_one_of: tuple[str, ...] = ()
    """Document paths of which at least one is filled on entry."""
    clears: tuple[str, ...] = ()
    """Document paths that are empty after entry; giving back a lease clears nothing."""


_ENDED_EARLY: Final = frozenset({SessionStatus.IGNORED, SessionStatus.EXPIRED, SessionStatus.FAILED})

LIFECYCLE: Final[Mapping[SessionStatus, StatusRule]] = {
    SessionStatus.WAITING_USER_REPLY: StatusRule(
        entered_when="the graph asked something",
        is_initial=True,
        intercepts=True,
        leads_to=_ENDED_EARLY | {SessionStatus.RERUNNING},
        needs_one_of=("state.pending_question", "state.missing_info"),
        clears=("current_preview_id",),
    ),
    SessionStatus.RERUNNING: StatusRule(
        entered_when="a reply was claimed; the graph runs again",
        intercepts=True,
        leads_to=_ENDED_EARLY
        # Itself only as the take-over of a lapsed reply lease, or where a newer message replaces the run.
        | {SessionStatus.WAITING_USER_REPLY, SessionStatus.READY_PREVIEW, SessionStatus.RERUNNING},
    ),
    SessionStatus.READY_PREVIEW: StatusRule(
        entered_when="a preview can be shown",
        is_initial=True,
        leads_to=_ENDED_EARLY | {SessionStatus.RERUNNING, SessionStatus.APPLIED},
        needs_one_of=("current_preview_id",),
        clears=("state.pending_question", "state.missing_info", "state.failed_reason"),
    ),
    SessionStatus.APPLIED: StatusRule(entered_when="the confirmed preview was written"),
    SessionStatus.IGNORED: StatusRule(
        entered_when="there was nothing to do, or the user dismissed it", is_initial=True
    ),
    SessionStatus.EXPIRED: StatusRule(entered_when="nobody answered in time"),
    SessionStatus.FAILED: StatusRule(entered_when="it could not go on", needs_one_of=("state.failed_reason",)),
}

ALL: Final = tuple(LIFECYCLE)
INITIAL: Final = frozenset(status for status, rule in LIFECYCLE.items() if rule.is_initial)
INTERCEPTING: Final = frozenset(status for status, rule in LIFECYCLE.items() if rule.intercepts)
NOT_ENDED: Final = frozenset(status for status, rule in LIFECYCLE.items() if rule.leads_to)
ENDED: Final = frozenset(LIFECYCLE) - NOT_ENDED


class LeaseKind(StrEnum):
    """What the holder of a lease is doing."""

    REPLY = "reply"
    REFINEMENT = "refinement"
    APPLY = "apply"


class LeaseRule(NamedTuple):
    """What one kind of lease means for the session under it."""

    held_in: SessionStatus
    given_back_to: SessionStatus


LEASES: Final[Mapping[LeaseKind, LeaseRule]] = {
    LeaseKind.REPLY: LeaseRule(held_in=SessionStatus.RERUNNING, given_back_to=SessionStatus.WAITING_USER_REPLY),
    LeaseKind.REFINEMENT: LeaseRule(held_in=SessionStatus.RERUNNING, given_back_to=SessionStatus.READY_PREVIEW),
    LeaseKind.APPLY: LeaseRule(held_in=SessionStatus.READY_PREVIEW, given_back_to=SessionStatus.READY_PREVIEW),
}


class CallName(StrEnum):
    """A call that writes, as the history names it."""

    CREATE = "create"
    GET_OR_CREATE = "get_or_create"
    BIND_CONVERSATION = "bind_conversation"
    RECORD_NOTIFICATION = "record_notification"
    CLAIM_RERUN = "claim_rerun"
    CLAIM_REFINEMENT = "claim_refinement"
    CLAIM_APPLY = "claim_apply"
    RENEW = "renew"
    RELEASE = "release"
    POSTPONE = "postpone"
    ASK_AGAIN = "ask_again"
    PRESENT_PREVIEW = "present_preview"
    CLOSE_RERUN = "close_rerun"
    FAIL_RERUN = "fail_rerun"
    COMPLETE_APPLY = "complete_apply"
    FAIL_APPLY = "fail_apply"
    INTERRUPT = "interrupt"
    APPLY = "apply"
    IGNORE = "ignore"
    FAIL = "fail"
    EXPIRE_DUE = "expire_due"
    RECOVER_STALLED = "recover_stalled"


class CallRule(NamedTuple):
    """Where a call on a stored session may start and what it may enter."""

    starts_from: frozenset[SessionStatus]
    enters: SessionStatus | None = None
    takes_over: LeaseKind | None = None
    """Also starts from the status under such a lease, once the lease has lapsed."""
    replaces: LeaseKind | None = None
    """Also starts from the status under such a live lease, if its caller names it: a newer message."""
    is_claim: bool = False
    gives_back: frozenset[LeaseKind] = frozenset()
    """Gives such a live lease back from outside, to where the lease came from."""
    held: frozenset[LeaseKind] = frozenset()
    """A holder's call: the leases that it may hold; it starts from the status of the one that its claim holds."""

    @property
    def by_holder(self) -> bool:
        """Whether only the holder of a lease can make the call."""
        return bool(self.held)


def _by_holder(held: frozenset[LeaseKind], enters: SessionStatus | None = None) -> CallRule:
    return CallRule(starts_from=frozenset(LEASES[kind].held_in for kind in held), enters=enters, held=held)


RERUNS: Final = frozenset({LeaseKind.REPLY, LeaseKind.REFINEMENT})
_APPLYING: Final = frozenset({LeaseKind.APPLY})


CALLS: Final[Mapping[CallName, CallRule]] = {
    CallName.BIND_CONVERSATION: CallRule(starts_from=NOT_ENDED),
    CallName.RECORD_NOTIFICATION: CallRule(starts_from=frozenset(LIFECYCLE)),
    CallName.CLAIM_RERUN: CallRule(
        starts_from=frozenset({SessionStatus.WAITING_USER_REPLY}),
        enters=SessionStatus.RERUNNING,
        takes_over=LeaseKind.REPLY,
        replaces=LeaseKind.REPLY,
        is_claim=True,
    ),
    CallName.CLAIM_REFINEMENT: CallRule(
        starts_from=frozenset({SessionStatus.READY_PREVIEW}),
        enters=SessionStatus.RERUNNING,
        replaces=LeaseKind.REFINEMENT,
        is_claim=True,
    ),
    CallName.CLAIM_APPLY: CallRule(
        # Enters nothing: chat stays free, and the preview stands until it is written.
        starts_from=frozenset({SessionStatus.READY_PREVIEW}),
        takes_over=LeaseKind.APPLY,
        is_claim=True,
    ),
    CallName.RENEW: _by_holder(frozenset(LeaseKind)),
    CallName.RELEASE: _by_holder(frozenset(LeaseKind)),
    CallName.POSTPONE: _by_holder(_APPLYING),
    CallName.ASK_AGAIN: _by_holder(RERUNS, enters=SessionStatus.WAITING_USER_REPLY),
    CallName.PRESENT_PREVIEW: _by_holder(RERUNS, enters=SessionStatus.READY_PREVIEW),
    CallName.CLOSE_RERUN: _by_holder(RERUNS, enters=SessionStatus.IGNORED),
    CallName.FAIL_RERUN: _by_holder(RERUNS, enters=SessionStatus.FAILED),
    CallName.COMPLETE_APPLY: _by_holder(_APPLYING, enters=SessionStatus.APPLIED),
    CallName.FAIL_APPLY: _by_holder(_APPLYING, enters=SessionStatus.FAILED),
    CallName.INTERRUPT: CallRule(starts_from=frozenset(LEASES[kind].held_in for kind in RERUNS), gives_back=RERUNS),
    CallName.APPLY: CallRule(starts_from=frozenset({SessionStatus.READY_PREVIEW}), enters=SessionStatus.APPLIED),
    CallName.IGNORE: CallRule(starts_from=NOT_ENDED, enters=SessionStatus.IGNORED),
    CallName.FAIL: CallRule(starts_from=NOT_ENDED, enters=SessionStatus.FAILED),
}


def entered_by(name: CallName) -> SessionStatus:
    """The status that a call enters.

    Raises:
        LookupError: Its row names none.
    """
    if (status := CALLS[name].enters) is None:
        raise LookupError(f"{name} enters no status")
    return status


def _disagreements() -> Iterator[str]:
    """What one of the tables says and another does not allow."""
    for name, rule in CALLS.items():
        starts = set(rule.starts_from)
        starts |= {LEASES[kind].held_in for kind in (rule.takes_over, rule.replaces) if kind is not None}
        # A call that enters no status leaves the session in the one that it starts from.
        yield from (
            f"{name} enters {rule.enters} from {start}"
            for start in starts
            if rule.enters is not None and rule.enters not in LIFECYCLE[start].leads_to
        )
    for kind, lease in LEASES.items():
        if lease.given_back_to not in {lease.held_in, *LIFECYCLE[lease.held_in].leads_to}:
            yield f"a lease for {kind} is given back to {lease.given_back_to}"


if _found := tuple(_disagreements()):
    raise ValueError("the tables of the lifecycle disagree: " + "; ".join(_found))


def lifecycle_diagram() -> str:
    """The table as a Mermaid state diagram; docs/lifecycle.md shows this text and a test keeps it equal."""
    lines = ["stateDiagram-v2"]
    lines += [f"    [*] --> {status}" for status in ALL if status in INITIAL]
    lines += [f"    {here} --> {there}" for here in ALL for there in ALL if there in LIFECYCLE[here].leads_to]
    lines += [f"    {status} --> [*]" for status in ALL if status in ENDED]
    return "\n".join(lines)
