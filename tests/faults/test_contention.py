"""Several processes in each other's way."""

import pytest

from sessions.store.clients import default_driver
from tests.faults import contention
from tests.faults.campaign import Form, Setting, violations

pytestmark = pytest.mark.faults


async def test_contention() -> None:
    """Whatever they do to each other, nothing is lost, doubled or illegal."""
    tally = await contention.run(Setting(Form.SHORT, 1, default_driver()))
    assert not violations(tally), tally
    assert tally["acknowledged"] > 100
