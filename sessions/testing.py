"""Pytest fixtures: a repository on each backend, a ``mongod`` per run, a clock to move, sessions in any status."""

import os
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from inspect import iscoroutinefunction
from itertools import count
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import pytest
import pytest_asyncio
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent

from sessions.document import COLLECTION
from sessions.driver import connect, connect_double, disconnect
from sessions.models import ActiveScheduleSessionSnapshot, ApplyClaim, RerunClaim, derive_session_id
from sessions.mongod import find_mongod, running_mongod
from sessions.repository import SessionRepository, open_repository
from sessions.status import CALLS, CallName, LeaseKind, SessionStatus

if TYPE_CHECKING:
    from sessions.driver import Client, Database


class MovedClock:
    """A clock that stands still until the test moves it."""

    def __init__(self, at: datetime) -> None:
        self.at = at

    def __call__(self) -> datetime:
        """The present moment."""
        return self.at

    def advance(self, **by: float) -> None:
        """Move on by a `timedelta`'s arguments: ``clock.advance(seconds=61)``."""
        self.at += timedelta(**by)


class CommandCounter(CommandListener):
    """Counts what the driver sends, by command name; `counting` limits it to a stretch of a test."""

    _UNRELATED: Final = frozenset({"hello", "ismaster", "ping", "endSessions", "killCursors"})

    def __init__(self) -> None:
        self._counts: Counter[str] | None = None
        self.commands: list[Mapping[str, Any]] = []

    @contextmanager
    def counting(self) -> Iterator[Counter[str]]:
        """The commands sent within the block."""
        counts: Counter[str] = Counter()
        self._counts, self.commands = counts, []
        try:
            yield counts
        finally:
            self._counts = None

    def started(self, event: CommandStartedEvent) -> None:
        """Count one."""
        if self._counts is not None and event.command_name not in self._UNRELATED:
            self._counts[event.command_name] += 1
            self.commands.append(event.command)

    def succeeded(self, event: CommandSucceededEvent) -> None:
        """Counted when it was sent."""

    def failed(self, event: CommandFailedEvent) -> None:
        """Counted when it was sent."""


