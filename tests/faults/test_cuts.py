"""A network that is cut between three servers."""

import pytest

from sessions.store.clients import default_driver
from tests.faults import cuts
from tests.faults.campaign import Form, Setting, Unable, violations

pytestmark = pytest.mark.faults


async def test_cuts() -> None:
    """Clients on both sides of a cut: nothing that one of them was told is lost, and no cached route grows old."""
    setting = Setting(Form.SHORT, 1, default_driver())
    try:
        tally = await cuts.run(setting)
    except Unable as error:
        pytest.skip(str(error))
    assert not violations(tally), tally
    assert tally["faults"] == cuts.SIZES[Form.SHORT].cuts
