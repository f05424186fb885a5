"""What is asked of one session: what was lost, doubled or illegal. Nothing here imports the library."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from itertools import pairwise
from math import inf
from typing import Any, Final

from tests.faults.evidence import (
    APPLIED,
    CLAIMS,
    CREATIONS,
    FAILED,
    HISTORY_KEPT,
    HOLDERS,
    OUTCOMES,
    READY,
    REPLACED,
    REPLIES_KEPT,
    RERUNNING,
    STEPS,
    SWEEPS,
    WAITING,
    WITHOUT_ENTRY,
    Story,
    seconds,
)
from tests.faults.journal import Answer, Call

_ROUNDING: Final = 0.002
"""Of moments, which are stored in milliseconds."""

# --- lost -----------------------------------------------------------------------------------------------------


def acknowledged_is_kept(story: Story) -> Iterator[str]:
    """What was acknowledged is in the history, as far as that reaches; revision and token never went back."""
    if story.document is None:
        yield "it was acknowledged, and there is no such session"
        return
    for call in story.calls:
        if not call.is_acknowledged:
            continue
        for name, field_ in (("revision", "revision"), ("token", "fencing_token")):
            if call.found.get(name, 0) > story.document.get(field_, 0):
                yield f"{call.name} was acknowledged with {name} {call.found[name]}"
        bound = call.told.get("conversation_id")
        if bound not in (None, story.document.get("conversation_id")) and call.found.get("created", True):
            yield f"{call.name} was acknowledged for {bound}, and it is in {story.document.get('conversation_id')}"
    entries = {entry["operation_id"] for entry in story.history}
    since = -inf if story.is_whole else _oldest_acknowledged(story)
    for operation_id, calls in story.by_operation.items():
        acknowledged = [call for call in calls if call.is_acknowledged and _leaves_entry(call)]
        if acknowledged and operation_id not in entries and min(call.begun for call in calls) > since:
            yield f"{acknowledged[0].name} was acknowledged and is not in the history"


def _oldest_acknowledged(story: Story) -> float:
    """From when on all that was begun is within the history; never if nobody has acknowledged any of its entries."""
    for entry in story.history:
        if ended := [call.ended for call in story.made(entry) if call.is_acknowledged]:
            return min(ended)
    return inf


def _leaves_entry(call: Call) -> bool:
    if call.name in CREATIONS:
        return bool(call.found.get("created", True))
    return call.name not in WITHOUT_ENTRY and not (call.name == "release" and call.told.get("kind") == "apply")


def _silent_writes(story: Story) -> tuple[int, int]:
    """How many writes without an entry were acknowledged, and how many more may have been carried out."""
    certain: set[object] = set()
    possible: set[object] = set()
    for number, call in enumerate(story.calls):
        if _leaves_entry(call) or call.name in CREATIONS or call.answer is Answer.NOT_WRITTEN:
            continue
        # What is made again changes nothing more, but for what has no name of its own.
        name = call.operation_id or call.told.get("conversation_id") or call.told.get("notification_id")
        # A refusal may come of a second try, after a first one that was carried out unseen.
        (certain if call.is_acknowledged else possible).add((call.name, name or number))
    return len(certain), len(possible - certain)


def each_write_counts(story: Story) -> Iterator[str]:
    """The revision is 1 and one for each write: those acknowledged, and of those with an unknown end none to all."""
    if story.document is None or not story.is_whole:
        return
    silent = story.document["revision"] - len(story.history)
    certain, possible = _silent_writes(story)
    if not certain <= silent <= certain + possible:
        yield (
            f"revision {story.document['revision']} with {len(story.history)} entries: {silent} writes without one, "
            f"of which {certain} acknowledged and {possible} of unknown end"
        )


def consumed_replies_are_kept(story: Story) -> Iterator[str]:
    """A recorded reply is among those answered, and one that was replaced among those replaced."""
    if story.document is None or not story.is_whole:
        return
    answered = story.document.get("answered_reply_ids") or []
    replaced = story.document.get("replaced_reply_ids") or []
    entries = {entry["operation_id"] for entry in story.history}
    for call in story.acknowledged(*OUTCOMES):
        if call.operation_id in entries and len(answered) < REPLIES_KEPT and call.told["reply_id"] not in answered:
            yield f"the reply {call.told['reply_id']} was recorded, and is not among those answered"
    replacements = sum(entry["reason"] == REPLACED for entry in story.history)
    if len(replaced) < min(replacements, REPLIES_KEPT):
        yield f"{replacements} runs were replaced, and {len(replaced)} replies are kept as such"


def confirmed_is_written(story: Story, effects: Mapping[str, int]) -> Iterator[str]:
    """A session that was applied by its write-back has taken effect, once; whatever was written has ended so."""
    mine = {key: times for key, times in effects.items() if key.partition(":")[0] == story.session_id}
    if story.document is None or not story.is_whole:
        return
    last = story.history[-1]
    if last["call"] == "complete_apply" and len(mine) != 1:
        yield f"applied with {len(mine)} effects"
    if mine and last["to_status"] not in (APPLIED, FAILED):
        yield f"it was written back, and is {last['to_status']}"


# --- doubled --------------------------------------------------------------------------------------------------


def one_entry_an_operation(story: Story) -> Iterator[str]:
    """No operation id stands twice in a history."""
    named = Counter(entry["operation_id"] for entry in story.history if entry["operation_id"] is not None)
    yield from (f"{times} entries of the operation {name}" for name, times in named.items() if times > 1)


def one_holder_a_token(story: Story) -> Iterator[str]:
    """No fencing token was given to two claims."""
    holders: dict[int, set[object]] = defaultdict(set)
    for number, call in enumerate(story.calls):
        if call.is_acknowledged and call.name in CLAIMS:
            # A claim that named itself is another one each time.
            holders[call.found["token"]].add(call.told.get("operation_id") or number)
    yield from (f"the token {token} was given {len(who)} times" for token, who in holders.items() if len(who) > 1)


def one_outcome_a_message(story: Story) -> Iterator[str]:
    """No message has two recorded outcomes."""
    recorded: Counter[str] = Counter()
    for entry in story.history:
        if entry["call"] in OUTCOMES:
            recorded.update({call.told["reply_id"] for call in story.made(entry)})
    yield from (f"{times} outcomes of the message {reply}" for reply, times in recorded.items() if times > 1)
    for name in ("answered_reply_ids", "replaced_reply_ids"):
        kept = Counter((story.document or {}).get(name) or [])
        yield from (f"{reply} stands {times} times in {name}" for reply, times in kept.items() if times > 1)


# --- illegal --------------------------------------------------------------------------------------------------


ELSE_THAN_APPLYING: Final = ("apply", "ignore", "fail", "claim_refinement")


def legal_steps(story: Story) -> Iterator[str]:
    """Each step of the history is one that its call may make."""
    for before, entry in story.steps:
        if (before, entry["to_status"]) not in STEPS.get(entry["call"], frozenset()):
            yield f"{entry['call']} led from {before} to {entry['to_status']}"
        elif entry["call"] == "claim_refinement" and before == RERUNNING and entry["reason"] != REPLACED:
            yield "a refinement was taken over"


def known_steps(story: Story) -> Iterator[str]:
    """Each entry was made by a call that was acknowledged, or whose end is unknown; a refused one leaves none."""
    nameless = Counter(call.name for call in story.calls if call.operation_id is None and _may_have_written(call))
    for entry in story.history:
        calls, name = story.made(entry), entry["call"]
        if name in SWEEPS and entry["operation_id"] is None:
            continue
        if not calls and entry["operation_id"] is not None and nameless[name]:
            nameless[name] -= 1
        elif not calls:
            yield f"nobody has made the entry of {name}"
        elif not any(call.name == name and _may_have_written(call) for call in calls):
            yield f"{name} is in the history, and was {calls[0].answer}"


def _may_have_written(call: Call) -> bool:
    if call.answer is Answer.REFUSED:
        # It ends a session whose attempts are spent; and a first try may have been carried out unseen, and undone.
        return call.found.get("reason") == "attempts_exhausted" or call.found.get("error") == "LeaseLost"
    return call.answer is not Answer.NOT_WRITTEN


def no_late_write(story: Story) -> Iterator[str]:
    """Nobody writes under a token after a later one was given out."""
    highest = -1
    for entry in story.history:
        token = story.token_of(entry)
        if token is None:
            continue
        if token < highest or (token == highest and entry["call"] not in HOLDERS):
            yield f"{entry['call']} wrote under the token {token} after {highest}"
        highest = max(highest, token)
    given = sorted((call.ended, call.found["token"]) for call in story.acknowledged(*CLAIMS, "interrupt"))
    for call in story.acknowledged(*HOLDERS):
        # A repetition tells what the first try did.
        begun = min((same.begun for same in story.by_operation.get(call.operation_id or "", ())), default=call.begun)
        if any(ended < begun and token > call.told["token"] for ended, token in given):
            yield f"{call.name} was acknowledged under the token {call.told['token']}, after a later one"


def stopped_recorded_nothing(story: Story) -> Iterator[str]:
    """A message that was replaced has no outcome, and what was taken from a run was not recorded."""
    replaced = set((story.document or {}).get("replaced_reply_ids") or [])
    answered = set((story.document or {}).get("answered_reply_ids") or [])
    yield from (f"{reply} was replaced and answered" for reply in replaced & answered)
    for entry in story.history:
        if entry["call"] in OUTCOMES:
            recorded = {call.told["reply_id"] for call in story.made(entry)} & replaced
            yield from (f"{reply} was replaced, and its {entry['call']} recorded" for reply in recorded)


def only_lapsed_is_taken(story: Story) -> Iterator[str]:
    """A lease is taken over, or put back by a sweep, no earlier than its holder was told that it lasts."""
    for before, after in pairwise(story.history):
        is_take_over = after["call"] == "claim_rerun" and before["to_status"] == RERUNNING
        if (is_take_over and after["reason"] != REPLACED) or after["call"] == "recover_stalled":
            early = _lasts_until(story, before, after) - seconds(after["at"])
            if early > _ROUNDING:
                yield f"{after['call']} took a rerun {early:.3f} s before its lease had lapsed"
    yield from _applies_taken(story)


def _lasts_until(story: Story, claim: Mapping[str, Any], taken: Mapping[str, Any]) -> float:
    """Until when the holder of a claim had been told that it lasts, before somebody set out to take it."""
    set_out = min((call.begun for call in story.made(taken)), default=-inf)
    token = story.token_of(claim)
    told = [
        call.found["expires_at"]
        for call in story.acknowledged(*CLAIMS, "renew")
        # What was claimed comes before what took it, whenever the answer arrived; a renewal need not.
        if call.found["token"] == token and (call.name != "renew" or call.ended < set_out)
    ]
    return max(told, default=-inf)


def _applies_taken(story: Story) -> Iterator[str]:
    let_go = {call.told["token"] for call in story.calls if call.name in ("release", "postpone")}
    given = {call.found["token"]: call.found for call in story.acknowledged("claim_apply")}
    for token, found in given.items():
        later = given.get(token + 1)
        if later is None or token in let_go:
            continue
        taken_at = later["expires_at"] - later["lease"]
        if taken_at < found["expires_at"] - _ROUNDING:
            yield f"the apply lease {token} was taken {found['expires_at'] - taken_at:.3f} s early"


def nothing_stale(story: Story) -> Iterator[str]:
    """A reply that names its question, and a call that names its preview, met just these."""
    for call in story.acknowledged(*CLAIMS):
        if (asked := call.told.get("question_number")) is not None and asked != call.found["question_number"]:
            yield f"a reply to the question {asked} was claimed for {call.found['question_number']}"
        if (seen := call.told.get("preview_id")) is not None and seen != call.found["preview_id"]:
            yield f"{call.name} names the preview {seen} and met {call.found['preview_id']}"
        if call.name != "claim_apply" and call.found["attempt"] > story.bounds.max_attempts:
            yield f"{call.name} began the attempt {call.found['attempt']}"
        claimed_at = call.found["expires_at"] - call.found["lease"]
        if call.name != "claim_apply" and not call.told.get("replaces") and claimed_at > _end_of(call) + _ROUNDING:
            yield f"{call.name} was made {claimed_at - _end_of(call):.3f} s after the session had expired"
    if story.document is None:
        return
    for call in story.acknowledged("apply"):
        if call.told["preview_id"] != story.document.get("current_preview_id"):
            yield f"the preview {call.told['preview_id']} was applied, not {story.document.get('current_preview_id')}"


def _end_of(call: Call) -> float:
    ends = call.found.get("ends_at")
    return inf if ends is None else float(ends)


def nothing_ends_a_confirmation(story: Story) -> Iterator[str]:
    """From the claim of a confirmed preview until its outcome nobody else ends, changes or expires the session."""
    let_go = [call.told["token"] for call in story.calls if call.name == "release" and call.told["kind"] == "apply"]
    entries = {entry["operation_id"] for entry in story.history}
    for claim in story.acknowledged("claim_apply"):
        # A repetition is answered only while its lease is there.
        if max(let_go, default=-1) >= claim.found["token"]:
            continue
        for call in story.acknowledged(*ELSE_THAN_APPLYING):
            first = min((same.begun for same in story.by_operation.get(call.operation_id or "", ())), default=inf)
            if claim.ended < first < inf and call.operation_id in entries:
                yield f"{call.name} came upon the confirmed preview {claim.told['preview_id']}"


def given_back_as_it_was(story: Story) -> Iterator[str]:
    """What is given back stands as it did before its claim: the question and its number, or the preview."""
    claimed = {call.found["token"]: call.found for call in story.acknowledged("claim_rerun", "claim_refinement")}
    for call in story.acknowledged("release"):
        before, after = claimed.get(call.told["token"]), call.found
        # A repetition's answer shows the session as it stands, which may be later.
        if before is None or after["status"] not in (WAITING, READY) or after["token"] != before["token"]:
            continue
        if after["question_number"] == before["question_number"] and after["question"] != before["question"]:
            yield f"the question {before['question']!r} came back as {after['question']!r}"


def fit_for_status(story: Story) -> Iterator[str]:
    """What a session holds fits its status, and its counts fit its history."""
    stored = story.document
    if stored is None:
        return
    lease, status, state = stored.get("lease"), stored["status"], stored.get("state") or {}
    kind = None if lease is None else lease.get("kind")
    if (status == RERUNNING) != (kind in ("reply", "refinement")) or (kind == "apply" and status != READY):
        yield f"{status} with the lease {kind}"
    if status == WAITING and not (state.get("pending_question") or state.get("missing_info")):
        yield "it waits without a question"
    if status == WAITING and stored.get("current_preview_id"):
        yield "it waits with a preview"
    if status == READY and (not stored.get("current_preview_id") or state.get("pending_question")):
        yield "it is ready without a preview, or with a question"
    if story.history and story.history[-1]["to_status"] != status:
        yield f"{status}, and the history ends {story.history[-1]['to_status']}"
    if len(story.history) > HISTORY_KEPT:
        yield f"a history of {len(story.history)}"
    if story.is_whole:
        yield from _counts(story, stored)
    elif len(story.history) < HISTORY_KEPT:
        yield "its history has no beginning"


def _counts(story: Story, stored: Mapping[str, Any]) -> Iterator[str]:
    asked = sum(entry["to_status"] == WAITING and entry["call"] in {*CREATIONS, "ask_again"} for entry in story.history)
    if stored.get("question_number", 0) != asked:
        yield f"{asked} questions were asked, and it counts {stored.get('question_number', 0)}"
    given = sum(
        entry["call"] == "interrupt" or (entry["call"] in CLAIMS and entry["to_status"] == RERUNNING)
        for entry in story.history
    )
    if stored.get("fencing_token", 0) < given:
        yield f"{given} tokens were given out, and it counts {stored.get('fencing_token', 0)}"
