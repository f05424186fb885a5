"""`sessions.fastapi`: opened and closed with the application, errors as problems, changes as server-sent events."""

import asyncio
import inspect
import json
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any
from uuid import uuid4

import httpx
import pytest
import pytest_asyncio
import uvicorn
from fastapi import FastAPI, Header, HTTPException, WebSocket
from fastapi.requests import HTTPConnection

from sessions import (
    AskUser,
    CachedRouter,
    SessionBridge,
    SessionError,
    SessionRepository,
    StoreUnavailable,
    Turn,
    Upkeep,
    open_repository,
)
from sessions.domain import errors
from sessions.domain.errors import SessionRef, WriteOutcome
from sessions.fastapi import (
    Bridge,
    Repository,
    Router,
    SessionEvent,
    add_session_handlers,
    get_repository,
    problem_of,
    session_events,
    sessions_lifespan,
)
from sessions.store.document import COLLECTION
from sessions.testing import Backend

if TYPE_CHECKING:
    from sessions.store.clients import Database

SECRET = "a text of the user"  # noqa: S105 - what must not be told


async def graph(turn: Turn) -> AskUser:
    """Asks the same again."""
    return AskUser(turn.session.state.pending_question)


def current_user(x_user: Annotated[int | None, Header()] = None) -> int:
    """Who the test says it is."""
    if x_user is None:
        raise HTTPException(401)
    return x_user


def made_app(database: "Database", *, live: bool) -> FastAPI:
    """An application with a route for each dependency; ``live`` where the backend has change streams."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with sessions_lifespan(
            app,
            open_repository(database, create_indexes=True),
            bridge=lambda repository: SessionBridge(repository, graph),
            router=CachedRouter if live else None,
            upkeep=Upkeep,
        ):
            yield

    app = FastAPI(lifespan=lifespan)
    add_session_handlers(app)
    app.include_router(session_events(current_user, path="/events", heartbeat=timedelta(milliseconds=200)))

    @app.get("/route/{conversation_id}")
    async def route(conversation_id: str, router: Router) -> str:
        return (await router.route(1, conversation_id)).action.value

    @app.get("/sessions/{session_id}")
    async def session(session_id: str, repository: Repository) -> SessionEvent:
        return SessionEvent.of(await repository.get(session_id, user_id=1))

    @app.post("/confirm/{session_id}")
    async def confirm(session_id: str, preview_id: str, bridge: Bridge) -> str:
        return type(await bridge.confirm(1, session_id, preview_id=preview_id)).__name__

    return app


@pytest.fixture
def app(database: "Database", backend: Backend) -> FastAPI:
    """The application on each backend."""
    return made_app(database, live=not backend.gaps.get("change_streams"))


@asynccontextmanager
async def client_of(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an application that has started."""
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
            yield client


def opened(app: FastAPI) -> SessionRepository:
    """The application's repository."""
    repository: SessionRepository = app.state.active_schedule_sessions.repository
    return repository


async def test_the_dependencies(app: FastAPI) -> None:
    """A route gets repository, router and bridge of the application that serves it."""
    async with client_of(app) as client:
        made = await opened(app).create(1, "t", conversation_id="c", pending_question=SECRET)
        assert (await client.get("/route/c")).json() == "resume"
        told = (await client.get(f"/sessions/{made.session_id}")).json()
        assert (told["status"], told["intercepts"], told["question_id"]) == (
            "waiting_user_reply",
            True,
            made.question_id,
        )
        assert not {"user_id", "lease", "fencing_token", "answered_reply_ids", "trigger_id"} & set(told)


async def test_what_is_not_open() -> None:
    """A route without a lifespan, or one without a bridge, fails with what to do."""
    app = FastAPI()

    @app.get("/")
    async def route(router: Router) -> None:
        del router

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as client:
        with pytest.raises(RuntimeError, match="sessions_lifespan"):
            await client.get("/")


