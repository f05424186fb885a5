"""The sessions in a FastAPI application: opened with it, given to its routes, their errors as HTTP, their changes live.

Needs the extra ``fastapi``; nothing else of the library imports this module.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus
from typing import Annotated, Any, Final, Protocol

from pydantic import BaseModel, ConfigDict

from sessions.bridge.session_bridge import SessionBridge
from sessions.bridge.upkeep import Upkeep
from sessions.cache.cached_router import CachedRouter
from sessions.changes.watch import Watch
from sessions.domain import inputs
from sessions.domain.errors import SessionError, StoreUnavailable
from sessions.domain.lifecycle import SessionStatus
from sessions.domain.models import ActiveScheduleSessionSnapshot, ActiveScheduleSessionState, Route
from sessions.extras import needs_extra
from sessions.log_events import LogEvent, log
from sessions.repository import SessionRepository

with needs_extra("fastapi", "sessions.fastapi"):
    import anyio
    from fastapi import APIRouter, Depends, FastAPI, Header, Query, status
    from fastapi.requests import HTTPConnection
    from fastapi.responses import JSONResponse
    from sse_starlette import EventSourceResponse, ServerSentEvent
    from starlette.types import Receive, Scope, Send
    from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

__all__ = [
    "Bridge",
    "MessageRouter",
    "Repository",
    "Router",
    "SessionEvent",
    "add_session_handlers",
    "problem_of",
    "session_events",
    "sessions_lifespan",
]


DEFAULT_HEARTBEAT: Final = timedelta(seconds=15)
_RETRY_AFTER_SECONDS: Final = "1"
_RECONNECT_MS: Final = 1000
_GRACE_SECONDS: Final = 2.0
_PLACE: Final = "active_schedule_sessions"

# --- opened and closed with the application ---------------------------------------------------------------------


class MessageRouter(Protocol):
    """What both a repository and a `CachedRouter` are to a chat entry point."""

    async def route(self, user_id: int, conversation_id: str) -> Route:
        """Say what to do with the next chat message of a user in a conversation."""


@dataclass(frozen=True, slots=True)
class _Serving:
    repository: SessionRepository
    router: MessageRouter
    bridge: SessionBridge | None


@asynccontextmanager
async def sessions_lifespan(
    app: FastAPI,
    opening: AbstractAsyncContextManager[SessionRepository],
    *,
    bridge: Callable[[SessionRepository], SessionBridge] | None = None,
    router: Callable[[SessionRepository], CachedRouter] | None = None,
    upkeep: Callable[[SessionRepository], Upkeep] | None = None,
) -> AsyncIterator[SessionRepository]:
    """Open the sessions of an application and close them with it; for the body of the application's own lifespan.

    Bridge, router and upkeep are made in this order. An application has one repository; for another database mount an
    application of its own and enter ``sessions_lifespan`` for that too.

    Args:
        app: The application whose routes use `Repository`, `Router` and `Bridge`.
        opening: ``open_repository(database, ...)``; the client stays open, it is the caller's.
        bridge: Makes the bridge from the repository; None if no route uses `Bridge`.
        router: `CachedRouter`, or what makes one from the repository; None for the repository's own ``route``.
        upkeep: `Upkeep`, or what makes one from the repository; None if it runs elsewhere.

    Yields:
        The repository.

    Raises:
        IndexesMissing: The database does not hold the governor index.
        StoreUnavailable: No primary answered within the repository's ``timeout``.
        WatchInterrupted: A router was asked for, and the server is no replica set.
        RuntimeError: The application has its sessions already.
    """
    async with AsyncExitStack() as stack:
        serve = stack.enter_context(_only_one(app))
        repository = await stack.enter_async_context(opening)
        made = bridge(repository) if bridge is not None else None
        routes: MessageRouter = repository
        if router is not None:
            routes = await stack.enter_async_context(router(repository))
        if upkeep is not None:
            await stack.enter_async_context(upkeep(repository))
        # From the moment on that the lifespan ends, nothing of what is being closed is handed out.
        stack.callback(serve, None)
        serve(_Serving(repository, routes, made))
        yield repository


@contextmanager
def _only_one(app: FastAPI) -> Iterator[Callable[[_Serving | None], None]]:
    """The application's place for its sessions, taken for the length of the block; gives what fills it."""
    if hasattr(app.state, _PLACE):
        raise RuntimeError(
            "this application has its sessions already, and its routes could not tell two repositories apart: enter"
            " sessions_lifespan once; for another database app.mount() a FastAPI application of its own and enter"
            " sessions_lifespan for that one"
        )
    setattr(app.state, _PLACE, None)
    try:
        yield lambda serving: setattr(app.state, _PLACE, serving)
    finally:
        delattr(app.state, _PLACE)


