"""A compiled graph as what the bridge reruns."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeVar
from uuid import uuid4
from weakref import WeakValueDictionary

from sessions.bridge.graph import AskUser, Close, Fail, NotAnAnswer, ShowPreview, Turn
from sessions.domain import inputs
from sessions.domain.errors import InvalidSessionInput
from sessions.domain.models import ActiveScheduleSessionSnapshot, derive_session_id
from sessions.extras import needs_extra
from sessions.log_events import LogEvent, log

with needs_extra("langgraph", "sessions.langgraph"):
    from langgraph.checkpoint.base import BaseCheckpointSaver
    from langgraph.pregel import Pregel
    from langgraph.types import Command, Interrupt, StateSnapshot

from sessions.langgraph.questions import Ask, Reply, default_ask, default_reply
from sessions.langgraph.run_threads import (
    IDEMPOTENCY_KEY,
    MESSAGE,
    STOOD_AT,
    THREAD,
    Run,
    RunThreads,
    config_of,
    without_paths,
)

Told = TypeVar("Told")

_GONE: Final = "the checkpoints of {} are gone, or were made by another hand: the graph cannot go on"

Finish = Callable[[dict[str, Any]], ShowPreview | Close | Fail | Awaitable[ShowPreview | Close | Fail]]
"""Turns a finished graph's values into an answer; a function or an async one."""


