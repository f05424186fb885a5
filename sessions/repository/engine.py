"""How every write is carried out: one guarded update, and only where it changes nothing a look at the reason."""

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, TypeVar
from uuid import uuid4

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
from sessions.domain.models import ActiveScheduleSessionSnapshot, ApplyClaim, Claim, RerunClaim, to_snapshot
from sessions.repository.refusals import Exhausted, Lapsed, Refused, Replayed, explain, reference
from sessions.store import reads, writes
from sessions.store.clock import Clock
from sessions.store.collection import DuplicateKey, SessionCollection
from sessions.store.document import GOVERNOR_FIELDS
from sessions.store.updates import Query
from sessions.store.writes import Call, Write
from sessions.tasks import to_the_end, to_the_end_or_undone

if TYPE_CHECKING:
    from sessions.store.collection import ClientSession

logger = logging.getLogger("sessions")

RETRIES: Final = 3
"""How often a call is tried again after what stood in the way was put back, or had gone by itself."""

CANCELLED_REASON: Final = "the claiming call was cancelled"

AnyClaim = TypeVar("AnyClaim", RerunClaim, ApplyClaim)
Build = Callable[[Call, datetime], Write]


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
        return uuid4().hex if operation_id is None else inputs.identifier("operation_id", operation_id)

    async def _carry_out(
        self, call: Call, build: Build, client_session: "ClientSession | None"
    ) -> ActiveScheduleSessionSnapshot:
        # One time limit for the whole call, however many round trips its refusal takes.
        collection = self._collection.for_one_call(client_session)
        return await to_the_end(self._try(collection, call, build))

    async def _claim(
        self,
        call: Call,
        build: Build,
        claim_of: Callable[[ActiveScheduleSessionSnapshot, timedelta], AnyClaim],
        client_session: "ClientSession | None",
    ) -> AnyClaim:
        collection = self._collection.for_one_call(client_session)

        async def won() -> AnyClaim:
            return claim_of(await self._try(collection, call, build), call.lease)

        if collection.is_in_transaction:
            # What it has not committed is given back by its owner, who aborts it.
            return await to_the_end(won())
        return await to_the_end_or_undone(won, undo=self._give_back)

    async def _give_back(self, claim: Claim) -> None:
        """Release a claim whose caller was cancelled before he had it."""
        call = Call(
            name=CallName.RELEASE,
            session_id=claim.session.session_id,
            user_id=claim.session.user_id,
            claim=claim,
            reason=CANCELLED_REASON,
            operation_id=uuid4().hex,
        )
        try:
            await self._try(self._collection.for_one_call(), call, writes.release)
        except (LeaseLost, SessionNotFound):
            return  # it was ended or taken over meanwhile
        except SessionError as error:
            logger.warning("a claim whose caller was cancelled lapses at %s: %s", claim.expires_at, error)

    async def _try(self, collection: SessionCollection, call: Call, build: Build) -> ActiveScheduleSessionSnapshot:
        about = SessionRef(session_id=call.session_id, user_id=call.user_id)
        at = self._clock.now()
        session: ActiveScheduleSessionSnapshot | None = None
        for _ in range(1 + RETRIES):
            at = self._clock.now()
            try:
                stored = await collection.find_one_and_update(build(call, at), about=about)
            except DuplicateKey as error:
                session = await self._stored(collection.outside(), call)
                await self._make_way(collection, call, session, error, at)
                continue
            if stored is not None:
                return to_snapshot(stored)
            raw = await collection.find_one(reads.by_id(call.session_id, call.user_id, with_history=True), about=about)
            session = to_snapshot(raw) if raw is not None else None
            verdict = explain(call, raw, at)
            match verdict:
                case Replayed(found):
                    return found
                case Refused(error=refusal, after_governor=after_governor):
                    if after_governor:
                        await self._refuse_if_busy(collection, call, session, at)
                    raise refusal
                case Exhausted() | Lapsed() if collection.is_within:
                    # Nothing is put back or ended on the way: the caller's transaction holds what he asked for only.
                    exhausted = isinstance(verdict, Exhausted)
                    reason = ConflictReason.ATTEMPTS_EXHAUSTED if exhausted else ConflictReason.RACED
                    about = reference(session, session_id=call.session_id, user_id=call.user_id, at=at)
                    raise TransitionConflict(about, reason=reason)
                case Exhausted(found):
                    await self._fail_exhausted(collection, call, found, at)
                case Lapsed(found):
                    call = await self._put_back_first(collection, call, found, at)
        about = reference(session, session_id=call.session_id, user_id=call.user_id, at=at)
        raise TransitionConflict(about, reason=ConflictReason.RACED)

    async def _stored(self, collection: SessionCollection, call: Call) -> ActiveScheduleSessionSnapshot | None:
        raw = await collection.find_one(reads.by_id(call.session_id, call.user_id))
        return to_snapshot(raw) if raw is not None else None

    async def _governor(
        self, collection: SessionCollection, user_id: int, conversation_id: str
    ) -> ActiveScheduleSessionSnapshot | None:
        raw = await collection.find_one(reads.governor(user_id, conversation_id), about=SessionRef(user_id=user_id))
        return to_snapshot(raw) if raw is not None else None

    async def _make_way(
        self,
        collection: SessionCollection,
        call: Call,
        session: ActiveScheduleSessionSnapshot | None,
        error: DuplicateKey,
        at: datetime,
    ) -> None:
        """End or put back the session that occupies the conversation, where it has lapsed; refuse where it has not.

        A duplicate key has aborted the caller's transaction, so there is nothing to be tried again in it, and what
        explains it is read outside.
        """
        about = reference(session, session_id=call.session_id, user_id=call.user_id, at=at)
        if error.fields - {"_id"} and error.fields != GOVERNOR_FIELDS:
            cause = f"a unique index that this library does not declare, on {', '.join(sorted(error.fields))}"
            raise StoreUnavailable(about, outcome=WriteOutcome.NOT_WRITTEN, cause=cause) from error
        conversation_id = call.conversation_id or (session.conversation_id if session is not None else None)
        governing: ActiveScheduleSessionSnapshot | None = None
        if conversation_id is not None:
            governing = await self._governor(collection.outside(), call.user_id, conversation_id)
        if governing is not None and governing.session_id == call.session_id:
            governing = None
        if collection.is_within or (governing is not None and counts_as(governing, at).intercepts):
            raise ConversationBusy(about, governing_session_id=governing.session_id if governing else None)
        if governing is not None:
            await self._sweep_one(collection, governing, at)

    async def _refuse_if_busy(
        self, collection: SessionCollection, call: Call, session: ActiveScheduleSessionSnapshot | None, at: datetime
    ) -> None:
        if session is None or call.name not in (CallName.BIND_CONVERSATION, CallName.CLAIM_REFINEMENT):
            return
        would_intercept = call.name is CallName.CLAIM_REFINEMENT or counts_as(session, at).intercepts
        conversation_id = call.conversation_id or session.conversation_id
        if not would_intercept or conversation_id is None:
            return
        governing = await self._governor(collection, call.user_id, conversation_id)
        if governing is None or governing.session_id == call.session_id or not counts_as(governing, at).intercepts:
            return
        about = reference(session, session_id=call.session_id, user_id=call.user_id, at=at)
        raise ConversationBusy(about, governing_session_id=governing.session_id)

    async def _sweep_one(
        self, collection: SessionCollection, found: ActiveScheduleSessionSnapshot, at: datetime
    ) -> Query | None:
        """End an expired session, or put a lapsed refinement back, guarded by the revision it was read at."""
        write = writes.expire(at) if has_expired(found, at) else writes.put_back(LeaseKind.REFINEMENT, at)
        guarded = writes.narrowed(write, session_id=found.session_id, user_id=found.user_id, revision=found.revision)
        about = SessionRef(session_id=found.session_id, user_id=found.user_id)
        return await collection.find_one_and_update(guarded, about=about)

    async def _put_back_first(
        self, collection: SessionCollection, call: Call, found: ActiveScheduleSessionSnapshot, at: datetime
    ) -> Call:
        swept = await self._sweep_one(collection, found, at)
        if swept is not None and call.expected_revision == found.revision:
            # The caller's revision was right; it is this call's own sweep that moved it on.
            return replace(call, expected_revision=swept["revision"])
        return call

    async def _fail_exhausted(
        self, collection: SessionCollection, call: Call, found: ActiveScheduleSessionSnapshot, at: datetime
    ) -> None:
        """End the session and say why; where somebody else was first, return, so that the call is tried again."""
        about = SessionRef(session_id=call.session_id, user_id=call.user_id)
        ended = await collection.find_one_and_update(
            writes.fail_exhausted_claim(call, at, revision=found.revision), about=about
        )
        if ended is None:
            return
        about = reference(to_snapshot(ended), session_id=call.session_id, user_id=call.user_id, at=at)
        raise TransitionConflict(about, reason=ConflictReason.ATTEMPTS_EXHAUSTED)
