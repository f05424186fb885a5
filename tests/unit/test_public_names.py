"""What a user can import: everything that a public signature names, under the name of its public module."""

import pickle
from types import FunctionType, ModuleType
from typing import Final

import pytest

import indexes
import sessions
import sessions.fastapi
import sessions.langgraph
import sessions.testing
from sessions import SessionRef, StaleReply
from tests.support.public_signatures import named_by

MODULES: Final = (sessions, sessions.fastapi, sessions.langgraph, sessions.testing, indexes)
NOT_NAMED: Final = frozenset({"UtcMoment"})  # a datetime with its check, as pydantic has it


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_what_a_public_signature_names_is_exported(module: ModuleType) -> None:
    """A user who annotates a variable with what a call takes or returns finds the name at the top."""
    named = named_by(module)
    assert named
    assert named - NOT_NAMED <= {*module.__all__, *sessions.__all__}


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_public_objects_carry_their_public_modules_name(module: ModuleType) -> None:
    """A traceback says ``sessions.SessionRepository``; a pickle finds it wherever its file lies."""
    objects = [getattr(module, name) for name in module.__all__]
    ours = [each for each in objects if isinstance(each, type | FunctionType)]
    assert ours
    assert {each.__module__ for each in ours} == {module.__name__}


def test_a_pickled_error_names_no_file() -> None:
    """An error that was pickled before a file moved loads after it: its pickle names public modules only."""
    told = pickle.dumps(StaleReply(SessionRef(session_id="s", user_id=1), current_question_number=2))
    assert b"sessions" in told
    assert not [part for part in (b"sessions.", b"domain", b"errors") if part in told]
