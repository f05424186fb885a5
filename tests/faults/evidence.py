"""What the rules of the checker are held against: the design in its own words, the logs, and what was stored.

Nothing here imports the library.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from itertools import pairwise
from math import inf
from typing import Any, Final, NamedTuple

from tests.faults.journal import Call, Log

# --- the design, once more ------------------------------------------------------------------------------------

HISTORY_KEPT: Final = 32
REPLIES_KEPT: Final = 32
NEW: Final = "new"
WAITING, RERUNNING, READY = "waiting_user_reply", "rerunning", "ready_preview"
APPLIED, IGNORED, EXPIRED, FAILED = "applied", "ignored", "expired", "failed"
INTERCEPTING: Final = frozenset({WAITING, RERUNNING})
NOT_ENDED: Final = frozenset({WAITING, RERUNNING, READY})
REPLACED: Final = "replaced by a newer message"

_BEGINNINGS: Final = frozenset({(NEW, WAITING), (NEW, READY), (NEW, IGNORED)})
STEPS: Final[Mapping[str, frozenset[tuple[str, str]]]] = {
    "create": _BEGINNINGS,
    "get_or_create": _BEGINNINGS,
    # To failed where too many workers have died of it.
    "claim_rerun": frozenset({(WAITING, RERUNNING), (RERUNNING, RERUNNING), (WAITING, FAILED), (RERUNNING, FAILED)}),
    "claim_refinement": frozenset({(READY, RERUNNING), (RERUNNING, RERUNNING)}),
    "claim_apply": frozenset({(READY, FAILED)}),
    "release": frozenset({(RERUNNING, WAITING), (RERUNNING, READY)}),
    "interrupt": frozenset({(RERUNNING, WAITING), (RERUNNING, READY)}),
    "ask_again": frozenset({(RERUNNING, WAITING)}),
    "present_preview": frozenset({(RERUNNING, READY)}),
    "close_rerun": frozenset({(RERUNNING, IGNORED)}),
    "fail_rerun": frozenset({(RERUNNING, FAILED)}),
    "complete_apply": frozenset({(READY, APPLIED)}),
    "fail_apply": frozenset({(READY, FAILED)}),
    "apply": frozenset({(READY, APPLIED)}),
    "ignore": frozenset((status, IGNORED) for status in NOT_ENDED),
    "fail": frozenset((status, FAILED) for status in NOT_ENDED),
    "expire_due": frozenset((status, EXPIRED) for status in NOT_ENDED),
    "recover_stalled": frozenset({(RERUNNING, WAITING), (RERUNNING, READY), (RERUNNING, FAILED)}),
}
"""From which status each call leads to which: the lifecycle's table, by call."""
SWEEPS: Final = frozenset({"expire_due", "recover_stalled"})
"""Made in passing by any call that something lapsed stands in the way of, and so by nobody in particular."""
CLAIMS: Final = frozenset({"claim_rerun", "claim_refinement", "claim_apply"})
OUTCOMES: Final = frozenset({"ask_again", "present_preview", "close_rerun", "fail_rerun"})
HOLDERS: Final = OUTCOMES | {"renew", "release", "postpone", "complete_apply", "fail_apply"}
CREATIONS: Final = frozenset({"create", "get_or_create"})
WRITES: Final = (
    CLAIMS
    | HOLDERS
    | CREATIONS
    | {
        *("interrupt", "apply", "ignore", "fail", "bind_conversation", "record_notification"),
    }
)
WITHOUT_ENTRY: Final = frozenset({"renew", "postpone", "claim_apply", "bind_conversation", "record_notification"})
"""They change no status; so the release of an apply claim."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What the workers were set to."""

    max_attempts: int = 5
    max_staleness: float = 5.0
    clocks_apart: float = 1.0
    """By how many seconds the moments in a history may be off: a call notes the moment at which it first tries."""
    lease: float = 60.0
    held_after_death: float = 1.0
    """How much longer than its lease a dead worker may be seen to hold a conversation."""


