"""The campaigns find what is wrong: a handful of the mutations, and that all of them still apply."""

import ast

import pytest

from sessions.store.clients import default_driver
from tests.faults import mutations
from tests.faults.campaign import Form, Setting
from tests.faults.checker import RULES
from tests.faults.mutation_table import MUTATIONS, Mutation


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_mutation_applies(mutation: Mutation) -> None:
    """Its text stands where it is looked for, what replaces it is Python, and what it breaks is a rule."""
    ast.parse(mutations.mutated(mutation))
    assert mutation.breaks in RULES


def test_mutations_differ() -> None:
    """No two have one name, and those for CI are among them."""
    names = [mutation.name for mutation in MUTATIONS]
    assert len(names) == len(set(names)) >= 20
    assert set(mutations.IN_CI) <= set(names)


@pytest.mark.faults
async def test_mutations_are_found() -> None:
    """A campaign that finds nothing in a library that is wrong proves nothing of one that is right."""
    tally = await mutations.run(Setting(Form.SHORT, 1, default_driver()))
    assert tally["found"] == tally["mutations"] == len(mutations.IN_CI), tally
