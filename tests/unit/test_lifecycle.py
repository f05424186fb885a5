"""The lifecycle as data: the table of the design, written out once more and compared."""

from typing import Final

import pytest

from sessions import SessionStatus
from sessions.domain.lifecycle import (
    ALL,
    CALLS,
    ENDED,
    INITIAL,
    INTERCEPTING,
    LEASES,
    LIFECYCLE,
    NOT_ENDED,
    CallName,
    LeaseKind,
    lifecycle_diagram,
)

EARLY_ENDS: Final = {"ignored", "expired", "failed"}
STEPS: Final[dict[str, set[str]]] = {
    "waiting_user_reply": {"rerunning", *EARLY_ENDS},
    "rerunning": {"waiting_user_reply", "ready_preview", "rerunning", *EARLY_ENDS},
    "ready_preview": {"rerunning", "applied", *EARLY_ENDS},
    "applied": set(),
    "ignored": set(),
    "expired": set(),
    "failed": set(),
}
BY_UPKEEP: Final = "expired"
"""The one status that no call of a user enters."""


def test_the_seven_statuses() -> None:
    """A status that the design lacks, or one that is missing here, would make stored sessions unreadable."""
    assert [status.value for status in SessionStatus] == list(STEPS)
    assert list(ALL) == list(SessionStatus)


@pytest.mark.parametrize("status", list(SessionStatus))
def test_each_row_leads_where_the_design_says(status: SessionStatus) -> None:
    """A step more would allow an illegal history, a step less would refuse a legal call."""
    assert {there.value for there in LIFECYCLE[status].leads_to} == STEPS[status.value]
    assert status.is_final is (not STEPS[status.value])
    assert LIFECYCLE[status].entered_when


def test_the_sets_that_derive_from_the_table() -> None:
    """Where a session may begin, which statuses keep chat away, and which are over."""
    assert {"waiting_user_reply", "ready_preview", "ignored"} == INITIAL
    assert {"waiting_user_reply", "rerunning"} == INTERCEPTING
    assert {"applied", "ignored", "expired", "failed"} == ENDED
    assert {"waiting_user_reply", "rerunning", "ready_preview"} == NOT_ENDED
    assert {status for status in SessionStatus if status.intercepts} == INTERCEPTING
    assert {status for status in SessionStatus if status.is_final} == ENDED


def test_what_an_entry_needs_and_clears() -> None:
    """Nobody waits for an answer to no question, and no preview stands beside a question."""
    needs = {status.value: set(rule.needs_one_of) for status, rule in LIFECYCLE.items() if rule.needs_one_of}
    assert needs == {
        "waiting_user_reply": {"state.pending_question", "state.missing_info"},
        "ready_preview": {"current_preview_id"},
        "failed": {"state.failed_reason"},
    }
    clears = {status.value: set(rule.clears) for status, rule in LIFECYCLE.items() if rule.clears}
    assert clears == {
        "waiting_user_reply": {"current_preview_id"},
        "ready_preview": {"state.pending_question", "state.missing_info", "state.failed_reason"},
    }


@pytest.mark.parametrize("call", list(CALLS))
def test_what_a_call_enters_is_a_step_from_each_of_its_starts(call: CallName) -> None:
    """A call that the table forbids would write a history that no reader could trust."""
    rule = CALLS[call]
    assert rule.starts_from
    if rule.enters is not None:
        assert all(rule.enters.value in STEPS[start.value] for start in rule.starts_from)
    for kind in filter(None, (rule.takes_over, rule.replaces)):
        assert rule.enters is None or rule.enters.value in STEPS[LEASES[kind].held_in.value]
    for kind in rule.gives_back:
        assert rule.enters is None
        assert LEASES[kind].held_in in rule.starts_from
    if rule.is_claim and rule.enters is None:
        assert rule.takes_over is not None
        assert {LEASES[rule.takes_over].held_in} == rule.starts_from


def test_calls_start_where_the_design_says() -> None:
    """The start statuses of section 4 of the design, row by row."""
    not_ended = {"waiting_user_reply", "rerunning", "ready_preview"}
    of_a_rerun = ("ask_again", "present_preview", "close_rerun", "fail_rerun")
    of_an_apply = ("complete_apply", "fail_apply", "postpone")
    of_either = ("renew", "release")
    expected = {
        "claim_rerun": {"waiting_user_reply"},
        "claim_refinement": {"ready_preview"},
        "claim_apply": {"ready_preview"},
        "interrupt": {"rerunning"},
        "apply": {"ready_preview"},
        "ignore": not_ended,
        "fail": not_ended,
        "bind_conversation": not_ended,
        "record_notification": set(STEPS),
        **{name: {"rerunning"} for name in of_a_rerun},
        **{name: {"ready_preview"} for name in of_an_apply},
        **{name: {"rerunning", "ready_preview"} for name in of_either},
    }
    assert {call.value: {start.value for start in rule.starts_from} for call, rule in CALLS.items()} == expected
    by_holder = {*of_a_rerun, *of_an_apply, *of_either}
    assert {call.value for call, rule in CALLS.items() if rule.by_holder} == by_holder
    assert {call.value: rule.takes_over for call, rule in CALLS.items() if rule.takes_over} == {
        "claim_rerun": "reply",
        "claim_apply": "apply",
    }
    assert {call.value: rule.replaces for call, rule in CALLS.items() if rule.replaces} == {
        "claim_rerun": "reply",
        "claim_refinement": "refinement",
    }
    assert {call.value: rule.gives_back for call, rule in CALLS.items() if rule.gives_back} == {
        "interrupt": {"reply", "refinement"}
    }
    assert {call.value for call, rule in CALLS.items() if rule.is_claim} == {
        *("claim_rerun", "claim_refinement", "claim_apply")
    }


def test_every_step_is_some_calls() -> None:
    """A status that nothing enters would be dead data; only upkeep enters ``expired``."""
    entered = {rule.enters.value for rule in CALLS.values() if rule.enters is not None}
    assert entered == set(STEPS) - {BY_UPKEEP}


def test_leases_are_held_and_given_back_within_the_table() -> None:
    """Giving back follows a step of the table, or stays where it is."""
    assert {kind.value: (rule.held_in.value, rule.given_back_to.value) for kind, rule in LEASES.items()} == {
        "reply": ("rerunning", "waiting_user_reply"),
        "refinement": ("rerunning", "ready_preview"),
        "apply": ("ready_preview", "ready_preview"),
    }
    assert set(LEASES) == set(LeaseKind)


def test_the_diagram_has_each_step_once() -> None:
    """The picture in the documentation shows every step, no other, and none twice."""
    first, *lines = lifecycle_diagram().splitlines()
    steps = {(here, there) for here, theres in STEPS.items() for there in theres}
    starts = {("[*]", status) for status in ("waiting_user_reply", "ready_preview", "ignored")}
    ends = {(status, "[*]") for status, theres in STEPS.items() if not theres}
    drawn = [tuple(line.strip().split(" --> ")) for line in lines]
    assert first == "stateDiagram-v2"
    assert len(drawn) == len(set(drawn))
    assert set(drawn) == steps | starts | ends
