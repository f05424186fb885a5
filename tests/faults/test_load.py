"""The short form of the load: nothing grows, nothing is left, and ten times too much ends when it ends."""

import asyncio

import pytest

from sessions.store.clients import default_driver
from tests.faults import load
from tests.faults.campaign import Form, Setting, violations

pytestmark = pytest.mark.faults


def test_load() -> None:
    """Memory within a tenth, no task and no warning left, no call beyond its bound, and calm after the flood."""
    # On a loop of its own: clients of other tests live on the session's, whose monitors make new tasks as they please.
    tally = asyncio.run(load.run(Setting(Form.SHORT, 1, default_driver())))
    assert not violations(tally)
    assert tally["memory grown, %"] <= load.MOST_GROWTH * 100
    assert tally["warnings"] == 0
    assert tally["refused in calm"] == 0
    assert tally["longest call in overload, s"] <= load.BOUND
    assert tally["acknowledged"] > 1_000
