"""What OpenTelemetry is told: a span for each call of the bridge, linked to the one behind it, and the metrics."""

import asyncio
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import sessions
from sessions import (
    Asked,
    AskUser,
    CachedRouter,
    Fail,
    SessionBridge,
    SessionNotFound,
    SessionRepository,
    SessionStatus,
    ShowPreview,
    Superseded,
    TryAgain,
    Turn,
    Upkeep,
    WhileRunning,
    telemetry,
)
from sessions.bridge.graph import GraphResult
from sessions.telemetry import INSTRUMENTS, record_counts
from sessions.testing import MovedClock, SessionMaker

PRIVATE: Final = "my doctor's name"
USER: Final = 4_711
CONVERSATION: Final = "+49 151 chat"
_EXPORTER: Final = InMemorySpanExporter()
_READER: Final = InMemoryMetricReader()


@pytest.fixture(scope="session")
def _provided() -> None:
    # A process has one of each for good.
    tracing = TracerProvider()
    tracing.add_span_processor(SimpleSpanProcessor(_EXPORTER))
    trace.set_tracer_provider(tracing)
    metrics.set_meter_provider(MeterProvider([_READER]))


@pytest.fixture(scope="module", autouse=True)
def _told(_provided: None) -> Iterator[None]:
    """Only the tests of this module trace: others would find their spans in the leases that they compare."""
    telemetry.IS_INSTALLED = True
    yield
    telemetry.IS_INSTALLED = False


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    """What was exported in this test."""
    _EXPORTER.clear()
    yield _EXPORTER
    _EXPORTER.clear()


def measured() -> dict[str, dict[tuple[str, ...], Any]]:
    """Each metric's value now, by its attributes' values."""
    data = _READER.get_metrics_data()
    found: dict[str, dict[tuple[str, ...], Any]] = {}
    if data is None:
        return found
    for each in (m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics):
        points = found.setdefault(each.name, {})
        for point in each.data.data_points:
            assert set(point.attributes or {}) <= set(INSTRUMENTS[each.name].by)
            values = tuple(str(value) for value in (point.attributes or {}).values())
            points[values] = getattr(point, "value", getattr(point, "count", None))
    return found


def grown(before: Mapping[str, Mapping[tuple[str, ...], Any]], name: str) -> dict[tuple[str, ...], Any]:
    """What a counter, or a histogram's count, has gained."""
    now = measured().get(name, {})
    gained = {by: value - before.get(name, {}).get(by, 0) for by, value in now.items()}
    return {by: value for by, value in gained.items() if value}


def names(spans: InMemorySpanExporter) -> list[tuple[str, Any]]:
    """Each span's name and outcome."""
    return [(span.name, (span.attributes or {}).get("sessions.outcome")) for span in spans.get_finished_spans()]


def context_of(span: ReadableSpan) -> int:
    """The id by which others link to it."""
    context = span.get_span_context()
    assert context is not None
    return context.span_id


def only(spans: InMemorySpanExporter, name: str, place: int = -1) -> ReadableSpan:
    """One of the spans of a name."""
    return [span for span in spans.get_finished_spans() if span.name == name][place]


async def asks(turn: Turn) -> GraphResult:
    """A graph that does what the message says."""
    if turn.text == "later":
        raise TryAgain
    if turn.text == "fail":
        return Fail(PRIVATE)
    return ShowPreview(f"p-{turn.message_id}") if turn.text == "show" else AskUser(PRIVATE)


async def test_each_call_has_its_span_and_its_outcome(
    repository: SessionRepository, spans: InMemorySpanExporter
) -> None:
    """Also one that raises, by the kind of its error; none says whose it is, or what anybody wrote."""
    before = measured()
    bridge = SessionBridge(repository, asks)
    started = await bridge.start(USER, "t", AskUser(PRIVATE), conversation_id=CONVERSATION)
    session_id = started.session.session_id
    for number, text in enumerate(("later", "ask", "show")):
        await bridge.handle(USER, CONVERSATION, text, message_id=f"m{number}")
    await bridge.refine(USER, session_id, "show", preview_id="p-m2", message_id="m9")
    await bridge.confirm(USER, session_id, preview_id="p-m9")
    await bridge.stop(USER, session_id)
    with pytest.raises(SessionNotFound):
        await bridge.dismiss(USER + 1, session_id, reason=PRIVATE)
    told = [
        ("sessions.start", "Asked"),
        ("sessions.handle", "Deferred"),
        ("sessions.handle", "Asked"),
        ("sessions.handle", "PreviewShown"),
        ("sessions.refine", "PreviewShown"),
        ("sessions.confirm", "Applied"),
        ("sessions.stop", "Stopped"),
        ("sessions.dismiss", None),
    ]
    assert names(spans) == told
    refused = only(spans, "sessions.dismiss")
    assert dict(refused.attributes or {}) == {"error.type": "SessionNotFound"}
    assert refused.events == ()
    for span in spans.get_finished_spans():
        written = span.to_json()
        assert not [private for private in (PRIVATE, str(USER), CONVERSATION, "m9") if private in written], written
        assert span is refused or (span.attributes or {})["sessions.session_id"] == session_id
    assert grown(before, "sessions.outcomes") == {
        (name.removeprefix("sessions."), outcome or "SessionNotFound"): 1 for name, outcome in told
    }
    assert grown(before, "sessions.routes") == {("resume",): 3}
    assert grown(before, "sessions.claims") == {("reply", "new"): 3, ("refinement", "new"): 1}
    assert grown(before, "sessions.held") == {("reply",): 3, ("refinement",): 1}


