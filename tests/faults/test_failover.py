"""Servers that die, stand still or give way."""

import pytest

from sessions.store.clients import default_driver
from tests.faults import failover
from tests.faults.campaign import Form, Setting, violations

pytestmark = pytest.mark.faults


async def test_failover() -> None:
    """Nothing that was acknowledged is lost or doubled by an election, and the survivors go on within seconds."""
    tally = await failover.run(Setting(Form.SHORT, 1, default_driver()))
    assert not violations(tally), tally
    assert tally["faults"] == failover.SIZES[Form.SHORT].faults
    assert tally["longest gap (s)"] < 30
