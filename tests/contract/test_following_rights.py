"""The right to follow changes: what is missing is named, and when it is given, everything goes on by itself."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final
from uuid import uuid4

import pytest
import pytest_asyncio

from sessions import CachedRouter, SessionRepository, StoreUnavailable, open_repository
from sessions.mongod import find_mongod
from sessions.store.clients import connect, disconnect
from sessions.testing import BACKENDS
from tests.support.secured_server import PASSWORD, Secured, running_secured

PATIENCE: Final = 20.0
DATABASE: Final = "sessions_rights"
WITHOUT: Final = ["find", "insert", "update", "remove", "createIndex", "listIndexes"]


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def secured() -> AsyncIterator[Secured]:
    """A server of this module's own."""
    if (binary := find_mongod()) is None:
        pytest.skip("no mongod on PATH, and the `server` extra has none for this platform")
    async with running_secured(binary) as running:
        yield running


class Account:
    """A database user whose rights the test changes."""

    def __init__(self, name: str, admin: Any) -> None:
        self.name = name
        self._admin = admin

    async def give(self, *actions: str) -> None:
        """These rights on the database, and no others."""
        privilege = {"resource": {"db": DATABASE, "collection": ""}, "actions": list(actions)}
        await self._admin.command({"updateRole": self.name, "privileges": [privilege]})


@pytest_asyncio.fixture(loop_scope="session")
async def account(secured: Secured) -> AsyncIterator[Account]:
    """One that may do everything but follow changes."""
    client: Any = connect(secured.uri("root"))
    name = f"u{uuid4().hex[:8]}"
    await client.drop_database(DATABASE)
    await client[DATABASE].command({"createRole": name, "privileges": [], "roles": []})
    await client[DATABASE].command({"createUser": name, "pwd": PASSWORD, "roles": [name]})
    made = Account(name, client[DATABASE])
    await made.give(*WITHOUT)
    yield made
    await disconnect(client)


@pytest_asyncio.fixture(loop_scope="session", params=[name for name, each in BACKENDS.items() if each.is_real])
async def repository(
    request: pytest.FixtureRequest, secured: Secured, account: Account
) -> AsyncIterator[SessionRepository]:
    """The sessions, as that user sees them."""
    client: Any = connect(secured.uri(account.name, database=DATABASE), driver=request.param)
    async with open_repository(client[DATABASE], create_indexes=True) as opened:
        yield opened
    await disconnect(client)


async def until(holds: Callable[[], bool | Awaitable[bool]]) -> None:
    """Wait for a condition that nobody announces."""
    async with asyncio.timeout(PATIENCE):
        while not (found if isinstance(found := holds(), bool) else await found):  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.01)


NAMED: Final = rf"code 13.*changeStream.*find on {DATABASE}\.active_schedule_sessions.*read"


@pytest.mark.parametrize("rights", [WITHOUT, ["changeStream", "insert", "listIndexes"]])
async def test_a_missing_right_is_named(repository: SessionRepository, account: Account, rights: list[str]) -> None:
    """A watch, one that comes back and a cache say which right on what is missing; once it is given they begin."""
    await account.give(*WITHOUT, "changeStream")
    async with repository.watch() as watch:
        token = watch.token
    await account.give(*rights)
    for watch in (repository.watch(), repository.watch(resume_after=token)):
        with pytest.raises(StoreUnavailable, match=NAMED) as refusal:
            await watch.__aenter__()
        assert not refusal.value.may_pass
        assert PASSWORD not in str(refusal.value)
        assert account.name not in str(refusal.value)
    with pytest.raises(StoreUnavailable, match=NAMED):
        await CachedRouter(repository).__aenter__()
    await account.give(*WITHOUT, "changeStream")
    async with repository.watch() as anew, repository.watch(resume_after=token) as resumed, CachedRouter(repository):
        made = await repository.create(1, "t", pending_question="?")
        for watch in (anew, resumed):
            assert (await asyncio.wait_for(anext(watch), PATIENCE)).snapshot == made


async def test_a_right_that_is_taken_away_and_given_back(
    repository: SessionRepository, account: Account, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever followed misses nothing of what was written meanwhile; the log names the right once, not at each try."""
    await account.give(*WITHOUT, "changeStream")
    async with repository.watch() as watch, CachedRouter(repository) as router:
        made = await repository.create(1, "t", conversation_id="c", pending_question="?")
        assert (await asyncio.wait_for(anext(watch), PATIENCE)).snapshot == made
        await account.give(*WITHOUT)
        await until(lambda: "changeStream" in caplog.text)
        # The cache is of no use, and says what is true all the same.
        ended = await repository.ignore(made.session_id, user_id=1)
        assert (await router.route(1, "c")).session is None
        await asyncio.sleep(1.5)
        await account.give(*WITHOUT, "changeStream")
        assert (await asyncio.wait_for(anext(watch), PATIENCE)).snapshot == ended

        async def serves_again() -> bool:
            hits = router.stats().hits
            await router.route(1, "c")
            return router.stats().hits > hits

        await until(serves_again)
    assert caplog.text.count("changeStream") == 1
    assert PASSWORD not in caplog.text
