"""One-line mutations of the library, each of which breaks a promise: what the campaigns have to find."""

from typing import Final, NamedTuple

CONTENTION: Final = "contention"
STRANDED: Final = "stranded"


class Mutation(NamedTuple):
    """A change of the library that must not pass.

    Attributes:
        name: What is wrong then.
        file: Within the package.
        text: Stands there exactly once.
        replacement: Stands there instead.
        breaks: The rule of the checker that says so.
        hunt: The quickest campaign that finds it.
    """

    name: str
    file: str
    text: str
    replacement: str
    breaks: str
    hunt: str = CONTENTION


_WRITES: Final = "store/writes.py"

MUTATIONS: Final = (
    Mutation(
        "a call that arrives twice is carried out twice",
        _WRITES,
        '    unseen: Filter = {"history.operation_id": {"$ne": call.operation_id}}\n',
        "    unseen: Filter = {}\n",
        "one_entry_an_operation",
    ),
    Mutation(
        "a holder's token and operation are not checked",
        _WRITES,
        '    conditions["lease.operation_id"] = {"$eq": call.claim.operation_id, "$ne": call.operation_id}\n'
        "    return conditions\n\n\n"
        "def _held(claim: Claim) -> Filter:\n"
        "    # Neither a revision nor a clock: the token alone says who may write.\n"
        "    return {\n"
        '        "status": LEASES[claim.kind].held_in.value,\n'
        '        "fencing_token": claim.token,\n'
        '        "lease.operation_id": claim.operation_id,\n',
        "    conditions.pop('lease.operation_id', None)\n"
        "    return conditions\n\n\n"
        "def _held(claim: Claim) -> Filter:\n"
        "    return {\n"
        '        "status": LEASES[claim.kind].held_in.value,\n',
        "no_late_write",
    ),
    Mutation(
        "anybody may renew",
        _WRITES,
        'return Write({**owned(call), **_held(call.claim)}, update.build(), unless_done={"lease.expires_at": {"$lt"',
        'return Write({**owned(call)}, update.build(), unless_done={"lease.expires_at": {"$lt"',
        "no_late_write",
    ),
    Mutation(
        "the token of a claim is not counted up",
        _WRITES,
        '    update.add("fencing_token", 1)\n    if replaced is None:\n',
        "    if replaced is None:\n",
        "one_holder_a_token",
    ),
    Mutation(
        "an answered message is claimed again",
        _WRITES,
        '        "answered_reply_ids": {"$ne": call.reply_id},\n',
        "",
        "one_outcome_a_message",
    ),
    Mutation(
        "a replaced message is claimed again",
        _WRITES,
        '        "replaced_reply_ids": {"$ne": call.reply_id},\n',
        "",
        "stopped_recorded_nothing",
    ),
    Mutation(
        "what was answered is not kept",
        _WRITES,
        '    update.append("answered_reply_ids", call.claim.reply_id, kept=REPLIES_KEPT)\n',
        "",
        "consumed_replies_are_kept",
    ),
    Mutation(
        "what was replaced is not kept",
        _WRITES,
        '        update.append("replaced_reply_ids", replaced.reply_id, kept=REPLIES_KEPT)\n',
        "",
        "consumed_replies_are_kept",
    ),
    Mutation(
        "a reply answers a later question",
        _WRITES,
        '        conditions["question_number"] = {"$in": [0, None]} if call.question_number == 0 '
        "else call.question_number\n",
        "        pass\n",
        "nothing_stale",
    ),
    Mutation(
        "another preview is changed than the user saw",
        _WRITES,
        '        conditions["current_preview_id"] = call.preview_id\n',
        "        pass\n",
        "nothing_stale",
    ),
    Mutation(
        "another preview is applied than the user saw",
        _WRITES,
        '        "current_preview_id": call.preview_id,\n        "lease": None,\n',
        '        "lease": None,\n',
        "nothing_stale",
    ),
    Mutation(
        "a preview is applied while somebody writes it back",
        _WRITES,
        '        "current_preview_id": call.preview_id,\n        "lease": None,\n',
        '        "current_preview_id": call.preview_id,\n',
        "nothing_ends_a_confirmation",
    ),
    Mutation(
        "a confirmed preview is dismissed",
        _WRITES,
        '        {"lease.kind": {"$ne": LeaseKind.APPLY.value}},\n',
        "        {},\n",
        "nothing_ends_a_confirmation",
    ),
    Mutation(
        "a preview is changed while it is written back",
        _WRITES,
        '        return {**conditions, "status": status, "lease": None}\n',
        '        return {**conditions, "status": status}\n',
        "nothing_ends_a_confirmation",
    ),
    Mutation(
        "a live reply is taken over",
        _WRITES,
        '    taken_over = {"status": LEASES[rule.takes_over].held_in.value, **lapsed(rule.takes_over, at)}\n',
        '    taken_over = {"status": LEASES[rule.takes_over].held_in.value, "lease.kind": rule.takes_over.value}\n',
        "only_lapsed_is_taken",
    ),
    Mutation(
        "a live write-back is taken over",
        _WRITES,
        '            {**lapsed(LeaseKind.APPLY, at), **fewer_than("lease.attempt", call.max_attempts)},\n',
        '            {"lease.kind": LeaseKind.APPLY.value, **fewer_than("lease.attempt", call.max_attempts)},\n',
        "only_lapsed_is_taken",
    ),
    Mutation(
        "a reply kills any number of workers",
        _WRITES,
        '    conditions = {**unexpired(at), **fewer_than("attempts", call.max_attempts)}\n',
        "    conditions = {**unexpired(at)}\n",
        "nothing_stale",
    ),
    Mutation(
        "an expired session is claimed",
        _WRITES,
        '    conditions = {**unexpired(at), **fewer_than("attempts", call.max_attempts)}\n',
        '    conditions = {**fewer_than("attempts", call.max_attempts)}\n',
        "nothing_stale",
    ),
    Mutation(
        "an outcome leaves its lease behind",
        _WRITES,
        "    update = _entering(call, status, at)\n    update.drop_lease()\n",
        "    update = _entering(call, status, at)\n",
        "fit_for_status",
    ),
    Mutation(
        "an outcome leaves what its status has no use for",
        _WRITES,
        "    update.clear_for(status)\n",
        "",
        "fit_for_status",
    ),
    Mutation(
        "a question is not counted",
        _WRITES,
        '        update.add("question_number", 1)\n',
        "        pass\n",
        "fit_for_status",
    ),
    Mutation(
        "a change that is given back loses its preview",
        _WRITES,
        "        update = _entering(call, LEASES[call.claim.kind].given_back_to, at)\n",
        "        update = _entering(call, SessionStatus.WAITING_USER_REPLY, at)\n",
        "fit_for_status",
    ),
    Mutation(
        "a stopped change is taken for a reply",
        _WRITES,
        '    held = {"lease.kind": call.interrupts.value, "lease.expires_at": {"$gt": at}}\n',
        '    held = {"lease.expires_at": {"$gt": at}}\n',
        "fit_for_status",
    ),
    Mutation(
        "what has ended ends again",
        _WRITES,
        '**revision, "status": status_in(CALLS[call.name].starts_from)}\n',
        "**revision}\n",
        "legal_steps",
    ),
    Mutation(
        "a bound session is bound elsewhere",
        _WRITES,
        '        "conversation_id": None,\n        # A lapsed refinement',
        "        # A lapsed refinement",
        "acknowledged_is_kept",
    ),
    Mutation(
        "a reply is claimed while a preview is shown",
        "domain/lifecycle.py",
        "        starts_from=frozenset({SessionStatus.WAITING_USER_REPLY}),\n",
        "        starts_from=frozenset({SessionStatus.WAITING_USER_REPLY, SessionStatus.READY_PREVIEW}),\n",
        "legal_steps",
    ),
    Mutation(
        "a write does not count",
        "store/updates.py",
        '        self._inc: RawDocument = {"revision": 1}\n',
        "        self._inc: RawDocument = {}\n",
        "each_write_counts",
    ),
    Mutation(
        "a history is cut too short",
        "store/updates.py",
        "HISTORY_KEPT: Final = 32\n",
        "HISTORY_KEPT: Final = 3\n",
        "fit_for_status",
    ),
    Mutation(
        "an operation id is used for every call",
        "repository/engine.py",
        "        return token_hex(_ID_BYTES) if operation_id is None",
        "        return '0' * 32 if operation_id is None",
        "one_holder_a_token",
    ),
    Mutation(
        "the governor index is not unique",
        "store/document.py",
        "        name=ROUTING_INDEX,\n        unique=True,\n",
        "        name=ROUTING_INDEX,\n",
        "one_governor",
    ),
    Mutation(
        "changes throw nothing out of the cache",
        "cache/listener.py",
        "            if is_update and self._shows(key, event.document, event.revision or 0):\n",
        "            if is_update:\n",
        "fresh_routes",
    ),
    Mutation(
        "whoever takes a write-back over writes under another key",
        "domain/models.py",
        '        return f"{self.session.key_prefix}:{self.session.current_preview_id}"\n',
        '        return f"{self.session.key_prefix}:{self.session.current_preview_id}:{self.token}"\n',
        "confirmed_is_written",
    ),
    Mutation(
        "a write is acknowledged before a majority has it",
        "store/requests.py",
        '_WRITE_CONCERN: Final = {"w": "majority"}\n',
        '_WRITE_CONCERN: Final = {"w": 1}\n',
        "acknowledged_is_kept",
        STRANDED,
    ),
)
