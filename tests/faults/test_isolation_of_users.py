"""The short form of the isolation: another user's data changes neither answer, nor error, nor what is sent."""

from typing import Final

import pytest

from sessions.store.clients import default_driver
from tests.faults.campaign import Form, Setting
from tests.faults.isolation import methods, of_nobody, on

pytestmark = pytest.mark.faults

SETTING: Final = Setting(Form.SHORT, 14, default_driver())


def test_no_method_is_forgotten() -> None:
    """Each names its user or is one of these, which no request of a user makes; a watch is the contract's own."""
    upkeep = {"expire_due", "recover_stalled", "interrupted_applies", "purge", "count_by_status", "upkeep"}
    assert of_nobody() == {*upkeep, "watch", "close", "present_status"}


async def test_on_the_double() -> None:
    """Every method, by what it asks of the store."""
    found = await on(SETTING)
    assert found.told == []
    assert found.calls.keys() == methods().keys()


async def test_on_a_server(mongod_uri: str) -> None:
    """Every method, by the commands that it sends."""
    found = await on(SETTING, mongod_uri)
    assert found.told == []
    assert found.calls.keys() == methods().keys()
