"""What a chat entry point, a worker and a button call: every race ends here as one typed outcome."""

from datetime import timedelta
from typing import Final

from sessions import telemetry
from sessions.bridge.delivery import Delivery, Message
from sessions.bridge.first_result import creation_of, first_outcome, is_untouched, says
from sessions.bridge.graph import AskUser, Close, ShowPreview
from sessions.bridge.leased_work import DEFAULT_MAX_RERUN
from sessions.bridge.outcomes import AlreadyHandled, Confirmed, Dismissed, Handled, Held, Started, Stopped, outcome_of
from sessions.bridge.refinement import Change, Refinement
from sessions.bridge.rerun import Rerun, rerun_for
from sessions.bridge.texts import printable
from sessions.bridge.transient_failures import checked_retry_on
from sessions.bridge.upkeep import DEFAULT_EVERY, Upkeep
from sessions.bridge.while_running import WhileRunning, checked_while_running
from sessions.bridge.write_back import WriteBack, apply_only, write_back_for
from sessions.domain import inputs
from sessions.domain.errors import (
    ConversationBusy,
    InvalidSessionInput,
    InvalidTransition,
    SessionRef,
    TransitionConflict,
)
from sessions.domain.lifecycle import SessionStatus
from sessions.domain.models import RerunClaim
from sessions.repository import SessionRepository
from sessions.store.clients import ClientSession

_STOPPED: Final = "the user stopped it"


def _checked_text(text: str) -> str:
    """What the user wrote, as the graph is given it."""
    given: object = text
    told = printable(given) if isinstance(given, str) else given
    inputs.text("text", told)
    return str(told)


def _held(error: TransitionConflict) -> Held:
    """The outcome of a button that somebody at work stands in the way of; any other refusal is raised again."""
    outcome = outcome_of(error)
    if not isinstance(outcome, Held):
        raise error
    return outcome


