"""The rules by which Hypothesis plays: which calls are made in which order, by whom, with what."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from sessions import UNSET as LIBRARY_UNSET
from sessions import SessionStatus, WhileRunning
from tests.faults.bridge_model import Answer
from tests.faults.lifecycle_model import FINAL, INTERCEPTING, READY, RERUNNING, UNSET, WAITING, Session, session_id_of
from tests.faults.model_world import Both, World

TRIGGERS: Final = ("t1", "t2", "t3", "t4")
CONVERSATIONS: Final = ("c1", "c2")
REPLIES: Final = tuple(f"m{number}" for number in range(14))
PREVIEWS: Final = tuple(f"p{number}" for number in range(5))
STEPS: Final = tuple(map(timedelta, [0] * 6, [0] * 6, [0] * 6, (1, 40, 700, 4_999, 10_000, 60_000)))
LEASES: Final = (None, None, timedelta(seconds=1), timedelta(seconds=30))
UNCHANGED: Final = Both(LIBRARY_UNSET, UNSET)

PICK: Final = st.integers(0, 19)
"""Which of what there is; the last few values choose among all that exists, fitting or not."""
USER: Final = st.integers(0, 1)
TRIGGER: Final = st.sampled_from(TRIGGERS)
CONVERSATION: Final = st.sampled_from(CONVERSATIONS)
REPLY: Final = st.sampled_from(REPLIES)
PREVIEW: Final = st.integers(0, 11)
"""Which preview is named: mostly the one on offer."""
ENDS: Final = st.sampled_from((None, None, None, 1, 6, 40))
"""Seconds until the session ends; None for never."""
OPERATION: Final = st.integers(0, 15)
"""Mostly a new name; else one that this call, or another, had before."""
REVISION: Final = st.sampled_from((None, None, None, 0, 0, 1))
"""The revision that a caller expects: none, the present one, or one that has gone by."""
WAYS_IN: Final[tuple[dict[str, Any], ...]] = (
    {"pending_question": "Which?"},
    {"pending_question": "Which?", "missing_info": ("room", "day")},
    {"missing_info": ("room",)},
    {"preview_id": "p0"},
    {"preview_id": "p1"},
    {"ignored": True},
    {},
)
WAYS: Final = st.sampled_from(WAYS_IN)
STORED: Final = (("c1", WAYS_IN[0]), ("c2", WAYS_IN[0]), ("c1", WAYS_IN[3]), ("c2", WAYS_IN[4]))
ANSWERS: Final = st.sampled_from(
    (
        Answer("AskUser", {"pending_question": "And?"}, 1),
        Answer("AskUser", {"missing_info": ("day",), "candidate_id": None}, 2),
        Answer("AskUser", {"pending_question": "Or?", "expires_at": 20}, 3),
        Answer("AskUser"),
        *(Answer("ShowPreview", {"preview_id": preview_id}, 4) for preview_id in PREVIEWS[:3]),
        Answer("ShowPreview", {"preview_id": "p3", "expires_at": 5}, 5),
        Answer("ShowPreview", {"preview_id": "p4", "expires_at": None, "candidate_id": "k"}, 5),
        Answer("Close", {"reason": "done"}, 6),
        Answer("Fail", {"reason": "no"}, 7),
        Answer("Fail", {"reason": ""}, 7),
        Answer("NotAnAnswer", {}, 8),
        Answer("TryAgain", after=timedelta(seconds=3)),
        Answer("ValueError"),
        Answer("TooLate"),
    )
)
WRITINGS: Final = st.sampled_from(
    (
        *(Answer("Done"), Answer("Done"), Answer("Done"), Answer("ValueError"), Answer("TooLate")),
        *(Answer("TryAgain", after=timedelta(seconds=3)), Answer("TryAgain", after=timedelta(seconds=30))),
    )
)
MEANWHILE: Final = st.sampled_from(
    (None, None, None, "time passes", "it lapses", "it lapses and is swept", "stop", "ignore", "a newer one", "renewed")
)

CREATIONS: Final = ("create", "create", "get_or_create")
HOLDS: Final = ("renew", "release", "release", "postpone")
OUTCOMES: Final = ("ask_again", "present_preview", "close_rerun", "fail_rerun")
WRITTEN: Final = ("complete_apply", "fail_apply")
ENDINGS: Final = ("apply", "ignore", "fail")
BUTTONS: Final = ("stop", "stop", "dismiss")
SWEEPS: Final = (*("expire_due", "recover_stalled", "interrupted_applies", "purge") * 2, "upkeep")
LOOKS: Final = (
    *("route", "route_many", "get", "history", "latest", "find_by_trigger", "find_by_preview", "find_by_reply"),
    *("list_sessions", "count_by_status", "present_status"),
)
OTHERS: Final = (
    *("bind_conversation", "record_notification", "claim_rerun", "claim_refinement", "claim_apply", "interrupt"),
    *("start", "handle", "refine", "confirm", "watch"),
)
PLAYED: Final = frozenset({*CREATIONS, *HOLDS, *OUTCOMES, *WRITTEN, *ENDINGS, *BUTTONS, *SWEEPS, *LOOKS, *OTHERS})
"""All methods that the rules call."""


class Machine(RuleBasedStateMachine):
    """Calls of several users and workers, each to the library and to the model.

    Attributes:
        world: Both sides; it belongs to the campaign.
        wait_for: Runs a coroutine on the campaign's loop to its end.
    """

    world: World
    wait_for: Callable[[Awaitable[Any]], Any]

    @initialize(made=st.lists(st.sampled_from(STORED), max_size=6))
    def begin(self, made: list[tuple[str, dict[str, str]]]) -> None:
        """With nothing, or with a few sessions."""
        self.operations: list[tuple[str, str]] = []
        self.recent: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.token: str | None = None
        self.wait_for(self.world.begin())
        for number, (conversation, way) in enumerate(made):
            user_id, trigger = self.world.users[number % 2], TRIGGERS[number // 2]
            self._play("create", user_id, trigger, conversation_id=conversation, **way, operation_id=f"made-{number}")

    def _is_lively(self) -> bool:
        """Whether enough goes on that one more session may end."""
        model = self.world.model
        return sum(model.counts_as(session) not in FINAL for session in model.sessions.values()) > 2

    # --- choosing -------------------------------------------------------------------------------------------------

    def _play(self, name: str, *given: Any, **named: Any) -> Any:
        self.recent = [*self.recent, (name, given, named)][-6:]
        return self.wait_for(self.world.play(name, *given, **named))

    def _sessions(self, pick: int, wanted: Sequence[str] = ()) -> Session | None:
        model = self.world.model
        every = list(model.sessions.values())
        fitting = [session for session in every if model.counts_as(session) in wanted]
        chosen = fitting if fitting and pick < 17 else every
        return chosen[pick % len(chosen)] if chosen else None

    def _named(self, pick: int, wanted: Sequence[str] = (), user: int = 0) -> dict[str, Any]:
        """Ids of a session, seldom one that there is not, or another user's."""
        session = self._sessions(pick, wanted)
        if session is None or pick == 19:
            user_id = self.world.users[user]
            return {"session_id": session_id_of(user_id, TRIGGERS[0]), "user_id": user_id}
        return {"session_id": session.session_id, "user_id": session.user_id}

    def _stored(self, named: dict[str, Any]) -> Session | None:
        return self.world.model.sessions.get(named["session_id"])

    def _preview(self, named: dict[str, Any], preview: int) -> str:
        stored = self._stored(named)
        current = None if stored is None else stored.current_preview_id
        return current if current is not None and preview < 9 else PREVIEWS[preview % len(PREVIEWS)]

    def _operation(self, name: str, operation: int) -> str:
        own = [known for call, known in self.operations if call == name]
        if operation == 14 and own:
            return own[-1]
        if operation == 15 and self.operations:
            return self.operations[-min(3, len(self.operations))][1]
        self.operations.append((name, f"{name}-{len(self.operations)}"))
        return self.operations[-1][1]

    def _revision(self, named: dict[str, Any], revision: int | None) -> int | None:
        stored = self._stored(named)
        if revision is None or stored is None:
            return None
        return max(1, stored.revision - revision)

    def _ends(self, seconds: int | None) -> datetime | None:
        # Each call's own millisecond keeps them apart: which of two equal ones a small batch takes is not promised.
        apart = timedelta(milliseconds=sum(self.world.counted.values()) % 997)
        return None if seconds is None else self.world.clock.at + timedelta(seconds=seconds) + apart

    def _claim(self, pick: int, kinds: Sequence[str]) -> Both | None:
        claims = self.world.claims
        fitting = [claim for claim in claims if claim.model.kind in kinds]
        current = [claim for claim in fitting if self._holds(claim)]
        if pick < 15 and current:
            return current[-1 - pick % len(current)]
        chosen = fitting if fitting and pick < 18 else claims
        return chosen[-1 - pick % min(6, len(chosen))] if chosen else None

    def _holds(self, claim: Both) -> bool:
        stored = self.world.model.sessions.get(claim.model.session_id)
        return stored is not None and stored.lease is not None and stored.lease.operation_id == claim.model.operation_id

    def _settled(self, answer: Answer) -> Answer:
        seconds = answer.given.get("expires_at")
        return answer._replace(given={**answer.given, "expires_at": self._ends(seconds)}) if seconds else answer

    # --- time -----------------------------------------------------------------------------------------------------

    @rule(step=st.sampled_from(STEPS))
    def time_passes(self, step: timedelta) -> None:
        """For everybody."""
        self.world.move(self.world.clock.at + step)

    @rule(pick=PICK, before=st.booleans())
    def to_the_edge(self, pick: int, *, before: bool) -> None:
        """To the very moment of a lapse or an end, or to the millisecond before it."""
        session = self._sessions(pick)
        if session is None:
            return
        moments = [session.expires_at, None if session.lease is None else session.lease.expires_at]
        ahead = [moment for moment in moments if moment is not None and moment > self.world.clock.at]
        if ahead:
            self.world.move(ahead[pick % len(ahead)] - timedelta(milliseconds=before))

    # --- the repository -------------------------------------------------------------------------------------------

    @rule(pick=st.integers(0, 5))
    def once_more(self, pick: int) -> None:
        """The very same call again, as a retry or a second delivery makes it."""
        if self.recent:
            name, given, named = self.recent[-1 - pick % len(self.recent)]
            self.wait_for(self.world.play(name, *given, **named))

    @rule(
        name=st.sampled_from(CREATIONS),
        user=USER,
        trigger=TRIGGER,
        conversation=st.sampled_from((None, *CONVERSATIONS)),
        way=WAYS,
        ends=ENDS,
        operation=OPERATION,
    )
    def create(
        self, name: str, user: int, trigger: str, conversation: str | None, way: Any, ends: int | None, operation: int
    ) -> None:
        """A trigger's session."""
        more = {"expires_at": self._ends(ends), "operation_id": self._operation(name, operation), "reason": "made"}
        self._play(name, self.world.users[user], trigger, conversation_id=conversation, **way, **more)

    @rule(pick=PICK, conversation=CONVERSATION, note=st.sampled_from((UNCHANGED, None, "n")), revision=REVISION)
    def bind(self, pick: int, conversation: str, note: Any, revision: int | None) -> None:
        """To a conversation."""
        named = self._named(pick, (*INTERCEPTING, READY))
        session_id = named.pop("session_id")
        expected = self._revision({"session_id": session_id}, revision)
        more = {"notification_id": note, "expected_revision": expected}
        self._play("bind_conversation", session_id, conversation, **named, **more)

    @rule(pick=PICK, note=st.sampled_from(("n", "o")))
    def note(self, pick: int, note: str) -> None:
        """A notification."""
        named = self._named(pick)
        self._play("record_notification", named["session_id"], note, user_id=named["user_id"])

    def _replaces(self, named: dict[str, Any], *, how: int) -> Any:
        """The lease that stands, by itself or by its id; or one that has gone."""
        stored = self._stored(named)
        if how == 0 or stored is None:
            return None
        if how == 1:
            return Both("gone", "gone")
        session = self.wait_for(self.world.play("get", stored.session_id, user_id=stored.user_id))
        if session.lease is None:
            return None
        # One of a confirmation has no message, so it is no lease that a message could replace.
        by_itself = how == 2 and session.lease.reply_id is not None
        return Both(session.lease if by_itself else session.lease.operation_id, session.lease.operation_id)

    def _claim_rerun(
        self, pick: int, reply: str, number: int | None, how: int, lease: Any, operation: int, wanted: Sequence[str]
    ) -> None:
        named = self._named(pick, wanted)
        stored = self._stored(named)
        asked = None if number is None or stored is None else max(0, stored.question_number - number)
        self._play(
            "claim_rerun",
            **named,
            reply_id=reply,
            question_number=asked,
            replaces=self._replaces(named, how=how),
            lease=lease,
            operation_id=self._operation("claim_rerun", operation),
        )

    NUMBER: Final = st.sampled_from((None, None, 0, 0, 1))
    HOW: Final = st.sampled_from((0, 0, 0, 0, 1, 2, 3))

    @rule(pick=PICK, reply=REPLY, number=NUMBER, how=HOW, lease=st.sampled_from(LEASES), operation=OPERATION)
    def claim_rerun(self, pick: int, reply: str, number: int | None, how: int, lease: Any, operation: int) -> None:
        """For a reply, to a question that waits."""
        self._claim_rerun(pick, reply, number, how, lease, operation, (WAITING,))

    @rule(pick=PICK, reply=REPLY, number=NUMBER, how=HOW, lease=st.sampled_from(LEASES), operation=OPERATION)
    def claim_running(self, pick: int, reply: str, number: int | None, how: int, lease: Any, operation: int) -> None:
        """For a reply, where one is worked on."""
        self._claim_rerun(pick, reply, number, how, lease, operation, (RERUNNING, READY))

    @rule(pick=PICK, reply=REPLY, preview=PREVIEW, how=HOW, lease=st.sampled_from(LEASES), operation=OPERATION)
    def claim_refinement(self, pick: int, reply: str, preview: int, how: int, lease: Any, operation: int) -> None:
        """For a change to a preview."""
        named = self._named(pick, (READY, RERUNNING) if how else (READY,))
        self._play(
            "claim_refinement",
            **named,
            reply_id=reply,
            preview_id=self._preview(named, preview),
            replaces=self._replaces(named, how=how),
            lease=lease,
            operation_id=self._operation("claim_refinement", operation),
        )

    @rule(pick=PICK, preview=PREVIEW, lease=st.sampled_from(LEASES), operation=OPERATION)
    def claim_apply(self, pick: int, preview: int, lease: Any, operation: int) -> None:
        """For a confirmation."""
        named = self._named(pick, (READY,))
        ids = {"preview_id": self._preview(named, preview), "operation_id": self._operation("claim_apply", operation)}
        self._play("claim_apply", **named, **ids, lease=lease)

    @precondition(lambda self: self.world.claims)
    @rule(
        name=st.sampled_from(HOLDS),
        pick=PICK,
        operation=OPERATION,
        count_attempt=st.booleans(),
    )
    def hold(self, name: str, pick: int, operation: int, *, count_attempt: bool) -> None:
        """A worker extends its lease or gives it back."""
        claim = self._claim(pick, ("apply",) if name == "postpone" else ("reply", "refinement", "apply"))
        given: dict[str, Any] = {"postpone": {"after": timedelta(seconds=5, milliseconds=pick)}}.get(name, {})
        if name == "release":
            given = {
                "reason": "given back",
                "count_attempt": count_attempt,
                "operation_id": self._operation(name, operation),
            }
        answer = self._play(name, claim, **given)
        if name == "renew" and not isinstance(answer, Exception):
            self.recent.pop()

    @precondition(lambda self: self.world.claims)
    @rule(
        name=st.sampled_from(OUTCOMES),
        pick=PICK,
        text=st.sampled_from(("And?", "And?", "And?", "")),
        preview=st.sampled_from(PREVIEWS),
        candidate=st.sampled_from((UNCHANGED, UNCHANGED, None, "k")),
        ends=st.sampled_from((-1, -1, None, 1, 0, 40)),
        operation=OPERATION,
    )
    def record(
        self, name: str, pick: int, text: str, preview: str, candidate: Any, ends: int | None, operation: int
    ) -> None:
        """What a rerun came to."""
        self._record(name, pick, text, preview, candidate, ends, operation)

    def _record(
        self, name: str, pick: int, text: str, preview: str, candidate: Any, ends: int | None, operation: int
    ) -> None:
        """What a rerun came to."""
        claim = self._claim(pick, ("reply", "refinement"))
        settled = {"candidate_id": candidate, "expires_at": UNCHANGED}
        if ends != -1:
            settled["expires_at"] = self.world.clock.at if ends == 0 else self._ends(ends)
        given: dict[str, Any] = {
            "ask_again": {"pending_question": text, **settled},
            "present_preview": {"preview_id": preview, **settled},
            "close_rerun": {"reason": text},
            "fail_rerun": {"reason": text},
        }[name]
        self._play(name, claim, **given, operation_id=self._operation(name, operation))

    @precondition(lambda self: self.world.claims)
    @rule(name=st.sampled_from(OUTCOMES[:2]), preview=st.sampled_from(PREVIEWS))
    def record_at_once(self, name: str, preview: str) -> None:
        """The usual outcome, by whoever claimed last."""
        self._record(name, 0, "And?", preview, UNCHANGED, -1, 0)

    @precondition(lambda self: self.world.claims)
    @rule(name=st.sampled_from(WRITTEN), pick=PICK, operation=OPERATION)
    def write_back(self, name: str, pick: int, operation: int) -> None:
        """What a write-back came to."""
        given = {"reason": "not written"} if name == "fail_apply" else {}
        self._play(name, self._claim(pick, ("apply",)), **given, operation_id=self._operation(name, operation))

    @precondition(lambda self: self._is_lively())
    @rule(
        name=st.sampled_from(ENDINGS),
        pick=PICK,
        preview=PREVIEW,
        revision=REVISION,
        operation=OPERATION,
    )
    def end(self, name: str, pick: int, preview: int, revision: int | None, operation: int) -> None:
        """By anybody."""
        named = self._named(pick, (READY,) if name == "apply" else (*INTERCEPTING, READY))
        given = {"preview_id": self._preview(named, preview)} if name == "apply" else {"reason": "because"}
        ids = {"expected_revision": self._revision(named, revision), "operation_id": self._operation(name, operation)}
        self._play(name, **named, **given, **ids)

    @rule(pick=PICK, operation=OPERATION)
    def interrupt(self, pick: int, operation: int) -> None:
        """Whoever works on it."""
        operation_id = self._operation("interrupt", operation)
        self._play("interrupt", **self._named(pick, (RERUNNING,)), reason="stopped", operation_id=operation_id)

    @rule(name=st.sampled_from(SWEEPS), limit=PICK)
    def sweep(self, name: str, limit: int) -> None:
        """In the background."""
        if name == "upkeep":
            self.wait_for(self.world.keep_up())
            return
        given = {"ended_before": self.world.clock.at - timedelta(seconds=limit)} if name == "purge" else {}
        self._play(name, **given, limit=self._batch(name, limit))

    def _batch(self, name: str, limit: int) -> int:
        """Small only if it is plain which sessions it takes."""
        model = self.world.model
        moments: dict[str, list[datetime | None]] = {
            "expire_due": [session.expires_at for session in model.sessions.values()],
            "purge": [session.updated_at for session in model.sessions.values()],
        }
        leases = [session.lease for session in model.sessions.values() if session.lease is not None]
        taken = moments.get(name, [lease.expires_at for lease in leases])
        is_plain = len(set(taken)) == len(taken)
        return 1 if is_plain and limit < 6 else 1_000

    @rule(name=st.sampled_from(LOOKS), pick=PICK, user=USER, where=CONVERSATION, reply=REPLY)
    def look(self, name: str, pick: int, user: int, where: str, reply: str) -> None:
        """Without changing anything."""
        user_id, named = self.world.users[user], self._named(pick, user=user)
        if name == "present_status":
            session = self.wait_for(self.world.play("get", **named))
            stored = self._stored(named)
            if stored is not None and not isinstance(session, Exception):
                self._play(name, Both(session, stored.seen()))
            return
        statuses = None if pick < 10 else [SessionStatus.READY_PREVIEW, SessionStatus.WAITING_USER_REPLY]
        given: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
            "route": ((user_id, where), {}),
            "route_many": ((user_id, CONVERSATIONS), {}),
            "get": ((), named),
            "history": ((), named),
            "latest": ((user_id, where), {}),
            "find_by_trigger": ((TRIGGERS[pick % len(TRIGGERS)],), {"user_id": user_id}),
            "find_by_preview": ((self._preview(named, pick % 12),), {"user_id": user_id}),
            "find_by_reply": ((reply,), {"user_id": user_id, "conversation_id": where}),
            "list_sessions": ((user_id,), {"limit": 1 + pick % 3, "statuses": statuses}),
            "count_by_status": ((), {}),
        }
        self.wait_for(self.world.play(name, *given[name][0], **given[name][1]))

    # --- the bridge -----------------------------------------------------------------------------------------------

    @rule(
        user=USER,
        trigger=TRIGGER,
        answer=ANSWERS.filter(lambda answer: answer.kind in ("AskUser", "ShowPreview", "Close")),
        conversation=st.sampled_from((None, *CONVERSATIONS)),
    )
    def start(self, user: int, trigger: str, answer: Answer, conversation: str | None) -> None:
        """A trigger's graph has a first result."""
        answer, user_id, world = self._settled(answer), self.world.users[user], self.world
        bound = {"conversation_id": conversation, "notification_id": "n"}
        result = world.result_of(answer)
        modelled = lambda: world.bridge_model.start(user_id, trigger, answer, **bound)  # noqa: E731
        self.wait_for(world.press("start", modelled, user_id, trigger, result, **bound))

    async def _meanwhile(self, what: str | None, held: Both) -> None:
        """What others do while a graph, or a write-back, is at work."""
        world, claim = self.world, held.model
        ids = {"session_id": claim.session_id, "user_id": claim.user_id}
        if what == "time passes":
            world.move(world.clock.at + timedelta(seconds=7))
        if what in ("it lapses", "it lapses and is swept"):
            world.move(claim.expires_at)
        if what == "it lapses and is swept":
            await world.play("recover_stalled")
        if what == "stop":
            await world.play("interrupt", **ids, operation_id=self._operation("interrupt", 0))
        if what == "ignore":
            await world.play("ignore", **ids, operation_id=self._operation("ignore", 0))
        if what == "renewed" and held.real is not None:
            await world.play("renew", held)
        if what == "a newer one" and claim.kind == "reply":
            lease = (await world.play("get", **ids)).lease
            named = {"reply_id": "newer", "operation_id": self._operation("claim_rerun", 0)}
            await world.play("claim_rerun", **ids, **named, replaces=Both(lease, lease.operation_id))
        elif what == "a newer one" and claim.kind == "apply":
            world.move(claim.expires_at)
            named = {"operation_id": self._operation("claim_apply", 0)}
            await world.play("claim_apply", **ids, **named, preview_id=claim.session["current_preview_id"])

    @rule(
        user=USER,
        where=CONVERSATION,
        reply=REPLY,
        blank=st.sampled_from((False, False, False, False, True)),
        question=st.sampled_from((None, None, "standing", "standing", "any", "old")),
        redelivered=st.booleans(),
        replaces=st.booleans(),
        wait=st.sampled_from((0, 0, 0, 0, 0, 0, 0, 2)),
        answer=ANSWERS,
        meanwhile=MEANWHILE,
        pick=PICK,
    )
    def handle(
        self,
        user: int,
        where: str,
        reply: str,
        question: str | None,
        wait: int,
        answer: Answer,
        meanwhile: str | None,
        pick: int,
        *,
        blank: bool,
        redelivered: bool,
        replaces: bool,
    ) -> None:
        """A chat message."""
        governing = self._sessions(pick, INTERCEPTING)
        if governing is not None and governing.conversation_id is not None and pick < 15:
            user_id, where = governing.user_id, governing.conversation_id
        else:
            user_id = self.world.users[user]
        question_id = self._question(user_id, where, question, pick)
        told: dict[str, Any] = {"message_id": reply, "question_id": question_id, "redelivered": redelivered}
        world, answer = self.world, self._settled(answer)
        self.wait_for(
            world.run(
                "handle",
                lambda: world.bridge_model.handle(user_id, where, **told, is_blank=blank, replaces=replaces),
                answer,
                lambda held: self._meanwhile(meanwhile, held),
                user_id,
                where,
                " " if blank else "Tuesday",
                **told,
                while_running=WhileRunning.REPLACE if replaces else WhileRunning.HOLD,
                wait=timedelta(milliseconds=wait),
            )
        )

    def _question(self, user_id: int, where: str, question: str | None, pick: int) -> str | None:
        governing = self.world.model.governor(user_id, where)
        session = governing if question == "standing" else self._sessions(pick)
        if question is None or session is None:
            return None
        number = session.question_number - (question == "old")
        return f"{session.key}:{max(number, 0)}"

    @rule(pick=PICK, reply=REPLY, preview=PREVIEW, replaces=st.booleans(), answer=ANSWERS, meanwhile=MEANWHILE)
    def refine(
        self, pick: int, reply: str, preview: int, answer: Answer, meanwhile: str | None, *, replaces: bool
    ) -> None:
        """A change that a user wants."""
        named = self._named(pick, (READY, RERUNNING))
        ids, world, answer = (named["user_id"], named["session_id"]), self.world, self._settled(answer)
        told: dict[str, Any] = {"preview_id": self._preview(named, preview), "message_id": reply}
        self.wait_for(
            world.run(
                "refine",
                lambda: world.bridge_model.refine(*ids, **told, replaces=replaces),
                answer,
                lambda held: self._meanwhile(meanwhile, held),
                *ids,
                "Later",
                **told,
                while_running=WhileRunning.REPLACE if replaces else WhileRunning.HOLD,
            )
        )

    @rule(pick=PICK, preview=PREVIEW, answer=WRITINGS, meanwhile=MEANWHILE, plain=st.sampled_from((False, False, True)))
    def confirm(self, pick: int, preview: int, answer: Answer, meanwhile: str | None, *, plain: bool) -> None:
        """A user says yes."""
        named = self._named(pick, (READY,))
        ids, world = (named["user_id"], named["session_id"]), self.world
        told: dict[str, Any] = {"preview_id": self._preview(named, preview)}
        if plain:
            modelled = lambda: world.bridge_model.confirm_without_writing(*ids, **told)  # noqa: E731
            self.wait_for(world.press("confirm", modelled, *ids, **told, on=world.plain_bridge))
            return
        begun = lambda: world.bridge_model.confirm(*ids, **told)  # noqa: E731
        works = lambda held: self._meanwhile(meanwhile, held)  # noqa: E731
        self.wait_for(world.run("confirm", begun, answer, works, *ids, **told))

    @rule(name=st.sampled_from(BUTTONS), pick=PICK)
    def press(self, name: str, pick: int) -> None:
        """A button."""
        name = name if self._is_lively() else "stop"
        named = self._named(pick, (RERUNNING,) if name == "stop" else (READY, WAITING))
        ids, model = (named["user_id"], named["session_id"]), self.world.bridge_model
        self.wait_for(self.world.press(name, lambda: getattr(model, name)(*ids), *ids))

    @precondition(lambda self: self.world.is_real)
    @rule(goes_on=st.booleans(), trigger=TRIGGER)
    def watch(self, trigger: str, *, goes_on: bool) -> None:
        """Somebody follows the changes, from now on or from where they left off."""
        user_id, world = self.world.users[0], self.world

        async def change() -> str:
            named = {"pending_question": "Which?", "operation_id": self._operation("get_or_create", 0)}
            await world.play("get_or_create", user_id, trigger, **named)
            note = f"n{len(self.operations)}"
            await world.play("record_notification", session_id_of(user_id, trigger), note, user_id=user_id)
            return world.model.sessions[session_id_of(user_id, trigger)].key

        self.token = self.wait_for(world.watch(self.token if goes_on else None, change))