def _serving(connection: HTTPConnection) -> _Serving:
    serving = getattr(connection.app.state, _PLACE, None)
    if not isinstance(serving, _Serving):
        raise RuntimeError("no sessions are open: enter sessions_lifespan(app, ...) in the lifespan of this very app")  # noqa: TRY004 - nothing of the caller's has a wrong type
    return serving


# Plain functions, for `app.dependency_overrides`.


def get_repository(connection: HTTPConnection) -> SessionRepository:
    """The repository of the application that serves the request."""
    return _serving(connection).repository


def get_router(connection: HTTPConnection) -> MessageRouter:
    """Its `CachedRouter` if it has one, else its repository."""
    return _serving(connection).router


def get_bridge(connection: HTTPConnection) -> SessionBridge:
    """Its bridge."""
    found = _serving(connection).bridge
    if found is None:
        raise RuntimeError("the application has no bridge: give sessions_lifespan a bridge=...")
    return found


Repository = Annotated[SessionRepository, Depends(get_repository)]
"""The repository, as a parameter of a route."""
Router = Annotated[MessageRouter, Depends(get_router)]
"""The cached router, or the repository if there is none."""
Bridge = Annotated[SessionBridge, Depends(get_bridge)]
"""The bridge."""

# --- errors -----------------------------------------------------------------------------------------------------

_MEMBERS: Final[Mapping[str, str]] = {
    # RFC 9457 has a `status` of its own: the number.
    "session_id": "session_id",
    "status": "session_status",
    "revision": "revision",
    "reason": "reason",
    "call": "call",
    "governing_session_id": "governing_session_id",
    "current_preview_id": "current_preview_id",
    "current_question_number": "current_question_number",
    "argument": "argument",
    "limit": "limit",
    "outcome": "outcome",
    "may_pass": "may_pass",
    "needs_replica_set": "needs_replica_set",
}


def problem_of(error: SessionError) -> dict[str, str | int | bool]:
    """An error as the members of an RFC 9457 problem: its kind, ids, status and reason, and no text of a user.

    Args:
        error: Any error of the library.

    Returns:
        ``type``, ``title`` and ``status`` as the RFC has them, ``error``, the name of its class, and those of its
        attributes that are known; the session's status is ``session_status``. The stored session is not among them.
    """
    known = {member: getattr(error, attribute, None) for attribute, member in _MEMBERS.items()}
    return {
        "type": "about:blank",
        "title": HTTPStatus(error.http_status).phrase,
        "status": error.http_status,
        "error": type(error).__name__,
        **{member: value for member, value in known.items() if value is not None},
    }


async def _answer(connection: HTTPConnection, error: Exception) -> Any:
    if not isinstance(error, SessionError):
        raise error
    if error.http_status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        # Where the database is at fault its operator finds it here; the client is told no more than the problem.
        method = connection.scope.get("method", "WebSocket")
        log(LogEvent.REQUEST_FAILED, method=method, path=connection.url.path, error=error)
    headers = {"Cache-Control": "no-store"}
    if _may_pass(error):
        headers["Retry-After"] = _RETRY_AFTER_SECONDS
    answer = JSONResponse(problem_of(error), error.http_status, headers, media_type="application/problem+json")
    if not isinstance(connection, WebSocket):
        return answer
    with suppress(WebSocketDisconnect):  # the client has gone meanwhile
        await _close(connection, error, answer)
    return None


def _may_pass(error: SessionError) -> bool:
    return isinstance(error, StoreUnavailable) and error.may_pass


async def _close(websocket: WebSocket, error: SessionError, denial: JSONResponse) -> None:
    """Deny a connection that was not accepted yet; close one that was, with a code and the kind of the error."""
    if WebSocketState.DISCONNECTED in (websocket.client_state, websocket.application_state):
        return
    is_accepted = websocket.application_state is not WebSocketState.CONNECTING
    if not is_accepted and "websocket.http.response" in websocket.scope.get("extensions", {}):
        await websocket.send_denial_response(denial)
        return
    code = status.WS_1008_POLICY_VIOLATION
    if error.http_status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        code = status.WS_1013_TRY_AGAIN_LATER if _may_pass(error) else status.WS_1011_INTERNAL_ERROR
    await websocket.close(code, type(error).__name__)


