"""The short form of the cancellations, in asyncio's debug mode: whole or not at all, and nothing is left."""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import pytest
import pytest_asyncio

from sessions.store.clients import default_driver
from tests.faults.campaign import Form, Setting
from tests.faults.cancellations import WAYS, on_a_server, on_the_double, public_methods

pytestmark = pytest.mark.faults

SETTING: Final = Setting(Form.SHORT, 14, default_driver())


@pytest_asyncio.fixture(autouse=True, loop_scope="session")
async def _debug_mode() -> AsyncIterator[None]:
    loop = asyncio.get_running_loop()
    slow = loop.slow_callback_duration
    loop.set_debug(True)
    loop.slow_callback_duration = 60  # a busy machine is no fault of the library's
    yield
    loop.set_debug(False)
    loop.slow_callback_duration = slow


def test_every_public_method_is_cancelled() -> None:
    """A new one of repository or bridge needs its way here."""
    assert WAYS.keys() == public_methods()


async def test_on_the_double() -> None:
    """Each at many turns of the loop, by asyncio and by anyio."""
    assert (await on_the_double(SETTING)).keys() == WAYS.keys()


async def test_on_a_server(mongod_uri: str) -> None:
    """The same while commands are under way."""
    assert (await on_a_server(SETTING, mongod_uri)).keys() == WAYS.keys()
