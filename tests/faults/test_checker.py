"""The checker accepts a story as it should be, and accuses each kind of violation by its rule."""

import ast
import itertools
from collections.abc import Callable, Mapping
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest

from tests.faults.checker import RULES, findings
from tests.faults.evidence import APPLIED, IGNORED, READY, REPLACED, RERUNNING, WAITING, Bounds, Evidence
from tests.faults.journal import Answer, Call, Journal, Log, read

EPOCH: Final = datetime(2026, 1, 1, tzinfo=UTC)
LEASE: Final = 10.0


class Played:
    """A story by hand: each step is a call, what it found, and its entry in the history."""

    def __init__(self, session_id: str = "s", *, begins: float = 0.0) -> None:
        self.now = begins
        self.calls: list[Call] = []
        self.document: dict[str, Any] = {
            "_id": session_id,
            "user_id": 1,
            "conversation_id": "c",
            "revision": 0,
            "fencing_token": 0,
            "question_number": 0,
            "state": {},
            "history": [],
            "answered_reply_ids": [],
        }

    def call(self, name: str, told: Mapping[str, Any], found: Mapping[str, Any] | None = None) -> Call:
        """A call that was acknowledged, and that has written."""
        self.document["revision"] += 1
        told = {"session_id": self.document["_id"], **told}
        known = {
            "session_id": self.document["_id"],
            "revision": self.document["revision"],
            "token": self.document["fencing_token"],
            "status": self.document.get("status"),
            "question_number": self.document["question_number"],
            "question": self.document["state"].get("pending_question"),
            "preview_id": self.document.get("current_preview_id"),
        }
        made = Call(name, "w", self.now, told, self.now + 0.5, Answer.ACKNOWLEDGED, {**known, **(found or {})})
        self.calls.append(made)
        self.now += 1
        return made

    def enter(self, name: str, status: str, operation_id: str, *, reason: str = "", **changes: Any) -> None:
        """What a call that changes the status leaves in the document."""
        at = EPOCH + timedelta(seconds=self.now)
        entry = {"call": name, "to_status": status, "operation_id": operation_id, "reason": reason, "at": at}
        self.document["history"].append(entry)
        self.document |= {"status": status, **changes}

    def create(self) -> None:
        """A question is asked in the conversation."""
        self.enter("create", WAITING, "create", question_number=1, state={"pending_question": "1?"})
        self.call("create", {"operation_id": "create", "conversation_id": "c"})

    def claim(self, operation_id: str, reply_id: str, *, reason: str = "") -> Call:
        """The next message takes the session."""
        self.document["fencing_token"] += 1
        self.enter("claim_rerun", RERUNNING, operation_id, reason=reason, lease={"kind": "reply"})
        expires_at = (EPOCH + timedelta(seconds=self.now + LEASE)).timestamp()
        found = {"operation_id": operation_id, "expires_at": expires_at, "lease": LEASE, "attempt": 1}
        told = {"reply_id": reply_id, "question_number": self.document["question_number"]}
        return self.call("claim_rerun", told, found)

    def record(self, name: str, status: str, operation_id: str, reply_id: str, **changes: Any) -> Call:
        """Its outcome is recorded."""
        self.enter(name, status, operation_id, lease=None, **changes)
        self.document["answered_reply_ids"].append(reply_id)
        told = {"operation_id": operation_id, "reply_id": reply_id, "token": self.document["fencing_token"]}
        return self.call(name, told)

    def apply(self) -> None:
        """The preview is confirmed and written."""
        self.document["fencing_token"] += 1
        found = {"operation_id": "applying", "expires_at": EPOCH.timestamp() + self.now + LEASE, "lease": LEASE}
        self.call("claim_apply", {"preview_id": self.document["current_preview_id"]}, found)
        self.enter("complete_apply", APPLIED, "applied", lease=None)
        self.call("complete_apply", {"operation_id": "applied", "token": self.document["fencing_token"]})


