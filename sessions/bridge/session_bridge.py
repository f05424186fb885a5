"""What a chat entry point, a worker and a button call: every race ends here as one typed outcome."""

import asyncio
from datetime import timedelta

from sessions.bridge.first_result import creation_of, first_outcome, is_untouched, says
from sessions.bridge.graph import AskUser, Close, ShowPreview
from sessions.bridge.leased_work import DEFAULT_MAX_RERUN
from sessions.bridge.outcomes import (
    OUTCOME_OF_CALL,
    AlreadyHandled,
    Asked,
    Confirmed,
    Dismissed,
    FreeChat,
    Handled,
    Held,
    Started,
    outcome_of,
)
from sessions.bridge.rerun import Rerun, rerun_for
from sessions.bridge.texts import printable
from sessions.bridge.upkeep import DEFAULT_EVERY, Upkeep
from sessions.bridge.write_back import WriteBack, apply_only, write_back_for
from sessions.domain import inputs
from sessions.domain.errors import (
    ConversationBusy,
    InvalidSessionInput,
    InvalidTransition,
    SessionError,
    SessionNotFound,
    SessionRef,
    StaleReply,
    TransitionConflict,
)
from sessions.domain.expiry import question_standing
from sessions.domain.lifecycle import SessionStatus
from sessions.domain.models import ActiveScheduleSessionSnapshot, Question, RerunClaim, RouteAction
from sessions.repository import SessionRepository
from sessions.store.clients import ClientSession


def _checked_text(text: str) -> str:
    """What the user wrote, as the graph is given it."""
    given: object = text
    told = printable(given) if isinstance(given, str) else given
    inputs.text("text", told)
    return str(told)


