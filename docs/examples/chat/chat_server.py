"""The chat application's web server: a page, its history, messages and buttons, and the sessions' own event stream."""

import asyncio
import base64
import hashlib
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar
from uuid import uuid4

import pymongo
from fastapi import APIRouter, Cookie, Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.exception_handlers import http_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
from lesson_assistant import Assistant, fate_of
from pydantic import BaseModel, Field, StringConstraints
from pymongo.errors import PyMongoError
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.types import Message as ASGIMessage

from sessions import (
    ActiveScheduleSessionSnapshot,
    CachedRouter,
    Confirmed,
    Database,
    Deferred,
    Dismissed,
    Handled,
    Held,
    SessionBridge,
    SessionError,
    SessionStatus,
    Stopped,
    Superseded,
    Upkeep,
    WhileRunning,
    action_url,
    open_repository,
)
from sessions.fastapi import (
    Bridge,
    Repository,
    Router,
    SessionEvent,
    add_session_handlers,
    session_events,
    sessions_lifespan,
)

logger = logging.getLogger("chat")

HERE: Final = Path(__file__).parent
_ASSISTANT: Final = (HERE / "assistant.html").read_text(encoding="utf-8")
_HOME: Final = (HERE / "home.html").read_text(encoding="utf-8")
_NOTHING: Final = (HERE / "nothing.html").read_text(encoding="utf-8")
_CHECKED_WITHIN: Final = 1.5
"""Seconds that a page waits to know whose conversation it is; then it is sent all the same, and says what is wrong."""
_HELD_FOR: Final = timedelta(seconds=20)
"""How long a held message that has come again waits here for the assistant, before it is sent back once more."""
_AGAIN: Final = timedelta(seconds=0.25)
"""After which a held message comes again."""
Ended = TypeVar("Ended", Dismissed | Held, Stopped | Held)
MessageId = Annotated[str, Field(pattern=r"^[\w-]{1,48}$")]
Words = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=4000, pattern=r"^[^\x00]*$")]


def _headers_of(page: str) -> dict[str, str]:
    """The page runs its own script and style, by their hashes, and nothing else."""
    allowed = {}
    for tag in ("script", "style"):
        inline = re.findall(rf"<{tag}>(.*?)</{tag}>", page, flags=re.DOTALL)
        digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in inline]
        allowed[tag] = " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"
    policy = (
        f"default-src 'none'; script-src {allowed['script']}; style-src {allowed['style']}; connect-src 'self'; "
        "img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    return {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "same-origin",
        "Cache-Control": "no-store",
    }


class Message(BaseModel):
    """A chat message; sent again it has the same id."""

    message_id: MessageId
    text: Words
    question_id: str | None = None
    while_running: WhileRunning = WhileRunning.HOLD


class Change(BaseModel):
    """A change to the preview that its sender saw."""

    message_id: MessageId
    text: Words
    preview_id: str


class Confirmation(BaseModel):
    """A yes to the preview that its sender saw."""

    preview_id: str


def current_user(user: Annotated[str | None, Cookie()] = None) -> int:
    """Who it is. A demonstration: a real application puts its own authentication here."""
    if user is None or not re.fullmatch(r"[1-9]\d{0,17}", user, flags=re.ASCII):
        raise HTTPException(401, "choose a user first")
    return int(user)


User = Annotated[int, Depends(current_user)]


def _assistant(request: Request) -> Assistant:
    found: Assistant = request.app.state.assistant
    return found


Store = Annotated[Assistant, Depends(_assistant)]


async def own_conversation(conversation_id: str, user_id: User, assistant: Store) -> str:
    """The conversation, where it is this user's; another's is a 404 like one that does not exist."""
    if await assistant.conversation(user_id, conversation_id) is None:
        raise HTTPException(404, "no such conversation")
    return conversation_id


Own = Annotated[str, Depends(own_conversation)]
# A conversation's id may contain slashes, hence `:path`.
routes = APIRouter()


# --- pages --------------------------------------------------------------------------------------------------


@routes.get("/")
async def home() -> HTMLResponse:
    """The user's conversations, and a trigger to try."""
    return HTMLResponse(_HOME, headers=_headers_of(_HOME))


@routes.get("/user")
async def choose_user(user: Annotated[int, Query(ge=1, le=10**17)]) -> RedirectResponse:
    """Be this user from now on."""
    answer = RedirectResponse("/", 303)
    answer.set_cookie("user", str(user), httponly=True, samesite="lax")
    return answer


@routes.get("/assistant/{conversation_id:path}")
async def assistant_page(
    conversation_id: str, assistant: Store, user: Annotated[str | None, Cookie()] = None
) -> HTMLResponse:
    """The page of a conversation; 404 where this user has none such."""
    # The page says itself what is wrong, also where the history cannot be read; the status is for everybody else.
    status = 200
    try:
        with pymongo.timeout(_CHECKED_WITHIN):
            await own_conversation(conversation_id, current_user(user), assistant)
    except HTTPException as refused:
        status = refused.status_code
    except PyMongoError:
        status = 503
    return HTMLResponse(_ASSISTANT, status, _headers_of(_ASSISTANT))


