"""The short form of the fuzz: inside its limits nothing is refused, outside the argument is named, nothing is sent."""

import inspect

import pytest

from sessions import SessionBridge, SessionRepository
from sessions.store.clients import default_driver
from tests.faults.campaign import Form, Setting
from tests.faults.inputs import CONSTRUCTORS, fuzzed, kind_of, methods_of

pytestmark = pytest.mark.faults


def test_no_argument_is_forgotten() -> None:
    """A new argument of any public callable needs its kind here, or a limit in the library's table."""
    callables = {name: getattr(of, name) for of in (SessionRepository, SessionBridge) for name in methods_of(of)}
    for name, call in {**callables, **CONSTRUCTORS}.items():
        for argument in inspect.signature(call).parameters:
            if argument != "self":
                assert kind_of(name, argument)


async def test_what_is_outside_is_named() -> None:
    """A few of the examples."""
    counted = await fuzzed(Setting(Form.SHORT, 14, default_driver()))
    assert counted["inside"]
    assert counted["outside"]
