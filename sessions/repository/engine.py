"""How every write is carried out: one guarded update, and only if it changes nothing a look at the reason."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from secrets import token_hex
from typing import Any, Final, TypeVar, assert_never

from sessions import telemetry
from sessions.domain import inputs
from sessions.domain.errors import (
    ConflictReason,
    ConversationBusy,
    LeaseLost,
    SessionError,
    SessionNotFound,
    SessionRef,
    StoreUnavailable,
    TransitionConflict,
    WriteOutcome,
)
from sessions.domain.expiry import counts_as, has_expired
from sessions.domain.lifecycle import CallName, LeaseKind, SessionStatus
from sessions.domain.models import ActiveScheduleSessionSnapshot, ApplyClaim, Claim, Lease, RerunClaim
from sessions.log_events import LogEvent, log
from sessions.repository.refusals import Exhausted, Found, Instead, Lapsed, Raced, Refused, Replayed, explain
from sessions.store import reads, sweeps, writes
from sessions.store.calls import Call, HolderCall
from sessions.store.clients import ClientSession
from sessions.store.clock import Clock
from sessions.store.collection import DuplicateKey, SessionCollection, StoreCall, UpdateRefused
from sessions.store.document import GOVERNOR_FIELDS
from sessions.store.reading import to_snapshot
from sessions.store.updates import RawDocument
from sessions.store.writes import Write
from sessions.tasks import Finishing

RETRIES: Final = 3
"""How often a call is tried again after what stood in the way was put back, or had gone by itself."""

_ID_BYTES: Final = 16

CANCELLED_REASON: Final = "the claiming call was cancelled"

AnyCall = TypeVar("AnyCall", bound=Call)
AnyClaim = TypeVar("AnyClaim", RerunClaim, ApplyClaim)
Build = Callable[[AnyCall, datetime], Write]


AT_ONCE: Final = timedelta(milliseconds=1)
"""The shortest lease there is: another one may take over now."""


def may_be_released(claim: Claim) -> bool:
    """Whether nobody can have begun a write-back: an apply claim that was taken over has had another holder before."""
    return not (isinstance(claim, ApplyClaim) and claim.attempt > 1)


async def give_back(claim: Claim, release: Awaitable[object]) -> None:
    """Wait for the release of a claim that nobody works for any more; if it fails, the lease lapses."""
    try:
        await release
    except (LeaseLost, SessionNotFound):
        return  # it was ended or taken over meanwhile, or its outcome was recorded after all
    except SessionError as error:
        log(
            LogEvent.CLAIM_LEFT_TO_LAPSE,
            session_id=claim.session.session_id,
            lapses_at=claim.expires_at,
            error=error,
        )


class Engine:
    """The common ground of the repository's parts: collection, clock, limits, and the way of one write."""

    def __init__(self, collection: SessionCollection, clock: Clock, *, lease: timedelta, max_attempts: int) -> None:
        self._collection = collection
        self._clock = clock
        self._lease = lease
        self._max_attempts = max_attempts

    def present_status(self, session: ActiveScheduleSessionSnapshot) -> SessionStatus:
        """What the status of a session counts as by now: what has lapsed counts as swept. No I/O."""
        return counts_as(session, self._clock.now())

    def _operation_id(self, operation_id: str | None) -> str:
        return token_hex(_ID_BYTES) if operation_id is None else inputs.identifier("operation_id", operation_id)

    async def _carry_out(
        self, call: AnyCall, build: Build[AnyCall], client_session: ClientSession | None
    ) -> ActiveScheduleSessionSnapshot:
        # One time limit for the whole call, however many round trips its refusal takes.
        with Finishing() as finishing:
            return await self._try(self._collection.for_one_call(client_session, finishing=finishing), call, build)

    async def _record(
        self,
        name: CallName,
        claim: object,
        build: Build[HolderCall],
        operation_id: str | None,
        client_session: ClientSession | None,
        changes: Mapping[str, Any] | None = None,
        reason: str = "",
    ) -> ActiveScheduleSessionSnapshot:
        """Write what a claim's work came to."""
        call = HolderCall(
            name=name,
            claim=inputs.checked_claim(name, claim),
            operation_id=self._operation_id(operation_id),
            reason=reason,
            changes=changes or {},
        )
        return await self._carry_out(call, build, client_session)

    def _claim_call(
        self,
        name: CallName,
        session_id: str,
        user_id: int,
        lease: timedelta | None,
        operation_id: str | None,
        *,
        reply_id: str | None = None,
        question_number: int | None = None,
        preview_id: str | None = None,
    ) -> Call:
        return Call(
            name=name,
            session_id=inputs.identifier("session_id", session_id),
            user_id=inputs.integer("user_id", user_id),
            lease=self._lease if lease is None else inputs.duration("lease", lease),
            traceparent=telemetry.traceparent(),
            operation_id=self._operation_id(operation_id),
            max_attempts=self._max_attempts,
            reply_id=reply_id,
            question_number=question_number,
            preview_id=preview_id,
        )

    async def _claim(
        self,
        call: Call,
        build: Build[Call],
        claim_of: Callable[[ActiveScheduleSessionSnapshot, timedelta], AnyClaim | None],
        client_session: ClientSession | None,
        replaced: Lease | str | None = None,
    ) -> AnyClaim:
        with Finishing() as finishing:
            store = self._collection.for_one_call(client_session, finishing=finishing)
            if replaced is not None:
                call = replace(call, replaces=await self._lease_named(store, call, replaced))
            session = await self._try(store, call, build)
            if (claim := claim_of(session, call.lease)) is None:
                raise LeaseLost(SessionRef.of(session, session.status))
            # What a transaction has not committed is given back by its owner, who aborts it.
            if finishing.is_cancelled and not store.is_in_transaction:
                await self._give_back(claim)
            return claim

    async def _lease_named(self, store: StoreCall, call: Call, replaced: Lease | str) -> Lease | None:
        """The lease that a message replaces, with the message that it is held for; None if it is gone."""
        if isinstance(replaced, Lease):
            return replaced
        found = await self._found(store, call, self._clock.now())
        lease = None if found is None else found.session.lease
        # An apply lease is held for no message, and nothing replaces it.
        is_named = lease is not None and lease.operation_id == replaced and lease.reply_id is not None
        return lease if is_named else None

    async def _give_back(self, claim: Claim) -> None:
        """Release a claim whose caller was cancelled before receiving it, or leave it to whoever takes it over."""
        if not may_be_released(claim):
            left = HolderCall(name=CallName.POSTPONE, claim=claim, lease=AT_ONCE)
            await give_back(claim, self._carry_out(left, writes.postpone, None))
            return
        call = HolderCall(
            name=CallName.RELEASE, claim=claim, reason=CANCELLED_REASON, operation_id=token_hex(_ID_BYTES)
        )
        await give_back(claim, self._carry_out(call, writes.release, None))

    async def _try(self, store: StoreCall, call: AnyCall, build: Build[AnyCall]) -> ActiveScheduleSessionSnapshot:
        found: Found | None = None
        for _ in range(1 + RETRIES):
            at = self._clock.now()
            try:
                stored = await store.find_one_and_update(build(call, at), about=call.about)
            except DuplicateKey as error:
                found = await self._found(store.outside(), call, at)
                await self._make_way(store, call, found, error, at)
                continue
            except UpdateRefused:
                stored, is_refused = None, True
            else:
                is_refused = False
            if stored is not None:
                return to_snapshot(stored)
            found = await self._found(store, call, at)
            if is_refused:
                call = await self._without_nulls(store, call, found)
                continue
            verdict = explain(call, found)
            if isinstance(verdict, Replayed):
                return verdict.session
            call = await self._before_another_try(store, call, verdict)
        raise TransitionConflict(call.about if found is None else found.about, reason=ConflictReason.RACED)

    async def _before_another_try(
        self, store: StoreCall, call: AnyCall, verdict: Lapsed | Exhausted | Raced | Instead | Refused
    ) -> AnyCall:
        """Do what has to happen first, or raise the refusal; the call for the next try."""
        match verdict:
            case Refused(refusal, busy_if):
                if busy_if is not None:
                    await self._refuse_if_busy(store, call, busy_if)
                raise refusal
            case Exhausted() | Lapsed() if store.is_within:
                # Nothing is put back or ended on the way: the transaction holds what its owner asked for, only.
                exhausted = isinstance(verdict, Exhausted)
                reason = ConflictReason.ATTEMPTS_EXHAUSTED if exhausted else ConflictReason.RACED
                raise TransitionConflict(verdict.found.about, reason=reason)
            case Exhausted(found):
                await self._fail_exhausted(store, call, found)
                return call
            case Lapsed(found):
                return await self._put_back_first(store, call, found)
            case Instead(changes):
                return replace(call, **changes)
            case Raced():
                return call
            case _:
                assert_never(verdict)

    async def _found(self, store: StoreCall, call: Call, at: datetime) -> Found | None:
        raw = await store.find_one(reads.by_id(call.session_id, call.user_id, with_history=True))
        return Found.of(raw, at) if raw is not None else None

    async def _governor(
        self, store: StoreCall, user_id: int, conversation_id: str
    ) -> ActiveScheduleSessionSnapshot | None:
        raw = await store.find_one(reads.governor(user_id, conversation_id))
        return to_snapshot(raw) if raw is not None else None

    async def _rival(self, store: StoreCall, call: Call, found: Found | None) -> ActiveScheduleSessionSnapshot | None:
        """The other session that occupies the conversation of the call's own."""
        conversation_id = call.conversation_id or (found.session.conversation_id if found is not None else None)
        if conversation_id is None:
            return None
        governing = await self._governor(store, call.user_id, conversation_id)
        return None if governing is None or governing.session_id == call.session_id else governing

    async def _make_way(
        self, store: StoreCall, call: Call, found: Found | None, error: DuplicateKey, at: datetime
    ) -> None:
        """End or put back the session that occupies the conversation if it has lapsed; refuse if it has not.

        A duplicate key has aborted the caller's transaction, so there is nothing to be tried again in it, and what
        explains it is read outside.
        """
        about = call.about if found is None else found.about
        if error.fields - {"_id"} and error.fields != GOVERNOR_FIELDS:
            cause = f"a unique index that this library does not declare, on {', '.join(sorted(error.fields))}"
            raise StoreUnavailable(about, outcome=WriteOutcome.NOT_WRITTEN, cause=cause, may_pass=False) from error
        rival = await self._rival(store.outside(), call, found)
        if store.is_within or (rival is not None and counts_as(rival, at).intercepts):
            raise ConversationBusy(about, governing_session_id=rival.session_id if rival else None)
        if rival is not None:
            await self._sweep_one(store, rival, at)

    async def _refuse_if_busy(self, store: StoreCall, call: Call, found: Found) -> None:
        would_intercept = call.name is CallName.CLAIM_REFINEMENT or (
            call.name is CallName.BIND_CONVERSATION and found.status.intercepts
        )
        rival = await self._rival(store, call, found) if would_intercept else None
        if rival is not None and counts_as(rival, found.at).intercepts:
            raise ConversationBusy(found.about, governing_session_id=rival.session_id)

    async def _sweep_one(
        self, store: StoreCall, session: ActiveScheduleSessionSnapshot, at: datetime
    ) -> RawDocument | None:
        """End an expired session, or put a lapsed rerun back, guarded by the revision it was read at."""
        kind = LeaseKind.REFINEMENT if session.lease is None else session.lease.kind
        write = sweeps.expire(at) if has_expired(session, at) else sweeps.put_back(kind, at)
        return await store.find_one_and_update(
            sweeps.narrowed(write, session), about=SessionRef.of(session, counts_as(session, at))
        )

    async def _without_nulls(self, store: StoreCall, call: AnyCall, found: Found | None) -> AnyCall:
        """Remove the fields that another writer left null, for another try; refuse if that is not what was wrong."""
        if found is None or not found.nulls or store.is_within:
            about = call.about if found is None else found.about
            cause = "the stored document has a field of another kind than the update asks for"
            raise StoreUnavailable(about, outcome=WriteOutcome.NOT_WRITTEN, cause=cause, may_pass=False)
        mend = sweeps.narrowed(sweeps.without_nulls(*found.nulls), found.session)
        mended = await store.find_one_and_update(mend, about=found.about)
        return self._moved_on(call, found, mended)

    async def _put_back_first(self, store: StoreCall, call: AnyCall, found: Found) -> AnyCall:
        return self._moved_on(call, found, await self._sweep_one(store, found.session, found.at))

    def _moved_on(self, call: AnyCall, found: Found, stored: RawDocument | None) -> AnyCall:
        if stored is not None and call.expected_revision == found.session.revision:
            # The caller's revision was right; it is this call's own write that moved it on.
            return replace(call, expected_revision=stored["revision"])
        return call

    async def _fail_exhausted(self, store: StoreCall, call: Call, found: Found) -> None:
        """End the session and say why; if somebody else was first, return, so that the call is tried again."""
        write = sweeps.fail_exhausted_claim(call, found.at, revision=found.session.revision)
        ended = await store.find_one_and_update(write, about=call.about)
        if ended is not None:
            now = Found.of(ended, found.at)
            log(LogEvent.ATTEMPTS_SPENT, session_id=now.session.session_id)
            raise TransitionConflict(now.about, reason=ConflictReason.ATTEMPTS_EXHAUSTED)