def add_session_handlers(app: FastAPI) -> None:
    """Let the application answer each `SessionError` with its HTTP status, as ``application/problem+json``.

    A WebSocket that was not accepted yet is denied with the same answer (403 if the server can't send one). One that
    was accepted is closed with 1008, with 1013 if the database may be back soon, or with 1011 if it is at fault
    otherwise; the reason is the name of the error's class.

    Args:
        app: The application.
    """
    app.add_exception_handler(SessionError, _answer)


# --- changes ----------------------------------------------------------------------------------------------------


class SessionEvent(BaseModel):
    """A session as a page may know it: what a user sees, nothing of who works on it."""

    model_config = ConfigDict(frozen=True)

    session_id: str
    conversation_id: str | None
    status: SessionStatus
    intercepts: bool
    """Whether the conversation's next message is the session's, by its status."""
    question_id: str
    current_preview_id: str | None
    state: ActiveScheduleSessionState
    revision: int
    """Grows with each change; an event of one that is known already says nothing new."""

    @classmethod
    def of(cls, session: ActiveScheduleSessionSnapshot) -> "SessionEvent":
        """The event of a session."""
        return cls(
            session_id=session.session_id,
            conversation_id=session.conversation_id,
            status=session.status,
            intercepts=session.status.intercepts,
            question_id=session.question_id,
            current_preview_id=session.current_preview_id,
            state=session.state,
            revision=session.revision,
        )


class _EventStream(EventSourceResponse):
    """Changes for as long as the client listens and the server serves; the watch is closed whichever ends first."""

    def __init__(self, watch: Watch, *, heartbeat: float) -> None:
        self._watch = watch
        self._shutting_down = anyio.Event()
        super().__init__(
            _events(watch, heartbeat),
            ping=0,  # The heartbeat is one of our own, since only between two changes is its token in order.
            shutdown_event=self._shutting_down,
            shutdown_grace_period=_GRACE_SECONDS,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ending = asyncio.create_task(self._end_with_server(), name="sessions: end of an event stream")
        try:
            await super().__call__(scope, receive, send)
        finally:
            ending.cancel()
            await self._watch.aclose()

    async def _end_with_server(self) -> None:
        # The events come to their end by it, and with them the response.
        await self._shutting_down.wait()
        await self._watch.aclose()


async def _events(watch: Watch, heartbeat: float) -> AsyncIterator[ServerSentEvent]:
    # An id without data moves the browser's Last-Event-ID and is no event to the page.
    yield ServerSentEvent(id=watch.token, comment="following", retry=_RECONNECT_MS)
    while True:
        try:
            async with asyncio.timeout(heartbeat):
                change = await anext(watch)
        except TimeoutError:
            yield ServerSentEvent(id=watch.token, comment="heartbeat")
        except StopAsyncIteration:
            return
        except SessionError as error:
            # The response has begun; when the client comes again with its last id it gets the error as such.
            log(LogEvent.EVENT_STREAM_ENDED, error=error)
            return
        else:
            told = SessionEvent.of(change.snapshot)
            yield ServerSentEvent(id=change.token, event="session", data=told.model_dump_json())


def session_events(
    current_user: Callable[..., Any],
    *,
    path: str = "/sessions/events",
    heartbeat: timedelta = DEFAULT_HEARTBEAT,
) -> APIRouter:
    """A route that tells a user's browser of the changes of that user's sessions, as server-sent events.

    Each event is named ``session``, its data a `SessionEvent`, its id the change's token, so that a browser that
    lost its connection goes on by itself where it was (``Last-Event-ID``). ``?conversation_id=`` narrows it. Whose
    changes are told is decided by the dependency alone. Where the changes since that id are gone it answers 410: the
    page reads its state anew and begins a new stream.

    Args:
        current_user: A dependency that authenticates the request and returns the user's id; it raises otherwise.
        path: The route's path.
        heartbeat: How long the stream may be silent, 1 ms to 7 days.

    Returns:
        A router, for ``app.include_router``.

    Raises:
        InvalidSessionInput: ``heartbeat`` is outside its limits.
    """
    silence = inputs.duration("heartbeat", heartbeat).total_seconds()
    routes = APIRouter()

    @routes.get(path, response_class=EventSourceResponse)
    async def follow(
        repository: Repository,
        user_id: Annotated[int, Depends(current_user)],
        conversation_id: Annotated[str | None, Query()] = None,
        last_event_id: Annotated[str | None, Header()] = None,
    ) -> EventSourceResponse:
        watch = repository.watch(user_id=user_id, conversation_id=conversation_id, resume_after=last_event_id or None)
        # Begun before the response, so that a refusal has its own status.
        await watch.__aenter__()
        return _EventStream(watch, heartbeat=silence)

    return routes