# --- conversations ------------------------------------------------------------------------------------------


@routes.get("/api/conversations")
async def conversations(user_id: User, assistant: Store, repository: Repository) -> dict[str, Any]:
    """A user's conversations, and who governs each."""
    found = await assistant.conversations_of(user_id)
    governed = await repository.route_many(user_id, [each["_id"] for each in found])
    listed = [
        {"id": each["_id"], "title": each["title"], "action": governed[each["_id"]].action.value} for each in found
    ]
    return {"user_id": user_id, "conversations": listed}


@routes.post("/api/triggers")
async def trigger(user_id: User, assistant: Store, bridge: Bridge) -> dict[str, str]:
    """A lesson falls on a holiday: the graph asks on its own initiative, and the notification leads to the page."""
    number = uuid4().hex[:8]
    conversation_id = trigger_id = f"lesson-{number}"
    await assistant.begin(user_id, conversation_id, f"Move lesson {number}")
    question = assistant.first_question()
    started = await bridge.start(user_id, trigger_id, question, conversation_id=conversation_id)
    await assistant.say(user_id, conversation_id, "first", role="assistant", text=question.pending_question)
    return {"url": action_url(started.session)}


@routes.get("/api/conversations/{conversation_id:path}")
async def history(
    conversation_id: Own, user_id: User, assistant: Store, repository: Repository, router: Router
) -> dict[str, Any]:
    """All that the page shows."""
    # First what was said, then where the session stands: nobody reads a question here under an older one's id.
    messages = await assistant.said(user_id, conversation_id)
    session = await repository.latest(user_id, conversation_id)
    route = await router.route(user_id, conversation_id)
    status = None if session is None else repository.present_status(session)
    lease = session.lease if session is not None and status is SessionStatus.RERUNNING else None
    return {
        "title": await assistant.title(user_id, conversation_id),
        "action": route.action.value,
        "session": None if session is None else SessionEvent.of(session).model_dump(mode="json"),
        "status": status,
        "works_on": lease and lease.reply_id,
        "preview": None if session is None else await assistant.preview_of(session),
        "messages": messages,
    }


# --- what a user does ---------------------------------------------------------------------------------------


@routes.post("/api/conversations/{conversation_id:path}/messages")
async def message(
    conversation_id: Own,
    sent: Message,
    user_id: User,
    assistant: Store,
    repository: Repository,
    bridge: Bridge,
    response: Response,
) -> dict[str, Any]:
    """A chat message: is it the awaited answer?"""
    # Shown from the start, in every window; a message that is refused goes back to its sender.
    before = await assistant.say(user_id, conversation_id, sent.message_id, role="user", text=sent.text)
    if before is not None and before.get("fate") == "stopped":
        return {"outcome": "Superseded"}  # while its sender had no connection; only the user begins it anew
    wait = timedelta(0)
    if before is not None:
        # One that is being worked on does not wait for its own end: it would go on where its user stops it.
        governing = (await repository.route(user_id, conversation_id)).session
        is_own = governing is not None and governing.lease is not None and governing.lease.reply_id == sent.message_id
        wait = timedelta(0) if is_own else _HELD_FOR
    try:
        outcome = await bridge.handle(
            user_id,
            conversation_id,
            sent.text,
            message_id=sent.message_id,
            question_id=sent.question_id,
            redelivered=before is not None,  # known better here than by a page that got no answer
            while_running=sent.while_running,
            wait=wait,
        )
    except SessionError as error:
        if error.http_status < HTTPStatus.INTERNAL_SERVER_ERROR:
            await assistant.unsay(user_id, conversation_id, sent.message_id)
        raise
    if (answer := assistant.answer_to(outcome)) is not None:
        await assistant.say(user_id, conversation_id, sent.message_id, role="assistant", text=answer)
    await assistant.mark(user_id, conversation_id, sent.message_id, fate_of(outcome, sent.message_id))
    return _told(outcome, response)


@routes.post("/api/conversations/{conversation_id:path}/sessions/{session_id}/refine")
async def refine(
    conversation_id: Own,
    session_id: str,
    sent: Change,
    user_id: User,
    assistant: Store,
    bridge: Bridge,
    response: Response,
) -> dict[str, Any]:
    """The user wants the proposal changed."""
    outcome = await bridge.refine(
        user_id, session_id, sent.text, preview_id=sent.preview_id, message_id=sent.message_id
    )
    if not isinstance(outcome, Held | Deferred | Superseded):
        await assistant.say(user_id, conversation_id, sent.message_id, role="user", text=sent.text)
        if (answer := assistant.answer_to(outcome)) is not None:
            await assistant.say(user_id, conversation_id, sent.message_id, role="assistant", text=answer)
    return _told(outcome, response)


@routes.post("/api/sessions/{session_id}/confirm")
async def confirm(
    session_id: str, sent: Confirmation, user_id: User, bridge: Bridge, response: Response
) -> dict[str, Any]:
    """The user says yes."""
    return _told(await bridge.confirm(user_id, session_id, preview_id=sent.preview_id), response)