class SessionBridge:
    """The sessions of one repository, the application's graph that goes on with them, and its write-back.

    It keeps nothing between calls: any number of bridges in any number of processes may serve one database. A method's
    own text gives what differs from this.

    What the methods share:
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
        retry_on: tuple[type[Exception], ...] = (),
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
            retry_on: Exceptions of ``rerun`` or ``write_back`` that pass by themselves, such as ``(ConnectionError,)``,
                wherever they stand within a group or behind another one: they come to `Deferred`, as `TryAgain` does.
        """
        inputs.async_function("rerun", rerun)
        if write_back is not None:
            inputs.async_function("write_back", write_back)
        self._retry_on = checked_retry_on(retry_on)
        self._repository = repository
        self._news = repository._lease_news  # noqa: SLF001 - the door that it has for the bridge
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
        return Upkeep(
            self._repository,
            every=every,
            write_back=self._write_back,
            max_write_back=self._max_write_back,
            retry_on=self._retry_on,
        )

    @telemetry.traced
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
        # A creation whose answer was lost is found as it stands now: somebody may have gone on with it already.
        is_new = created and session.revision == 1
        if not is_new and not is_untouched(session, self._repository.present_status(session)):
            return AlreadyHandled(session)
        return first_outcome(session, result.payload if created or says(result, session) else None)

    @telemetry.traced
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
        while_running: WhileRunning = WhileRunning.HOLD,
        wait: timedelta = timedelta(0),
    ) -> Handled:
        """Decide on one chat message; if it is the awaited answer, run the graph on it and record what the graph says.

        Args:
            question_id: The question that its sender saw, ``session.question_id``, or what `Held` gave; None if it is
                not known.
            redelivered: Whether the message may have come before. Then one look more finds a session of this
                conversation that has recorded it among its last 32, even if nobody governs any more, or another session
                does. If that was the last thing that happened to its session, the outcome is told once more.
            has_attachment: Whether a blank text is an answer: a photo, a voice note.
            while_running: What the message does while the graph is at work on an older reply: it is held, or replaces
                it. The replaced graph is cancelled within a second, wherever it runs, and its caller gets `Superseded`.
                A change to a preview is never replaced from here.
            wait: How long a message that would be held first waits for the end of the run, 0 to one hour. Then it
                goes on as if it had come just now, but never answers a question asked meanwhile.

        Returns:
            `FreeChat` if ordinary chat answers; `Asked`, `PreviewShown`, `Closed`, `RerunFailed`, `TimedOut`,
            `Deferred` or `Superseded` after a run; `Asked` without a run for a blank text; `Held` while somebody is at
            work; `AlreadyHandled` if the message's outcome was recorded before or a newer message replaced it, or with
            ``redelivered`` that outcome again.

        Raises:
            SessionNotFound: This user has no such session as ``question_id`` names.
            StaleReply: The question that ``question_id`` names does not stand in this conversation; with
                ``redelivered`` only if another one does.
            StoreUnavailable: The message counts as not consumed, unless it turns out to be handled when it is delivered
                again.

        Round trips:
            One ``find`` for free chat; an answer adds its claim and its outcome, and a renewal each third of a lease.
            One ``find`` more if ``redelivered`` is given and no question is named. A message that waits adds a ``find``
            when it begins to be told of changes, one at the end of the run and one whenever the lease was renewed
            meanwhile; without change streams one each half second. A run of more than a quarter of a second adds a
            renewal, when it begins to be told.
        """
        text = _checked_text(text)
        message = Message(
            user_id=inputs.integer("user_id", user_id),
            conversation_id=inputs.identifier("conversation_id", conversation_id),
            message_id=inputs.identifier("message_id", message_id),
            is_blank=not inputs.flag("has_attachment", has_attachment) and not text.strip(),
            named=inputs.question_named(question_id),
            redelivered=inputs.flag("redelivered", redelivered),
            while_running=checked_while_running(while_running),
            wait=inputs.duration("wait", wait),
        )
        delivery = Delivery(message, self._repository, self._news)
        claim = await delivery.claim()
        return await self._run(claim, text, delivery.began) if isinstance(claim, RerunClaim) else claim

    @telemetry.traced
    async def refine(
        self,
        user_id: int,
        session_id: str,
        text: str,
        *,
        preview_id: str,
        message_id: str,
        while_running: WhileRunning = WhileRunning.HOLD,
        wait: timedelta = timedelta(0),
    ) -> Handled:
        """Run the graph on a change that the user wants to a preview.

        Args:
            while_running: What the message does while the graph is at work on an older change: it is held, or
                replaces it, as `handle` has it.
            wait: How long a message that would be held first waits for the end of the run, 0 to one hour; if that made
                another preview, the message's own is stale.

        Returns:
            As `handle`, but never without a session: `FreeChat` if the graph says that it is no change, `Held` also if
            another session governs the conversation or a confirmation is being applied, `RerunFailed` with the preview
            standing if the attempts are spent.

        Round trips:
            One for the claim and one for the outcome, and a renewal each third of a lease; where a change is under way
            a claim and a ``find`` more, and while it waits what `handle` costs then.
        """
        text = _checked_text(text)
        change = Change(
            user_id=user_id,
            session_id=session_id,
            preview_id=preview_id,
            message_id=inputs.identifier("message_id", message_id),
            while_running=checked_while_running(while_running),
            wait=inputs.duration("wait", wait),
        )
        refinement = Refinement(change, self._repository, self._news)
        claim = await refinement.claim()
        return await self._run(claim, text, refinement.began) if isinstance(claim, RerunClaim) else claim

    @telemetry.traced
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
            retry_on=self._retry_on,
        )

    @telemetry.traced
    async def dismiss(self, user_id: int, session_id: str, *, reason: str = "") -> Dismissed | Held:
        """End a session that the user does not want; a graph at work on it is cancelled within a second.

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
            return _held(error)

    @telemetry.traced
    async def stop(self, user_id: int, session_id: str) -> Stopped | Held:
        """Stop the graph at work on a session, in whichever process: the Stop button.

        The graph is cancelled within a second, at its next renewal where there are no change streams, and its caller
        gets `Superseded`. The message that it worked on counts as not consumed: delivered again it runs again, so
        whoever delivers by itself has to remember that it was stopped.

        Returns:
            `Stopped`, also where no graph is at work; `Held` while a confirmation is being applied: nothing stops that.

        Round trips:
            One ``findAndModify``; a change to a preview, or a refusal, adds what `SessionRepository.interrupt` says.
        """
        try:
            return Stopped(await self._repository.interrupt(session_id, user_id=user_id, reason=_STOPPED))
        except InvalidTransition as error:
            if error.session is None:
                raise
            return Stopped(error.session)
        except TransitionConflict as error:
            return _held(error)

    async def _run(self, claim: RerunClaim, text: str, since: float) -> Handled:
        return await rerun_for(
            claim,
            text,
            repository=self._repository,
            rerun=self._rerun,
            within=self._max_rerun,
            retry_on=self._retry_on,
            since=since,
        )
