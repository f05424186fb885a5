"""The short form of the interleavings: in every order of their round trips, calls come to what a serial order does."""

import pytest

from sessions.domain.lifecycle import CALLS, CallName
from sessions.store.clients import default_driver
from tests.faults.campaign import Form, Setting
from tests.faults.interleavings import LABELS, explored

pytestmark = pytest.mark.faults


async def test_every_order_is_a_serial_one() -> None:
    """Some pairs and triples of all there are; none leaves what one call after the other could not leave."""
    found = await explored(Setting(Form.SHORT, 14, default_driver()))
    assert found["interleavings"] > found["pairs"] + found["triples"]


def test_no_call_is_forgotten() -> None:
    """The calls are the table's: a new one is played at once, and needs arguments to be."""
    assert {name.value for name in CallName} <= set(LABELS)
    assert CALLS.keys() <= set(CallName)
