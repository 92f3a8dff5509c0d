"""Spans of requests: of a real server's, at a real receiver of OTLP over HTTP, and in detail in memory."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from http_harness import ScriptedClient, make_app, serve
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from octavo.app.errors import StartupError
from octavo.app.request_summary import AnswerSummary, RequestSummary
from octavo.app.tracing import RequestTracer, check_tracing, traces_url
from octavo.model.sampling_params import SamplingParams
from octavo.scheduler.request import RequestTimings

ANSWER = AnswerSummary(
    response_id="cmpl-r",
    model="toy",
    params=SamplingParams(temperature=0.5, top_p=0.9, max_tokens=20, seed=7),
    causes=("stop",),
    num_prompt_tokens=12,
    num_cached_tokens=4,
    num_output_tokens=5,
    first_token_s=101.0,
    timings=RequestTimings(100.0, 100.5, 101.0, 103.0, num_cached_tokens=4),
)
SUMMARY = RequestSummary(
    request_id="r",
    method="POST",
    route="/v1/completions",
    status=200,
    client="127.0.0.1",
    began_s=100.0,
    ended_s=103.0,
    generates=True,
    answer=ANSWER,
)


def spans_of(summary: RequestSummary) -> list[ReadableSpan]:
    """What a tracer makes of a request, children first."""
    memory, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(memory))
    tracer = RequestTracer(provider)
    tracer(summary)
    tracer.close()
    return list(memory.get_finished_spans())


def test_a_span_says_what_the_conventions_ask_for() -> None:
    *_, span = spans_of(SUMMARY)
    assert (span.name, span.kind) == ("text_completion toy", SpanKind.SERVER)
    assert span.attributes is not None
    assert dict(span.attributes) == {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "octavo",
        "gen_ai.request.model": "toy",
        "gen_ai.response.model": "toy",
        "gen_ai.response.id": "cmpl-r",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 12,
        "gen_ai.usage.cache_read.input_tokens": 4,
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.request.max_tokens": 20,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 0.9,
        "gen_ai.request.seed": 7,
        "gen_ai.latency.e2e": 3.0,
        "gen_ai.latency.time_to_first_token": 1.0,
        "gen_ai.latency.time_in_queue": 0.5,
        "gen_ai.latency.time_in_model_prefill": 0.5,
        "gen_ai.latency.time_in_model_decode": 2.0,
        "http.request.method": "POST",
        "http.route": "/v1/completions",
        "http.response.status_code": 200,
        "octavo.request.id": "r",
        "octavo.cause": "stop",
    }
    assert span.status.status_code is StatusCode.UNSET


def test_phases_are_children_that_fill_the_request() -> None:
    *phases, span = spans_of(SUMMARY)
    assert span.context is not None
    assert [phase.name for phase in phases] == ["queue", "prefill", "decode"]
    assert {phase.parent.span_id for phase in phases if phase.parent} == {span.context.span_id}
    lengths = [(s.end_time or 0) - (s.start_time or 0) for s in (*phases, span)]
    assert lengths == pytest.approx([0.5e9, 0.5e9, 2e9, 3e9], abs=1e4)


def test_a_callers_trace_goes_on() -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    *_, span = spans_of(replace(SUMMARY, traceparent=f"00-{trace}-b7ad6b7169203331-01"))
    assert span.context is not None and span.parent is not None
    assert f"{span.context.trace_id:032x}" == trace
    assert f"{span.parent.span_id:016x}" == "b7ad6b7169203331"


def test_a_traceparent_that_is_none_begins_a_trace() -> None:
    *_, span = spans_of(replace(SUMMARY, traceparent="nonsense"))
    assert span.parent is None


def test_a_failure_is_told_with_its_cause() -> None:
    failed = replace(ANSWER, causes=("error",), error="The logits were NaN.", timings=None)
    (span,) = spans_of(replace(SUMMARY, answer=failed, error_code="generation_failed"))
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "The logits were NaN.")
    assert span.attributes is not None and span.attributes["error.type"] == "generation_failed"


def test_what_asks_for_no_tokens_has_no_span() -> None:
    assert not spans_of(replace(SUMMARY, route="/metrics", generates=False, answer=None))


class Receiver(ThreadingHTTPServer):
    """Takes traces as a collector does."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.exports: list[ExportTraceServiceRequest] = []


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        """One export."""
        assert isinstance(self.server, Receiver)
        assert self.path == "/v1/traces"
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.exports.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@contextmanager
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_server_sends_its_spans_at_the_latest_when_it_ends() -> None:
    with receiver() as collector:
        endpoint = f"http://127.0.0.1:{collector.server_port}"
        with serve(make_app(ScriptedClient(), {"otlp_endpoint": endpoint})) as url:
            httpx.post(
                f"{url}/v1/completions", json={"prompt": "x", "max_tokens": 2}, timeout=60
            ).raise_for_status()
            httpx.get(f"{url}/livez", timeout=60).raise_for_status()
    (resource,) = [resource for export in collector.exports for resource in export.resource_spans]
    about = {pair.key: pair.value.string_value for pair in resource.resource.attributes}
    assert (about["service.name"], about["service.version"]) == ("octavo", "9.9")
    names = [span.name for scope in resource.scope_spans for span in scope.spans]
    assert names == ["queue", "prefill", "decode", "text_completion toy"]


def test_a_collector_that_is_not_there_harms_no_request() -> None:
    with serve(make_app(ScriptedClient(), {"otlp_endpoint": "http://127.0.0.1:9"})) as url:
        for _ in range(3):
            httpx.post(
                f"{url}/v1/completions", json={"prompt": "x", "max_tokens": 2}, timeout=60
            ).raise_for_status()


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("http://localhost:4318", "http://localhost:4318/v1/traces"),
        ("http://localhost:4318/", "http://localhost:4318/v1/traces"),
        ("https://collector/otlp/v1/traces", "https://collector/otlp/v1/traces"),
    ],
)
def test_an_endpoint_may_have_a_path(endpoint: str, url: str) -> None:
    assert traces_url(endpoint) == url


def test_an_endpoint_that_is_none_is_refused_at_the_start() -> None:
    check_tracing(None)
    check_tracing("http://localhost:4318")
    with pytest.raises(StartupError, match="must be an http or https URL, got 'localhost:4318'"):
        check_tracing("localhost:4318")


def test_without_the_extra_the_start_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http", None)
    with pytest.raises(StartupError, match=r"pip install 'octavo\[otel\]'"):
        check_tracing("http://localhost:4318")