async def test_a_refusal_is_a_problem(app: FastAPI) -> None:
    """Each refusal has its HTTP status, its kind, ids and reason, and nothing that a user wrote."""
    async with client_of(app) as client:
        made = await opened(app).create(1, "t", conversation_id="c", pending_question=SECRET)
        ready = await opened(app).create(1, "u", preview_id="preview-1")
        answers = [
            await client.get("/sessions/none"),
            await client.get("/sessions/" + "x" * 65),
            await client.post(f"/confirm/{made.session_id}", params={"preview_id": "p"}),
            await client.post(f"/confirm/{ready.session_id}", params={"preview_id": "p"}),
        ]
        assert (
            await client.post(f"/confirm/{ready.session_id}", params={"preview_id": "preview-1"})
        ).json() == "Applied"
    assert [answer.status_code for answer in answers] == [404, 422, 409, 409]
    for answer in answers:
        assert answer.headers["content-type"] == "application/problem+json"
        assert SECRET not in answer.text
    missing, invalid, _, stale = (answer.json() for answer in answers)
    assert missing == {
        "type": "about:blank",
        "title": "Not Found",
        "status": 404,
        "error": "SessionNotFound",
        "session_id": "none",
    }
    assert (invalid["error"], invalid["argument"]) == ("InvalidSessionInput", "session_id")
    assert stale == {
        "type": "about:blank",
        "title": "Conflict",
        "status": 409,
        "error": "StalePreview",
        "session_id": ready.session_id,
        "session_status": "ready_preview",
        "revision": ready.revision,
        "current_preview_id": "preview-1",
    }


KINDS = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, SessionError) and kind is not SessionError
]


def as_unpickled(kind: type[SessionError], text: str, attributes: dict[str, Any]) -> SessionError:
    """An error without its constructor, since each kind has arguments of its own."""
    error = kind.__new__(kind, text)
    error.__dict__.update(attributes)
    return error


async def test_every_error_is_a_problem(app: FastAPI) -> None:
    """Every kind of error is answered with its own status, by one handler; a 503 says when to come again."""
    async with client_of(app) as client:
        stored = await opened(app).create(1, "t", pending_question=SECRET)
        known = {"session_id": "s", "user_id": 1, "status": stored.status, "revision": 3, "session": stored}

        @app.get("/failing/{number}")
        async def failing(number: int) -> None:
            raise as_unpickled(KINDS[number], SECRET, known)

        for number, kind in enumerate(KINDS):
            answer = await client.get(f"/failing/{number}")
            assert answer.status_code == kind.http_status
            assert answer.json() == {
                "type": "about:blank",
                "title": HTTPStatus(kind.http_status).phrase,
                "status": kind.http_status,
                "error": kind.__name__,
                "session_id": "s",
                "session_status": "waiting_user_reply",
                "revision": 3,
                **({"may_pass": True} if kind is StoreUnavailable else {}),
            }
            assert answer.json() == problem_of(as_unpickled(kind, SECRET, known))
            assert ("retry-after" in answer.headers) is (kind is StoreUnavailable)


# --- one repository an application ------------------------------------------------------------------------------


@pytest_asyncio.fixture(loop_scope="session")
async def second_database(database: Any) -> AsyncIterator[Any]:
    """Another empty database on the same client."""
    other = database.client[f"sessions_test_{uuid4().hex[:16]}"]
    yield other
    await database.client.drop_database(other.name)


async def told_by(app: FastAPI) -> SessionRepository:
    """What a route of the application gets."""
    return get_repository(HTTPConnection({"type": "http", "app": app}))


async def test_a_second_repository_is_refused(app: FastAPI, second_database: Any) -> None:
    """Not the last one wins, silently, with the data in its database: who opens it learns what to do instead."""
    async with client_of(app):
        first = opened(app)
        opening = open_repository(second_database, create_indexes=True)
        with pytest.raises(RuntimeError, match=r"has its sessions already.*app\.mount"):
            async with sessions_lifespan(app, opening):
                pytest.fail("entered")
        assert await told_by(app) is first
        await first.create(1, "t", pending_question="?")