def played() -> Played:
    """A session from its question to its end."""
    story = Played()
    story.create()
    story.claim("claim 1", "m1")
    asked = {"question_number": 2, "state": {"pending_question": "2?"}}
    story.record("ask_again", WAITING, "asked", "m1", **asked)
    story.claim("claim 2", "m2")
    story.record("present_preview", READY, "shown", "m2", state={}, current_preview_id="p")
    story.apply()
    return story


def evidence(*stories: Played, calls: list[Call] | None = None, killed: Mapping[str, float] | None = None) -> Evidence:
    """What the checker is given of some stories."""
    made = [*itertools.chain.from_iterable(story.calls for story in stories), *(calls or [])]
    log = Log(sorted(made, key=lambda call: call.begun), dict(killed or {}))
    effects = {"s:0:p": 1}
    bounds = Bounds(max_staleness=2.0, lease=LEASE, clocks_apart=0.1)
    return Evidence(log, [deepcopy(story.document) for story in stories], effects, bounds)


def _entry(story: Played, operation_id: str) -> dict[str, Any]:
    found: dict[str, Any] = next(each for each in story.document["history"] if each["operation_id"] == operation_id)
    return found


def _call(story: Played, name: str) -> Call:
    return next(call for call in story.calls if call.name == name)


def _without_entry() -> Evidence:
    story = played()
    story.document["history"].remove(_entry(story, "asked"))
    return evidence(story)


def _gone() -> Evidence:
    spoiled = evidence(played())
    spoiled.documents = []
    return spoiled


def _rolled_back() -> Evidence:
    story = played()
    story.document["revision"] -= 1
    return evidence(story)


def _reply_forgotten() -> Evidence:
    story = played()
    story.document["answered_reply_ids"].remove("m1")
    return evidence(story)


def _replaced_forgotten() -> Evidence:
    story = Played()
    story.create()
    story.claim("claim 1", "m1")
    story.claim("claim 2", "m2", reason=REPLACED)
    return evidence(story)


def _written_twice() -> Evidence:
    story = played()
    story.document["revision"] += 1
    return evidence(story)


def _two_entries() -> Evidence:
    story = played()
    story.document["history"].append(dict(story.document["history"][-1]))
    return evidence(story)


def _token_twice() -> Evidence:
    story = played()
    for call in story.calls:
        if call.found.get("operation_id") == "claim 2":
            call.found = {**call.found, "token": 1}
    return evidence(story)


def _answered_twice() -> Evidence:
    story = played()
    recorded = _call(story, "present_preview")
    recorded.told = {**recorded.told, "reply_id": "m1"}
    return evidence(story)


def _from_the_end() -> Evidence:
    story = played()
    story.enter("ask_again", WAITING, "asked once more", state={"pending_question": "3?"}, question_number=3)
    story.call("ask_again", {"operation_id": "asked once more", "reply_id": "m3", "token": 3})
    return evidence(story)


def _by_nobody() -> Evidence:
    story = played()
    story.calls.remove(_call(story, "ask_again"))
    return evidence(story)


def _refused_and_written() -> Evidence:
    story = played()
    _call(story, "ask_again").answer = Answer.REFUSED
    return evidence(story)


def _denied_and_written() -> Evidence:
    story = played()
    _call(story, "ask_again").answer = Answer.NOT_WRITTEN
    return evidence(story)


def _late_write() -> Evidence:
    story = Played()
    story.create()
    story.claim("claim 1", "m1")
    story.now += LEASE
    story.claim("claim 2", "m2")
    asked = story.record("ask_again", WAITING, "asked", "m1", question_number=2, state={"pending_question": "2?"})
    asked.told = {**asked.told, "token": 1}
    return evidence(story)


def _replaced_and_recorded() -> Evidence:
    story = played()
    story.document["replaced_reply_ids"] = ["m1"]
    return evidence(story)


def _taken_early() -> Evidence:
    story = Played()
    story.create()
    story.claim("claim 1", "m1")
    story.claim("claim 2", "m2")
    return evidence(story)


def _apply_taken_early() -> Evidence:
    story = played()
    second = deepcopy(_call(story, "claim_apply"))
    second.found = {**second.found, "token": 4, "operation_id": "another", "expires_at": second.found["expires_at"] + 1}
    return evidence(story, calls=[second])