_BEANIE_2: Final = not version("beanie").startswith("1.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """One store that the suite runs on, and what it cannot show."""

    name: str
    gaps: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_real(self) -> bool:
        """Whether a server answers."""
        return self.name != "double"


BACKENDS: Final[Mapping[str, Backend]] = {
    "double": Backend(
        name="double",
        gaps={
            "server": "mongomock-motor is no server: neither plans nor commands nor atomicity can be seen on it",
            "transactions": "mongomock-motor has none",
            "change_streams": "mongomock-motor has no change streams",
            "beanie": "Beanie 2 does not start on mongomock-motor" if _BEANIE_2 else "",
        },
    ),
    "motor": Backend(name="motor", gaps={"beanie": "Beanie 2 refuses a Motor client" if _BEANIE_2 else ""}),
    "pymongo": Backend(name="pymongo"),
}


_CHOSEN: Final = "sessions_backends"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Which backends an application has."""
    parser.addini(
        _CHOSEN,
        f"each test that uses the sessions' fixtures runs on each of these: {', '.join(BACKENDS)} (default: all)",
        type="args",
        default=list(BACKENDS),
    )


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker, and refuse a backend that there is not."""
    needs = ", ".join(BACKENDS["double"].gaps)
    config.addinivalue_line(
        "markers", f"needs(capability): skipped, with the reason, on a backend that lacks it, one of {needs}"
    )
    if unknown := set(config.getini(_CHOSEN)) - BACKENDS.keys():
        raise pytest.UsageError(f"{_CHOSEN} names {', '.join(sorted(unknown))}; there are {', '.join(BACKENDS)}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the backends that were not chosen."""
    left_out = BACKENDS.keys() - set(config.getini(_CHOSEN))
    dropped = [item for item in items if _backend_of(item) in left_out]
    if dropped:
        items[:] = [item for item in items if _backend_of(item) not in left_out]
        config.hook.pytest_deselected(items=dropped)


def _backend_of(item: pytest.Item) -> object:
    return (
        item.callspec.params.get("backend") if isinstance(item, pytest.Function) and hasattr(item, "callspec") else None
    )


def _refuse_another_loop(request: pytest.FixtureRequest) -> None:
    """Say what is missing where the test would run on another event loop than the clients of the run."""
    marker = request.node.get_closest_marker("asyncio")
    scope = marker.kwargs.get("loop_scope") if marker is not None else None
    if (scope or request.config.getini("asyncio_default_test_loop_scope")) != "session" and iscoroutinefunction(
        request.function
    ):
        pytest.fail(
            'the clients of a run live on one event loop: set asyncio_default_test_loop_scope = "session" in the '
            "configuration of pytest",
            pytrace=False,
        )


@pytest.fixture
def session_clock() -> MovedClock:
    """A clock at the start of 2026, to be moved by the test."""
    return MovedClock(datetime(2026, 1, 1, tzinfo=UTC))


@pytest.fixture(scope="session")
def _clients() -> dict[str, tuple["Client", CommandCounter]]:
    return {}


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def mongod_uri(_clients: dict[str, tuple["Client", CommandCounter]]) -> AsyncIterator[str]:
    """A real server for the run: MONGODB_URI, else a ``mongod`` of the run's own, else a skip that says so."""
    async with AsyncExitStack() as stack:
        if given := os.environ.get("MONGODB_URI"):
            uri = given
        elif binary := find_mongod():
            uri = await stack.enter_async_context(running_mongod(binary))
        else:
            pytest.skip("no MONGODB_URI, no mongod on PATH, and the `server` extra has none for this platform")
        yield uri
        # Before the server goes: a client that is closed later waits for it in vain.
        for client, _ in _clients.values():
            await disconnect(client)


@pytest.fixture(params=list(BACKENDS))
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each backend in turn; one that lacks what the test ``needs`` is skipped by name."""
    found = BACKENDS[request.param]
    for need in request.node.iter_markers("needs"):
        if reason := found.gaps.get(need.args[0]):
            pytest.skip(f"{found.name}: {reason}")
    return found


@pytest.fixture
def _client(
    backend: Backend, request: pytest.FixtureRequest, _clients: dict[str, tuple["Client", CommandCounter]]
) -> tuple["Client", CommandCounter]:
    counter = CommandCounter()
    if not backend.is_real:
        return connect_double(), counter
    _refuse_another_loop(request)
    uri: str = request.getfixturevalue("mongod_uri")
    if backend.name not in _clients:
        _clients[backend.name] = (connect(uri, driver=backend.name, listeners=[counter]), counter)
    return _clients[backend.name]


@pytest.fixture
def command_counter(_client: tuple["Client", CommandCounter]) -> CommandCounter:
    """Counts the commands of the backend's client."""
    return _client[1]


@pytest_asyncio.fixture(loop_scope="session")
async def database(_client: tuple["Client", CommandCounter]) -> AsyncIterator["Database"]:
    """An empty database of the test's own, removed after it."""
    client: Any = _client[0]
    name = f"sessions_test_{uuid4().hex[:16]}"
    yield client[name]
    await client.drop_database(name)


@pytest_asyncio.fixture(loop_scope="session")
async def repository(database: "Database", session_clock: MovedClock) -> AsyncIterator[SessionRepository]:
    """A repository over an empty database of its own, on each backend in turn, by the moved clock."""
    async with open_repository(database, create_indexes=True, clock=session_clock) as opened:
        yield opened


StoredDocument = Callable[[str], Awaitable[dict[str, Any] | None]]


@pytest.fixture
def stored(database: "Database") -> StoredDocument:
    """Reads a session's document as it is stored, by its id."""

    async def read(session_id: str) -> dict[str, Any] | None:
        collection: Any = database[COLLECTION]
        found: dict[str, Any] | None = await collection.find_one({"_id": session_id})
        return found

    return read


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyCall:
    """A call that writes one session, with arguments that let it succeed as things stand."""

    name: CallName
    session_id: str
    arguments: Mapping[str, Any]

    async def __call__(self, repository: SessionRepository, **more: Any) -> Any:
        """Make it."""
        return await getattr(repository, self.name.value)(**self.arguments, **more)


@dataclass(frozen=True, slots=True)
class SessionMaker:
    """Makes sessions in any status, each by calls that the lifecycle allows; each has a trigger of its own."""

    repository: SessionRepository
    clock: MovedClock
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))

    async def __call__(
        self,
        status: SessionStatus = SessionStatus.WAITING_USER_REPLY,
        *,
        user_id: int = 1,
        conversation_id: str | None = None,
        expires_at: datetime | None = None,
    ) -> ActiveScheduleSessionSnapshot:
        """A session in this status; its preview is ``preview-N``, the reply it ran for ``reply-N``."""
        number = next(self._numbers)
        if status is SessionStatus.RERUNNING:
            claim = await self.claim(user_id=user_id, conversation_id=conversation_id, expires_at=expires_at)
            return claim.session
        asked = status in (SessionStatus.WAITING_USER_REPLY, SessionStatus.EXPIRED, SessionStatus.FAILED)
        if status is SessionStatus.EXPIRED and expires_at is None:
            expires_at = self.clock() + timedelta(seconds=1)
        session = await self.repository.create(
            user_id,
            f"trigger-{number}",
            conversation_id=conversation_id,
            pending_question="Which lesson?" if asked else "",
            preview_id=f"preview-{number}" if not asked else None,
            expires_at=expires_at,
        )
        if status is SessionStatus.APPLIED:
            preview_id = f"preview-{number}"
            return await self.repository.apply(session.session_id, user_id=user_id, preview_id=preview_id)
        if status is SessionStatus.IGNORED:
            return await self.repository.ignore(session.session_id, user_id=user_id)
        if status is SessionStatus.FAILED:
            return await self.repository.fail(session.session_id, user_id=user_id, reason="made to fail")
        if status is SessionStatus.EXPIRED:
            assert expires_at is not None
            self.clock.at = max(self.clock.at, expires_at)
            await self.repository.expire_due()
            return await self.repository.get(session.session_id, user_id=user_id)
        return session

    async def claim(
        self,
        *,
        user_id: int = 1,
        conversation_id: str | None = None,
        expires_at: datetime | None = None,
        lease: timedelta | None = None,
    ) -> RerunClaim:
        """A reply claim on a new session, held."""
        session = await self(user_id=user_id, conversation_id=conversation_id, expires_at=expires_at)
        reply_id = f"reply-{session.trigger_id.removeprefix('trigger-')}"
        return await self.repository.claim_rerun(session.session_id, user_id=user_id, reply_id=reply_id, lease=lease)

    async def refinement(
        self,
        *,
        user_id: int = 1,
        conversation_id: str | None = None,
        expires_at: datetime | None = None,
        lease: timedelta | None = None,
    ) -> RerunClaim:
        """A refinement claim on a new session, held."""
        session = await self(
            SessionStatus.READY_PREVIEW, user_id=user_id, conversation_id=conversation_id, expires_at=expires_at
        )
        number = session.trigger_id.removeprefix("trigger-")
        return await self.repository.claim_refinement(
            session.session_id,
            user_id=user_id,
            preview_id=f"preview-{number}",
            reply_id=f"reply-{number}",
            lease=lease,
        )

    async def apply_claim(
        self,
        *,
        user_id: int = 1,
        conversation_id: str | None = None,
        expires_at: datetime | None = None,
        lease: timedelta | None = None,
    ) -> ApplyClaim:
        """A claim on a new session whose user has confirmed its preview, held."""
        session = await self(
            SessionStatus.READY_PREVIEW, user_id=user_id, conversation_id=conversation_id, expires_at=expires_at
        )
        number = session.trigger_id.removeprefix("trigger-")
        return await self.repository.claim_apply(
            session.session_id, user_id=user_id, preview_id=f"preview-{number}", lease=lease
        )

    async def ready(self, name: CallName, *, kind: LeaseKind | None = None) -> ReadyCall:
        """A call of this name, its session made for it; ``kind`` chooses the lease of a holder's call."""
        more = _ARGUMENTS.get(name, {})
        if name in (CallName.CREATE, CallName.GET_OR_CREATE):
            trigger_id = f"trigger-{next(self._numbers)}"
            own = {"user_id": 1, "trigger_id": trigger_id, "conversation_id": f"of-{trigger_id}"}
            return ReadyCall(name=name, session_id=derive_session_id(1, trigger_id), arguments={**own, **more})
        rule = CALLS[name]
        if rule.held:
            kind = kind or next(each for each in LeaseKind if each in rule.held)
            makers: Mapping[LeaseKind, Callable[[], Awaitable[RerunClaim | ApplyClaim]]] = {
                LeaseKind.REPLY: self.claim,
                LeaseKind.REFINEMENT: self.refinement,
                LeaseKind.APPLY: self.apply_claim,
            }
            claim = await makers[kind]()
            return ReadyCall(name=name, session_id=claim.session.session_id, arguments={"claim": claim, **more})
        session = await self(next(status for status in SessionStatus if status in rule.starts_from))
        named = {"session_id": session.session_id, "user_id": 1, **more}
        if name in (CallName.CLAIM_REFINEMENT, CallName.CLAIM_APPLY, CallName.APPLY):
            named["preview_id"] = session.current_preview_id
        if name is CallName.BIND_CONVERSATION:
            named["conversation_id"] = f"of-{session.trigger_id}"
        return ReadyCall(name=name, session_id=session.session_id, arguments=named)


_ARGUMENTS: Final[Mapping[CallName, Mapping[str, Any]]] = {
    CallName.CREATE: {"pending_question": "Which lesson?"},
    CallName.GET_OR_CREATE: {"pending_question": "Which lesson?"},
    CallName.RECORD_NOTIFICATION: {"notification_id": "notification"},
    CallName.CLAIM_RERUN: {"reply_id": "reply"},
    CallName.CLAIM_REFINEMENT: {"reply_id": "reply"},
    CallName.ASK_AGAIN: {"pending_question": "And which day?"},
    CallName.PRESENT_PREVIEW: {"preview_id": "fresh-preview"},
    CallName.FAIL_RERUN: {"reason": "it broke"},
    CallName.FAIL_APPLY: {"reason": "it broke"},
    CallName.FAIL: {"reason": "it broke"},
}


@pytest.fixture
def make_session(repository: SessionRepository, session_clock: MovedClock) -> SessionMaker:
    """Sessions in any status, each with a legal history."""
    return SessionMaker(repository, session_clock)
