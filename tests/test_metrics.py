"""Counting, and what Prometheus reads."""

from __future__ import annotations

import time

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from octavo.app.choice_record import CAUSES
from octavo.app.errors import EngineOverloadedError, RequestError
from octavo.app.generation import TextDelta
from octavo.app.histogram import Histogram
from octavo.app.metrics import ServerMetrics
from octavo.scheduler.request import FinishReason, RequestTimings
from octavo.scheduler.stats import Counters, EngineStats

# The names that the panels of vLLM's own Grafana dashboard query.
DASHBOARD = """
num_requests_running num_requests_waiting kv_cache_usage_perc prompt_tokens_total
generation_tokens_total request_success_total request_prompt_tokens_bucket request_generation_tokens_bucket
request_max_num_generation_tokens_sum time_to_first_token_seconds_bucket inter_token_latency_seconds_bucket
e2e_request_latency_seconds_bucket request_queue_time_seconds_sum request_prefill_time_seconds_sum
request_decode_time_seconds_sum
"""


def stats() -> EngineStats:
    counters = Counters(prompt_tokens=70, generation_tokens=30, num_steps=9)
    return EngineStats(2, 3, 100, 40, 10, 0.5, 0.03, counters)


def scrape(metrics: ServerMetrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Samples by name and labels, as Prometheus' own parser reads them."""
    registry = CollectorRegistry()
    registry.register(metrics)
    text = generate_latest(registry).decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(metrics: ServerMetrics, name: str, **labels: str) -> float:
    return scrape(metrics)[name, frozenset(labels.items())]


@pytest.fixture
def metrics() -> ServerMetrics:
    return ServerMetrics("toy", "1.2", stats)


def test_histogram_buckets_are_cumulative_and_inclusive() -> None:
    histogram = Histogram("h", "help", (1.0, 2.0))
    for observed in (0.5, 1.0, 1.5, 2.0, 9.0):
        histogram.observe(observed)
    samples = {s.labels.get("le", s.name): s.value for s in histogram.family("h", {}).samples}
    assert samples == {"1": 2, "2": 4, "+Inf": 5, "h_count": 5, "h_sum": 14.0}


@pytest.mark.parametrize("name", DASHBOARD.split())
def test_dashboard_of_vllm_finds_its_names(metrics: ServerMetrics, name: str) -> None:
    samples = [dict(labels) for sample, labels in scrape(metrics) if sample == f"vllm:{name}"]
    assert samples and all(labels["model_name"] == "toy" for labels in samples)


def test_engine_is_asked_at_every_scrape() -> None:
    moments = [EngineStats(n, 0, 10, 10, 0, 0.0, 0.0, Counters()) for n in (4, 5)]
    metrics = ServerMetrics("toy", "1.2", lambda: moments.pop(0))
    registry = CollectorRegistry()
    registry.register(metrics)
    assert "octavo_engine_requests_running 4.0" in generate_latest(registry).decode()
    assert "octavo_engine_requests_running 5.0" in generate_latest(registry).decode()


def test_engine_numbers_have_both_names(metrics: ServerMetrics) -> None:
    assert value(metrics, "octavo_kv_waste_ratio") == 0.03
    assert value(metrics, "octavo_engine_steps_total") == 9
    assert value(metrics, "octavo_kv_usage_ratio") == value(
        metrics, "vllm:kv_cache_usage_perc", model_name="toy"
    )
    assert value(metrics, "vllm:prompt_tokens_total", model_name="toy") == 70


def test_without_an_engine_there_are_no_engine_numbers() -> None:
    names = {name for name, _ in scrape(ServerMetrics("toy", "1.2"))}
    assert "octavo_requests_total" in names and "octavo_kv_blocks" not in names


def test_record_follows_a_request(metrics: ServerMetrics) -> None:
    record = metrics.begin(5, time.monotonic() - 0.2)
    assert value(metrics, "octavo_requests_open") == 1
    record.receive(TextDelta("a", (1,)))
    record.receive(TextDelta("bc", (2, 3)))
    timings = RequestTimings(1.0, 1.5, 2.5, finished_s=8.5, num_cached_tokens=3, num_preemptions=2)
    last = TextDelta("", (4,), finish_reason=FinishReason.STOP, timings=timings, detokenize_s=0.25)
    record.receive(last)
    assert record.num_tokens == 4
    assert value(metrics, "octavo_requests_open") == 0
    assert value(metrics, "octavo_requests_total", cause="stop") == 1
    assert value(metrics, "octavo_time_to_first_token_seconds_count") == 1
    assert value(metrics, "octavo_time_to_first_token_seconds_sum") >= 0.2
    assert value(metrics, "octavo_request_generation_tokens_sum") == 4
    assert value(metrics, "octavo_request_prompt_tokens_sum") == 5
    assert value(metrics, "octavo_request_queue_time_seconds_sum") == 0.5
    assert value(metrics, "octavo_request_prefill_time_seconds_sum") == 1.0
    assert value(metrics, "octavo_request_decode_time_seconds_sum") == 6.0
    assert value(metrics, "octavo_request_inference_time_seconds_sum") == 7.0
    assert value(metrics, "octavo_request_time_per_output_token_seconds_sum") == 2.0
    assert value(metrics, "octavo_request_prefill_kv_computed_tokens_sum") == 2
    assert value(metrics, "vllm:request_num_preemptions_sum", model_name="toy") == 2
    assert value(metrics, "octavo_detokenize_seconds_sum") == 0.25


def test_a_request_ends_once(metrics: ServerMetrics) -> None:
    record = metrics.begin(5, time.monotonic())
    record.end("length")
    record.end("disconnect")
    assert metrics.ended["length"] == 1 and sum(metrics.ended.values()) == 1
    assert metrics.num_open == 0


def test_every_cause_is_there_from_the_start(metrics: ServerMetrics) -> None:
    assert [value(metrics, "octavo_requests_total", cause=cause) for cause in CAUSES] == [0] * len(CAUSES)


def test_vllm_knows_fewer_causes(metrics: ServerMetrics) -> None:
    for cause in CAUSES:
        metrics.count_end(cause)
    by_reason = {
        reason: value(metrics, "vllm:request_success_total", model_name="toy", finished_reason=reason)
        for reason in ("stop", "length", "abort", "error")
    }
    assert by_reason == {"stop": 1, "length": 1, "abort": 3, "error": 1}


def test_clients_cannot_make_labels_without_end(metrics: ServerMetrics) -> None:
    for i in range(1000):
        metrics.count_ignored(f"field{i}")
    metrics.count_ignored("field0")
    labels = [
        dict(labels)["field"] for name, labels in scrape(metrics) if name == "octavo_ignored_fields_total"
    ]
    assert len(labels) <= 51
    assert value(metrics, "octavo_ignored_fields_total", field="field0") == 2
    assert value(metrics, "octavo_ignored_fields_total", field="other") == 950


def test_places_in_a_list_share_a_label(metrics: ServerMetrics) -> None:
    metrics.count_ignored("messages[0].mood")
    metrics.count_ignored("messages[17].mood")
    assert value(metrics, "octavo_ignored_fields_total", field="messages[].mood") == 2


def test_field_names_are_cut(metrics: ServerMetrics) -> None:
    metrics.count_ignored("x" * 100_000 + '"\n')
    assert all(len(text) < 100 for _, labels in scrape(metrics) for _, text in labels)


def test_responses_are_counted_by_route_and_status(metrics: ServerMetrics) -> None:
    metrics.count_response("/v1/models", 200)
    metrics.count_response("/v1/models", 200)
    assert value(metrics, "octavo_http_responses_total", route="/v1/models", status="200") == 2


def test_who_came_when_too_many_were_here_counts_once_whatever_was_asked_for(metrics: ServerMetrics) -> None:
    metrics.count_refused(EngineOverloadedError("full", refusal="queue_full"), 4)
    metrics.count_refused(RequestError("no"), 4)
    assert value(metrics, "octavo_requests_refused_total", cause="queue_full") == 4
    labels = {"model_name": "toy", "reason": "queue_full"}
    assert value(metrics, "vllm:admission_rejections_total", **labels) == 1
    assert value(metrics, "vllm:admission_rejections_total", model_name="toy", reason="late") == 0


@pytest.mark.parametrize("streams", [False, True])
def test_tool_readings_have_both_names(metrics: ServerMetrics, streams: bool) -> None:
    for id_prefix, found in (("chatcmpl-", True), ("msg_", True), ("resp_", False)):
        metrics.tool_readings(id_prefix, streams=streams)(found)
    mode = "streaming" if streams else "non_streaming"
    for name, labels in (("octavo_", {}), ("vllm:", {"model_name": "toy"})):
        read = [
            value(
                metrics,
                f"{name}tool_call_parser_invocations_total",
                mode=mode,
                outcome=outcome,
                request_type=kind,
                **labels,
            )
            for outcome, kind in (
                ("tool_call", "chat_completions"),
                ("no_tool_call", "responses"),
                ("tool_call", "responses"),
            )
        ]
        assert read == [2, 1, 0]


def test_errors_are_counted_by_their_code(metrics: ServerMetrics) -> None:
    metrics.count_response("/v1/completions", 400, "context_length_exceeded")
    assert value(metrics, "octavo_http_errors_total", code="context_length_exceeded") == 1
    assert value(metrics, "octavo_http_responses_total", route="/v1/completions", status="400") == 1


def test_front_ends_add_up() -> None:
    whole = ServerMetrics("toy", "1.2", stats)
    for num_tokens in (1, 3):
        one = ServerMetrics("toy", "1.2")
        record = one.begin(5, time.monotonic())
        for _ in range(num_tokens):
            record.receive(TextDelta("a", (1,)))
        record.end("length")
        one.begin(5, time.monotonic())
        one.count_response("/version", 200)
        one.count_response("/version", 401, "invalid_api_key")
        one.count_duration("/version", 0.5)
        one.count_slow_reader()
        one.count_ignored("mood")
        whole.absorb(one.state())
    assert value(whole, "octavo_requests_open") == 2
    assert value(whole, "octavo_requests_total", cause="length") == 2
    assert value(whole, "octavo_request_generation_tokens_sum") == 4
    assert value(whole, "octavo_request_generation_tokens_count") == 2
    assert value(whole, "octavo_http_responses_total", route="/version", status="200") == 2
    assert value(whole, "octavo_ignored_fields_total", field="mood") == 2
    assert value(whole, "octavo_slow_readers_total") == 2
    assert value(whole, "octavo_http_errors_total", code="invalid_api_key") == 2
    assert value(whole, "octavo_http_response_seconds_sum", route="/version") == 1.0


def test_a_state_is_a_moment() -> None:
    metrics = ServerMetrics("toy", "1.2")
    state = metrics.state()
    metrics.histograms.choices.observe(1)
    metrics.count_end("error")
    assert state.histograms["request_choices"][0].count(0) == len(state.histograms["request_choices"][0])
    assert state.ended["error"] == 0
