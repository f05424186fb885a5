"""Every public argument, fuzzed by the library's own table of limits: inside, at and beyond each, and of wrong kinds.

Inside its limits nothing is refused as input. Outside, the refusal names the argument, and nothing is sent.
"""

import asyncio
import inspect
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from types import FunctionType
from typing import Any, Final, NamedTuple
from uuid import uuid4

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from sessions import (
    UNSET,
    ApplyClaim,
    AskUser,
    CachedRouter,
    Close,
    InvalidSessionInput,
    Lease,
    LeaseKind,
    RerunClaim,
    SessionBridge,
    SessionError,
    SessionRepository,
    SessionStatus,
    ShowPreview,
    TryAgain,
    Turn,
    Upkeep,
    WhileRunning,
    open_repository,
)
from sessions.domain import limits
from sessions.domain.lifecycle import CALLS, CallName
from sessions.store.clients import connect_double, disconnect
from sessions.testing import MovedClock, SessionMaker
from tests.faults.campaign import Form, Setting, Tally
from tests.faults.isolation import Recorder

START: Final = datetime(2026, 1, 1, tzinfo=UTC)
EXAMPLES: Final[Mapping[Form, int]] = {Form.SHORT: 1_500, Form.LONG: 21_000}
JUNK: Final[tuple[Any, ...]] = (
    *(None, True, False, 0, 7, -1, 2**63, 1.5, float("nan"), b"abc", ("abc",), {"$ne": None}, {"$gt": ""}),
    *({"$regex": ".*"}, Decimal(1), 1j, object(), UNSET, {"abc"}, range(3), type, lambda: None),
    *(date(2030, 1, 1), UTC, Ellipsis, memoryview(b"abc"), bytearray(b"abc"), slice(1)),
)


class Kind(NamedTuple):
    """What an argument may be, and what it may not."""

    inside: st.SearchStrategy[Any]
    outside: st.SearchStrategy[Any]


def _junk(*but: type) -> st.SearchStrategy[Any]:
    """Values of all kinds but these; a bool is no integer."""
    return st.sampled_from(
        [each for each in JUNK if not isinstance(each, but) or (isinstance(each, bool) and bool not in but)]
    )


_LETTERS: Final = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
_WRONG_LETTERS: Final = st.sampled_from(("a\0b", "\0", "a\ud800b", "\udfff"))


def _identifier(limit: limits.IdentifierLimit) -> Kind:
    at = (letter * length for letter in "x\U0001f3b9$" for length in (1, limit.longest - 1, limit.longest))
    some = st.text(_LETTERS, min_size=1, max_size=min(limit.longest, 20)).filter(lambda text: text == text.strip())
    beyond = ("", " ", "x" * (limit.longest + 1), "é" * (limit.longest + 1), "x" * 100_000, " x", "x\n", "x\u00a0")
    return Kind(some | st.sampled_from(list(at)), st.sampled_from(beyond) | _WRONG_LETTERS | _junk(str))


def _text(limit: limits.TextLimit) -> Kind:
    at = ["x" * limit.longest, "\U0001f3b9" * limit.longest, f"  {'x' * limit.longest}\n", "x"]
    beyond = ["x" * (limit.longest + 1), "é" * (limit.longest + 9)]
    some = st.text(_LETTERS, max_size=30).map(lambda text: f"x{text}")
    return Kind(some | st.sampled_from(at), st.sampled_from(beyond) | _WRONG_LETTERS | _junk(str))


def _texts(limit: limits.TextsLimit) -> Kind:
    each = _text(limit.each)
    several = st.lists(each.inside, min_size=1, max_size=4)
    inside = several | several.map(tuple) | st.just(["x" * limit.each.longest] * limit.most)
    wrong = st.tuples(several, each.outside).map(lambda both: [*both[0], both[1]])
    return Kind(inside, wrong | st.just(["x"] * (limit.most + 1)) | st.just("room") | _junk(list, tuple))


def _integer(limit: limits.IntegerLimit) -> Kind:
    edges = (limit.least, limit.least + 1, limit.greatest - 1, limit.greatest)
    inside = st.sampled_from(edges) | st.integers(limit.least, limit.greatest)
    beyond = st.integers(max_value=limit.least - 1) | st.integers(min_value=limit.greatest + 1)
    return Kind(inside, beyond | st.just("1") | _junk(int))


def _duration(limit: limits.DurationLimit) -> Kind:
    tiny = timedelta(microseconds=1)
    inside = st.sampled_from((limit.least, limit.greatest)) | st.timedeltas(limit.least, limit.greatest)
    beyond = st.timedeltas(max_value=limit.least - tiny) | st.timedeltas(min_value=limit.greatest + tiny)
    return Kind(inside, beyond | st.sampled_from((60, "60", 60.0)) | _junk(timedelta))


