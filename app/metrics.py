"""What a front end counts, and how Prometheus sees it. Knows neither HTTP routes nor the scheduler's inside.

Counting is plain arithmetic in the event loop's thread; metric objects exist only while a scrape is answered.
Names: octavo_* by Prometheus' rules, and the fifteen that vLLM's Grafana dashboard reads, with its labels.
"""

from __future__ import annotations

import re
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from ..scheduler.request import FinishReason
from ..scheduler.stats import EngineStats
from .generation import TextDelta

CAUSES = ("stop", "length", "disconnect", "deadline", "refused", "error", "drained")
"""Every request ends in exactly one of these."""

_MAX_IGNORED_NAMES = 50
_MAX_NAME_CHARS = 64
_INDEX = re.compile(r"\[\d+\]")
_OTHER = "other"

_TOKEN_S = (
    0.0005,
    0.001,
    0.002,
    0.003,
    0.005,
    0.0075,
    0.01,
    0.015,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    10.0,
)
_FIRST_TOKEN_S = (0.005, 0.01, 0.02, 0.04, 0.06, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_REQUEST_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 60.0, 120.0, 300.0, 1200.0)
_LAG_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
_TOKENS = tuple(float(2**i) for i in range(18))
_CHOICES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)


class Histogram:
    """Observations in buckets. `bounds` are inclusive upper bounds, ascending; infinity is added."""

    def __init__(self, name: str, help: str, bounds: Sequence[float]) -> None:
        self.name = name
        self.help = help
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count `value`."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    @property
    def count(self) -> int:
        """Observations so far."""
        return sum(self._counts)

    def family(self, name: str, labels: dict[str, str]) -> Metric:
        """This histogram under `name`."""
        bounds = [*(f"{bound:g}" for bound in self._bounds), "+Inf"]
        family = HistogramMetricFamily(name, self.help, labels=tuple(labels))
        buckets = list(zip(bounds, map(float, accumulate(self._counts)), strict=True))
        family.add_metric(tuple(labels.values()), buckets, self._sum)
        return family


