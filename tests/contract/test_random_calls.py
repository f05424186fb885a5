"""The same calls give the same outcomes on the double and on a server, and no sequence leaves an illegal history."""

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import pytest
from pydantic import BaseModel
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent

from sessions import ApplyClaim, RerunClaim, SessionError, SessionRepository, SessionStatus, open_repository
from sessions.domain.lifecycle import CALLS as CALL_RULES
from sessions.domain.lifecycle import LIFECYCLE, CallName, LeaseKind
from sessions.domain.models import Page, Route, derive_session_id
from sessions.store.clients import connect, connect_double, default_driver, disconnect
from sessions.store.document import COLLECTION
from sessions.store.writes import REPLACED_REASON
from sessions.testing import MovedClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sessions.store.clients import Client, Database

START: Final = datetime(2026, 1, 1, tzinfo=UTC)
SEEDS: Final = range(5)
CALLS: Final = 1_000
LEASE: Final = timedelta(seconds=10)
USERS: Final = (1, 2)
TRIGGERS: Final = tuple(f"t{number}" for number in range(12))
CONVERSATIONS: Final = ("c1", "c2", "c3")
REPLIES: Final = tuple(f"r{number}" for number in range(40))
STEPS: Final = tuple(
    timedelta(milliseconds=step) for step in (0, 0, 0, 1, 5, 700, 2_000, 4_999, 5_000, 9_999, 10_000, 10_001, 25_000)
)