def _another_question() -> Evidence:
    story = played()
    claim = _call(story, "claim_rerun")
    claim.told = {**claim.told, "question_number": 0}
    return evidence(story)


def _too_many_attempts() -> Evidence:
    story = played()
    claim = _call(story, "claim_rerun")
    claim.found = {**claim.found, "attempt": 6}
    return evidence(story)


def _other_question_back() -> Evidence:
    story = Played()
    story.create()
    story.claim("claim 1", "m1")
    story.enter("release", WAITING, "back", lease=None)
    story.call("release", {"operation_id": "back", "token": 1, "kind": "reply"}, {"question": "another?"})
    return evidence(story)


def _dismissed_meanwhile() -> Evidence:
    story = played()
    story.calls.pop()
    story.document["history"].pop()
    story.enter("ignore", IGNORED, "dismissed")
    story.call("ignore", {"operation_id": "dismissed"})
    return evidence(story)


def _expired_and_claimed() -> Evidence:
    story = played()
    claim = _call(story, "claim_rerun")
    claim.found = {**claim.found, "ends_at": claim.found["expires_at"] - LEASE - 1}
    return evidence(story)


def _bound_elsewhere() -> Evidence:
    story = played()
    story.document["conversation_id"] = "d"
    return evidence(story)


def _cut_history() -> Evidence:
    story = played()
    del story.document["history"][0]
    return evidence(story)


def _lease_left() -> Evidence:
    story = played()
    story.document["lease"] = {"kind": "apply"}
    return evidence(story)


def _question_uncounted() -> Evidence:
    story = played()
    story.document["question_number"] = 1
    return evidence(story)


def _two_governors() -> Evidence:
    first, second = Played(), Played("t", begins=3.0)
    first.create()
    second.create()
    return evidence(first, second)


def _two_by_their_histories() -> Evidence:
    first, second = Played(), Played("t", begins=3.0)
    for story in (first, second):
        story.create()
        story.calls[0].answer = Answer.UNKNOWN
    return evidence(first, second)


def _two_answers() -> Evidence:
    second = Played("t", begins=20.0)
    second.create()
    second.claim("claim t", "m1")
    second.record("ask_again", WAITING, "asked t", "m1", question_number=2, state={"pending_question": "2?"})
    return evidence(played(), second)


def _route(begun: float, found: Mapping[str, Any]) -> Call:
    told = {"user_id": 1, "conversation_id": "c"}
    return Call("cached_route", "w", begun, told, begun + 0.1, Answer.ACKNOWLEDGED, found)


def _old_route() -> Evidence:
    return evidence(played(), calls=[_route(5.0, {"session_id": "s", "revision": 1})])


def _empty_route() -> Evidence:
    story = Played()
    story.create()
    return evidence(story, calls=[_route(5.0, {})])


def _held_by_the_dead() -> Evidence:
    found = {"held_by": "claim 1", "session_id": "s"}
    message = Call("message", "v", 14.0, {}, 14.1, Answer.ACKNOWLEDGED, found)
    return evidence(played(), calls=[message], killed={"w": 2.0})


def _not_written_back() -> Evidence:
    spoiled = evidence(played())
    spoiled.effects = {}
    return spoiled


def _written_back_and_forgotten() -> Evidence:
    story = played()
    story.document["history"].pop()
    story.document |= {"status": READY, "revision": story.document["revision"] - 1}
    story.calls.pop()
    return evidence(story)


