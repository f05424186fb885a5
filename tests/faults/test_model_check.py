"""The short form of the model check: the library answers, refuses and stores what a model of the design does."""

import inspect
from typing import Final

import pytest

from sessions import SessionBridge, SessionRepository
from sessions.store.clients import default_driver
from tests.faults.campaign import Form, Setting
from tests.faults.model_check import check
from tests.faults.model_machine import PLAYED

pytestmark = pytest.mark.faults

SETTING: Final = Setting(Form.SHORT, 14, default_driver())
PUBLIC: Final = frozenset(
    name
    for of in (SessionRepository, SessionBridge)
    for name, _ in inspect.getmembers(of, inspect.isfunction)
    if not name.startswith("_") and name != "close"
)


def test_every_public_method_is_played() -> None:
    """A new one of repository or bridge has to find its place among the rules, and in the model."""
    assert PLAYED == PUBLIC


async def test_the_double_is_what_the_model_says() -> None:
    """Call by call, refusals and histories included; which calls a short form draws is chance, within bounds."""
    checked = await check(SETTING, "double")
    assert checked.counted.keys() <= PLAYED
    assert len(checked.succeeded) > len(PLAYED) * 2 / 3


async def test_a_server_is_what_the_model_says(mongod_uri: str) -> None:
    """The same on a server, whose changes are followed too."""
    checked = await check(SETTING, default_driver(), uri=mongod_uri)
    assert "watch" in checked.counted
