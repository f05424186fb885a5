"""Every method of the repository, as the design words it: by the rules of `lifecycle_model`, one call after another."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from tests.faults.lifecycle_model import (
    APPLIED,
    FAILED,
    FINAL,
    GIVEN_BACK,
    HELD_IN,
    IGNORED,
    INTERCEPTING,
    READY,
    REPLACED,
    RERUNNING,
    STATUSES,
    UNSET,
    WAITING,
    AnyOf,
    Claim,
    Lease,
    Lifecycle,
    Seen,
    Session,
    invalid,
    kept,
    latest_of,
)


class RepositoryModel(Lifecycle):
    """What each call of the repository comes to; a refusal is raised as `lifecycle_model.Refusal`."""

    def create(self, user_id: int, trigger_id: str, **given: Any) -> Seen:
        """Refused if the trigger has its session."""
        session, made = self.make("create", user_id, trigger_id, **given)
        if not made:
            raise self.refused("SessionExists", session)
        return session.seen()

    def get_or_create(self, user_id: int, trigger_id: str, **given: Any) -> tuple[Seen, bool]:
        """The one that there is, or a new one."""
        session, made = self.make("get_or_create", user_id, trigger_id, **given)
        return session.seen(), made

    def bind_conversation(self, session_id: str, conversation_id: str, **given: Any) -> Any:
        """As the rule has it."""
        return super().bind_conversation(session_id, conversation_id, **given).seen()

    def record_notification(self, session_id: str, notification_id: str, *, user_id: int) -> Any:
        """As the rule has it."""
        return super().record_notification(session_id, notification_id, user_id=user_id).seen()

    # --- claims ---------------------------------------------------------------------------------------------------

    def claim_rerun(
        self,
        session_id: str,
        *,
        user_id: int,
        reply_id: str,
        question_number: int | None = None,
        replaces: Any = None,
        lease: timedelta | None = None,
        operation_id: Any = None,
    ) -> Claim:
        """For a reply: from a waiting session, a dead worker, or an older message."""
        session, length = self.found(session_id, user_id), lease or self.lease
        if (replay := self._replayed(session, "claim_rerun", operation_id)) is not None:
            return self._claim(replay, length)
        self._refuse_answered(session, reply_id)
        standing = self.standing_question(session, self.counts_as(session))
        if question_number not in (None, standing):
            raise self.refused("StaleReply", session, current_question_number=standing)
        replaced = self._replaced(session, "reply", replaces, reply_id)
        self._refuse_work(session, replaced=replaced)
        if self.counts_as(session) not in INTERCEPTING:
            raise self.refused("InvalidTransition", session, call="claim_rerun")
        if not replaced and session.attempts >= self.max_attempts:
            raise self._exhausted(session, "claim_rerun", operation_id)
        self.refuse_reused(session, operation_id)
        self._take(session, "claim_rerun", "reply", reply_id, length, operation_id, replaced=replaced)
        return self._claim(session, length)

    def claim_refinement(
        self,
        session_id: str,
        *,
        user_id: int,
        preview_id: str,
        reply_id: str,
        replaces: Any = None,
        lease: timedelta | None = None,
        operation_id: Any = None,
    ) -> Claim:
        """For a change to a preview."""
        session, length = self.found(session_id, user_id), lease or self.lease
        if (replay := self._replayed(session, "claim_refinement", operation_id)) is not None:
            return self._claim(replay, length)
        self._refuse_answered(session, reply_id)
        self._refuse_stale(session, preview_id)
        replaced = self._replaced(session, "refinement", replaces, reply_id)
        self._refuse_work(session, replaced=replaced)
        if not replaced and self.counts_as(session) != READY:
            raise self.refused("InvalidTransition", session, call="claim_refinement")
        rival = self.rival(user_id, session.conversation_id, but=session_id)
        if self.busy(rival):
            self.make_way(rival, session, {})
        if not replaced and session.attempts >= self.max_attempts:
            raise self.conflict(session, "attempts_exhausted")
        self.refuse_reused(session, operation_id)
        if not replaced and session.status != READY:
            self.put_back(session)
        self.make_way(rival, session, {})
        self._take(session, "claim_refinement", "refinement", reply_id, length, operation_id, replaced=replaced)
        return self._claim(session, length)

    def claim_apply(
        self,
        session_id: str,
        *,
        user_id: int,
        preview_id: str,
        lease: timedelta | None = None,
        operation_id: Any = None,
    ) -> Claim:
        """To write a confirmed preview back; no entry in the history."""
        session, length = self.found(session_id, user_id), lease or self.lease
        held = session.lease
        if held is not None and held.kind == "apply" and held.operation_id == operation_id:
            return self._claim(session, length)
        if self.done_before(session, "claim_apply", operation_id):
            raise self.conflict(session, "attempts_exhausted")
        self._refuse_stale(session, preview_id)
        if self.is_live(session):
            raise self.conflict(session, "in_progress")
        if self.counts_as(session) != READY:
            raise self.refused("InvalidTransition", session, call="claim_apply")
        before = session.lease.attempt or 0 if session.lease is not None else 0
        if before >= self.max_attempts:
            raise self._exhausted(session, "claim_apply", operation_id)
        self.refuse_reused(session, operation_id)
        if session.status != READY:
            self.put_back(session)
        taken = Lease("apply", operation_id, self.now + length, attempt=before + 1)
        self.write(session, lease=taken, fencing_token=session.fencing_token + 1)
        return self._claim(session, length)

    def _replayed(self, session: Session, call: str, operation_id: Any) -> Session | None:
        done = self.done_before(session, call, operation_id)
        if not done:
            return None
        if done[-1]["to_status"] == FAILED:
            raise self.conflict(session, "attempts_exhausted")
        if session.lease is not None and session.lease.operation_id == operation_id:
            return session
        raise self.refused("LeaseLost", session)

    def _refuse_answered(self, session: Session, reply_id: str) -> None:
        if reply_id in (*session.answered_reply_ids, *session.replaced_reply_ids):
            raise self.conflict(session, "already_answered")

    def _refuse_stale(self, session: Session, preview_id: str) -> None:
        if session.current_preview_id != preview_id:
            raise self.refused("StalePreview", session, current_preview_id=session.current_preview_id)

    def _replaced(self, session: Session, kind: str, replaces: Any, reply_id: str) -> bool:
        """Whether the session is under the live lease that a message replaces."""
        lease = session.lease
        if lease is None or replaces is None or not self.is_live(session):
            return False
        return (lease.kind, lease.operation_id) == (kind, replaces) and lease.reply_id != reply_id

    def _refuse_work(self, session: Session, *, replaced: bool) -> None:
        if self.is_live(session) and not replaced:
            raise self.conflict(session, "in_progress")
        if self.has_lease(session, "apply"):
            raise self.conflict(session, "applying")

    def _exhausted(self, session: Session, call: str, operation_id: Any) -> Exception:
        reason = f"no outcome after {self.max_attempts} attempts"
        changes = {"lease": None, "failed_reason": reason}
        self.enter(session, FAILED, call, reason=reason, operation_id=operation_id, **changes)
        return self.conflict(session, "attempts_exhausted")

    def _take(
        self, session: Session, call: str, kind: str, reply_id: str, lease: timedelta, operation: Any, *, replaced: bool
    ) -> None:
        changes: dict[str, Any] = {"attempts": session.attempts + 1}
        if replaced and session.lease is not None:
            replaced_ids = kept(session.replaced_reply_ids, session.lease.reply_id)
            changes = {"replaced_reply_ids": replaced_ids, "replacements": session.replacements + 1}
        changes["lease"] = Lease(kind, operation, self.now + lease, reply_id=reply_id)
        changes["fencing_token"] = session.fencing_token + 1
        reason = REPLACED if replaced else ""
        self.enter(session, RERUNNING, call, reason=reason, operation_id=operation, **changes)

    def _claim(self, session: Session, length: timedelta) -> Claim:
        held = session.lease
        assert held is not None
        is_apply = held.kind == "apply"
        return Claim(
            session=session.seen(),
            kind=held.kind,
            token=session.fencing_token,
            operation_id=held.operation_id,
            reply_id=held.reply_id,
            attempt=held.attempt or 0 if is_apply else session.attempts,
            expires_at=held.expires_at,
            lease=length,
            idempotency_key=f"{session.key}:{session.current_preview_id if is_apply else held.reply_id}",
        )

    # --- holder's calls -------------------------------------------------------------------------------------------

    def _held(self, claim: Claim, *kinds: str) -> Session:
        """The session of a claim of the right kind."""
        if claim.kind not in kinds:
            raise invalid("claim")
        return self.found(claim.session_id, claim.user_id)

    def _refuse_lost(self, session: Session, claim: Claim) -> None:
        lease = session.lease
        held = (
            lease is not None
            and lease.operation_id == claim.operation_id
            and session.fencing_token == claim.token
            and session.status == HELD_IN[claim.kind]
        )
        if not held:
            raise self.refused("LeaseLost", session)

    def renew(self, claim: Claim) -> Claim:
        """For its length from now; never brought forward."""
        session = self._held(claim, *HELD_IN)
        self._refuse_lost(session, claim)
        assert session.lease is not None
        until = max(session.lease.expires_at, self.now + claim.lease)
        self.write(session, lease=Lease(**{**vars(session.lease), "expires_at": until}))
        return Claim(**{**vars(claim), "session": session.seen(), "expires_at": until})

    def postpone(self, claim: Claim, *, after: timedelta) -> Seen:
        """To whoever takes it over then."""
        session = self._held(claim, "apply")
        self._refuse_lost(session, claim)
        assert session.lease is not None
        self.write(session, lease=Lease(**{**vars(session.lease), "expires_at": self.now + after}))
        return session.seen()

    def release(self, claim: Claim, *, reason: str = "", count_attempt: bool = False, operation_id: Any = None) -> Seen:
        """Exactly as it was before the claim."""
        session = self._held(claim, *HELD_IN)
        given_back = session.lease is None and session.status == READY and session.fencing_token == claim.token
        if (claim.kind == "apply" and given_back) or self.done_before(session, "release", operation_id):
            return session.seen()
        self._refuse_lost(session, claim)
        self.refuse_reused(session, operation_id)
        if claim.kind == "apply":
            self.write(session, lease=None)
            return session.seen()
        attempts = session.attempts - (not count_attempt)
        back = {"reason": reason, "operation_id": operation_id, "lease": None, "attempts": attempts}
        self.enter(session, GIVEN_BACK[claim.kind], "release", **back)
        return session.seen()

    def _record(
        self,
        call: str,
        claim: Claim,
        kinds: Sequence[str],
        status: str,
        operation_id: Any,
        reason: str = "",
        **changes: Any,
    ) -> Seen:
        session = self._held(claim, *kinds)
        if self.done_before(session, call, operation_id):
            return session.seen()
        self._refuse_lost(session, claim)
        self.refuse_reused(session, operation_id)
        if claim.kind != "apply":
            changes |= {"attempts": 0, "replacements": 0}
            changes["answered_reply_ids"] = kept(session.answered_reply_ids, claim.reply_id)
        if status == WAITING:
            changes["question_number"] = session.question_number + 1
        self.enter(session, status, call, reason=reason, operation_id=operation_id, lease=None, **changes)
        return session.seen()

    def _settled(self, claim: Claim, candidate_id: Any, expires_at: Any) -> Seen:
        changes: Seen = {} if candidate_id is UNSET else {"last_candidate_id": candidate_id}
        ends = claim.session["state"]["expires_at"]
        if expires_at is not UNSET:
            self.ahead(expires_at)
            changes["expires_at"] = expires_at
        elif ends is not None and ends <= self.now:
            changes["expires_at"] = None
        return changes

    def ask_again(
        self,
        claim: Claim,
        *,
        pending_question: str = "",
        missing_info: Sequence[str] = (),
        candidate_id: Any = UNSET,
        expires_at: Any = UNSET,
        operation_id: Any = None,
    ) -> Seen:
        """The graph asks once more."""
        if not (pending_question or missing_info):
            raise invalid("pending_question")
        changes = self._settled(claim, candidate_id, expires_at)
        asked: Seen = {
            "pending_question": pending_question,
            "missing_info": tuple(missing_info),
            "current_preview_id": None,
        }
        return self._record("ask_again", claim, ("reply", "refinement"), WAITING, operation_id, **changes, **asked)

    def present_preview(
        self,
        claim: Claim,
        *,
        preview_id: str,
        candidate_id: Any = UNSET,
        expires_at: Any = UNSET,
        operation_id: Any = None,
    ) -> Seen:
        """A preview can be shown."""
        if claim.kind == "apply":
            raise invalid("claim")
        if preview_id == claim.session["current_preview_id"]:
            raise invalid("preview_id")
        changes = self._settled(claim, candidate_id, expires_at)
        shown: Seen = {
            "pending_question": "",
            "missing_info": (),
            "failed_reason": "",
            "current_preview_id": preview_id,
        }
        return self._record("present_preview", claim, ("reply", "refinement"), READY, operation_id, **changes, **shown)

    def close_rerun(self, claim: Claim, *, reason: str = "", operation_id: Any = None) -> Seen:
        """Nothing to do any more."""
        return self._record("close_rerun", claim, ("reply", "refinement"), IGNORED, operation_id, reason)

    def fail_rerun(self, claim: Claim, *, reason: str, operation_id: Any = None) -> Seen:
        """It cannot go on."""
        if not reason:
            raise invalid("reason")
        kinds = ("reply", "refinement")
        return self._record("fail_rerun", claim, kinds, FAILED, operation_id, reason, failed_reason=reason)

    def complete_apply(self, claim: Claim, *, operation_id: Any = None) -> Seen:
        """It is written."""
        return self._record("complete_apply", claim, ("apply",), APPLIED, operation_id)

    def fail_apply(self, claim: Claim, *, reason: str, operation_id: Any = None) -> Seen:
        """It could not be written."""
        if not reason:
            raise invalid("reason")
        return self._record("fail_apply", claim, ("apply",), FAILED, operation_id, reason, failed_reason=reason)

    # --- anybody's calls ------------------------------------------------------------------------------------------

    def interrupt(self, session_id: str, *, user_id: int, reason: str = "", operation_id: Any = None) -> Seen:
        """A live rerun is given back from outside."""
        session = self.found(session_id, user_id)
        if self.done_before(session, "interrupt", operation_id):
            return session.seen()
        lease = session.lease
        if self.has_lease(session, "apply"):
            raise self.conflict(session, "applying")
        if lease is not None and not self.is_live(session) and not self.has_expired(session):
            self.put_back(session)
            lease = None
        if lease is None or not self.is_live(session):
            raise self.refused("InvalidTransition", session, call="interrupt")
        self.refuse_reused(session, operation_id)
        back = {"reason": reason, "operation_id": operation_id, "lease": None, "attempts": session.attempts - 1}
        token = session.fencing_token + 1
        self.enter(session, GIVEN_BACK[lease.kind], "interrupt", fencing_token=token, **back)
        return session.seen()

    def apply(self, session_id: str, *, user_id: int, preview_id: str, **given: Any) -> Seen:
        """Confirmed, and nothing to write."""
        session = self.found(session_id, user_id)
        if self.done_before(session, "apply", given.get("operation_id")):
            return session.seen()
        self._refuse_stale(session, preview_id)
        return self._end(session, "apply", APPLIED, (READY,), **given)

    def ignore(self, session_id: str, *, user_id: int, **given: Any) -> Seen:
        """From wherever it is."""
        session = self.found(session_id, user_id)
        return self._end(session, "ignore", IGNORED, (*INTERCEPTING, READY), **given)

    def fail(self, session_id: str, *, user_id: int, reason: str, **given: Any) -> Seen:
        """From wherever it is."""
        if not reason:
            raise invalid("reason")
        session, starts = self.found(session_id, user_id), (*INTERCEPTING, READY)
        return self._end(session, "fail", FAILED, starts, reason=reason, failed_reason=reason, **given)

    def _end(
        self,
        session: Session,
        call: str,
        status: str,
        starts: Sequence[str],
        *,
        reason: str = "",
        expected_revision: int | None = None,
        operation_id: Any = None,
        **changes: Any,
    ) -> Seen:
        if self.done_before(session, call, operation_id):
            return session.seen()
        if self.has_lease(session, "apply"):
            raise self.conflict(session, "applying")
        if self.counts_as(session) not in starts:
            raise self.refused("InvalidTransition", session, call=call)
        if expected_revision not in (None, session.revision):
            raise self.conflict(session, "revision_changed")
        self.refuse_reused(session, operation_id)
        if session.status not in starts:
            self.put_back(session)
        self.enter(session, status, call, reason=reason, operation_id=operation_id, lease=None, **changes)
        return session.seen()

    # --- sweeps and lookups ---------------------------------------------------------------------------------------

    def expire_due(self, *, limit: int = 1000) -> int:
        """End what is past its end."""
        due = sorted(filter(self.has_expired, self.sessions.values()), key=lambda session: str(session.expires_at))
        for session in due[:limit]:
            self.put_back(session)
        return len(due[:limit])

    def lapsed(self, *kinds: str) -> list[Session]:
        """Under a lease of such a kind that was left behind, the longest first."""
        found = [
            (session.lease.expires_at, session)
            for session in self.sessions.values()
            if session.lease is not None and session.lease.kind in kinds and not self.is_live(session)
        ]
        return [session for _, session in sorted(found, key=lambda each: each[0])]

    def recover_stalled(self, *, limit: int = 1000) -> int:
        """Give back what dead workers hold, or fail what has killed too many."""
        stalled = self.lapsed("reply", "refinement")[:limit]
        for session in stalled:
            exhausted = self.has_lease(session, "reply") and session.attempts >= self.max_attempts
            if exhausted and not self.has_expired(session):
                reason = f"no outcome after {self.max_attempts} attempts"
                self.enter(session, FAILED, "recover_stalled", reason=reason, lease=None, failed_reason=reason)
            else:
                self.put_back(session)
        return len(stalled)

    def interrupted_applies(self, *, limit: int = 1000) -> list[Seen]:
        """Confirmed, and left behind."""
        return [session.seen() for session in self.lapsed("apply")[:limit]]

    def purge(self, *, ended_before: datetime, limit: int = 1000) -> int:
        """Delete what ended before a moment."""
        ended = [s for s in self.sessions.values() if s.status in FINAL and s.updated_at < ended_before]
        ended.sort(key=lambda session: session.updated_at)
        for session in ended[:limit]:
            del self.sessions[session.session_id]
        return len(ended[:limit])

    def count_by_status(self) -> dict[str, int]:
        """How many in each."""
        return {status: sum(s.status == status for s in self.sessions.values()) for status in STATUSES}

    def present_status(self, session: Seen) -> str:
        """What a snapshot counts as by now."""
        state = {**session, **session["state"]}
        del state["state"]
        lease = session["lease"]
        return self.counts_as(Session(**{**state, "lease": None if lease is None else Lease(**lease)}))

    def governor(self, user_id: int, conversation_id: str) -> Session | None:
        """Who governs a conversation by now."""
        session = self.rival(user_id, conversation_id, but="")
        return session if self.busy(session) else None

    def route(self, user_id: int, conversation_id: str) -> Seen:
        """Who gets the next message."""
        session = self.governor(user_id, conversation_id)
        if session is None:
            return {"action": "free_chat", "session": None}
        return {"action": "hold" if self.is_live(session) else "resume", "session": session.seen()}

    def route_many(self, user_id: int, conversation_ids: Sequence[str]) -> dict[str, Seen]:
        """The same for several."""
        return {conversation_id: self.route(user_id, conversation_id) for conversation_id in conversation_ids}

    def get(self, session_id: str, *, user_id: int) -> Seen:
        """As it is stored."""
        return self.found(session_id, user_id).seen()

    def history(self, session_id: str, *, user_id: int) -> list[Seen]:
        """Each entry with the status before it."""
        entries = self.found(session_id, user_id).history
        before = [None, *(entry["to_status"] for entry in entries)]
        return [{**entry, "from_status": came_from} for came_from, entry in zip(before, entries, strict=False)]

    def _of(self, user_id: int) -> list[Session]:
        return [session for session in self.sessions.values() if session.user_id == user_id]

    def latest(self, user_id: int, conversation_id: str) -> AnyOf:
        """Whichever session of a conversation changed last."""
        return latest_of(s for s in self._of(user_id) if s.conversation_id == conversation_id)

    def find_by_trigger(self, trigger_id: str, *, user_id: int) -> Seen | None:
        """A trigger has one."""
        return next((s.seen() for s in self._of(user_id) if s.trigger_id == trigger_id), None)

    def find_by_preview(self, preview_id: str, *, user_id: int) -> AnyOf:
        """Any that offers it, or offered it last."""
        return AnyOf(s.seen() for s in self._of(user_id) if s.current_preview_id == preview_id) or AnyOf([None])

    def find_by_reply(self, reply_id: str, *, user_id: int, conversation_id: str) -> AnyOf:
        """Any of the conversation that is done with the message."""
        done = [s for s in self._of(user_id) if reply_id in (*s.answered_reply_ids, *s.replaced_reply_ids)]
        return AnyOf(s.seen() for s in done if s.conversation_id == conversation_id) or AnyOf([None])

    def list_sessions(self, user_id: int, *, statuses: Sequence[str] | None = None, limit: int = 50) -> Seen:
        """The one that changed last first."""
        found = [s for s in self._of(user_id) if statuses is None or s.status in statuses]
        found.sort(key=lambda session: (session.updated_at, session.session_id), reverse=True)
        return {"sessions": [session.seen() for session in found[:limit]], "more": len(found) > limit}
