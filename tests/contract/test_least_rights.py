"""On a server with authentication and TLS, as a user who may do what a role of the library says, and nothing else."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Final

import pytest
import pytest_asyncio

from sessions import (
    Applied,
    AskUser,
    CachedRouter,
    PreviewShown,
    SessionBridge,
    SessionRepository,
    SessionStatus,
    ShowPreview,
    StoreUnavailable,
    Turn,
    open_repository,
)
from sessions.domain.lifecycle import CALLS, CallName
from sessions.mongod import find_mongod
from sessions.store.document import COLLECTION, INDEXES
from sessions.store.rights import ROLES
from sessions.testing import BACKENDS, MovedClock, SessionMaker
from tests.support.connected import connected
from tests.support.lookups_and_sweeps import LOOKUPS, SWEEPS
from tests.support.ready_call import ready_call
from tests.support.secured_server import PASSWORD, Secured, running_secured

DATABASE: Final = "sessions_least_rights"
SCRIPT: Final = Path(__file__).parents[2] / "docs" / "examples" / "create_roles.py"
DRIVERS: Final = [name for name, each in BACKENDS.items() if each.is_real]


def _run_script(uri: str | None, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    environment.pop("MONGODB_URI", None)
    if uri is not None:
        environment["MONGODB_URI"] = uri
    return subprocess.run(  # noqa: S603 - our own script
        [sys.executable, str(SCRIPT), *arguments], env=environment, capture_output=True, text=True, check=False
    )


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def secured() -> AsyncIterator[Secured]:
    """A server of this module's own, with the library's roles, a user for each, and the indexes."""
    if (binary := find_mongod()) is None:
        pytest.skip("no mongod on PATH, and the `server` extra has none for this platform")
    async with running_secured(binary, tls=True) as running:
        for word in ("created", "updated"):  # it can be run again
            made = await asyncio.to_thread(_run_script, running.uri("root"), DATABASE)
            assert made.returncode == 0, made.stderr
            assert [line.split()[1].rstrip(":") for line in made.stdout.splitlines()] == [word] * len(ROLES)
            assert PASSWORD not in made.stdout + made.stderr
        async with connected(running.uri("root")) as client:
            for role in ROLES:
                await client[DATABASE].command({"createUser": role, "pwd": PASSWORD, "roles": [role]})
            await client[DATABASE][COLLECTION].create_indexes(list(INDEXES))
        yield running


@pytest_asyncio.fixture(loop_scope="session", params=DRIVERS)
async def driver(request: pytest.FixtureRequest) -> str:
    """Each driver in turn."""
    name: str = request.param
    return name


async def opened_as(
    role: str, secured: Secured, driver: str, clock: MovedClock | None = None
) -> AsyncIterator[SessionRepository]:
    """The sessions, as the user of a role."""
    async with (
        connected(secured.uri(role, database=DATABASE), driver=driver) as client,
        open_repository(client[DATABASE], timeout=20, clock=clock) as repository,
    ):
        yield repository


@pytest_asyncio.fixture(loop_scope="session")
async def application(secured: Secured, driver: str, session_clock: MovedClock) -> AsyncIterator[SessionRepository]:
    """The sessions of the application, none at first."""
    async with connected(secured.uri("root")) as root:
        await root[DATABASE][COLLECTION].delete_many({})
    async for repository in opened_as("sessionsApplication", secured, driver, session_clock):
        yield repository


@pytest_asyncio.fixture(loop_scope="session")
async def maker(application: SessionRepository, session_clock: MovedClock) -> SessionMaker:
    """Its sessions in any status."""
    return SessionMaker(application, session_clock)


@pytest.mark.parametrize("name", [CallName.CREATE, CallName.GET_OR_CREATE, *CALLS])
async def test_every_change(application: SessionRepository, maker: SessionMaker, name: CallName) -> None:
    """The application's role is enough for each call that writes."""
    await (await ready_call(maker, name))(application)


@pytest.mark.parametrize("name", list(LOOKUPS))
async def test_every_lookup(application: SessionRepository, maker: SessionMaker, name: str) -> None:
    """It is enough for each call that reads."""
    session = await maker()
    await LOOKUPS[name](application, session.session_id)


