"""Spans and metrics by OpenTelemetry, where its API is installed (extra ``telemetry``); else nothing at all.

Spans are those of `SessionBridge`'s calls, named ``sessions.handle`` and so on. They carry ids of sessions, kinds and
outcomes; neither they nor the metrics carry a text, or whose session it is.
"""

import contextlib
import functools
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from time import monotonic
from typing import Any, Final, NamedTuple, ParamSpec, TypeVar

try:
    from opentelemetry import metrics, trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError:  # the extra is not installed
    IS_INSTALLED = False
else:
    IS_INSTALLED = True

__all__ = ["INSTRUMENTS", "Instrument", "record_counts"]

Arguments = ParamSpec("Arguments")
Outcome = TypeVar("Outcome")
Status = TypeVar("Status", bound=str)

SESSION_ID: Final = "sessions.session_id"
OUTCOME: Final = "sessions.outcome"
_TRACEPARENT: Final = "traceparent"


class Instrument(NamedTuple):
    """A metric: how it is measured, in which unit, and what it says, by which attributes."""

    kind: str
    unit: str
    says: str
    by: tuple[str, ...] = ()


INSTRUMENTS: Final[Mapping[str, Instrument]] = {
    "sessions.routes": Instrument("counter", "1", "messages by what was decided on them", ("action",)),
    "sessions.claims": Instrument("counter", "1", "claims won and lost by the bridge", ("kind", "how")),
    "sessions.outcomes": Instrument("counter", "1", "calls of the bridge by what came of them", ("call", "outcome")),
    "sessions.expired": Instrument("counter", "1", "sessions that the upkeep ended after their time"),
    "sessions.recovered": Instrument("counter", "1", "leases of dead workers that the upkeep gave back"),
    "sessions.held": Instrument("histogram", "s", "how long a conversation was held by one run", ("kind",)),
    "sessions.write_back": Instrument("histogram", "s", "how long a write-back took", ("ending",)),
    "sessions.cached_routes": Instrument("observable_counter", "1", "routes of the caches of this process", ("from",)),
    "sessions.stream_lag": Instrument("observable_gauge", "s", "how late the last change came to a cache"),
    "sessions.stored": Instrument("gauge", "1", "sessions by status, as `record_counts` was told", ("status",)),
}
"""What is measured, by name."""

WON_NEW: Final = "new"
WON_BY_TAKE_OVER: Final = "take-over"
WON_BY_REPLACEMENT: Final = "replacement"
LOST: Final = "lost"


@functools.cache
def _meter() -> Any:
    return metrics.get_meter("sessions")


@functools.cache
def _instrument(name: str) -> Any:
    made = INSTRUMENTS[name]
    return getattr(_meter(), f"create_{made.kind}")(name, unit=made.unit, description=made.says)


def count(name: str, amount: int = 1, **by: str) -> None:
    """Count with one of the counters."""
    if IS_INSTALLED and amount:
        _instrument(name).add(amount, by)


@contextlib.contextmanager
def timed(name: str, **by: str) -> Iterator[dict[str, str]]:
    """Time the block with one of the histograms; attributes known at its end only are put into what it yields."""
    began = monotonic()
    try:
        yield by
    finally:
        if IS_INSTALLED:
            _instrument(name).record(monotonic() - began, by)


def record_counts(counts: Mapping[Status, int]) -> None:
    """Set the metric ``sessions.stored``; call it as often as it is looked at, since the count reads an index through.

    Args:
        counts: What `SessionRepository.count_by_status` returned.
    """
    if IS_INSTALLED:
        for status, number in counts.items():
            _instrument("sessions.stored").set(number, {"status": str(status)})


class Observed(NamedTuple):
    """What the caches of a process have done; it is asked when the metrics are read."""

    hits: int
    misses: int
    lag: float | None


class Caches:
    """The caches of routes that are in use in this process."""

    def __init__(self) -> None:
        self._looks: list[Callable[[], Observed]] = []
        self._hits = self._misses = 0
        self._is_registered = False

    def add(self, look: Callable[[], Observed]) -> None:
        """Observe one cache more, until `remove`."""
        if IS_INSTALLED:
            self._looks.append(look)
            self._register()

    def remove(self, look: Callable[[], Observed]) -> None:
        """What it has counted stays counted."""
        if look in self._looks:
            self._looks.remove(look)
            told = look()
            self._hits += told.hits
            self._misses += told.misses

    def _register(self) -> None:
        if self._is_registered:
            return
        self._is_registered = True
        for name, callback in (("sessions.cached_routes", self._routes), ("sessions.stream_lag", self._lag)):
            made = INSTRUMENTS[name]
            create = getattr(_meter(), f"create_{made.kind}")
            create(name, callbacks=[callback], unit=made.unit, description=made.says)

    def _routes(self, _options: object) -> Iterable[Any]:
        told = [look() for look in self._looks]
        hits = self._hits + sum(each.hits for each in told)
        misses = self._misses + sum(each.misses for each in told)
        return [
            metrics.Observation(hits, {"from": "memory"}),
            metrics.Observation(misses, {"from": "database"}),
        ]

    def _lag(self, _options: object) -> Iterable[Any]:
        return [metrics.Observation(lag) for look in self._looks if (lag := look().lag) is not None]


caches: Final = Caches()


def traced(
    call: Callable[Arguments, Coroutine[Any, Any, Outcome]],
) -> Callable[Arguments, Coroutine[Any, Any, Outcome]]:
    """A call of the bridge with a span of its own, and its outcome counted; the call itself without OpenTelemetry."""
    if not IS_INSTALLED:
        return call
    name = call.__name__

    @functools.wraps(call)
    async def with_span(*arguments: Arguments.args, **options: Arguments.kwargs) -> Outcome:
        tracer = trace.get_tracer("sessions")
        # Not by the SDK's own words: the text of an error might be anybody's.
        with tracer.start_as_current_span(
            f"sessions.{name}", record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                outcome = await call(*arguments, **options)
            except BaseException as error:
                kind = type(error).__name__
                span.set_status(trace.StatusCode.ERROR, kind)
                span.set_attribute("error.type", kind)
                count("sessions.outcomes", call=name, outcome=kind)
                raise
            span.set_attribute(OUTCOME, type(outcome).__name__)
            if (session := getattr(outcome, "session", None)) is not None:
                span.set_attribute(SESSION_ID, session.session_id)
            count("sessions.outcomes", call=name, outcome=type(outcome).__name__)
            return outcome

    return with_span


def traceparent() -> str | None:
    """The span that is under way, as the W3C writes it; None without one."""
    if not IS_INSTALLED:
        return None
    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get(_TRACEPARENT)


def link_to(parent: str | None) -> None:
    """Link the span under way to the one of the run that it goes on from."""
    if not IS_INSTALLED or parent is None:
        return
    behind = TraceContextTextMapPropagator().extract({_TRACEPARENT: parent})
    context = trace.get_current_span(behind).get_span_context()
    if context.is_valid:
        trace.get_current_span().add_link(context)