class ServerMetrics(Collector):
    """The numbers of one front end, and at scrape time those of its engine.

    model_name: the first served name, the value of vLLM's `model_name` label.
    stats: the engine's moment, asked for at every scrape; None before there is an engine.
    """

    def __init__(self, model_name: str, version: str, stats: Callable[[], EngineStats] | None = None) -> None:
        self._model_name = model_name
        self._version = version
        self._stats = stats
        self.ended: Counter[str] = Counter(dict.fromkeys(CAUSES, 0))
        self._http: Counter[tuple[str, str]] = Counter()
        self._ignored: Counter[str] = Counter()
        self.num_open = 0
        self.first_token = Histogram(
            "time_to_first_token_seconds", "From arrival to the first token.", _FIRST_TOKEN_S
        )
        self.inter_token = Histogram("inter_token_latency_seconds", "Between deliveries of tokens.", _TOKEN_S)
        self.latency = Histogram("e2e_request_latency_seconds", "From arrival to the last token.", _REQUEST_S)
        self.queue = Histogram("request_queue_time_seconds", "From arrival to the first step.", _REQUEST_S)
        self.prefill = Histogram(
            "request_prefill_time_seconds", "From the first step to the first token.", _REQUEST_S
        )
        self.decode = Histogram(
            "request_decode_time_seconds", "From the first token to the last.", _REQUEST_S
        )
        self.prompt_tokens = Histogram("request_prompt_tokens", "Prompt tokens of a request.", _TOKENS)
        self.output_tokens = Histogram(
            "request_generation_tokens", "Tokens generated for a request.", _TOKENS
        )
        self.max_tokens = Histogram(
            "request_max_num_generation_tokens", "Most tokens that one choice of a request got.", _TOKENS
        )
        self.choices = Histogram("request_choices", "Choices asked for in one HTTP request.", _CHOICES)
        self.loop_lag = Histogram("event_loop_lag_seconds", "How late the event loop woke a timer.", _LAG_S)

    def count_response(self, route: str, status: int) -> None:
        """One HTTP response; `route` from a bounded set."""
        self._http[route, str(status)] += 1

    def count_ignored(self, field: str) -> None:
        """One unknown request field. Clients choose the names, so only the first so many get a label."""
        field = _INDEX.sub("[]", field)[:_MAX_NAME_CHARS]
        known = field in self._ignored or len(self._ignored) < _MAX_IGNORED_NAMES
        self._ignored[field if known else _OTHER] += 1

    def begin(self, num_prompt_tokens: int, arrival_s: float) -> RequestRecord:
        """The engine has taken one choice of a request that came at `arrival_s` (time.monotonic)."""
        return RequestRecord(self, num_prompt_tokens, arrival_s)

    def count_end(self, cause: str) -> None:
        """A request ended by `cause` before the engine took it."""
        assert cause in CAUSES, f"cause must be one of {CAUSES}, got {cause!r}"
        self.ended[cause] += 1

    def collect(self) -> Iterator[Metric]:
        """All families, the engine's gauges read now."""
        yield InfoMetricFamily(
            "octavo", "The server.", {"version": self._version, "model_name": self._model_name}
        )
        yield GaugeMetricFamily("octavo_requests_open", "Requests that have not ended.", self.num_open)
        yield _counter("octavo_requests", "Requests that ended, by cause.", ("cause",), self.ended)
        yield _counter("octavo_http_responses", "Responses.", ("route", "status"), self._http)
        yield _counter("octavo_ignored_fields", "Unknown request fields.", ("field",), self._ignored)
        label = {"model_name": self._model_name}
        for histogram in self._dashboard_histograms():
            yield histogram.family(f"octavo_{histogram.name}", {})
            yield histogram.family(f"vllm:{histogram.name}", label)
        yield self.choices.family(f"octavo_{self.choices.name}", {})
        yield self.loop_lag.family(f"octavo_{self.loop_lag.name}", {})
        yield self._success()
        if self._stats is not None:
            yield from engine_families(self._stats(), self._model_name)

    def _dashboard_histograms(self) -> tuple[Histogram, ...]:
        return (
            self.first_token,
            self.inter_token,
            self.latency,
            self.queue,
            self.prefill,
            self.decode,
            self.prompt_tokens,
            self.output_tokens,
            self.max_tokens,
        )

    def _success(self) -> Metric:
        """vLLM's count of ends, in vLLM's words: whatever ended early is an abort there."""
        ended = self.ended
        by_reason = {
            "stop": ended["stop"],
            "length": ended["length"],
            "abort": ended["disconnect"] + ended["deadline"] + ended["drained"],
            "error": ended["error"],
        }
        family = CounterMetricFamily(
            "vllm:request_success", "Requests that ended.", labels=("model_name", "finished_reason")
        )
        for reason, count in by_reason.items():
            family.add_metric((self._model_name, reason), count)
        return family


