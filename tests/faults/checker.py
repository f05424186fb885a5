"""Holds what workers have written down against what the database holds in the end.

It imports nothing of the library, and so says once more, in its own words, what the design promises. Every rule is
sound: it accuses only what no order of the logged calls allows, however long an answer took and whoever died.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Final

from tests.faults.conversation_rules import (
    Finding,
    fresh_routes,
    nobody_is_locked_out,
    one_governor,
    one_outcome_in_all,
)
from tests.faults.evidence import Evidence, Story
from tests.faults.journal import Log
from tests.faults.session_rules import (
    acknowledged_is_kept,
    confirmed_is_written,
    consumed_replies_are_kept,
    each_write_counts,
    fit_for_status,
    given_back_as_it_was,
    known_steps,
    legal_steps,
    no_late_write,
    nothing_ends_a_confirmation,
    nothing_stale,
    one_entry_an_operation,
    one_holder_a_token,
    one_outcome_a_message,
    only_lapsed_is_taken,
    stopped_recorded_nothing,
)

OF_ONE_SESSION: Final[Mapping[str, tuple[Callable[[Story], Iterator[str]], ...]]] = {
    "lost": (acknowledged_is_kept, consumed_replies_are_kept),
    "doubled": (one_entry_an_operation, one_holder_a_token, one_outcome_a_message),
    "illegal": (
        each_write_counts,
        legal_steps,
        known_steps,
        no_late_write,
        stopped_recorded_nothing,
        only_lapsed_is_taken,
        nothing_stale,
        nothing_ends_a_confirmation,
        given_back_as_it_was,
        fit_for_status,
    ),
}
"""Each rule for one session, by the word under which the tally counts what it finds."""
OF_ALL: Final[tuple[Callable[[Evidence], Iterator[Finding]], ...]] = (
    one_governor,
    one_outcome_in_all,
    fresh_routes,
    nobody_is_locked_out,
)
RULES: Final = (
    *(rule.__name__ for rules in OF_ONE_SESSION.values() for rule in rules),
    *(rule.__name__ for rule in OF_ALL),
    confirmed_is_written.__name__,
)


def findings(evidence: Evidence) -> list[Finding]:
    """Every promise that was broken."""
    found = [
        Finding(rule.__name__, kind, story.session_id, text)
        for story in evidence.stories
        for kind, rules in OF_ONE_SESSION.items()
        for rule in rules
        for text in rule(story)
    ]
    if evidence.effects is not None:
        found += [
            Finding(confirmed_is_written.__name__, "lost", story.session_id, text)
            for story in evidence.stories
            for text in confirmed_is_written(story, evidence.effects)
        ]
    return [*found, *(finding for rule in OF_ALL for finding in rule(evidence))]


def longest_gap(log: Log) -> float:
    """For how long nothing was acknowledged, at most."""
    ends = sorted(call.ended for call in log.calls if call.is_acknowledged)
    return max((later - earlier for earlier, later in pairwise(ends)), default=0.0)


def acknowledged(log: Log) -> int:
    """How many calls were."""
    return sum(call.is_acknowledged for call in log.calls)
