"""Workers that die with what they are doing."""

import pytest

from sessions.store.clients import default_driver
from tests.faults import deaths
from tests.faults.campaign import Form, Setting, violations

pytestmark = pytest.mark.faults


async def test_deaths() -> None:
    """Wherever a worker is killed, the others go on: nothing is lost or doubled, nobody is held past the lease."""
    tally = await deaths.run(Setting(Form.SHORT, 1, default_driver()))
    assert not violations(tally), tally
    assert tally["kills"] == deaths.SIZES[Form.SHORT].kills