def _seconds(limit: limits.DurationLimit) -> Kind:
    least, greatest = limit.least.total_seconds(), limit.greatest.total_seconds()
    beyond = st.floats(max_value=least, exclude_max=True) | st.floats(min_value=greatest, exclude_min=True)
    return Kind(st.floats(least, greatest), beyond | st.just("5") | _junk(int, float))


def _moment(least: datetime) -> Kind:
    inside = st.datetimes(least.replace(tzinfo=None), datetime(9998, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - a bound
    edges = (
        datetime.min.replace(tzinfo=timezone(timedelta(hours=1))),
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-1))),
        *([least - timedelta(milliseconds=1), START] if least > datetime.min.replace(tzinfo=UTC) else []),
    )
    return Kind(inside, st.datetimes() | st.sampled_from(edges) | st.just("2030-01-01T00:00:00Z") | _junk(datetime))


_FLAG: Final = Kind(st.booleans(), _junk(bool) | st.sampled_from(("yes", "", 1)))
_STATUSES: Final = Kind(
    st.lists(st.sampled_from(list(SessionStatus)), min_size=1), st.sampled_from(("applied", [], ["done"], [7], [None]))
)
_CONVERSATIONS: Final = Kind(
    st.lists(_identifier(limits.IDENTIFIERS["conversation_id"]).inside, max_size=4),
    _identifier(limits.IDENTIFIERS["conversation_id"]).outside.map(lambda wrong: ["c", wrong])
    | st.just(["c"] * (limits.MOST_CONVERSATIONS + 1))
    | st.sampled_from(("c", b"c", {"$ne": None}, 7, True)),
)
_CURSOR: Final = Kind(st.none(), st.text(_LETTERS, max_size=20).map(lambda text: f"!{text}") | _junk(str, type(None)))
_TOKEN: Final = Kind(
    st.text("0123456789abcdefABCDEF", min_size=1, max_size=4_096),
    st.sampled_from(("", "g", "8" * 4_097, "8 ")) | _junk(str, type(None)),
)
_QUESTION: Final = Kind(
    st.none(), st.sampled_from(("", "a", "a:b", "a:1:b", "a:1:-1", "a:01:1", ":1:1")) | _junk(str, type(None))
)
_WHILE_RUNNING: Final = Kind(st.sampled_from((*WhileRunning, "hold")), st.sampled_from(("", "HOLD")) | _junk(str))
_LEASE_AT: Final = Lease(kind=LeaseKind.REPLY, operation_id="o", reply_id="r", expires_at=START)
_REPLACES: Final = Kind(
    _identifier(limits.IDENTIFIERS["operation_id"]).inside | st.just(_LEASE_AT),
    _identifier(limits.IDENTIFIERS["operation_id"]).outside.filter(lambda value: value is not None)
    | st.sampled_from([_LEASE_AT.model_copy(update=each) for each in ({"reply_id": None}, {"operation_id": " "})]),
)
_RESULT: Final = Kind(
    st.sampled_from((AskUser("Which?"), ShowPreview("p"), Close("done"))), _junk() | st.sampled_from((AskUser, "x"))
)
_SESSION_OF_DRIVER: Final = Kind(st.none(), _junk(type(None)))


async def _rerun(_: Turn) -> Close:
    return Close()


async def _write_back(_: ApplyClaim) -> None:
    return None


def _not_async() -> None:
    return None


_ASYNC: Final = Kind(
    st.sampled_from((_rerun, _write_back)),
    st.sampled_from([each for each in JUNK if not callable(each)]) | st.just(_not_async),
)
_RETRIED: Final = Kind(
    st.sampled_from(((), (ValueError,), (OSError, KeyError))),
    st.sampled_from((ValueError, [ValueError], (7,), (BaseException,))) | _junk(tuple),
)