async def test_of_two_at_once_one_is_refused(database: Any, second_database: Any) -> None:
    """The place is taken before the database is opened, and free again if that fails."""
    app = FastAPI()
    ends = asyncio.Event()

    async def serve(opening: Any) -> None:
        async with sessions_lifespan(app, opening):
            await ends.wait()

    with pytest.raises(SessionError):  # it holds no indexes
        await serve(open_repository(database))
    serving = [
        asyncio.create_task(serve(open_repository(each, create_indexes=True))) for each in (database, second_database)
    ]
    done, _ = await asyncio.wait(serving, return_when=asyncio.FIRST_COMPLETED)
    assert done == {serving[1]}
    assert isinstance(serving[1].exception(), RuntimeError)
    ends.set()
    await serving[0]


async def test_after_the_lifespan_there_is_none(app: FastAPI) -> None:
    """A closed repository is handed out to nobody, not even while it is being closed; the next lifespan has its own."""
    for _ in range(2):
        async with client_of(app):
            repository = await told_by(app)
            closing, close = asyncio.Event(), repository.close

            async def closed_slowly(closing: asyncio.Event = closing, close: Any = close) -> None:
                with pytest.raises(RuntimeError, match="no sessions are open"):
                    await told_by(app)
                closing.set()
                await close()

            repository.close = closed_slowly  # type: ignore[method-assign]  # to look in mid-close
        with pytest.raises(RuntimeError, match="no sessions are open"):
            await told_by(app)


async def test_a_mounted_application_has_its_own(database: Any, second_database: Any) -> None:
    """Two databases are two applications, one mounted in the other: each route gets that of its own."""
    inner = FastAPI()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with (
            sessions_lifespan(app, open_repository(database, create_indexes=True)),
            sessions_lifespan(inner, open_repository(second_database, create_indexes=True)),
        ):
            yield

    outer = FastAPI(lifespan=lifespan)
    outer.mount("/inner", inner)
    for each in (outer, inner):

        @each.post("/make")
        async def make(repository: Repository) -> str:
            return (await repository.create(1, "t", pending_question="?")).session_id

    async with client_of(outer) as client:
        made = (await client.post("/make")).json()
        assert (await client.post("/inner/make")).json() == made  # the same trigger, in another database
        assert await database[COLLECTION].count_documents({}) == 1
        assert await second_database[COLLECTION].count_documents({}) == 1


# --- websockets -------------------------------------------------------------------------------------------------


def unavailable() -> StoreUnavailable:
    """As the store would say it."""
    return StoreUnavailable(SessionRef(), outcome=WriteOutcome.NOT_WRITTEN, cause=SECRET)


def add_websockets(app: FastAPI) -> None:
    """Routes that fail before and after they accept."""

    @app.websocket("/sockets/{session_id}")
    async def socket(websocket: WebSocket, repository: Repository, session_id: str, *, accept: bool = False) -> None:
        if accept:
            await websocket.accept()
        if session_id == "unavailable":
            raise unavailable()
        if session_id == "interrupted":
            raise as_unpickled(SessionError, SECRET, {"session_id": None})
        if session_id == "gone":
            await websocket.close()
        await repository.get(session_id, user_id=1)