class RequestRecord:
    """One choice on its way through a front end; `end` may be called often, the first call counts."""

    def __init__(self, metrics: ServerMetrics, num_prompt_tokens: int, arrival_s: float) -> None:
        self._metrics = metrics
        self._num_prompt_tokens = num_prompt_tokens
        self._arrival_s = arrival_s
        self._last_s = 0.0
        self.num_tokens = 0
        self._ended = False
        metrics.num_open += 1

    def receive(self, delta: TextDelta) -> None:
        """Note what a delta says of time and of the request's end."""
        metrics = self._metrics
        if delta.token_ids:
            now = time.monotonic()
            if self._last_s:
                metrics.inter_token.observe(now - self._last_s)
            else:
                metrics.first_token.observe(now - self._arrival_s)
            self._last_s = now
            self.num_tokens += len(delta.token_ids)
        if delta.finish_reason is not None:
            self._note_timings(delta)
            reason = delta.finish_reason
            self.end("disconnect" if reason is FinishReason.ABORT else reason.value)

    def end(self, cause: str) -> None:
        """The request has ended by `cause`, one of CAUSES."""
        assert cause in CAUSES, f"cause must be one of {CAUSES}, got {cause!r}"
        if self._ended:
            return
        self._ended = True
        metrics = self._metrics
        metrics.num_open -= 1
        metrics.ended[cause] += 1
        metrics.latency.observe(time.monotonic() - self._arrival_s)
        metrics.prompt_tokens.observe(self._num_prompt_tokens)
        metrics.output_tokens.observe(self.num_tokens)

    def _note_timings(self, delta: TextDelta) -> None:
        timings = delta.timings
        if timings is None or not timings.first_token_s:
            return
        if timings.scheduled_s:
            self._metrics.queue.observe(timings.scheduled_s - timings.arrival_s)
            self._metrics.prefill.observe(timings.first_token_s - timings.scheduled_s)
        self._metrics.decode.observe(timings.finished_s - timings.first_token_s)


def engine_families(stats: EngineStats, model_name: str) -> Iterator[Metric]:
    """The engine's gauges and counters, under octavo's names and under vLLM's."""
    counters = stats.counters
    gauges = {
        "engine_requests_running": ("Requests in the batch.", stats.num_running),
        "engine_requests_waiting": ("Requests in the queue.", stats.num_waiting),
        "kv_blocks": ("KV cache blocks.", stats.num_blocks),
        "kv_blocks_free": ("KV cache blocks that hold nothing.", stats.num_free_blocks),
        "kv_blocks_evictable": ("KV cache blocks kept for their prefix only.", stats.num_evictable_blocks),
        "kv_usage_ratio": ("Share of KV cache blocks that sequences hold.", stats.kv_usage),
        "kv_waste_ratio": ("Share of room in held KV cache blocks that is not filled.", stats.kv_waste),
        "engine_last_step_seconds": ("Duration of the last step.", stats.last_step_s),
    }
    totals = {
        "engine_steps": ("Steps.", counters.num_steps),
        "prompt_tokens": ("Prompt tokens admitted, cached ones included.", counters.prompt_tokens),
        "generation_tokens": ("Tokens generated.", counters.generation_tokens),
        "preemptions": ("Sequences put back to make room.", counters.num_preemptions),
        "recomputed_tokens": ("Positions computed again after preemption.", counters.recomputed_tokens),
        "surplus_tokens": ("Tokens sampled for sequences that had ended.", counters.surplus_tokens),
        "prefix_cache_query_tokens": ("Prompt tokens looked up.", counters.prefix_query_tokens),
        "prefix_cache_hit_tokens": ("Prompt tokens found.", counters.prefix_hit_tokens),
    }
    for name, (help, value) in gauges.items():
        yield GaugeMetricFamily(f"octavo_{name}", help, value)
    for name, (help, total) in totals.items():
        yield CounterMetricFamily(f"octavo_{name}", help, total)
    label = ((model_name,), ("model_name",))
    for alias, name in (
        ("num_requests_running", "engine_requests_running"),
        ("num_requests_waiting", "engine_requests_waiting"),
        ("kv_cache_usage_perc", "kv_usage_ratio"),
    ):
        gauge = GaugeMetricFamily(f"vllm:{alias}", gauges[name][0], labels=label[1])
        gauge.add_metric(label[0], gauges[name][1])
        yield gauge
    for name in ("prompt_tokens", "generation_tokens"):
        counter = CounterMetricFamily(f"vllm:{name}", totals[name][0], labels=label[1])
        counter.add_metric(label[0], totals[name][1])
        yield counter


def _counter(
    name: str, help: str, labels: tuple[str, ...], counts: Counter[str] | Counter[tuple[str, str]]
) -> Metric:
    family = CounterMetricFamily(name, help, labels=labels)
    for key, count in counts.items():
        family.add_metric((key,) if isinstance(key, str) else key, count)
    return family