# How often each call is made, beside the others.
WEIGHTS: Final[Mapping[str, int]] = {
    "create": 6,
    "get_or_create": 8,
    "bind_conversation": 6,
    "record_notification": 4,
    "claim_rerun": 22,
    "claim_refinement": 10,
    "claim_apply": 10,
    "renew": 6,
    "release": 6,
    "ask_again": 9,
    "present_preview": 9,
    "close_rerun": 2,
    "fail_rerun": 2,
    "complete_apply": 3,
    "fail_apply": 1,
    "apply": 3,
    "ignore": 1,
    "fail": 1,
    "expire_due": 2,
    "recover_stalled": 2,
    "interrupted_applies": 2,
    "purge": 3,
    "count_by_status": 1,
    "get": 1,
    "history": 2,
    "route": 4,
    "route_many": 1,
    "list_sessions": 2,
    "find_by_trigger": 1,
    "find_by_preview": 1,
    "find_by_reply": 1,
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a caller can see of an error."""

    kind: str
    text: str
    seen: dict[str, object]


def told(answer: object) -> object:
    """An outcome as something to compare and to read in a failure."""
    match answer:
        case SessionError():
            return Refusal(
                type(answer).__name__, str(answer), {name: told(value) for name, value in vars(answer).items()}
            )
        case BaseModel():
            return answer.model_dump_json()
        case RerunClaim() | ApplyClaim():
            return "claim", told(answer.session), answer.token, answer.attempt, answer.expires_at, answer.lease
        case Route():
            return answer.action, told(answer.session)
        case Page():
            return told(answer.sessions), answer.after
        case dict():
            return {key: told(value) for key, value in answer.items()}
        case list() | tuple():
            return [told(item) for item in answer]
    return answer


Outcome = tuple[str, dict[str, Any], object]
"""A call's name, its arguments, and what came of it."""


class Player:
    """Makes random calls; equal seeds and equal answers make equal calls."""

    def __init__(self, repository: SessionRepository, clock: MovedClock, seed: int) -> None:
        self._repository = repository
        self._clock = clock
        self._random = Random(seed)
        self._claims: list[RerunClaim | ApplyClaim] = []
        self._recent: list[tuple[str, dict[str, Any]]] = []
        self._operations: dict[str, list[str]] = {}
        self._number = 0

    async def play(self) -> Outcome:
        """One call after a step of the clock: its name, its arguments, what came of it."""
        self._number += 1
        self._move()
        if self._recent and self._random.random() < 0.06:
            # The very same call again, as a retry or a second delivery makes it.
            name, arguments = self._pick(self._recent[-6:])
        else:
            name = self._random.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
            arguments = self._arguments(name)
        self._recent.append((name, arguments))
        try:
            answer: object = await getattr(self._repository, name)(**arguments)
        except SessionError as error:
            answer = error
        if isinstance(answer, RerunClaim | ApplyClaim):
            self._claims.append(answer)
        shown = {key: told(value) for key, value in arguments.items()}
        return name, shown, told(answer)

    def _move(self) -> None:
        if self._claims and self._random.random() < 0.04:
            # To the very moment of a lapse, or a millisecond before it.
            edge = self._pick(self._claims[-3:]).expires_at - timedelta(milliseconds=self._random.randrange(2))
            self._clock.at = max(self._clock.at, edge)
        elif self._random.random() < 0.5:
            self._clock.at += self._pick(STEPS)

    def _pick(self, of: Any) -> Any:
        return self._random.choice(of)

    def _maybe(self, value: Callable[[], object], chance: float, *, key: str) -> dict[str, object]:
        return {key: value()} if self._random.random() < chance else {}

    def _operation(self, name: str) -> str:
        """Fresh, or one of this call's own again, or, seldom, another call's."""
        dice = self._random.random()
        if dice < 0.08 and self._operations.get(name):
            return str(self._pick(self._operations[name][-8:]))
        if dice < 0.11 and self._operations:
            return str(self._pick(self._operations[self._pick(sorted(self._operations))][-8:]))
        operation_id = f"{name}-{self._number}"
        self._operations.setdefault(name, []).append(operation_id)
        return operation_id

    def _session(self) -> dict[str, Any]:
        if self._claims and self._random.random() < 0.3:
            claimed = self._pick(self._claims[-4:]).session
            return {"session_id": claimed.session_id, "user_id": claimed.user_id}
        user_id = self._pick(USERS)
        # Now and then another user's: it counts as missing.
        owner = user_id if self._random.random() < 0.97 else self._pick(USERS)
        return {"session_id": derive_session_id(owner, self._pick(TRIGGERS)), "user_id": user_id}

    def _ends(self) -> datetime:
        # The call's number keeps moments apart: sweeps in batches take the longest overdue first.
        seconds = self._pick((1, 6, 12, 40, 300))
        return self._clock.at + timedelta(seconds=seconds, milliseconds=self._number % 997)

    def _preview(self) -> str:
        return f"p{self._random.randrange(6)}"

    def _claim(self, name: str) -> RerunClaim | ApplyClaim | None:
        held = CALL_RULES[CallName(name)].held
        # Now and then a claim of another kind: it is none.
        fitting = [claim for claim in self._claims if claim.kind in held or self._random.random() < 0.01]
        recent = fitting[-1:] if self._random.random() < 0.6 else fitting[-12:]
        return self._pick(recent) if recent else None

    def _arguments(self, name: str) -> dict[str, Any]:
        return getattr(self, f"_for_{name}", dict)()

    def _for_create(self) -> dict[str, Any]:
        way = self._pick(
            (
                {"pending_question": "Which?"},
                {"pending_question": "Which?", "missing_info": ["room", "day"]},
                {"missing_info": ["room"]},
                {"preview_id": self._preview()},
                {"preview_id": self._preview()},
                {"ignored": True},
                {},
            )
        )
        return {
            "user_id": self._pick(USERS),
            "trigger_id": self._pick(TRIGGERS),
            "operation_id": self._operation("create"),
            **way,
            **self._maybe(lambda: self._pick(CONVERSATIONS), 0.6, key="conversation_id"),
            **self._maybe(self._ends, 0.4, key="expires_at"),
            **self._maybe(lambda: "candidate", 0.2, key="candidate_id"),
        }

    def _for_get_or_create(self) -> dict[str, Any]:
        return {**self._for_create(), "operation_id": self._operation("get_or_create")}

    def _for_bind_conversation(self) -> dict[str, Any]:
        return {
            **self._session(),
            "conversation_id": self._pick(CONVERSATIONS),
            **self._maybe(lambda: self._pick(("n1", None)), 0.3, key="notification_id"),
            **self._maybe(lambda: self._random.randint(1, 4), 0.2, key="expected_revision"),
        }

    def _for_record_notification(self) -> dict[str, Any]:
        return {**self._session(), "notification_id": self._pick(("n1", "n2"))}

    def _claiming(self, name: str) -> dict[str, Any]:
        return {
            **self._session(),
            "reply_id": self._pick(REPLIES),
            "operation_id": self._operation(name),
            **self._maybe(
                lambda: timedelta(seconds=self._pick((1, 5, 30)), milliseconds=self._number % 991), 0.5, key="lease"
            ),
        }

    def _for_claim_rerun(self) -> dict[str, Any]:
        number = self._maybe(lambda: self._random.randrange(4), 0.2, key="question_number")
        return {**self._claiming("claim_rerun"), **number}

    def _for_claim_refinement(self) -> dict[str, Any]:
        return {**self._claiming("claim_refinement"), "preview_id": self._preview()}

    def _for_claim_apply(self) -> dict[str, Any]:
        given = self._claiming("claim_apply")
        del given["reply_id"]
        return {**given, "preview_id": self._preview()}

    def _holding(self, name: str, **more: Any) -> dict[str, Any]:
        claim, operation_id = self._claim(name), self._operation(name)
        if claim is not None and self._random.random() < 0.03:
            # A holder's mistake: the claim's own id for the outcome too.
            operation_id = claim.operation_id
        return {"claim": claim, "operation_id": operation_id, **more}

    def _for_renew(self) -> dict[str, Any]:
        return {"claim": self._claim("renew")}

    def _for_release(self) -> dict[str, Any]:
        return self._holding("release", count_attempt=self._random.random() < 0.4, reason="given back")

    def _recorded(self, name: str, **more: Any) -> dict[str, Any]:
        return {
            **self._holding(name, **more),
            **self._maybe(lambda: self._pick((None, self._ends())), 0.4, key="expires_at"),
            **self._maybe(lambda: self._pick((None, "candidate")), 0.2, key="candidate_id"),
        }

    def _for_ask_again(self) -> dict[str, Any]:
        way = self._pick(({"pending_question": "And?"}, {"missing_info": ["day"]}, {"pending_question": "Or?"}, {}))
        return self._recorded("ask_again", **way)

    def _for_present_preview(self) -> dict[str, Any]:
        return self._recorded("present_preview", preview_id=self._preview())

    def _for_close_rerun(self) -> dict[str, Any]:
        return self._holding("close_rerun")

    def _for_fail_rerun(self) -> dict[str, Any]:
        return self._holding("fail_rerun", reason="it broke")

    def _for_complete_apply(self) -> dict[str, Any]:
        return self._holding("complete_apply")

    def _for_fail_apply(self) -> dict[str, Any]:
        return self._holding("fail_apply", reason="it was not written")

    def _ending(self, name: str, **more: Any) -> dict[str, Any]:
        return {
            **self._session(),
            "operation_id": self._operation(name),
            **more,
            **self._maybe(lambda: self._random.randint(1, 6), 0.2, key="expected_revision"),
        }

    def _for_apply(self) -> dict[str, Any]:
        return self._ending("apply", preview_id=self._preview())

    def _for_ignore(self) -> dict[str, Any]:
        return self._ending("ignore", reason="dismissed")

    def _for_fail(self) -> dict[str, Any]:
        return self._ending("fail", reason="broken")

    def _for_expire_due(self) -> dict[str, Any]:
        return {"limit": self._pick((1, 2, 1_000))}

    def _for_recover_stalled(self) -> dict[str, Any]:
        return {"limit": self._pick((1, 2, 1_000))}

    def _for_interrupted_applies(self) -> dict[str, Any]:
        # No small batches: leases may lapse at one moment.
        return {"limit": 1_000}

    def _for_purge(self) -> dict[str, Any]:
        # No small batches: sessions that a sweep ended at one moment tie.
        return {"ended_before": self._clock.at - timedelta(seconds=self._pick((0, 5, 60)))}

    def _for_get(self) -> dict[str, Any]:
        return self._session()

    def _for_history(self) -> dict[str, Any]:
        return self._session()

    def _for_route(self) -> dict[str, Any]:
        return {"user_id": self._pick(USERS), "conversation_id": self._pick(CONVERSATIONS)}

    def _for_route_many(self) -> dict[str, Any]:
        return {"user_id": self._pick(USERS), "conversation_ids": list(CONVERSATIONS)}

    def _for_list_sessions(self) -> dict[str, Any]:
        return {"user_id": self._pick(USERS), "limit": self._pick((1, 3, 50))}

    def _for_find_by_trigger(self) -> dict[str, Any]:
        return {"user_id": self._pick(USERS), "trigger_id": self._pick(TRIGGERS)}

    def _for_find_by_reply(self) -> dict[str, Any]:
        where = {"user_id": self._pick(USERS), "conversation_id": self._pick(CONVERSATIONS)}
        return {"reply_id": self._pick(REPLIES), **where}

    def _for_find_by_preview(self) -> dict[str, Any]:
        # Only one that nobody has: which of several sessions with one preview is found is not promised.
        return {"user_id": self._pick(USERS), "preview_id": "unknown"}


class WriteCounter(CommandListener):
    """Counts the documents that the server says it wrote, deletions apart."""

    def __init__(self) -> None:
        self.written = 0

    def started(self, event: CommandStartedEvent) -> None:
        """Counted when it is answered."""

    def succeeded(self, event: CommandSucceededEvent) -> None:
        """Count what it changed."""
        reply: Any = event.reply
        if event.command_name == "findAndModify":
            self.written += reply["lastErrorObject"]["n"]
        elif event.command_name == "update":
            self.written += reply["nModified"]
        elif event.command_name == "insert":
            self.written += reply["n"]

    def failed(self, event: CommandFailedEvent) -> None:
        """Nothing was written."""


Stored = dict[str, dict[str, Any]]
Played = Callable[[int], Awaitable[tuple[list[Outcome], Stored]]]


async def read(database: "Database") -> Stored:
    """All documents by their id."""
    collection: Any = database[COLLECTION]
    return {document["_id"]: document async for document in collection.find({})}


def assert_legal(before: Stored, after: Stored) -> None:
    """What one call may do to the collection."""
    governors = Counter(
        (document["user_id"], document["conversation_id"])
        for document in after.values()
        if SessionStatus(document["status"]).intercepts and document["conversation_id"] is not None
    )
    assert all(number == 1 for number in governors.values()), governors
    for session_id, document in after.items():
        earlier = before.get(session_id)
        if earlier is not None and earlier["revision"] == document["revision"]:
            assert earlier == document, "changed without a new revision"
            continue
        if earlier is not None and earlier["revision"] < document["revision"]:
            assert earlier["updated_at"] <= document["updated_at"]
            assert earlier["fencing_token"] <= document["fencing_token"]
            assert earlier["conversation_id"] in (None, document["conversation_id"])
        else:
            assert document["revision"] == 1, "a revision went back"
        assert_legal_history(document)


def assert_legal_history(document: dict[str, Any]) -> None:
    """Each step is one of the table's, and what the last status needs is there."""
    history = document["history"]
    statuses = [SessionStatus(entry["to_status"]) for entry in history]
    assert len(history) <= min(32, document["revision"])
    assert statuses[-1] == document["status"]
    if len(history) < 32:
        assert LIFECYCLE[statuses[0]].is_initial
        assert history[0]["call"] in (CallName.CREATE, CallName.GET_OR_CREATE)
    for came_from, entered, entry in zip(statuses, statuses[1:], history[1:], strict=False):
        assert entered in LIFECYCLE[came_from].leads_to, history
        if came_from is entered:
            replaced = entry["reason"] == REPLACED_REASON
            assert replaced or entry["call"] == CallName.CLAIM_RERUN, "only a take-over enters what it comes from"
    kinds: set[LeaseKind | None] = {None, LeaseKind.APPLY} if statuses[-1] is SessionStatus.READY_PREVIEW else {None}
    kinds = {LeaseKind.REPLY, LeaseKind.REFINEMENT} if statuses[-1] is SessionStatus.RERUNNING else kinds
    assert document.get("lease", {}).get("kind") in kinds
    needed = LIFECYCLE[statuses[-1]].needs_one_of
    flat = {**document, **{f"state.{name}": value for name, value in document["state"].items()}}
    assert not needed or any(flat.get(path) for path in needed), document


@asynccontextmanager
async def a_database(client: "Client") -> "AsyncIterator[Database]":
    """An empty one, removed after it."""
    named: Any = client
    name = f"sessions_test_{uuid4().hex[:16]}"
    try:
        yield named[name]
    finally:
        await named.drop_database(name)
        await disconnect(client)


def opened(database: "Database", clock: MovedClock) -> Awaitable[SessionRepository]:
    """With a short lease and few attempts, so that both run out often."""
    return open_repository(database, create_indexes=True, clock=clock, lease=LEASE, max_attempts=2)


async def played_on_the_double(seed: int) -> tuple[list[Outcome], Stored]:
    """The outcomes, and what is stored at the end."""
    async with a_database(connect_double()) as database:
        clock = MovedClock(START)
        player = Player(await opened(database, clock), clock, seed)
        outcomes = [await player.play() for _ in range(CALLS)]
        return outcomes, await read(database)


@pytest.fixture(scope="module")
def on_the_double() -> Played:
    """What came of a seed's calls on the double; played once for all drivers."""
    played: dict[int, tuple[list[Outcome], Stored]] = {}

    async def once(seed: int) -> tuple[list[Outcome], Stored]:
        if seed not in played:
            played[seed] = await played_on_the_double(seed)
        return played[seed]

    return once


def comparable(stored: Stored) -> Stored:
    """Documents whose moments carry no zone, as a plain handle of either backend reads them."""

    def plain(value: Any) -> Any:
        match value:
            case datetime():
                return value.replace(tzinfo=None)
            case dict():
                return {key: plain(item) for key, item in value.items()}
            case list():
                return [plain(item) for item in value]
        return value

    return {session_id: plain(document) for session_id, document in stored.items()}


REFUSALS: Final = {
    "InvalidSessionInput",
    "SessionNotFound",
    "SessionExists",
    "InvalidTransition",
    "ConversationBusy",
    "StalePreview",
    "StaleReply",
    "LeaseLost",
    "in_progress",
    "applying",
    "already_answered",
    "already_bound",
    "revision_changed",
    "attempts_exhausted",
    "operation_id_reused",
}


async def test_the_random_calls_meet_every_outcome(on_the_double: Played) -> None:
    """Each call succeeds somewhere and each refusal that one caller can meet is met, else the rest shows little."""
    succeeded: set[str] = set()
    refused: set[str] = set()
    for seed in SEEDS:
        outcomes, _ = await on_the_double(seed)
        for name, _, answer in outcomes:
            match answer:
                case Refusal(kind="TransitionConflict"):
                    refused.add(str(answer.seen["reason"]))
                case Refusal():
                    refused.add(answer.kind)
                case _:
                    succeeded.add(name)
    assert succeeded == WEIGHTS.keys()
    assert refused == REFUSALS


@pytest.mark.parametrize("driver", sorted({default_driver(), "pymongo"}))
@pytest.mark.parametrize("seed", SEEDS)
async def test_random_calls_come_out_alike_and_stay_legal(
    mongod_uri: str, on_the_double: Played, seed: int, driver: str
) -> None:
    """A thousand calls under a moved clock: the same outcomes as on the double, each step of each session legal."""
    expected, expected_stored = await on_the_double(seed)
    counter = WriteCounter()
    async with a_database(connect(mongod_uri, driver=driver, listeners=[counter])) as database:
        clock = MovedClock(START)
        player = Player(await opened(database, clock), clock, seed)
        counter.written = 0
        stored: Stored = {}
        purged = 0
        for number, wanted in enumerate(expected, 1):
            assert await player.play() == wanted, f"call {number} of seed {seed}"
            before, stored = stored, await read(database)
            assert_legal(before, stored)
            purged += sum(before[session_id]["revision"] for session_id in before.keys() - stored.keys())
            assert purged + sum(document["revision"] for document in stored.values()) == counter.written
        assert comparable(stored) == comparable(expected_stored)
