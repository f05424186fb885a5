"""Every query that the repository sends, as data for `indexes explain`.

Each shape calls the repository's own function, so that no query is written twice. A test compares them with what the
repository sends.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sessions.domain.lifecycle import LEASES, NOT_ENDED, CallName, LeaseKind, SessionStatus
from sessions.domain.models import ActiveScheduleSessionSnapshot, Lease, RerunClaim
from sessions.store import reads, sweeps, writes
from sessions.store.calls import Call, HolderCall
from sessions.store.document import INDEXES, LATEST_INDEX, PAGE_INDEX, REPLACED_INDEX, REPLY_INDEX, ROUTING_INDEX
from sessions.store.reads import Lookup
from sessions.store.updates import Filter, Stage
from sessions.store.writes import Write

_LIMIT: Final = 1000
_ATTEMPTS: Final = 5
_LEASE: Final = timedelta(seconds=60)
_INDEX_ON: Final = {tuple(index.document["key"]): index.document["name"] for index in INDEXES}
_BY_TRIGGER: Final = _INDEX_ON["trigger_id",]
_BY_PREVIEW: Final = _INDEX_ON["current_preview_id",]
_BY_STATUS: Final = _INDEX_ON["status", "updated_at"]
_BY_EXPIRY: Final = _INDEX_ON["state.expires_at",]
_BY_LEASE: Final = _INDEX_ON["lease.expires_at",]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Values to ask for. Those of a stored session show what a query costs that finds something."""

    at: datetime
    user_id: int = 1
    session_id: str = "0" * 32
    conversation_id: str = "conversation"
    trigger_id: str = "trigger"
    preview_id: str = "preview"
    reply_id: str = "reply"
    updated_at: datetime | None = None


Sent = Lookup | Write | Filter | list[Stage]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """One query of the repository.

    Attributes:
        name: The repository's method, and in brackets which of its queries this is, if it sends several.
        asked: Makes the query for a sample, by one function of `reads` or `writes`.
        by_user: Whether a request of a user sends it. Upkeep's queries are sent by workers.
        routes: Whether each chat message pays for it.
        indexes: The indexes that it is made for, beside that of ``_id``.
    """

    name: str
    asked: Callable[[Sample], Sent]
    by_user: bool = True
    routes: bool = False
    indexes: tuple[str, ...] = ()

    def filter_for(self, sample: Sample) -> Mapping[str, Any]:
        """Which documents it looks for. For an aggregation, its first stage says that."""
        asked = self.asked(sample)
        if isinstance(asked, Lookup | Write):
            return asked.filter
        if isinstance(asked, list):
            matched: Filter = asked[0].get("$match", {})
            return matched
        return asked


def _call(sample: Sample, name: CallName, **given: Any) -> Call:
    return Call(
        name=name,
        session_id=sample.session_id,
        user_id=sample.user_id,
        operation_id="operation",
        max_attempts=_ATTEMPTS,
        **given,
    )


def _session(sample: Sample, status: SessionStatus) -> ActiveScheduleSessionSnapshot:
    return ActiveScheduleSessionSnapshot(
        session_id=sample.session_id,
        user_id=sample.user_id,
        trigger_id=sample.trigger_id,
        status=status,
        revision=1,
        created_at=sample.at,
        updated_at=sample.at,
    )


def _held(sample: Sample, name: CallName, kind: LeaseKind = LeaseKind.REPLY) -> HolderCall:
    claim = RerunClaim(
        session=_session(sample, LEASES[kind].held_in),
        kind=kind,
        token=1,
        operation_id="claim",
        reply_id="reply",
        attempt=1,
        expires_at=sample.at,
        lease=_LEASE,
    )
    return HolderCall(name=name, claim=claim, operation_id="operation", lease=claim.lease)


def _one(sample: Sample, write: Write) -> Write:
    return sweeps.narrowed(write, _session(sample, SessionStatus.RERUNNING))


def _batch(sample: Sample, write: Write) -> Write:
    return sweeps.narrowed_to(write, [sample.session_id])


def _claimed(sample: Sample, name: CallName, **given: Any) -> Call:
    return _call(sample, name, reply_id="reply", lease=_LEASE, **given)


def _replacing(sample: Sample, kind: LeaseKind) -> Lease:
    return Lease(kind=kind, operation_id="claim", reply_id="an older one", expires_at=sample.at)