class GraphRerun:
    """A compiled graph as what `SessionBridge` reruns: ``SessionBridge(repository, GraphRerun(graph, finish=...))``.

    Each message resumes the graph once, by the id of the interrupt that was asked first. A message that was stopped,
    replaced or no answer leaves no trace: the next one goes on from where the session stands. A message whose worker
    died goes on where it was, if no other message was claimed since.

    A node raises `NotAnAnswer` for a side question. It finds what a run is for in ``config["metadata"]``:
    ``session_message_id`` (empty for a trigger) and ``session_idempotency_key``, the same for each rerun of a message.
    """

    def __init__(
        self,
        graph: Pregel[Any, Any, Any, Any],
        *,
        finish: Finish,
        ask: Ask = default_ask,
        reply: Reply = default_reply,
        thread_id: Callable[[int, str], str] = derive_session_id,
    ) -> None:
        """Prepare a graph; nothing is sent.

        Args:
            graph: Compiled with a checkpointer. What all its runs share is bound to it before: ``with_config``.
            finish: ``finish(values)`` says what a graph that has come to its end answers: `ShowPreview`, `Close` or
                `Fail`.
            ask: ``ask(interrupts)`` says what a graph that waits answers: `AskUser`, `ShowPreview` if the next message
                is a change to it, or `Close`. The next message resumes the first interrupt.
            reply: ``reply(turn, interrupt)`` gives what the interrupt is resumed with.
            thread_id: ``thread_id(user_id, trigger_id)`` gives what the ids of a trigger's threads begin with; other
                than those of all others.

        Raises:
            InvalidSessionInput: The graph has no checkpointer.
        """
        saver = graph.checkpointer
        if not isinstance(saver, BaseCheckpointSaver):
            raise InvalidSessionInput("graph", "a graph that was compiled with a checkpointer")
        self._graph = graph.copy({"checkpointer": without_paths(saver)})
        self._threads = RunThreads(saver)
        self._finish = finish
        self._ask = ask
        self._reply = reply
        self._thread_id = thread_id
        self._beginning: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def begin(self, user_id: int, trigger_id: str, input: Any) -> AskUser | ShowPreview | Close:  # noqa: A002 - as LangGraph calls it
        """Run a trigger's graph to its first result, for `SessionBridge.start`.

        Delivered again it runs nothing and gives the same answer, even if the session has moved on since; if its worker
        died it goes on from where that was. Two at once in one process run once; in two processes both may run, and
        both give the answer of whichever ended first.

        Args:
            user_id: The user of the session to be.
            trigger_id: What set the graph off. An id that comes again after its session was purged is given the answer
                of its first life, unless `forget` was called.
            input: The graph's input.

        Returns:
            What the graph waits for, or has come to. `Fail` has no session to end: it is a `Close` for the same reason,
            so that the trigger is kept as ``ignored`` and runs no second time.

        Raises:
            InvalidSessionInput: An id is outside its limits; nothing was sent.
            Exception: The graph's own; delivered again it goes on before the node that raised.

        Round trips:
            Six of the checkpointer beside the graph's own; two if it was delivered before.
        """
        user_id = inputs.integer("user_id", user_id)
        trigger_id = inputs.identifier("trigger_id", trigger_id)
        thread = self._thread_id(user_id, trigger_id)
        async with self._beginning.setdefault(thread, asyncio.Lock()):
            registered = await self._threads.register(thread)
            first = registered[1] if registered is not None else None
            if first is None:
                first = await self._run_first(thread, input, registered[0] if registered is not None else None)
        result = await self._result(await self._state(first))
        return Close(result.reason, result.payload) if isinstance(result, Fail) else result

    async def _run_first(self, thread: str, given: Any, begun: Sequence[str] | None) -> str:
        mine = f"{thread}:begin:{uuid4().hex}"
        marks = {THREAD: mine, MESSAGE: "", STOOD_AT: mine, IDEMPOTENCY_KEY: thread}
        if begun is None:
            await self._threads.make_register(thread)
        earlier = [await self._threads.read(each) for each in begun or ()]
        await self._threads.has_begun(thread, mine)
        furthest = max((run for run in earlier if run is not None), key=lambda run: run.step, default=None)
        if furthest is not None:
            await self._threads.copy(furthest, mine, marks)
        if furthest is None or not _is_settled(await self._state(mine)):
            await self._run(given if furthest is None else None, mine, marks)
        await self._threads.has_ended(thread, mine)
        registered = await self._threads.register(thread)
        return (registered and registered[1]) or mine

    async def __call__(self, turn: Turn) -> AskUser | ShowPreview | Close | Fail | NotAnAnswer:
        """Go on with one message, as the bridge's ``rerun``.

        Args:
            turn: The message.

        Returns:
            What the graph waits for, or has come to; `NotAnAnswer` to a change of a preview that the graph does not
            wait at.

        Raises:
            NotAnAnswer: The graph or ``reply`` says so.
            RuntimeError: The session was not begun by `begin`, its checkpoints are gone, or the graph stops without an
                interrupt.

        Round trips:
            Beside the graph's own: the checkpoints of the run before are listed, two states read, and a copy is stored
            with the pending writes of each task. Nothing older is read.
        """
        session = turn.session
        thread = self._thread_id(session.user_id, session.trigger_id)
        last = await self._last_run(thread, session)
        recorded = session.answered_reply_ids[-1] if session.answered_reply_ids else ""
        is_recorded = last.marks[MESSAGE] == recorded
        # A run that was not recorded knows where the session stood before it, and nothing has been recorded since.
        standing = last if is_recorded else await self._read(last.marks[STOOD_AT])
        if standing.marks[MESSAGE] != recorded:
            raise RuntimeError(_GONE.format("the message that was recorded last"))
        asked = _pending(await self._state(standing.thread))
        if not asked:
            log(LogEvent.GRAPH_HAS_ENDED, session_id=session.session_id)
            return NotAnAnswer()
        reply = await _awaited(self._reply(turn, asked[0]))
        resume: Command[Any] | None = Command(resume={asked[0].id: reply})

        is_same = not is_recorded and last.marks[MESSAGE] == turn.message_id
        mine = _thread_of(thread, session, session.fencing_token)
        marks = {
            THREAD: mine,
            MESSAGE: turn.message_id,
            STOOD_AT: standing.thread,
            IDEMPOTENCY_KEY: turn.idempotency_key,
        }
        await self._threads.copy(last if is_same else standing, mine, marks)
        if is_same:
            state = await self._state(mine)
            if asked[0].id not in {each.id for each in _pending(state)} and _is_settled(state):
                return await self._result(state)
            if last.resumes() != standing.resumes():
                resume = None  # the answer is kept already, by a task that has not ended
        await self._run(resume, mine, marks)
        return await self._result(await self._state(mine))

    async def forget(self, session: ActiveScheduleSessionSnapshot) -> None:
        """Delete all that the checkpointer holds of a session, for good: before it is purged, or when its user asks.

        Args:
            session: The session, as it ended.

        Round trips:
            Two deletions for each of its claims.
        """
        thread = self._thread_id(session.user_id, session.trigger_id)
        begun = await self._threads.register(thread)
        runs = (_thread_of(thread, session, token + 1) for token in range(session.fencing_token))
        for each in (*(begun[0] if begun is not None else ()), *runs, thread):
            await self._threads.delete(each)

    async def _last_run(self, thread: str, session: ActiveScheduleSessionSnapshot) -> Run:
        """The run of the last claim that came so far as to have one, or the trigger's."""
        for token in range(session.fencing_token - 1, 0, -1):
            if (run := await self._threads.read(_thread_of(thread, session, token))) is not None:
                return run
        registered = await self._threads.register(thread)
        if registered is None or registered[1] is None:
            raise RuntimeError("the session's graph was not begun: give SessionBridge.start what GraphRerun.begin gave")
        return await self._read(registered[1])

    async def _read(self, thread: str) -> Run:
        run = await self._threads.read(thread)
        if run is None:
            raise RuntimeError(_GONE.format(f"the thread {thread}"))
        return run

    async def _run(self, given: Any, thread: str, marks: Mapping[str, str]) -> None:
        # What a node has done is kept before the next one begins, so that a worker that dies costs one node at most.
        await self._graph.ainvoke(given, config_of(thread, marks), durability="sync")

    async def _state(self, thread: str) -> StateSnapshot:
        return await self._graph.aget_state(config_of(thread))

    async def _result(self, state: StateSnapshot) -> AskUser | ShowPreview | Close | Fail:
        if asked := _pending(state):
            return await _awaited(self._ask(asked))
        if state.tasks:
            stopped = ", ".join(task.name for task in state.tasks)
            raise RuntimeError(f"the graph stopped before {stopped} without an interrupt, so nobody can be asked")
        return await _awaited(self._finish(state.values))


def _thread_of(thread: str, session: ActiveScheduleSessionSnapshot, token: int) -> str:
    # A trigger's second life, after its session was purged, meets no run of its first.
    return f"{thread}:{session.key_prefix.rpartition(':')[2]}:{token}"


def _pending(state: StateSnapshot) -> list["Interrupt[Any]"]:
    # A task that has a result has had its answers.
    return [each for task in state.tasks if task.result is None for each in task.interrupts]


def _is_settled(state: StateSnapshot) -> bool:
    """Whether there is nothing left to run before somebody answers."""
    waits = bool(_pending(state)) and all(
        task.result is not None or (task.interrupts and task.error is None) for task in state.tasks
    )
    # Tasks that have all ended are still to be merged into the next checkpoint.
    return waits or not state.tasks


async def _awaited(told: Told | Awaitable[Told]) -> Told:
    return await told if inspect.isawaitable(told) else told
