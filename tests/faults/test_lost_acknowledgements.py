"""The short form of the lost acknowledgements: every writing method is carried out once, whatever it is answered."""

import pytest

from sessions.domain.lifecycle import CALLS
from sessions.store.clients import default_driver
from tests.faults.campaign import Form, Setting
from tests.faults.lost_acknowledgements import on, writing_methods
from tests.support.connected import connected
from tests.support.fail_points import failing

pytestmark = pytest.mark.faults


def test_no_call_is_forgotten() -> None:
    """Each of the table is tried."""
    assert {name.value for name in CALLS} <= writing_methods()


async def test_each_is_carried_out_once(mongod_uri: str) -> None:
    """One entry, one effect, and the answer of that."""
    async with connected(mongod_uri) as client, failing(client["any"], "insert", appName="nobody's"):
        """Skipped on a server that has no fail points."""
    counted, wrong = await on(Setting(Form.SHORT, 14, default_driver()), mongod_uri)
    assert wrong == []
    assert counted.keys() - {"lost answers"} == writing_methods()
