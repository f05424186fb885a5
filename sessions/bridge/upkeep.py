"""Sweeps in the background: the expired are ended, dead workers' holds given back, interrupted write-backs finished."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from types import TracebackType
from typing import Final, Self

from sessions import telemetry
from sessions.backoff import Backoff
from sessions.bridge.leased_work import DEFAULT_MAX_RERUN
from sessions.bridge.outcomes import Applied, ApplyFailed
from sessions.bridge.transient_failures import checked_retry_on
from sessions.bridge.write_back import WriteBack, write_back_for
from sessions.domain import inputs
from sessions.domain.errors import SessionError
from sessions.domain.models import ActiveScheduleSessionSnapshot
from sessions.failures import reason_of, traces_of
from sessions.log_events import LogEvent, log
from sessions.repository import SessionRepository
from sessions.tasks import in_background, stopped

DEFAULT_EVERY: Final = timedelta(seconds=30)
_LONGEST_BACKOFF: Final = 8
"""After failures the pause doubles, up to so many times its length."""
_BATCH: Final = 100
_AT_ONCE: Final = 8


class Upkeep:
    """Sweeps in the background for as long as its block runs; any number of processes may do it at once.

    Routing is right without it: it ends and puts back in bulk what would else wait for the next call that meets it,
    and it finishes what a user confirmed if the process that wrote it back has died.
    """

    def __init__(
        self,
        repository: SessionRepository,
        *,
        every: timedelta = DEFAULT_EVERY,
        write_back: WriteBack | None = None,
        max_write_back: timedelta = DEFAULT_MAX_RERUN,
        retry_on: tuple[type[Exception], ...] = (),
    ) -> None:
        """Prepare the upkeep of a repository; entering it as an async context manager starts it.

        Args:
            repository: What `open_repository` gave.
            every: The pause between two rounds, 1 ms to 7 days; each is up to a quarter shorter or longer, and they
                grow while the store does not answer.
            write_back: The bridge's; None leaves interrupted write-backs to the next `SessionBridge.confirm`.
            max_write_back: How long one write-back may take, 1 ms to 7 days; no less than the bridge's.
            retry_on: The bridge's: which errors of the write-back pass by themselves.

        Raises:
            InvalidSessionInput: An argument is outside its limits.
        """
        if write_back is not None:
            inputs.async_function("write_back", write_back)
        self._max_write_back = inputs.duration("max_write_back", max_write_back)
        self._retry_on = checked_retry_on(retry_on)
        self._repository = repository
        self._every = inputs.duration("every", every)
        self._write_back = write_back
        self._tasks: list[asyncio.Task[None]] = []
        self._finishing: dict[str, asyncio.Task[None]] = {}
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._ended = 0

    async def __aenter__(self) -> Self:
        rounds: list[Callable[[], Awaitable[None]]] = [self._sweep]
        if self._write_back is not None:
            # A loop of its own: a slow write-back keeps nobody's conversation held.
            rounds.append(self._finish_interrupted)
        self._tasks += [in_background(self._repeat(once), f"sessions: upkeep, {once.__name__}") for once in rounds]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tasks, self._tasks = self._tasks, []
        try:
            await stopped(tasks)
        finally:
            await stopped(self._finishing.values())

    async def _repeat(self, once: Callable[[], Awaitable[None]]) -> None:
        pauses = self._pauses()
        while True:
            try:
                await once()
            except SessionError as error:
                log(LogEvent.UPKEEP_ROUND_REFUSED, error=error)
            except Exception as error:  # noqa: BLE001 - upkeep outlives whatever one round meets
                log(LogEvent.UPKEEP_ROUND_FAILED, reason=reason_of("a round", error), traces=traces_of(error))
            else:
                pauses.reset()
            await asyncio.sleep(pauses.next())

    def _pauses(self) -> Backoff:
        every = self._every.total_seconds()
        return Backoff(every, every * _LONGEST_BACKOFF)

    async def _sweep(self) -> None:
        sweeps = {
            "sessions.recovered": self._repository.recover_stalled,
            "sessions.expired": self._repository.expire_due,
        }
        for counter, sweep in sweeps.items():
            # Until one batch changes nothing: if several sweep, a batch that was changed in part is not the last.
            while changed := await sweep():
                telemetry.count(counter, changed)

    async def _finish_interrupted(self) -> None:
        while True:
            ended = self._ended
            batch = await self._repository.interrupted_applies(limit=_BATCH)
            random.shuffle(batch)  # so that several processes do not claim in one order
            for session in batch:
                if session.session_id in self._finishing:
                    continue
                await self._places.acquire()
                # Not waited for: a write-back that hangs takes one place, and holds nobody else up.
                task = asyncio.create_task(self._finish(session), name=f"sessions: upkeep of {session.session_id}")
                self._finishing[session.session_id] = task
                task.add_done_callback(partial(self._gone, session.session_id))
            if len(batch) < _BATCH or self._ended == ended:
                return

    def _gone(self, session_id: str, _task: asyncio.Task[None]) -> None:
        del self._finishing[session_id]
        self._places.release()

    async def _finish(self, session: ActiveScheduleSessionSnapshot) -> None:
        if self._write_back is None or session.current_preview_id is None:
            return
        try:
            outcome = await write_back_for(
                session.session_id,
                user_id=session.user_id,
                preview_id=session.current_preview_id,
                repository=self._repository,
                write_back=self._write_back,
                within=self._max_write_back,
                retry_on=self._retry_on,
            )
        except SessionError as error:
            log(LogEvent.WRITE_BACK_NOT_FINISHED, session_id=session.session_id, error=error)
            return
        except Exception as error:  # noqa: BLE001 - the others are finished all the same
            reason = reason_of("finishing its write-back", error)
            log(LogEvent.WORK_FAILED, session_id=session.session_id, reason=reason, traces=traces_of(error))
            return
        if isinstance(outcome, Applied | ApplyFailed):
            self._ended += 1
            log(LogEvent.WRITE_BACK_FINISHED, session_id=session.session_id, outcome=type(outcome).__name__)
