"""A span for every request that asked for tokens, sent to an OpenTelemetry collector (the extra `otel`).

Attributes follow OpenTelemetry's semantic conventions for generative AI; what they have no name for has the
name that vLLM gave it. Spans are made when a request has ended, with the times that were noted on the way.
"""

from __future__ import annotations

import importlib
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from .errors import StartupError
from .request_summary import AnswerSummary, RequestSummary
from .server_settings import ServerSettings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

_OPERATIONS = {"/v1/completions": "text_completion"}
_MAX_EXPORT_S = 2.0
"""What a collector gets to take spans; the end of a server waits for that, too."""
_PHASES = ("queue", "prefill", "decode")


class RequestTracer:
    """An Observer that makes spans with `provider`; `close` sends what is left."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("octavo")
        self._propagator = TraceContextTextMapPropagator()

    @classmethod
    def to(cls, settings: ServerSettings, exporter: SpanExporter | None = None) -> RequestTracer:
        """A tracer that sends to `settings.otlp_endpoint` over HTTP, or to `exporter`."""
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        if exporter is None:
            exporter = OTLPSpanExporter(
                endpoint=traces_url(settings.otlp_endpoint or ""), timeout=_MAX_EXPORT_S
            )
        resource = Resource.create({"service.name": "octavo", "service.version": settings.version})
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(exporter))
        return cls(provider)

    def __call__(self, summary: RequestSummary) -> None:
        """Make the span of a request, and one of each phase that it went through."""
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

        if not summary.generates:
            return
        # Moments are monotonic; spans want the time of day.
        to_day_s = time.time() - time.monotonic()
        carrier = {} if summary.traceparent is None else {"traceparent": summary.traceparent}
        operation = _OPERATIONS.get(summary.route, "chat")
        model = "" if summary.answer is None else summary.answer.model
        span = self._tracer.start_span(
            f"{operation} {model}".rstrip(),
            context=self._propagator.extract(carrier),
            kind=SpanKind.SERVER,
            attributes=span_attributes(summary, operation),
            start_time=_ns(summary.began_s + to_day_s),
        )
        if summary.cause in ("error", "refused", "deadline", "drained"):
            error = summary.answer.error if summary.answer is not None else None
            span.set_status(Status(StatusCode.ERROR, error or summary.error_code))
        timings = summary.answer.timings if summary.answer is not None else None
        if timings is not None and timings.scheduled_s:
            moments = (timings.arrival_s, timings.scheduled_s, timings.first_token_s, timings.finished_s)
            for phase, start_s, end_s in zip(_PHASES, moments, moments[1:], strict=False):
                if end_s:
                    child = self._tracer.start_span(
                        phase, context=set_span_in_context(span), start_time=_ns(start_s + to_day_s)
                    )
                    child.end(_ns(end_s + to_day_s))
        span.end(_ns(summary.ended_s + to_day_s))

    def close(self) -> None:
        """Send what is left; waits for the collector."""
        self._provider.shutdown()


def check_tracing(endpoint: str | None) -> None:
    """Raise StartupError, one sentence, if spans could not be sent to `endpoint`."""
    if endpoint is None:
        return
    if urlsplit(endpoint).scheme not in ("http", "https"):
        raise StartupError(f"--otlp-endpoint must be an http or https URL, got {endpoint!r}")
    try:
        importlib.import_module("opentelemetry.exporter.otlp.proto.http")
    except ImportError as error:
        raise StartupError("--otlp-endpoint needs the extra otel: pip install 'octavo[otel]'") from error


def traces_url(endpoint: str) -> str:
    """Where a collector takes traces; a path of the endpoint's own is kept."""
    path = urlsplit(endpoint).path
    return endpoint if path.strip("/") else endpoint.rstrip("/") + "/v1/traces"


def span_attributes(summary: RequestSummary, operation: str) -> dict[str, Any]:
    """The attributes of a request's span; what is not known is left out."""
    attributes: dict[str, Any] = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": "octavo",
        "http.request.method": summary.method,
        "http.route": summary.route,
        "http.response.status_code": summary.status or None,
        "octavo.request.id": summary.request_id,
        "octavo.cause": summary.cause,
        "error.type": summary.error_code,
        "gen_ai.latency.e2e": summary.ended_s - summary.began_s,
    }
    if summary.answer is not None:
        attributes |= _answer_attributes(summary.answer, summary.began_s)
    return {name: value for name, value in attributes.items() if value is not None}


def _answer_attributes(answer: AnswerSummary, began_s: float) -> dict[str, Any]:
    params, timings = answer.params, answer.timings
    attributes: dict[str, Any] = {
        "gen_ai.request.model": answer.model,
        "gen_ai.response.model": answer.model,
        "gen_ai.response.id": answer.response_id,
        "gen_ai.response.finish_reasons": answer.causes,
        "gen_ai.usage.input_tokens": answer.num_prompt_tokens,
        "gen_ai.usage.cache_read.input_tokens": answer.num_cached_tokens,
        "gen_ai.usage.output_tokens": answer.num_output_tokens,
        "gen_ai.request.max_tokens": params.max_tokens,
        "gen_ai.request.temperature": params.temperature,
        "gen_ai.request.top_p": params.top_p,
        "gen_ai.request.top_k": params.top_k or None,
        "gen_ai.request.frequency_penalty": params.frequency_penalty or None,
        "gen_ai.request.presence_penalty": params.presence_penalty or None,
        "gen_ai.request.seed": params.seed,
        "gen_ai.request.choice.count": params.n if params.n > 1 else None,
        "gen_ai.latency.time_to_first_token": answer.first_token_s - began_s
        if answer.first_token_s
        else None,
    }
    if timings is not None and timings.scheduled_s:
        attributes["gen_ai.latency.time_in_queue"] = timings.scheduled_s - timings.arrival_s
        if timings.first_token_s:
            attributes["gen_ai.latency.time_in_model_prefill"] = timings.first_token_s - timings.scheduled_s
            attributes["gen_ai.latency.time_in_model_decode"] = timings.finished_s - timings.first_token_s
    return attributes


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