SHAPES: Final[tuple[Shape, ...]] = (
    # --- what each chat message, click and rerun of a user sends ---
    Shape(
        name="route",
        asked=lambda s: reads.governor(s.user_id, s.conversation_id),
        routes=True,
        indexes=(ROUTING_INDEX,),
    ),
    Shape(
        name="route_many",
        asked=lambda s: reads.governors(s.user_id, [s.conversation_id]),
        routes=True,
        indexes=(ROUTING_INDEX,),
    ),
    Shape(name="latest", asked=lambda s: reads.latest(s.user_id, s.conversation_id), indexes=(LATEST_INDEX,)),
    Shape(
        name="find_by_reply",
        asked=lambda s: reads.by_reply(s.user_id, s.conversation_id, s.reply_id),
        indexes=(REPLY_INDEX, REPLACED_INDEX),
    ),
    Shape(name="get", asked=lambda s: reads.by_id(s.session_id, s.user_id)),
    Shape(name="history", asked=lambda s: reads.by_id(s.session_id, s.user_id, with_history=True)),
    Shape(name="find_by_trigger", asked=lambda s: reads.by_trigger(s.user_id, s.trigger_id), indexes=(_BY_TRIGGER,)),
    Shape(name="find_by_preview", asked=lambda s: reads.by_preview(s.user_id, s.preview_id), indexes=(_BY_PREVIEW,)),
    Shape(
        name="list_sessions (first page)",
        asked=lambda s: reads.page(s.user_id, frozenset(NOT_ENDED), limit=50, after=None),
        indexes=(PAGE_INDEX,),
    ),
    Shape(
        name="list_sessions (next page)",
        asked=lambda s: reads.page(
            s.user_id, frozenset(NOT_ENDED), limit=50, after=(s.updated_at or s.at, s.session_id)
        ),
        indexes=(PAGE_INDEX,),
    ),
    Shape(
        name="bind_conversation",
        asked=lambda s: writes.bind_conversation(
            _call(s, CallName.BIND_CONVERSATION, conversation_id=s.conversation_id), s.at
        ),
    ),
    Shape(
        name="record_notification",
        asked=lambda s: writes.record_notification(
            _call(s, CallName.RECORD_NOTIFICATION, notification_id="notification"), s.at
        ),
    ),
    Shape(
        name="claim_rerun",
        asked=lambda s: writes.claim_rerun(_claimed(s, CallName.CLAIM_RERUN, question_number=1), s.at),
    ),
    Shape(
        name="claim_rerun (replaces a run)",
        asked=lambda s: writes.claim_rerun(
            _claimed(s, CallName.CLAIM_RERUN, question_number=1, replaces=_replacing(s, LeaseKind.REPLY)), s.at
        ),
    ),
    Shape(
        name="claim_rerun (too many attempts)",
        asked=lambda s: sweeps.fail_exhausted_claim(_claimed(s, CallName.CLAIM_RERUN), s.at, revision=1),
    ),
    Shape(
        name="claim_refinement",
        asked=lambda s: writes.claim_refinement(_claimed(s, CallName.CLAIM_REFINEMENT, preview_id=s.preview_id), s.at),
    ),
    Shape(
        name="claim_refinement (replaces a run)",
        asked=lambda s: writes.claim_refinement(
            _claimed(
                s,
                CallName.CLAIM_REFINEMENT,
                preview_id=s.preview_id,
                replaces=_replacing(s, LeaseKind.REFINEMENT),
            ),
            s.at,
        ),
    ),
    Shape(name="renew", asked=lambda s: writes.renew(_held(s, CallName.RENEW), s.at)),
    Shape(name="release", asked=lambda s: writes.release(_held(s, CallName.RELEASE), s.at)),
    Shape(
        name="an outcome (ask_again and the like)", asked=lambda s: writes.outcome(_held(s, CallName.ASK_AGAIN), s.at)
    ),
    Shape(
        name="claim_apply",
        asked=lambda s: writes.claim_apply(_call(s, CallName.CLAIM_APPLY, preview_id=s.preview_id, lease=_LEASE), s.at),
    ),
    Shape(name="postpone", asked=lambda s: writes.postpone(_held(s, CallName.POSTPONE, LeaseKind.APPLY), s.at)),
    Shape(
        name="complete_apply, fail_apply",
        asked=lambda s: writes.written_back(_held(s, CallName.COMPLETE_APPLY, LeaseKind.APPLY), s.at),
    ),
    Shape(name="interrupt", asked=lambda s: writes.interrupt(_call(s, CallName.INTERRUPT), s.at)),
    Shape(name="apply", asked=lambda s: writes.apply(_call(s, CallName.APPLY, preview_id=s.preview_id), s.at)),
    Shape(name="ignore, fail", asked=lambda s: writes.end(_call(s, CallName.IGNORE), s.at)),
    Shape(name="any call (ends what expired first)", asked=lambda s: _one(s, sweeps.expire(s.at))),
    Shape(
        name="any call (puts back what lapsed first)",
        asked=lambda s: _one(s, sweeps.put_back(LeaseKind.REFINEMENT, s.at)),
    ),
    # --- what workers send in the background ---
    Shape(
        name="expire_due (its batch)",
        asked=lambda s: reads.due(s.at, limit=_LIMIT),
        by_user=False,
        indexes=(_BY_EXPIRY,),
    ),
    Shape(name="expire_due", asked=lambda s: _batch(s, sweeps.expire(s.at)), by_user=False),
    Shape(
        name="recover_stalled (its batch)",
        asked=lambda s: reads.stalled(s.at, limit=_LIMIT),
        by_user=False,
        indexes=(_BY_LEASE,),
    ),
    Shape(
        name="recover_stalled (fails)",
        asked=lambda s: _batch(s, sweeps.fail_stalled(s.at, max_attempts=_ATTEMPTS)),
        by_user=False,
    ),
    Shape(
        name="recover_stalled (a reply)",
        asked=lambda s: _batch(s, sweeps.put_back_reply(s.at, max_attempts=_ATTEMPTS)),
        by_user=False,
    ),
    Shape(
        name="recover_stalled (a refinement)",
        asked=lambda s: _batch(s, sweeps.put_back(LeaseKind.REFINEMENT, s.at)),
        by_user=False,
    ),
    Shape(
        name="interrupted_applies",
        asked=lambda s: reads.interrupted(s.at, limit=_LIMIT),
        by_user=False,
        indexes=(_BY_LEASE,),
    ),
    Shape(
        name="purge (its batch)", asked=lambda s: reads.ended(s.at, limit=_LIMIT), by_user=False, indexes=(_BY_STATUS,)
    ),
    Shape(name="purge", asked=lambda s: sweeps.purge(s.at, [s.session_id]), by_user=False),
    Shape(name="count_by_status", asked=lambda _: reads.count_by_status(), by_user=False, indexes=(_BY_STATUS,)),
)
