"""What the bridge comes to, as the design words it: in two halves, since much may happen while a graph runs."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Final, NamedTuple

from tests.faults.lifecycle_calls import RepositoryModel
from tests.faults.lifecycle_model import APPLIED, IGNORED, READY, WAITING, Claim, Fresh, Refusal, Seen, question_id_of

TOLD_BY: Final[Mapping[str, str]] = {
    "ask_again": "Asked",
    "present_preview": "PreviewShown",
    "close_rerun": "Closed",
    "fail_rerun": "RerunFailed",
}
STARTED: Final[Mapping[str, str]] = {WAITING: "Asked", READY: "PreviewShown", IGNORED: "Closed"}
OUTCOME_OF: Final[Mapping[str, str]] = {
    "in_progress": "Held",
    "applying": "Held",
    "already_answered": "AlreadyHandled",
    "attempts_exhausted": "RerunFailed",
}
LIMITS: Final[Mapping[str, str]] = {
    "expires_at": "a moment still ahead by the repository's clock",
    "preview_id": "another id than the current preview's: a changed preview is new",
    "pending_question": "a question, unless missing_info says what is missing",
    "reason": "a string of at most 2,000 characters without NUL and without lone surrogates, and not blank",
}


class Answer(NamedTuple):
    """What the graph or the write-back does: it answers, raises, or takes too long."""

    kind: str
    given: Seen = {}  # noqa: RUF012 - read only
    payload: object = None
    after: timedelta | None = None


Outcome = Seen


def outcome(kind: str, session: Seen | None, payload: object = None, **more: Any) -> Outcome:
    """As the machine shows an outcome of the bridge."""
    return {"outcome": kind, "session": session, "payload": payload, **more}


def held(session: Seen | None, question_id: str | None = None) -> Outcome:
    """Somebody is at work."""
    return outcome("Held", session, question_id=question_id)


class BridgeModel:
    """The service above a `RepositoryModel`."""

    def __init__(self, sessions: RepositoryModel) -> None:
        self.sessions = sessions

    def start(self, user_id: int, trigger_id: str, answer: Answer, **given: Any) -> Outcome:
        """The first result of a trigger's graph, stored once."""
        arguments = {**given, "operation_id": Fresh()}
        if answer.kind == "Close":
            arguments |= {"ignored": True, "reason": answer.given.get("reason", "")}
        else:
            arguments |= answer.given
        try:
            session, created = self.sessions.get_or_create(user_id, trigger_id, **arguments)
        except Refusal as refusal:
            stored = self.sessions.find_by_trigger(trigger_id, user_id=user_id)
            if refusal.seen.get("argument") != "expires_at" or stored is None:
                raise
            session, created = stored, False
        if created:
            return outcome(STARTED[session["status"]], session, answer.payload)
        if not self._is_untouched(session):
            return outcome("AlreadyHandled", session)
        return outcome(STARTED[session["status"]], session, answer.payload if self._says(answer, session) else None)

    def _is_untouched(self, session: Seen) -> bool:
        status = session["status"]
        if self.sessions.present_status(session) != status or session["fencing_token"] > 0:
            return False
        if status == IGNORED:
            return session["question_number"] == 0 and session["current_preview_id"] is None
        return status in STARTED

    def _says(self, answer: Answer, session: Seen) -> bool:
        match answer.kind:
            case "AskUser":
                asked = answer.given.get("pending_question", ""), tuple(answer.given.get("missing_info", ()))
                return asked == (session["state"]["pending_question"], session["state"]["missing_info"])
            case "ShowPreview":
                return bool(answer.given["preview_id"] == session["current_preview_id"])
        return bool(session["status"] == IGNORED)

    # --- a message ------------------------------------------------------------------------------------------------

    def handle(
        self,
        user_id: int,
        conversation_id: str,
        *,
        message_id: str,
        is_blank: bool,
        question_id: str | None,
        redelivered: bool,
        replaces: bool,
    ) -> Claim | Outcome:
        """The claim for the graph's run, or what comes of the message without one."""
        governing = self.sessions.governor(user_id, conversation_id)
        route = self.sessions.route(user_id, conversation_id)
        session, holds = route["session"], route["action"] == "hold"
        if question_id is not None and not self._may_answer(question_id, governing, holds=holds, again=redelivered):
            return self._stale(user_id, question_id, message_id, session, redelivered=redelivered)
        further = redelivered and question_id is None
        if session is not None and message_id in (*session["answered_reply_ids"], *session["replaced_reply_ids"]):
            return self._told_again(session, message_id) if further else outcome("AlreadyHandled", session)
        if further:
            found = self.sessions.find_by_reply(message_id, user_id=user_id, conversation_id=conversation_id)
            if found[0] is not None:
                return self._told_again(found[0], message_id)
        if session is None or governing is None:
            return outcome("FreeChat", None)
        asked, number = governing.question_id, governing.question_number
        replaced = None
        lease = session["lease"]
        if holds and replaces and not is_blank and lease["kind"] == "reply" and lease["reply_id"] != message_id:
            replaced = lease["operation_id"]
        if holds and replaced is None:
            return held(session, asked)
        if is_blank:
            return outcome("Asked", session)
        try:
            return self.sessions.claim_rerun(
                session["session_id"],
                user_id=user_id,
                reply_id=message_id,
                question_number=number,
                replaces=replaced,
                operation_id=Fresh(),
            )
        except Refusal as refusal:
            return self._outcome_of(refusal)

    def _may_answer(self, question_id: str, governing: Any, *, holds: bool, again: bool) -> bool:
        if governing is None or question_id != governing.question_id:
            return False
        return (again and holds) or self.sessions.standing_question(governing, governing.status) is not None

    def _stale(
        self, user_id: int, question_id: str, message_id: str, governing: Seen | None, *, redelivered: bool
    ) -> Outcome:
        named, standing = question_id.split(":", maxsplit=1)[0], None
        stored = self.sessions.found(named, user_id)
        if governing is not None and governing["session_id"] == named:
            standing = self.sessions.standing_question(stored, stored.status)
        session = stored.seen()
        if message_id in (*stored.answered_reply_ids, *stored.replaced_reply_ids):
            return self._told_again(session, message_id) if redelivered else outcome("AlreadyHandled", session)
        if redelivered and governing is None:
            return outcome("FreeChat", None)
        raise self.sessions.refused("StaleReply", stored, current_question_number=standing)

    def _told_again(self, session: Seen, message_id: str) -> Outcome:
        status = session["status"]
        is_latest = session["answered_reply_ids"][-1:] == (message_id,) and session["lease"] is None
        if not is_latest or self.sessions.present_status(session) != status:
            return outcome("AlreadyHandled", session)
        last = self.sessions.history(session["session_id"], user_id=session["user_id"])[-1]
        shown = TOLD_BY.get(last["call"]) if last["to_status"] == status else None
        return outcome(shown or "AlreadyHandled", session)

    def _outcome_of(self, refusal: Refusal) -> Outcome:
        """The outcome of a claim that was refused; what is none is raised again."""
        session, kind = refusal.seen["session"], OUTCOME_OF.get(str(refusal.seen.get("reason")))
        if refusal.kind != "TransitionConflict" or kind is None:
            raise refusal
        return held(session) if kind == "Held" else outcome(kind, session)

    def refine(
        self, user_id: int, session_id: str, *, preview_id: str, message_id: str, replaces: bool
    ) -> Claim | Outcome:
        """The claim for a change to a preview, or what comes of it without one."""
        asked: Seen = {"user_id": user_id, "preview_id": preview_id, "reply_id": message_id}
        try:
            try:
                return self.sessions.claim_refinement(session_id, operation_id=Fresh(), **asked)
            except Refusal as refusal:
                lease: Any = (refusal.seen["session"] or {}).get("lease")
                is_held = refusal.seen.get("reason") == "in_progress" and lease is not None
                if not (is_held and replaces and lease["kind"] == "refinement" and lease["reply_id"] != message_id):
                    raise
                replaced = lease["operation_id"]
                return self.sessions.claim_refinement(session_id, operation_id=Fresh(), replaces=replaced, **asked)
        except Refusal as refusal:
            if refusal.kind == "ConversationBusy":
                return held(refusal.seen["session"])
            return self._outcome_of(refusal)

    def ran(self, claim: Claim, answer: Answer) -> Outcome:
        """What is recorded of a run that has ended."""
        try:
            return self._recorded(claim, answer)
        except Refusal as refusal:
            if refusal.kind not in ("LeaseLost", "SessionNotFound"):
                raise
            return outcome("Superseded", refusal.seen["session"] or claim.session)

    def _recorded(self, claim: Claim, answer: Answer) -> Outcome:
        sessions = self.sessions
        ids: Seen = {"operation_id": Fresh()}
        match answer.kind:
            case "TooLate":
                reason = "the rerun took longer than max_rerun"
                return outcome("TimedOut", sessions.release(claim, reason=reason, count_attempt=True, **ids))
            case "TryAgain":
                reason = "put off: the graph raised TryAgain"
                session = sessions.release(claim, reason=reason, count_attempt=True, **ids)
                named = question_id_of(claim.session) if claim.kind == "reply" else None
                return outcome("Deferred", session, after=answer.after, question_id=named)
            case "NotAnAnswer":
                session = sessions.release(claim, reason="the message was no answer", **ids)
                stands = sessions.present_status(session) != "expired"
                return outcome("FreeChat", session if stands else None, answer.payload)
            case "ValueError":
                return outcome("RerunFailed", sessions.fail_rerun(claim, reason="the graph raised ValueError", **ids))
        calls: Mapping[str, tuple[Callable[..., Seen], str]] = {
            "AskUser": (sessions.ask_again, "Asked"),
            "ShowPreview": (sessions.present_preview, "PreviewShown"),
            "Close": (sessions.close_rerun, "Closed"),
            "Fail": (sessions.fail_rerun, "RerunFailed"),
        }
        record, kind = calls[answer.kind]
        try:
            return outcome(kind, record(claim, **answer.given, **ids), answer.payload)
        except Refusal as refusal:
            if refusal.kind != "InvalidSessionInput":
                raise
            argument = refusal.seen["argument"]
        reason = f"the graph answered {answer.kind} with {argument} other than {LIMITS[argument]}"
        return outcome("RerunFailed", sessions.fail_rerun(claim, reason=reason, operation_id=Fresh()))

    # --- buttons --------------------------------------------------------------------------------------------------

    def confirm_without_writing(self, user_id: int, session_id: str, *, preview_id: str) -> Outcome:
        """Where there is nothing to write back."""
        try:
            session = self.sessions.apply(session_id, user_id=user_id, preview_id=preview_id, operation_id=Fresh())
        except Refusal as refusal:
            return self._confirmed(refusal)
        return outcome("Applied", session)

    def confirm(self, user_id: int, session_id: str, *, preview_id: str) -> Claim | Outcome:
        """The claim for the write-back, or what comes of the confirmation without one."""
        try:
            return self.sessions.claim_apply(session_id, user_id=user_id, preview_id=preview_id, operation_id=Fresh())
        except Refusal as refusal:
            return self._confirmed(refusal)

    def _confirmed(self, refusal: Refusal) -> Outcome:
        session = refusal.seen["session"]
        if refusal.kind == "InvalidTransition" and refusal.seen["status"] == APPLIED:
            return outcome("Applied", session)
        told = self._outcome_of(refusal)
        return outcome("ApplyFailed", session) if told["outcome"] == "RerunFailed" else told

    def wrote(self, claim: Claim, answer: Answer) -> Outcome:
        """What is recorded of a write-back that has ended."""
        sessions, ids = self.sessions, {"operation_id": Fresh()}
        try:
            match answer.kind:
                case "TooLate":
                    return outcome("TimedOut", claim.session)
                case "TryAgain":
                    assert answer.after is not None
                    session = sessions.postpone(claim, after=answer.after)
                    return outcome("Deferred", session, after=answer.after, question_id=None)
                case "ValueError":
                    reason = "the write-back raised ValueError"
                    return outcome("ApplyFailed", sessions.fail_apply(claim, reason=reason, **ids))
            return outcome("Applied", sessions.complete_apply(claim, **ids))
        except Refusal as refusal:
            if refusal.kind not in ("LeaseLost", "SessionNotFound"):
                raise
            return outcome("Superseded", refusal.seen["session"] or claim.session)

    def dismiss(self, user_id: int, session_id: str, *, reason: str = "") -> Outcome:
        """The user does not want it."""
        try:
            session = self.sessions.ignore(session_id, user_id=user_id, reason=reason, operation_id=Fresh())
        except Refusal as refusal:
            if refusal.kind == "InvalidTransition" and refusal.seen["status"] == IGNORED:
                return outcome("Dismissed", refusal.seen["session"])
            return self._outcome_of(refusal)
        return outcome("Dismissed", session)

    def stop(self, user_id: int, session_id: str) -> Outcome:
        """The Stop button."""
        try:
            session = self.sessions.interrupt(
                session_id, user_id=user_id, reason="the user stopped it", operation_id=Fresh()
            )
        except Refusal as refusal:
            if refusal.kind == "InvalidTransition":
                return outcome("Stopped", refusal.seen["session"])
            return self._outcome_of(refusal)
        return outcome("Stopped", session)

    def upkeep(self) -> None:
        """One round of everything that is done in the background."""
        self.sessions.recover_stalled()
        self.sessions.expire_due()
        for session in self.sessions.interrupted_applies():
            claimed = self.confirm(session["user_id"], session["session_id"], preview_id=session["current_preview_id"])
            if isinstance(claimed, Claim):
                self.wrote(claimed, Answer("Done"))