async def said_to(app: FastAPI, path: str, *, denial: bool = True, leaves: bool = False) -> list[Any]:
    """What the application sends to a websocket."""
    said: list[Any] = []
    told = [{"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1001}]

    async def receive() -> Any:
        return told.pop(0)

    async def send(message: Any) -> None:
        if leaves and message["type"] == "websocket.close":
            raise OSError
        said.append(message)

    path, _, query = path.partition("?")
    scope = {
        "type": "websocket",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [],
        "subprotocols": [],
        "scheme": "ws",
        "server": ("app", 80),
        "root_path": "",
        "extensions": {"websocket.http.response": {}} if denial else {},
    }
    await app(scope, receive, send)
    return said


@pytest.mark.parametrize(
    ("session_id", "status", "code", "reason"),
    [
        ("none", 404, 1008, "SessionNotFound"),
        ("x" * 65, 422, 1008, "InvalidSessionInput"),
        ("unavailable", 503, 1013, "StoreUnavailable"),
        ("interrupted", 500, 1011, "SessionError"),
    ],
)
async def test_a_websocket_is_denied_or_closed(
    app: FastAPI, session_id: str, status: int, code: int, reason: str
) -> None:
    """Before it is accepted it gets the problem, after it a code and the kind of error; never what a user wrote."""
    add_websockets(app)
    async with client_of(app):
        start, *body = await said_to(app, f"/sockets/{session_id}")
        assert (start["type"], start["status"]) == ("websocket.http.response.start", status)
        headers = dict(start["headers"])
        assert headers[b"content-type"] == b"application/problem+json"
        assert (b"retry-after" in headers) is (status == 503)
        told = b"".join(each["body"] for each in body)
        assert json.loads(told)["error"] == reason
        assert SECRET.encode() not in told
        (refused,) = await said_to(app, f"/sockets/{session_id}", denial=False)
        assert (refused["type"], refused["code"]) == ("websocket.close", code)
        accepted, closed = await said_to(app, f"/sockets/{session_id}?accept=1")
        assert accepted["type"] == "websocket.accept"
        assert closed == {"type": "websocket.close", "code": code, "reason": reason}


async def test_a_websocket_that_has_ended_is_told_nothing(app: FastAPI) -> None:
    """Closed by the route, or left by the client: an error after that needs no second close."""
    add_websockets(app)
    async with client_of(app):
        assert [each["type"] for each in await said_to(app, "/sockets/gone?accept=1")] == [
            "websocket.accept",
            "websocket.close",
        ]
        assert [each["type"] for each in await said_to(app, "/sockets/none?accept=1", leaves=True)] == [
            "websocket.accept"
        ]


# --- events, over a real server ---------------------------------------------------------------------------------


class Served:
    """An application under uvicorn, in this process."""

    def __init__(self, app: FastAPI) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.origin = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="on"))
        # Not `serve`, which takes all signals of this process; by this one's handler the streams know their server.
        self._before = signal.signal(signal.SIGTERM, self._server.handle_exit)
        self._task = asyncio.create_task(self._server._serve([self._socket]))

    async def until_up(self) -> None:
        """Wait until it serves."""
        while not self._server.started:
            if self._task.done():
                await self._task
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        """As a signal would."""
        self._server.should_exit = True
        await asyncio.wait_for(self._task, 10)
        signal.signal(signal.SIGTERM, self._before)
        self._socket.close()


class Events:
    """Reads an event stream: fields of each block."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self._lines = answer.aiter_lines()

    async def next_block(self) -> dict[str, str]:
        """The next event or heartbeat; empty at the end."""
        block: dict[str, str] = {}
        async with asyncio.timeout(10):
            async for line in self._lines:
                if line:
                    name, _, value = line.partition(":")
                    block[name] = value.strip()
                elif block:
                    return block
        return {}

    async def next_event(self) -> dict[str, Any]:
        """The next event's session, with its id."""
        while block := await self.next_block():
            if "data" in block:
                assert block["event"] == "session"
                return {**json.loads(block["data"]), "id": block["id"]}
        raise AssertionError("the stream has ended")


Follow = Callable[..., Awaitable[Events]]


@pytest_asyncio.fixture(loop_scope="session")
async def served(app: FastAPI) -> AsyncIterator[Served]:
    """The application under uvicorn."""
    server = Served(app)
    await server.until_up()
    yield server
    await server.stop()


@pytest_asyncio.fixture(loop_scope="session")
async def follow(served: Served) -> AsyncIterator[Follow]:
    """Opens the event stream."""
    async with httpx.AsyncClient(base_url=served.origin, timeout=20) as client:
        answers: list[httpx.Response] = []

        async def begin(user: int, *, last_event_id: str | None = None, **parameters: str) -> Events:
            headers = {"x-user": str(user), **({"last-event-id": last_event_id} if last_event_id else {})}
            request = client.build_request("GET", "/events", headers=headers, params=parameters)
            answers.append(await client.send(request, stream=True))
            return Events(answers[-1])

        yield begin
        for answer in answers:
            await answer.aclose()