@pytest.mark.parametrize("name", [name for name in SWEEPS if name != "purge"])
async def test_every_sweep(
    application: SessionRepository, maker: SessionMaker, session_clock: MovedClock, name: str
) -> None:
    """It is enough for the upkeep."""
    await maker(expires_at=session_clock() + timedelta(seconds=1))
    await maker.claim()
    session_clock.advance(minutes=2)
    assert await SWEEPS[name][1](application, session_clock) >= 1


async def test_following_and_the_cache(application: SessionRepository, maker: SessionMaker) -> None:
    """It is enough for the change stream."""
    async with application.watch() as changes, CachedRouter(application) as router, asyncio.timeout(20):
        session = await maker(conversation_id="followed")
        while (await anext(changes)).snapshot.session_id != session.session_id:
            pass
        assert (await router.route(1, "followed")).session is not None


async def test_a_whole_session(secured: Secured, driver: str) -> None:
    """By the server's clock, through the bridge."""

    async def shows(turn: Turn) -> ShowPreview:
        return ShowPreview(f"p-{turn.message_id}")

    async def write_back(_: object) -> None:
        return

    async for repository in opened_as("sessionsApplication", secured, driver):
        bridge = SessionBridge(repository, shows, write_back=write_back)
        async with bridge.upkeep(every=timedelta(milliseconds=50)):
            await bridge.start(1, f"t-{driver}", AskUser("Which day?"), conversation_id=f"c-{driver}")
            shown = await bridge.handle(1, f"c-{driver}", "Tuesday", message_id="m")
            assert isinstance(shown, PreviewShown)
            session_id = shown.session.session_id
            assert isinstance(await bridge.confirm(1, session_id, preview_id="p-m"), Applied)


async def test_what_the_application_may_not(
    application: SessionRepository, maker: SessionMaker, session_clock: MovedClock
) -> None:
    """It deletes nothing; the refusal names the right that is missing, and no password."""
    await maker(SessionStatus.APPLIED)
    session_clock.advance(seconds=5)
    with pytest.raises(StoreUnavailable) as refusal:
        await application.purge(ended_before=session_clock())
    assert not refusal.value.may_pass
    assert "right" in str(refusal.value)
    assert PASSWORD not in str(refusal.value)


async def test_the_other_roles(secured: Secured, driver: str, maker: SessionMaker, session_clock: MovedClock) -> None:
    """One who purges may add that and nothing else; one who looks may change nothing."""
    session = await maker(SessionStatus.APPLIED)
    session_clock.advance(seconds=5)
    async for repository in opened_as("sessionsReader", secured, driver, session_clock):
        assert (await repository.get(session.session_id, user_id=1)).status is SessionStatus.APPLIED
        with pytest.raises(StoreUnavailable):
            await repository.record_notification(session.session_id, "n", user_id=1)
    async with (
        connected(secured.uri("sessionsPurge", database=DATABASE), driver=driver) as client,
        open_repository(client[DATABASE], verify_indexes=False, timeout=20, clock=session_clock) as repository,
    ):
        assert await repository.purge(ended_before=session_clock()) >= 1
        with pytest.raises(StoreUnavailable):
            await repository.record_notification(session.session_id, "n", user_id=1)


@pytest.mark.parametrize("uri", [None, f"mongodb://root:{PASSWORD}@127.0.0.1:1/?serverSelectionTimeoutMS=100"])
def test_the_script_without_a_server(uri: str | None) -> None:
    """It says so in one line, without a trace and without the connection string."""
    done = _run_script(uri, DATABASE)
    assert done.returncode == (2 if uri is None else 1)
    assert len(done.stderr.splitlines()) == 1
    assert PASSWORD not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_the_page_names_each_role() -> None:
    """The documentation's table is that of the code."""
    page = (SCRIPT.parents[1] / "security.md").read_text(encoding="utf-8")
    for name, role in ROLES.items():
        actions = ", ".join(f"`{action}`" for action in role.actions)
        assert f"| `{name}` | {actions} | {role.needed_by} |" in page
