"""Servers whose clocks are apart."""

import pytest

from sessions.store.clients import default_driver
from tests.faults import clocks
from tests.faults.campaign import Form, Setting, Unable, violations

pytestmark = pytest.mark.faults


async def test_clocks() -> None:
    """Clocks decide when something lapses, never who may write."""
    setting = Setting(Form.SHORT, 1, default_driver())
    try:
        tally = await clocks.run(setting)
    except Unable as error:
        pytest.skip(str(error))
    assert not violations(tally), tally
    assert tally["faults"] == clocks.SIZES[Form.SHORT].faults