@dataclass
class Story:
    """All that is known of one session."""

    session_id: str
    document: Mapping[str, Any] | None
    calls: Sequence[Call]
    bounds: Bounds

    @cached_property
    def history(self) -> Sequence[Mapping[str, Any]]:
        """Its entries, the oldest first."""
        return [] if self.document is None else self.document.get("history", [])

    @property
    def is_whole(self) -> bool:
        """Whether the history reaches back to the creation."""
        return bool(self.history) and self.history[0]["call"] in CREATIONS

    @cached_property
    def steps(self) -> list[tuple[str, Mapping[str, Any]]]:
        """Each entry with the status before it, as far as that is known."""
        first = [(NEW, self.history[0])] if self.is_whole else []
        return [*first, *((before["to_status"], entry) for before, entry in pairwise(self.history))]

    @cached_property
    def by_operation(self) -> dict[str, list[Call]]:
        """The calls by their operation id: a repetition has the same one."""
        found: dict[str, list[Call]] = defaultdict(list)
        for call in self.calls:
            if call.name in WRITES and call.operation_id is not None:
                found[call.operation_id].append(call)
        return found

    def made(self, entry: Mapping[str, Any]) -> list[Call]:
        """The calls that an entry may be of."""
        return self.by_operation.get(entry["operation_id"] or "", [])

    def token_of(self, entry: Mapping[str, Any]) -> int | None:
        """The fencing token of a claim, or under which its holder wrote; None if it is not known."""
        given = [call.told if entry["call"] in HOLDERS else call.found for call in self.made(entry)]
        tokens = [each["token"] for each in given if "token" in each]
        return tokens[0] if tokens and entry["call"] in HOLDERS | CLAIMS else None

    def acknowledged(self, *names: str) -> Iterator[Call]:
        """The calls of these names that returned."""
        return (call for call in self.calls if call.is_acknowledged and call.name in names)


class Governing(NamedTuple):
    """That a session governed its conversation for certain, from one moment to another of the machine's clock."""

    session_id: str
    since: float
    until: float
    stored_since: float
    stored_until: float
    """The same by the history, whose moments are the servers'."""
    can_lapse: bool
    """Whether it may have counted as lapsed meanwhile, so that a route may have shown nobody."""


def _governing(story: Story) -> Iterator[Governing]:
    if story.document is None or story.document.get("conversation_id") is None:
        return
    bound = _bound_at(story)
    ends = (story.document.get("state") or {}).get("expires_at") is not None
    for number, entry in enumerate(story.history):
        if entry["to_status"] not in INTERCEPTING:
            continue
        ended = [call.ended for call in story.made(entry) if call.is_acknowledged]
        since = max(bound, min(ended, default=inf))
        following = story.history[number + 1] if number + 1 < len(story.history) else None
        left = inf if following is None else min((call.begun for call in story.made(following)), default=since)
        stored_until = inf if following is None else seconds(following["at"])
        can_lapse = ends or entry["call"] == "claim_refinement"
        stored_since = seconds(entry["at"]) if bound == -inf else inf
        yield Governing(story.session_id, since, left, stored_since, stored_until, can_lapse)


def _bound_at(story: Story) -> float:
    assert story.document is not None
    conversation_id = story.document["conversation_id"]
    if any(call.told.get("conversation_id") == conversation_id for call in story.calls if call.name in CREATIONS):
        return -inf
    return min((call.ended for call in story.acknowledged("bind_conversation")), default=inf)


@dataclass
class Evidence:
    """Logs and documents of one campaign.

    Attributes:
        log: What the workers wrote down.
        documents: The collection as it is in the end, raw and with its histories.
        effects: How often each idempotency key has taken effect in the application's own store; None if the campaign
            has no such store.
        bounds: What the workers were set to.
    """

    log: Log
    documents: Iterable[Mapping[str, Any]]
    effects: Mapping[str, int] | None = None
    bounds: Bounds = field(default_factory=Bounds)

    @cached_property
    def stories(self) -> list[Story]:
        """One for each session that was stored or acknowledged."""
        documents = {raw["_id"]: raw for raw in self.documents}
        calls: dict[str, list[Call]] = defaultdict(list)
        for call in self.log.calls:
            if call.session_id is not None and call.name in WRITES:
                calls[call.session_id].append(call)
        known = {each for each, made in calls.items() if any(call.is_acknowledged for call in made)}
        return [Story(each, documents.get(each), calls[each], self.bounds) for each in sorted(known | set(documents))]

    @cached_property
    def governing(self) -> dict[tuple[int, str], list["Governing"]]:
        """When which session certainly governed each conversation."""
        found: dict[tuple[int, str], list[Governing]] = defaultdict(list)
        for story in self.stories:
            for governing in _governing(story):
                assert story.document is not None
                found[story.document["user_id"], story.document["conversation_id"]].append(governing)
        return found


def seconds(moment: datetime) -> float:
    """A stored moment, which plain PyMongo reads without its zone."""
    return moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()
