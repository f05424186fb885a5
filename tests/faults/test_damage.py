"""The short form of the damages: the error names session and field, shows no value, and others go on."""

import pytest

from sessions.store.clients import default_driver
from sessions.store.stored_fields import KINDS
from tests.faults.campaign import Form, Setting
from tests.faults.damage import FIELDS, damages, on

pytestmark = pytest.mark.faults


def test_every_field_is_damaged() -> None:
    """A new field of the document is damaged too."""
    assert {*FIELDS, "_id"} == KINDS.keys()
    assert {damage.field for damage in damages()} == set(FIELDS)


async def test_a_damaged_session_harms_itself_only(mongod_uri: str) -> None:
    """Some of the damages."""
    counted, wrong = await on(Setting(Form.SHORT, 14, default_driver()), mongod_uri)
    assert wrong == []
    assert counted
