"""What is asked of all sessions together. Nothing here imports the library."""

from collections import defaultdict
from collections.abc import Iterator
from math import inf
from typing import NamedTuple

from tests.faults.evidence import CLAIMS, WRITES, Evidence
from tests.faults.journal import Call


class Finding(NamedTuple):
    """A promise that was broken."""

    rule: str
    kind: str
    """The word of the tally: lost, doubled or illegal."""
    session_id: str
    text: str


def one_governor(evidence: Evidence) -> Iterator[Finding]:
    """At no time do two sessions govern one conversation."""
    apart = evidence.bounds.clocks_apart
    for (_, conversation_id), intervals in evidence.governing.items():
        ordered = (
            sorted((each.since, each.until, each.session_id) for each in intervals if each.since < each.until),
            sorted(
                (each.stored_since + apart, each.stored_until, each.session_id)
                for each in intervals
                if each.stored_since + apart < each.stored_until
            ),
        )
        for spans in ordered:
            longest = (-inf, "")
            for since, until, session_id in spans:
                if since < longest[0] and session_id != longest[1]:
                    text = f"it governed {conversation_id} together with {longest[1]}"
                    yield Finding(one_governor.__name__, "illegal", session_id, text)
                longest = max(longest, (until, session_id))


def one_outcome_in_all(evidence: Evidence) -> Iterator[Finding]:
    """No message was recorded by two sessions."""
    owners: dict[str, set[str]] = defaultdict(set)
    for story in evidence.stories:
        for reply in (story.document or {}).get("answered_reply_ids") or []:
            owners[reply].add(story.session_id)
    for reply, sessions in owners.items():
        if len(sessions) > 1:
            yield Finding(one_outcome_in_all.__name__, "doubled", min(sessions), f"{reply} was answered by others too")


def fresh_routes(evidence: Evidence) -> Iterator[Finding]:
    """No route from the cache is older than it may be: whatever was acknowledged before that, it shows."""
    shown: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for call in evidence.log.calls:
        if call.is_acknowledged and call.session_id is not None and call.name in WRITES:
            shown[call.session_id].append((call.ended, call.found["revision"]))
    for call in evidence.log.calls:
        if call.name == "cached_route" and call.is_acknowledged:
            session_id = call.found.get("session_id")
            text = _misses(evidence, call) if session_id is None else _is_outdated(evidence, call, shown[session_id])
            if text:
                yield Finding(fresh_routes.__name__, "illegal", str(session_id), text)


def _is_outdated(evidence: Evidence, route: Call, shown: list[tuple[float, int]]) -> str:
    oldest, revision = route.begun - evidence.bounds.max_staleness, route.found["revision"]
    late = [ended for ended, later in shown if ended < oldest and later > revision]
    return f"a route showed the revision {revision}, {route.begun - min(late):.3f} s after a later one" if late else ""


def _misses(evidence: Evidence, route: Call) -> str:
    oldest = route.begun - evidence.bounds.max_staleness
    for governing in evidence.governing.get((route.told["user_id"], route.told["conversation_id"]), ()):
        if governing.since < oldest and governing.until > route.ended and not governing.can_lapse:
            age = route.begun - governing.since
            return f"a route showed nobody, {age:.3f} s after {governing.session_id} had begun to govern"
    return ""


def nobody_is_locked_out(evidence: Evidence) -> Iterator[Finding]:
    """A dead worker's lease holds a conversation no longer than it lasts."""
    holders: dict[str, float] = {}
    for call in evidence.log.calls:
        if call.name in CLAIMS and call.operation_id is not None and call.worker in evidence.log.killed:
            holders[call.operation_id] = evidence.log.killed[call.worker]
    allowed = evidence.bounds.lease + evidence.bounds.held_after_death
    for call in evidence.log.calls:
        held_by = call.found.get("held_by")
        if call.name == "message" and held_by in holders and call.begun > holders[held_by] + allowed:
            text = f"a message was held {call.begun - holders[held_by]:.3f} s after the death of who held it"
            yield Finding(nobody_is_locked_out.__name__, "illegal", str(call.session_id), text)