KINDS: Final[Mapping[str, Kind]] = {
    **{name: _identifier(limit) for name, limit in limits.IDENTIFIERS.items()},
    **{name: _text(limit) for name, limit in limits.TEXTS.items()},
    **{name: _texts(limit) for name, limit in limits.TEXT_LISTS.items()},
    **{name: _integer(limit) for name, limit in limits.INTEGERS.items()},
    **{name: _duration(limit) for name, limit in limits.DURATIONS.items() if name != "timeout"},
    "timeout": _seconds(limits.DURATIONS["timeout"]),
    "expires_at": _moment(START + timedelta(milliseconds=1)),
    "ended_before": _moment(datetime.min.replace(tzinfo=UTC)),
    **dict.fromkeys(
        ("count_attempt", "redelivered", "has_attachment", "create_indexes", "verify_indexes", "ignored"), _FLAG
    ),
    "statuses": _STATUSES,
    "conversation_ids": _CONVERSATIONS,
    "resume_after": _TOKEN,
    "question_id": _QUESTION,
    "while_running": _WHILE_RUNNING,
    "replaces": _REPLACES,
    "result": _RESULT,
    "client_session": _SESSION_OF_DRIVER,
    "rerun": _ASYNC,
    "write_back": _ASYNC,
    "retry_on": _RETRIED,
    "claim": Kind(st.nothing(), _junk()),
    "clock": Kind(st.none(), st.sampled_from([each for each in JUNK if each is not None and not callable(each)])),
    "database": Kind(st.nothing(), _junk()),
    "repository": Kind(st.nothing(), st.nothing()),
}
"""By an argument's name; what is optional may be None besides."""
PARTICULAR: Final[Mapping[tuple[str, str], Kind]] = {
    ("list_sessions", "limit"): _integer(limits.INTEGERS["page limit"]),
    ("list_sessions", "after"): _CURSOR,
    # Half an emoji of a user is replaced, not refused.
    **{
        (name, "text"): Kind(_text(limits.TEXTS["text"]).inside | st.just("a\ud800"), st.just("a\0b") | _junk(str))
        for name in ("handle", "refine")
    },
    **{
        (name, "reason"): Kind(
            _text(limits.TEXTS["reason"]).inside, _text(limits.TEXTS["reason"]).outside | st.sampled_from(("", " \n"))
        )
        for name in ("fail", "fail_rerun", "fail_apply")
    },
    # Exactly one way is chosen: what would choose another one is another argument's refusal.
    **{(name, "preview_id"): Kind(st.none(), KINDS["preview_id"].outside) for name in ("create", "get_or_create")},
    **{(name, "ignored"): Kind(st.just(value=False), _FLAG.outside) for name in ("create", "get_or_create")},
}


class Callee(NamedTuple):
    """One public callable, with the arguments that every example begins from."""

    call: Callable[..., Any]
    given: Mapping[str, Any]
    parameters: Mapping[str, inspect.Parameter]


VALID: Final[Mapping[str, Any]] = {
    "user_id": 1,
    "session_id": "nobody",
    "conversation_id": "c",
    "conversation_ids": ["c"],
    "trigger_id": "t",
    "preview_id": "p",
    "reply_id": "r",
    "message_id": "m",
    "notification_id": "n",
    "pending_question": "Which?",
    "reason": "because",
    "text": "Tuesday",
    "result": Close("done"),
    "ended_before": START,
    "after": timedelta(seconds=5),
    "rerun": _rerun,
}
CONSTRUCTORS: Final[Mapping[str, Callable[..., Any]]] = {
    "SessionBridge": SessionBridge,
    "Upkeep": Upkeep,
    "CachedRouter": CachedRouter,
    "TryAgain": TryAgain,
    "open_repository": open_repository,
}
NOT_CHECKED: Final = frozenset({"close", "present_status"})
"""No arguments, or a snapshot, which pydantic has checked."""


class Scene:
    """A repository on the double whose requests are noted, and what is called on it."""

    def __init__(self, repository: SessionRepository, database: Any, claims: Mapping[LeaseKind, Any]) -> None:
        self.sent: list[Any] = []
        handles = repository._collection._handles
        setattr(handles, "_methods", Recorder(handles.requests(None), self.sent))  # noqa: B010 - only the double has them
        self._bridge = SessionBridge(repository, _rerun, write_back=_write_back)
        self._known = {"repository": repository, "database": database}
        self._claims = claims
        self.callees = {
            **{name: self._callee(name, getattr(repository, name)) for name in methods_of(SessionRepository)},
            **{name: self._callee(name, getattr(self._bridge, name)) for name in methods_of(SessionBridge)},
            **{name: self._callee(name, call) for name, call in CONSTRUCTORS.items()},
        }

    def _callee(self, name: str, call: Callable[..., Any]) -> Callee:
        parameters = inspect.signature(call).parameters
        required = [each for each, parameter in parameters.items() if parameter.default is parameter.empty]
        known = {**VALID, **self._known}
        given = {each: known[each] for each in required if each != "claim"}
        if name in ("create", "get_or_create", "ask_again"):
            given["pending_question"] = "Which?"
        if "claim" in required:
            held = CALLS[CallName(name)].held
            given["claim"] = next(claim for kind, claim in self._claims.items() if kind in held)
        if name == "present_preview":
            given["preview_id"] = "fresh"
        return Callee(call, given, parameters)

    async def outcome(self, callee: Callee, changed: Mapping[str, Any]) -> BaseException | None:
        """Make a call; how it was refused."""
        self.sent.clear()
        try:
            answer = callee.call(**{**callee.given, **changed})
            if inspect.isawaitable(answer):
                await answer
        except (SessionError, TypeError) as error:
            return error
        return None