async def test_a_run_is_linked_to_the_one_it_goes_on_from(
    repository: SessionRepository, session_clock: MovedClock, spans: InMemorySpanExporter
) -> None:
    """A take-over to the span of the worker that died, a replacement to the span of the run that it replaced."""
    before = measured()
    await repository.create(USER, "t", conversation_id=CONVERSATION, pending_question="Which day?")
    began, goes_on = asyncio.Event(), asyncio.Event()

    async def slow(turn: Turn) -> GraphResult:
        if turn.message_id != "m3":
            began.set()
            await goes_on.wait()
        return AskUser("And?")

    bridge = SessionBridge(repository, slow)
    tasks: list[asyncio.Task[Any]] = []
    for message_id in ("m1", "m2"):
        tasks.append(asyncio.create_task(bridge.handle(USER, CONVERSATION, "so", message_id=message_id)))
        await began.wait()
        began.clear()
        session_clock.advance(seconds=61 if message_id == "m1" else 0)
    last = await bridge.handle(USER, CONVERSATION, "so", message_id="m3", while_running=WhileRunning.REPLACE)
    goes_on.set()
    assert {type(outcome) for outcome in await asyncio.gather(*tasks)} == {Superseded}
    assert isinstance(last, Asked)
    # Each is linked to the one behind it; the first to none.
    behind = {context_of(span): [link.context.span_id for link in span.links] for span in spans.get_finished_spans()}
    first_span = next(span for span, links in behind.items() if not links)
    second_span = next(span for span, links in behind.items() if links == [first_span])
    assert sorted(behind.values()) == sorted([[], [first_span], [second_span]])
    assert (only(spans, "sessions.handle", 0).attributes or {})["sessions.outcome"] == "Asked"  # the last ends first
    assert grown(before, "sessions.claims") == {
        ("reply", "new"): 1,
        ("reply", "take-over"): 1,
        ("reply", "replacement"): 1,
    }


async def test_a_write_back_and_the_upkeep(
    repository: SessionRepository, make_session: SessionMaker, session_clock: MovedClock
) -> None:
    """How long it took and how it ended; what the upkeep ended and gave back."""
    before = measured()
    session = await make_session(SessionStatus.READY_PREVIEW)
    errors: list[Exception] = [TryAgain()]

    async def write_back(_: object) -> None:
        if errors:
            raise errors.pop()

    bridge = SessionBridge(repository, asks, write_back=write_back)
    preview_id = session.current_preview_id or ""
    await bridge.confirm(1, session.session_id, preview_id=preview_id)
    await bridge.confirm(1, session.session_id, preview_id=preview_id)
    session_clock.advance(seconds=6)
    await bridge.confirm(1, session.session_id, preview_id=preview_id)
    assert grown(before, "sessions.write_back") == {("Broken",): 1, ("Done",): 1}
    assert grown(before, "sessions.claims") == {("apply", "new"): 1, ("apply", "lost"): 1, ("apply", "take-over"): 1}

    await make_session.claim()
    await make_session(expires_at=session_clock() + timedelta(seconds=1))
    session_clock.advance(minutes=2)
    async with Upkeep(repository, every=timedelta(milliseconds=10)), asyncio.timeout(20):
        while not (grown(before, "sessions.expired") and grown(before, "sessions.recovered")):  # noqa: ASYNC110 - the metrics alone tell
            await asyncio.sleep(0.02)
    assert grown(before, "sessions.expired") == {(): 1}
    assert grown(before, "sessions.recovered") == {(): 1}
    record_counts(await repository.count_by_status())
    assert measured()["sessions.stored"]["applied",] == 1


@pytest.mark.needs("change_streams")
async def test_the_caches(repository: SessionRepository) -> None:
    """Their hits and misses, also of those that are closed, and how late the last change came."""
    before = measured()
    async with CachedRouter(repository) as router:
        for _ in range(3):
            await router.route(USER, CONVERSATION)
        assert grown(before, "sessions.cached_routes") == {("memory",): 2, ("database",): 1}
        await repository.create(USER, "t", conversation_id=CONVERSATION, pending_question="Which day?")
        async with asyncio.timeout(20):
            while router.stats().lag is None:  # noqa: ASYNC110 - as a reader of the metric would
                await asyncio.sleep(0.02)
        assert measured()["sessions.stream_lag"][()] >= 0
    assert grown(before, "sessions.cached_routes") == {("memory",): 2, ("database",): 1}


def test_each_instrument_is_measured_somewhere() -> None:
    """A name that no code uses, or that the table lacks, would be an empty panel of somebody's dashboard."""
    sources = [path.read_text(encoding="utf-8") for path in Path(sessions.__file__).parent.rglob("*.py")]
    told = {name for text in sources for name in re.findall(r'(?:count|timed|_instrument)\(\s*"(sessions\.\w+)"', text)}
    told |= {name for text in sources for name in re.findall(r'[({]\s*"(sessions\.\w+)"[,:] self\._', text)}
    told |= {name for text in sources for name in re.findall(r'"(sessions\.\w+)": self\._repository', text)}
    assert told == set(INSTRUMENTS)


def test_nothing_without_it() -> None:
    """Where the API is not installed the bridge's calls are what they are written as, and nothing is stored."""
    script = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "import sessions, sessions.telemetry as telemetry\n"
        "assert not telemetry.IS_INSTALLED and telemetry.traceparent() is None\n"
        "assert not hasattr(sessions.SessionBridge.handle, '__wrapped__')\n"
        "telemetry.count('sessions.routes'); telemetry.record_counts({'applied': 1}); telemetry.link_to('x')\n"
        "with telemetry.timed('sessions.held'): pass\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)  # noqa: S603 - our own