@routes.post("/api/sessions/{session_id}/dismiss")
async def dismiss(
    session_id: str, user_id: User, assistant: Store, repository: Repository, bridge: Bridge, response: Response
) -> dict[str, Any]:
    """The user does not want it."""
    end = partial(bridge.dismiss, user_id, session_id, reason="dismissed on the page")
    return _told(await _cut_short(await repository.get(session_id, user_id=user_id), assistant, end), response)


@routes.post("/api/sessions/{session_id}/stop")
async def stop(
    session_id: str, user_id: User, assistant: Store, repository: Repository, bridge: Bridge, response: Response
) -> dict[str, Any]:
    """The user does not want to wait for what the assistant is at; whichever process that is in, or was."""
    end = partial(bridge.stop, user_id, session_id)
    return _told(await _cut_short(await repository.get(session_id, user_id=user_id), assistant, end), response)


async def _cut_short(
    session: ActiveScheduleSessionSnapshot, assistant: Assistant, end: Callable[[], Awaitable[Ended]]
) -> Ended:
    """End what the assistant may be at; its message is marked first, so that no delivery under way begins it anew."""
    message_id = session.lease.reply_id if session.lease is not None else None
    if session.conversation_id is None or message_id is None:
        return await end()
    mark = partial(assistant.mark, session.user_id, session.conversation_id, message_id)
    await mark("stopped")
    try:
        outcome = await end()
    except SessionError:
        await mark(None)
        raise
    if message_id in outcome.session.answered_reply_ids:
        await mark(None)  # too late: it was handled
    return outcome


def _told(outcome: Handled | Confirmed | Dismissed | Stopped, response: Response) -> dict[str, Any]:
    """What the page is told; 202 for what nothing has come of yet, with when it is to come again, and how."""
    told: dict[str, Any] = {"outcome": type(outcome).__name__}
    if isinstance(outcome, Held | Deferred):
        response.status_code = 202
        after = outcome.after if isinstance(outcome, Deferred) else _AGAIN
        told |= {"after": after.total_seconds(), "question_id": outcome.question_id}
    return told


# --- the application --------------------------------------------------------------------------------------------------


def chat_app(
    database: Database, *, lease: timedelta = timedelta(seconds=60), heartbeat: timedelta = timedelta(seconds=15)
) -> FastAPI:
    """The application over a database; the client stays its caller's.

    Args:
        database: Where sessions, conversations, messages and previews are.
        lease: How long a dead process holds a conversation.
        heartbeat: How long the event stream may be silent.
    """
    assistant = Assistant(database)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await assistant.prepare()
        async with sessions_lifespan(
            app,
            open_repository(database, create_indexes=True, lease=lease),
            bridge=lambda sessions: SessionBridge(sessions, assistant.rerun, write_back=assistant.write_back),
            router=CachedRouter,
            upkeep=lambda sessions: Upkeep(sessions, write_back=assistant.write_back),
        ):
            yield

    app = FastAPI(title="Lesson chat", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.assistant = assistant
    app.add_middleware(_GoneOnElsewhere)
    add_session_handlers(app)
    app.add_exception_handler(PyMongoError, _no_store)
    app.add_exception_handler(404, _nothing)
    app.add_exception_handler(RequestValidationError, _no_such_input)
    app.include_router(session_events(current_user, path="/api/events", heartbeat=heartbeat))
    app.include_router(routes)
    return app


def _problem(status: HTTPStatus, **more: Any) -> JSONResponse:
    problem = {"type": "about:blank", "title": status.phrase, "status": status.value, **more}
    headers = {"Retry-After": "1"} if status is HTTPStatus.SERVICE_UNAVAILABLE else None
    return JSONResponse(problem, status, headers, media_type="application/problem+json")


def _later() -> JSONResponse:
    return _problem(HTTPStatus.SERVICE_UNAVAILABLE)


async def _no_such_input(_request: Request, error: Exception) -> JSONResponse:
    # Where and of which kind, but not what was sent: half a character could not even be sent back.
    refused = error.errors() if isinstance(error, RequestValidationError) else []
    told = [{"where": [str(part) for part in each["loc"]], "kind": each["type"]} for each in refused]
    return _problem(HTTPStatus.UNPROCESSABLE_ENTITY, refused=told)


async def _no_store(_request: Request, error: Exception) -> JSONResponse:
    logger.error("the application's own collections do not answer: %s", type(error).__name__)
    return _later()


async def _nothing(request: Request, error: Exception) -> Response:
    if "text/html" in request.headers.get("accept", ""):
        return HTMLResponse(_NOTHING, 404, _headers_of(_NOTHING))
    if not isinstance(error, StarletteHTTPException):
        raise error
    return await http_exception_handler(request, error)


class _GoneOnElsewhere:
    """A request that is cancelled because the server stops is answered: come again, to whoever serves then."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_begun = False

        async def sent(message: ASGIMessage) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self._app(scope, receive, sent)
        except asyncio.CancelledError:
            if scope["type"] != "http" or has_begun:
                raise
            await _later()(scope, receive, send)