def methods_of(kind: type) -> list[str]:
    """The public methods of a class."""
    return [
        name
        for name, method in inspect.getmembers(kind)
        if isinstance(method, FunctionType) and not name.startswith("_") and name not in NOT_CHECKED
    ]


def kind_of(name: str, argument: str) -> Kind:
    """What an argument may be."""
    return PARTICULAR.get((name, argument)) or KINDS[argument]


class Example(NamedTuple):
    """One value for one argument."""

    name: str
    argument: str
    value: Any
    is_inside: bool


def _takes(parameter: inspect.Parameter, value: object) -> bool:
    """Whether an optional argument, or one that can be left out, is given so."""
    told = str(parameter.annotation)
    return (value is None and "None" in told) or (value is UNSET and "Unset" in told)


@st.composite
def examples(draw: st.DrawFn, callees: Mapping[str, Callee]) -> Example:
    """A value inside or outside the limits of one argument of one callable."""
    name = draw(st.sampled_from(sorted(callees)))
    arguments = [each for each in callees[name].parameters if each != "repository"]
    argument = draw(st.sampled_from(arguments)) if arguments else ""
    if not argument:
        return Example(name, "", None, is_inside=True)
    kind, parameter = kind_of(name, argument), callees[name].parameters[argument]
    is_inside = draw(st.booleans()) and not kind.inside.is_empty
    value = draw(kind.inside if is_inside else kind.outside)
    return Example(name, argument, value, is_inside=is_inside or _takes(parameter, value))


def _looked_at(**given: Any) -> None:
    """Opened without waiting for it: its arguments are checked at once."""
    open_repository(**given)


async def _hold(scene: Scene, example: Example, counted: Counter[str]) -> None:
    callee = scene.callees[example.name]
    # A repository is not opened anew for each value that it takes.
    if example.is_inside and example.name == "open_repository":
        callee = callee._replace(call=_looked_at)
    refused = await scene.outcome(callee, {example.argument: example.value} if example.argument else {})
    counted["inside" if example.is_inside else "outside"] += 1
    counted[f"{example.name}.{example.argument}"] += 1
    if example.is_inside:
        assert not isinstance(refused, InvalidSessionInput | TypeError), f"refused: {example}: {refused!r}"
        return
    assert isinstance(refused, InvalidSessionInput), f"not refused: {example}: {refused!r}"
    assert refused.argument == example.argument, f"{refused.argument} is named: {example}"
    assert not scene.sent, f"sent: {example}: {scene.sent}"


async def _scene(client: Any) -> tuple[Scene, SessionRepository]:
    database, clock = client[f"sessions_inputs_{uuid4().hex[:12]}"], MovedClock(START)
    repository = await open_repository(database, create_indexes=True, clock=clock)
    make = SessionMaker(repository, clock)
    claims: dict[LeaseKind, RerunClaim | ApplyClaim] = {
        LeaseKind.REPLY: await make.claim(),
        LeaseKind.APPLY: await make.apply_claim(),
    }
    # Of sessions that there are not, so that no example changes what the next one finds.
    gone = {
        kind: replace(claim, session=claim.session.model_copy(update={"session_id": f"gone-{kind}"}))
        for kind, claim in claims.items()
    }
    return Scene(repository, database, gone), repository


def fuzz(number: int, most: int, told: Callable[[], None]) -> Counter[str]:
    """Try so many examples, in a thread and on a loop of its own: Hypothesis waits for each."""
    counted: Counter[str] = Counter()
    logger = logging.getLogger("sessions")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    with asyncio.Runner() as runner:
        client: Any = connect_double()
        scene, repository = runner.run(_scene(client))

        @seed(number)
        @settings(
            max_examples=most,
            deadline=None,
            database=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        )
        @given(examples(scene.callees))
        def tried(example: Example) -> None:
            told()
            runner.get_loop().run_until_complete(_hold(scene, example, counted))

        try:
            tried()
        finally:
            logger.setLevel(level)
            runner.run(repository.close())
            runner.run(disconnect(client))
    return counted


async def fuzzed(setting: Setting) -> Counter[str]:
    """Try one form; what was counted."""
    return await asyncio.to_thread(fuzz, setting.seed, EXAMPLES[setting.form], setting.advance)


async def run(setting: Setting) -> Tally:
    """On the double: what is refused is not sent, so no server would be asked."""
    counted = await fuzzed(setting)
    arguments = len(counted.keys() - {"inside", "outside"})
    return {"inputs": counted["inside"] + counted["outside"], "outside": counted["outside"], "arguments": arguments}