class SessionBridge:
    """The sessions of one repository, the application's graph that goes on with them, and its write-back.

    It keeps nothing between calls: any number of bridges in any number of processes may serve one database. A method's
    own text gives what differs from this.

    Arguments:
        - ``user_id``, ``session_id``, ``conversation_id``, ``trigger_id``, ``notification_id``, ``reason``: as
          `SessionRepository` has them.
        - ``text``: what the user wrote, at most 1,000,000 characters; it is handed to the graph and not stored.
        - ``message_id``: the message's own id, 1 to 256 characters, the same however often it is delivered.
        - ``preview_id``: the preview that the user saw.

    Raises:
        InvalidSessionInput: An argument is outside its limits; nothing was sent.
        SessionNotFound: This user has no such session.
        StalePreview: Another preview is offered than the one that the call names, or none.
        InvalidTransition: (A confirmation, refinement or dismissal) it comes too late.
        StoreUnavailable: No primary answered within the repository's ``timeout``.
    """

    def __init__(
        self,
        repository: SessionRepository,
        rerun: Rerun,
        *,
        write_back: WriteBack | None = None,
        max_rerun: timedelta = DEFAULT_MAX_RERUN,
        max_write_back: timedelta | None = None,
    ) -> None:
        """Put the service above a repository.

        Args:
            repository: What `open_repository` gave; its ``lease`` is that of every claim made here.
            rerun: The graph: ``async def rerun(turn)`` returns `AskUser`, `ShowPreview`, `Close`, `Fail` or
                `NotAnAnswer`. A message whose worker died is run again with the same ``turn.idempotency_key``.
            write_back: ``async def write_back(claim)`` writes the preview ``claim.session.current_preview_id`` into the
                schedule, once for each ``claim.idempotency_key`` however often it is called; None if `confirm` has
                nothing to write.
            max_rerun: How long one run may take, 1 ms to 7 days.
            max_write_back: How long one write-back may take, 1 ms to 7 days; None for ``max_rerun``.
        """
        inputs.async_function("rerun", rerun)
        if write_back is not None:
            inputs.async_function("write_back", write_back)
        self._repository = repository
        self._rerun = rerun
        self._write_back = write_back
        self._max_rerun = inputs.duration("max_rerun", max_rerun)
        self._max_write_back = (
            self._max_rerun if max_write_back is None else inputs.duration("max_write_back", max_write_back)
        )

    def upkeep(self, *, every: timedelta = DEFAULT_EVERY) -> Upkeep:
        """The upkeep that fits this bridge: its repository, its write-back and its limit.

        Args:
            every: As `Upkeep` has it.
        """
        return Upkeep(self._repository, every=every, write_back=self._write_back, max_write_back=self._max_write_back)

    async def start(
        self,
        user_id: int,
        trigger_id: str,
        result: AskUser | ShowPreview | Close,
        *,
        conversation_id: str | None = None,
        notification_id: str | None = None,
        client_session: ClientSession | None = None,
    ) -> Started:
        """Store the session that a trigger's first run came to; notify the user only after this.

        Args:
            trigger_id: What set the graph off; delivered twice it has one session.
            result: What the graph answered: `AskUser`, `ShowPreview` or `Close`.
            conversation_id: None until `SessionRepository.bind_conversation`.
            client_session: The application's own transaction, in which it makes conversation and notification, so
                that no notification leads to a conversation that does not exist; the driver's errors pass through.

        Returns:
            `Asked`, `PreviewShown` or `Closed`; delivered again the same while nothing has happened, with the payload
            if it fits what is stored, and `AlreadyHandled` after.

        Raises:
            ConversationBusy: Another session governs the conversation; nothing was stored, deliver it again later.
            SessionExists: Within ``client_session`` only: another call made it since the transaction began.

        Round trips:
            One ``insert``, in a transaction with a ``find`` before it; if the session exists one ``find`` more.
        """
        try:
            session, created = await self._repository.get_or_create(
                user_id,
                trigger_id,
                conversation_id=conversation_id,
                notification_id=notification_id,
                client_session=client_session,
                **creation_of(result),
            )
        except InvalidSessionInput as error:
            # A result that is delivered again after its own end is no mistake if the session exists.
            if error.argument != "expires_at":
                raise
            stored = await self._repository.find_by_trigger(trigger_id, user_id=user_id, client_session=client_session)
            if stored is None:
                raise
            session, created = stored, False
        except TransitionConflict as error:
            # Each try met another governor that had gone when it was looked up.
            about = SessionRef(session_id=error.session_id, user_id=error.user_id)
            raise ConversationBusy(about, governing_session_id=None) from error
        if created:
            return first_outcome(session, result.payload)
        if not is_untouched(session, self._repository.present_status(session)):
            return AlreadyHandled(session)
        return first_outcome(session, result.payload if says(result, session) else None)

    async def handle(
        self,
        user_id: int,
        conversation_id: str,
        text: str,
        *,
        message_id: str,
        question_id: str | None = None,
        redelivered: bool = False,
        has_attachment: bool = False,
    ) -> Handled:
        """Decide on one chat message; if it is the awaited answer, run the graph on it and record what the graph says.

        Args:
            question_id: The question that its sender saw, ``session.question_id``; None if it is not known.
            redelivered: Whether the message may have come before. Then one look more finds a session of this
                conversation that has recorded it among its last 32, even if nobody governs any more, or another session
                does. If that was the last thing that happened to its session, the outcome is told once more.
            has_attachment: Whether a blank text is an answer: a photo, a voice note.

        Returns:
            `FreeChat` if ordinary chat answers; `Asked`, `PreviewShown`, `Closed`, `RerunFailed`, `TimedOut` or
            `Superseded` after a run; `Asked` without a run for a blank text; `Held` while somebody is at work;
            `AlreadyHandled` if the message's outcome was recorded before, or with ``redelivered`` that outcome again.

        Raises:
            SessionNotFound: This user has no such session as ``question_id`` names.
            StaleReply: The question that ``question_id`` names does not stand in this conversation.
            StoreUnavailable: The message counts as not consumed, unless it turns out to be handled when it is delivered
                again.

        Round trips:
            One ``find`` for free chat; an answer adds its claim and its outcome, and a renewal each third of a lease.
            One ``find`` more if ``redelivered`` is given and no question is named.
        """
        user_id = inputs.integer("user_id", user_id)
        conversation_id = inputs.identifier("conversation_id", conversation_id)
        message_id = inputs.identifier("message_id", message_id)
        text = _checked_text(text)
        is_blank = not inputs.flag("has_attachment", has_attachment) and not text.strip()
        named = inputs.question_named(question_id)
        redelivered = inputs.flag("redelivered", redelivered)

        route = await self._repository.route(user_id, conversation_id)
        session = route.session
        standing = question_standing(session, session.status) if session is not None else None
        if named is not None and named != standing:
            return await self._stale(user_id, named, message_id, session, redelivered=redelivered)
        further = redelivered and named is None
        handled = await self._handled(session, user_id, conversation_id, message_id, further=further)
        if handled is not None or session is None:
            return handled or FreeChat()
        if route.action is RouteAction.HOLD:
            return Held(session)
        if is_blank:
            return Asked(session)
        since = asyncio.get_running_loop().time()
        try:
            claim = await self._repository.claim_rerun(
                session.session_id, user_id=user_id, reply_id=message_id, question_number=session.question_number
            )
        except (StaleReply, InvalidTransition, SessionNotFound) as error:
            if named is not None:
                raise
            if isinstance(error, StaleReply) and error.current_question_number is not None and error.session:
                return Held(error.session)
            return await self._moved_on(user_id, conversation_id, message_id, redelivered=redelivered)
        except SessionError as error:
            return outcome_of(error)
        return await self._run(claim, text, since)

    async def refine(self, user_id: int, session_id: str, text: str, *, preview_id: str, message_id: str) -> Handled:
        """Run the graph on a change that the user wants to a preview.

        Returns:
            As `handle`, but never without a session: `FreeChat` if the graph says that it is no change, `Held` also if
            another session governs the conversation or a confirmation is being applied, `RerunFailed` with the preview
            standing if the attempts are spent.

        Round trips:
            One for the claim and one for the outcome, and a renewal each third of a lease.
        """
        message_id = inputs.identifier("message_id", message_id)
        text = _checked_text(text)
        since = asyncio.get_running_loop().time()
        try:
            claim = await self._repository.claim_refinement(
                session_id, user_id=user_id, preview_id=preview_id, reply_id=message_id
            )
        except ConversationBusy as error:
            if error.session is None:
                raise
            return Held(error.session)
        except SessionError as error:
            return outcome_of(error)
        return await self._run(claim, text, since)

    async def confirm(self, user_id: int, session_id: str, *, preview_id: str) -> Confirmed:
        """Write a confirmed preview into the schedule, and end its session ``applied``.

        Double clicks, two tabs and a retry after a crash have one effect: the write-back is called by one of them at
        a time, always with the same ``claim.idempotency_key``. Once it has begun, the confirmation stands until it has
        ended.

        Returns:
            `Applied`, even if it was before; `ApplyFailed` if the write-back raised, or died too often; `Held` while it
            runs elsewhere; `TimedOut` and `Superseded` if it was stopped: confirm again, or leave it to `Upkeep`, to
            finish it.

        Round trips:
            One ``findAndModify`` without a write-back; with one two, and a renewal each third of a lease.
        """
        if self._write_back is None:
            return await apply_only(self._repository, session_id, user_id=user_id, preview_id=preview_id)
        return await write_back_for(
            session_id,
            user_id=user_id,
            preview_id=preview_id,
            repository=self._repository,
            write_back=self._write_back,
            within=self._max_write_back,
        )

    async def dismiss(self, user_id: int, session_id: str, *, reason: str = "") -> Dismissed | Held:
        """End a session that the user does not want; a graph at work on it is stopped at its next renewal.

        Returns:
            `Dismissed`, the second time too; `Held` while a confirmation is being applied.

        Round trips:
            One ``findAndModify``; a refusal adds a ``find``.
        """
        try:
            return Dismissed(await self._repository.ignore(session_id, user_id=user_id, reason=reason))
        except InvalidTransition as error:
            if error.status is not SessionStatus.IGNORED or error.session is None:
                raise
            return Dismissed(error.session)
        except TransitionConflict as error:
            outcome = outcome_of(error)
            if not isinstance(outcome, Held):
                raise
            return outcome

    async def _run(self, claim: RerunClaim, text: str, since: float) -> Handled:
        return await rerun_for(
            claim, text, repository=self._repository, rerun=self._rerun, within=self._max_rerun, since=since
        )

    async def _handled(
        self,
        governing: ActiveScheduleSessionSnapshot | None,
        user_id: int,
        conversation_id: str,
        message_id: str,
        *,
        further: bool,
    ) -> Handled | None:
        """What came of a message before: by who governs, or ``further`` by any session of the conversation."""
        if governing is not None and message_id in governing.answered_reply_ids:
            return await self._told_again(governing, message_id) if further else AlreadyHandled(governing)
        if not further:
            return None
        before = await self._repository.find_by_reply(message_id, user_id=user_id, conversation_id=conversation_id)
        return None if before is None else await self._told_again(before, message_id)

    async def _told_again(self, session: ActiveScheduleSessionSnapshot, message_id: str) -> Handled:
        """The outcome of a message that was recorded last, for a front end that died before it could show it."""
        is_latest = session.answered_reply_ids[-1] == message_id and session.lease is None
        if not is_latest or self._repository.present_status(session) is not session.status:
            return AlreadyHandled(session)
        history = await self._repository.history(session.session_id, user_id=session.user_id)
        shown = OUTCOME_OF_CALL.get(history[-1].call) if history else None
        is_same = shown is not None and history[-1].to_status is session.status
        return shown(session) if shown is not None and is_same else AlreadyHandled(session)

    async def _moved_on(self, user_id: int, conversation_id: str, message_id: str, *, redelivered: bool) -> Handled:
        """The session left its question between the route and the claim: look once more, and claim nothing."""
        route = await self._repository.route(user_id, conversation_id)
        if route.session is not None:
            return Held(route.session)
        handled = await self._handled(None, user_id, conversation_id, message_id, further=redelivered)
        return handled or FreeChat()

    async def _stale(
        self,
        user_id: int,
        named: Question,
        message_id: str,
        session: ActiveScheduleSessionSnapshot | None,
        *,
        redelivered: bool,
    ) -> Handled:
        """A question was named that does not stand here: refuse, unless the message was handled before."""
        standing = None
        if session is not None and session.session_id == named.session_id:
            standing = question_standing(session, session.status)
        else:
            session = await self._repository.get(named.session_id, user_id=user_id)
        if message_id in session.answered_reply_ids:
            return await self._told_again(session, message_id) if redelivered else AlreadyHandled(session)
        about = SessionRef.of(session, self._repository.present_status(session))
        raise StaleReply(about, current_question_number=None if standing is None else standing.number)
