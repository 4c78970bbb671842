"""OpenTelemetry traces of requests, exported by OTLP.

A call to a replica that carries texts of one request is a child span of that request; a call that
carries texts of several requests is a trace of its own with a link to each, as it has no single
parent. Spans never contain texts, token ids, keys or client addresses. OpenTelemetry is imported by
this module alone, and only where tracing is enabled.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar, Token
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, TypeAlias

from embedfleet import __version__
from embedfleet.runtime.extras import how_to_add
from embedfleet.runtime.settings import TracingSettings
from embedfleet.vocabulary import SettingError

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.trace import Span, Tracer

Fact: TypeAlias = str | int | float

EXPORT_TIMEOUT_S = 5.0
"""A collector that is down must not hold up the end of a process for long."""


class OpenSpan:
    """A span that is being recorded; entered, it is the one that its task works for."""

    def __init__(self, span: Span, calls: Tracer) -> None:
        """`calls` makes the spans of the calls that follow from this one."""
        self.span = span
        self.calls = calls
        self._token: Token[OpenSpan | None] | None = None

    def tell(self, **facts: Fact) -> None:
        """Note facts of the whole span."""
        for name, value in facts.items():
            self.span.set_attribute(f"embedfleet.{name}", value)

    def happened(self, event: str, **facts: Fact) -> None:
        """Note what happened just now, and facts of it."""
        self.span.add_event(event, {f"embedfleet.{name}": value for name, value in facts.items()})

    def answered(self, status: int) -> None:
        self.span.set_attribute("http.response.status_code", status)
        if status >= 500:
            self._failed()

    def headers(self) -> dict[str, str]:
        """Headers that make the other side's span a part of this trace."""
        from opentelemetry.trace import set_span_in_context  # noqa: PLC0415
        from opentelemetry.trace.propagation.tracecontext import (  # noqa: PLC0415
            TraceContextTextMapPropagator,
        )

        found: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(found, set_span_in_context(self.span))
        return found

    def __enter__(self) -> Self:
        self._token = _CURRENT.set(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._token is not None:
            _CURRENT.reset(self._token)
        if kind is not None:
            # Its name alone: what an error says may quote what a caller sent.
            self.span.set_attribute("error.type", kind.__name__)
            self._failed()
        self.span.end()

    def _failed(self) -> None:
        from opentelemetry.trace import StatusCode  # noqa: PLC0415

        self.span.set_status(StatusCode.ERROR)


_CURRENT: ContextVar[OpenSpan | None] = ContextVar("embedfleet_span", default=None)


def current_span() -> OpenSpan | None:
    """The span that this task works for; None where nothing is recorded."""
    return _CURRENT.get()


def carried() -> dict[str, str]:
    """Headers for a call to a replica: `traceparent` where this task works for a span."""
    span = _CURRENT.get()
    return {} if span is None else span.headers()


def calling(
    replica: str, requests: Collection[OpenSpan | None], *, texts: int, tokens: int
) -> AbstractContextManager[OpenSpan | None]:
    """The span of a call to a replica with texts of these requests, each of them named once."""
    recorded = [request for request in requests if request is not None]
    if not recorded:
        _CURRENT.set(None)  # a task inherits the span of whatever request made it start
        return nullcontext()
    from opentelemetry.context import Context  # noqa: PLC0415
    from opentelemetry.trace import Link, SpanKind, set_span_in_context  # noqa: PLC0415

    alone = len(requests) == 1
    span = recorded[0].calls.start_span(
        "call to a replica",
        context=set_span_in_context(recorded[0].span, Context()) if alone else Context(),
        kind=SpanKind.CLIENT,
        links=[] if alone else [Link(each.span.get_span_context()) for each in recorded],
    )
    call = OpenSpan(span, recorded[0].calls)
    call.tell(replica=replica, texts=texts, tokens=tokens, requests=len(requests))
    return call


class Headers(Protocol):
    """The headers of a request, by lower-case names."""

    def header(self, name: bytes) -> str | None:
        """The first header of this name."""
        ...

    def listed(self, name: bytes) -> str | None:
        """All headers of this name, as one."""
        ...


class Tracing:
    """Makes the spans of one process."""

    def __init__(self, processor: SpanProcessor, *, ratio: float, service: str) -> None:
        """`ratio` of the traces that begin here are recorded; of others those that the caller
        records."""
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.sampling import (  # noqa: PLC0415
            ALWAYS_ON,
            ParentBased,
            TraceIdRatioBased,
        )

        self._processor = processor
        resource = Resource.create({"service.name": service, "service.version": __version__})
        tracers = []
        # A call is recorded whenever a request in it is: it asks no sampler of its own.
        for sampler in (ParentBased(TraceIdRatioBased(ratio)), ALWAYS_ON):
            provider = TracerProvider(sampler, resource, shutdown_on_exit=False)
            provider.add_span_processor(processor)
            tracers.append(provider.get_tracer("embedfleet", __version__))
        self._requests, self._calls = tracers

    def begin(self, name: str, request: Headers, *, join: bool) -> OpenSpan | None:
        """A span for a request; None where it is not recorded, or `join` and it brings no trace."""
        from opentelemetry.trace import SpanKind, get_current_span  # noqa: PLC0415

        came_with = _context_of(request)
        if join and not get_current_span(came_with).get_span_context().is_valid:
            return None
        span = self._requests.start_span(name, context=came_with, kind=SpanKind.SERVER)
        return OpenSpan(span, self._calls) if span.is_recording() else None

    def close(self) -> None:
        """Send what is left."""
        self._processor.shutdown()


def _context_of(request: Headers) -> Context:
    """The trace that a request belongs to, by the W3C's headers; none if they make no sense."""
    from opentelemetry.context import Context  # noqa: PLC0415
    from opentelemetry.trace.propagation.tracecontext import (  # noqa: PLC0415
        TraceContextTextMapPropagator,
    )

    sent = {
        "traceparent": request.header(b"traceparent"),
        "tracestate": request.listed(b"tracestate"),
    }
    known = {name: value for name, value in sent.items() if value is not None}
    return TraceContextTextMapPropagator().extract(known, Context())


@contextlib.contextmanager
def opened(settings: TracingSettings, service: str) -> Iterator[Tracing | None]:
    """Tracing as the settings want it; None where it is off.

    Raises SettingError where the extra is missing or the endpoint is no address.
    """
    if settings.endpoint is None:
        yield None
        return
    if not settings.endpoint.startswith(("http://", "https://")):
        raise SettingError(
            f'tracing.endpoint: "{settings.endpoint}" is not an address such as '
            "http://127.0.0.1:4318/v1/traces"
        )
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
            OTLPSpanExporter,
        )
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError as error:
        raise SettingError(
            "tracing.endpoint is set, and OpenTelemetry is not installed: "
            f"{how_to_add('tracing')} (or tracing.endpoint = off)"
        ) from error
    exporter = OTLPSpanExporter(endpoint=settings.endpoint, timeout=EXPORT_TIMEOUT_S)
    tracing = Tracing(BatchSpanProcessor(exporter), ratio=settings.sample_ratio, service=service)
    try:
        yield tracing
    finally:
        tracing.close()