VIOLATIONS: Final[tuple[tuple[str, Callable[[], Evidence]], ...]] = (
    ("acknowledged_is_kept", _without_entry),
    ("acknowledged_is_kept", _gone),
    ("acknowledged_is_kept", _rolled_back),
    ("acknowledged_is_kept", _bound_elsewhere),
    ("consumed_replies_are_kept", _reply_forgotten),
    ("consumed_replies_are_kept", _replaced_forgotten),
    ("each_write_counts", _written_twice),
    ("one_entry_an_operation", _two_entries),
    ("one_holder_a_token", _token_twice),
    ("one_outcome_a_message", _answered_twice),
    ("legal_steps", _from_the_end),
    ("known_steps", _by_nobody),
    ("known_steps", _refused_and_written),
    ("known_steps", _denied_and_written),
    ("no_late_write", _late_write),
    ("stopped_recorded_nothing", _replaced_and_recorded),
    ("only_lapsed_is_taken", _taken_early),
    ("only_lapsed_is_taken", _apply_taken_early),
    ("nothing_stale", _another_question),
    ("nothing_stale", _too_many_attempts),
    ("nothing_stale", _expired_and_claimed),
    ("nothing_ends_a_confirmation", _dismissed_meanwhile),
    ("given_back_as_it_was", _other_question_back),
    ("fit_for_status", _lease_left),
    ("fit_for_status", _cut_history),
    ("fit_for_status", _question_uncounted),
    ("one_governor", _two_governors),
    ("one_governor", _two_by_their_histories),
    ("one_outcome_in_all", _two_answers),
    ("fresh_routes", _old_route),
    ("fresh_routes", _empty_route),
    ("nobody_is_locked_out", _held_by_the_dead),
    ("confirmed_is_written", _not_written_back),
    ("confirmed_is_written", _written_back_and_forgotten),
)


def test_a_story_as_it_should_be_is_accused_of_nothing() -> None:
    """Nothing is found in a whole session with routes that are young enough."""
    routes = [_route(5.0, {"session_id": "s", "revision": 4}), _route(40.0, {})]
    assert findings(evidence(played(), calls=routes)) == []


def _claimed_unseen(answer: Answer, found: Mapping[str, Any]) -> Evidence:
    story = Played()
    story.create()
    claim = story.claim("claim 1", "m1")
    claim.answer, claim.found = answer, found
    seen = evidence(story)
    seen.effects = {}
    return seen


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (Answer.UNKNOWN, {}),
        (Answer.REFUSED, {"error": "LeaseLost"}),
        (Answer.REFUSED, {"error": "TransitionConflict", "reason": "attempts_exhausted"}),
    ],
)
def test_what_may_have_been_written_is_accused_of_nothing(answer: Answer, found: Mapping[str, Any]) -> None:
    """A claim that named itself may have left an entry if its end is unknown, and by some of its refusals."""
    assert findings(_claimed_unseen(answer, found)) == []


@pytest.mark.parametrize(("rule", "spoiled"), VIOLATIONS, ids=lambda value: getattr(value, "__name__", value))
def test_a_violation_is_found_by_its_rule(rule: str, spoiled: Callable[[], Evidence]) -> None:
    """Each kind of violation is accused by the rule that is there for it."""
    assert rule in {finding.rule for finding in findings(spoiled())}


def test_every_rule_is_shown_to_bite() -> None:
    """There is a violating history for each rule."""
    assert {rule for rule, _ in VIOLATIONS} == set(RULES)


def test_what_a_killed_worker_left_is_of_unknown_end(tmp_path: Path) -> None:
    """A call without its second line may have been carried out; a line that was cut off was not written."""
    journal = Journal(tmp_path / "w", "w")
    answered = journal.begin("ignore", {"session_id": "s"})
    journal.begin("fail", {"session_id": "s"})
    journal.end(answered, Answer.ACKNOWLEDGED, {"revision": 2})
    journal.killed("w")
    journal.close()
    with (tmp_path / "w").open("a") as cut_off:
        cut_off.write('{"begin": 2, "wor')
    log = read([tmp_path / "w"])
    assert [(call.name, call.answer) for call in log.calls] == [("ignore", "acknowledged"), ("fail", "unknown")]
    assert "w" in log.killed


def test_the_checker_knows_nothing_of_the_library() -> None:
    """It would agree with a mistake that it shares: none of its modules imports `sessions`."""
    for name in ("checker", "conversation_rules", "evidence", "journal", "session_rules"):
        tree = ast.parse(Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8"))
        imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not {each for each in imported if each and each.split(".")[0] in ("sessions", "indexes")}