@pytest.mark.needs("change_streams")
async def test_events(app: FastAPI, follow: Follow) -> None:
    """A user hears of his own sessions, as they change, and of nobody else's; a conversation narrows it."""
    sessions = opened(app)
    mine, narrowed = await follow(1), await follow(1, conversation_id="b", user_id="2")
    assert mine.answer.headers["content-type"].startswith("text/event-stream")
    await sessions.create(2, "theirs", conversation_id="b", pending_question="?")
    for conversation in ("a", "b"):
        await sessions.create(1, conversation, conversation_id=conversation, pending_question=SECRET)
    told = [await mine.next_event(), await mine.next_event()]
    assert [each["conversation_id"] for each in told] == ["a", "b"]
    assert told[0]["state"] == {"pending_question": SECRET}  # his own
    only = await narrowed.next_event()
    assert (only["conversation_id"], only["session_id"]) == ("b", told[1]["session_id"])


@pytest.mark.needs("change_streams")
async def test_events_go_on(app: FastAPI, follow: Follow) -> None:
    """With the last id a stream goes on behind it, also where the id came with a heartbeat."""
    sessions = opened(app)
    first = await follow(1)
    begun = await first.next_block()
    assert begun["id"]
    assert "data" not in begun
    await sessions.create(2, "theirs", pending_question="?")
    beaten = begun
    while beaten["id"] == begun["id"]:
        beaten = await first.next_block()  # the token moves on although nothing of his changes
    assert "data" not in beaten
    made = [await sessions.create(1, f"t{number}", pending_question="?") for number in range(3)]
    seen = await first.next_event()
    await first.answer.aclose()
    for last, missed in ((seen["id"], made[1:]), (beaten["id"], made), (begun["id"], made)):
        again = await follow(1, last_event_id=last)
        assert [(await again.next_event())["session_id"] for _ in missed] == [each.session_id for each in missed]


@pytest.mark.needs("change_streams")
async def test_events_refused(follow: Follow, served: Served) -> None:
    """Nobody's stream is a 401, an id that is none a problem of its own: before the stream begins, not in it."""
    answer = (await follow(1, last_event_id="no token")).answer
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    answer = (await follow(1, last_event_id="00")).answer
    assert (answer.status_code, answer.headers["content-type"]) == (410, "application/problem+json")
    async with httpx.AsyncClient(base_url=served.origin) as client:
        assert (await client.get("/events")).status_code == 401


@pytest.mark.needs("change_streams")
async def test_events_end_with_the_client(app: FastAPI, follow: Follow) -> None:
    """A client that goes away is no longer followed for."""
    feeds = opened(app)._feeds
    events = [await follow(1) for _ in range(3)]
    for each in events:
        await each.next_block()
    followers = feeds.shared()._followers
    before = len(followers)
    for each in events:
        await each.answer.aclose()
    async with asyncio.timeout(10):
        while len(followers) > before - 3:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.02)


@pytest.mark.needs("change_streams")
async def test_events_end_with_the_server(served: Served, follow: Follow) -> None:
    """A server that is asked to stop ends its streams in good order, and is not kept from stopping."""
    events = await follow(1)
    await events.next_block()
    await served.stop()
    while await events.next_block():
        pass
    assert events.answer.is_stream_consumed


async def test_events_without_a_replica_set(app: FastAPI, backend: Backend) -> None:
    """Where there are no change streams the route says what is needed."""
    if backend.is_real:
        pytest.skip(f"{backend.name}: has change streams")
    async with client_of(app) as client:
        answer = await client.get("/events", headers={"x-user": "1"})
    assert (answer.status_code, answer.json()["needs_replica_set"]) == (410, True)


@pytest.mark.slow
def test_a_missing_extra_is_named() -> None:
    """Without FastAPI the import fails with the command that installs it."""
    script = """
import sys
for package in ("fastapi", "sse_starlette"):
    sys.modules[package] = None
    try:
        import sessions.fastapi
    except ModuleNotFoundError as error:
        print(error)
    del sys.modules[package]
"""
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)  # noqa: S603 - our own
    wanted = "sessions.fastapi needs {}: pip install 'active-schedule-sessions[fastapi]'"
    assert told.stdout.splitlines() == [wanted.format(package) for package in ("fastapi", "sse_starlette")]
