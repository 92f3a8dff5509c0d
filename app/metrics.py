"""What a front end counts, and how Prometheus sees it. Knows neither HTTP routes nor the scheduler's inside.

Counting is plain arithmetic in the event loop's thread; metric objects exist only while a scrape is answered.
Names: octavo_* by Prometheus' rules, and the fifteen that vLLM's Grafana dashboard reads, with its labels.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from ..scheduler.request import FinishReason
from ..scheduler.stats import EngineStats
from .engine_metrics import engine_families, frontend_families, memory_family
from .errors import RequestError
from .generation import TextDelta
from .histogram import Histogram
from .metrics_state import FrontendCounts, MetricsState

CAUSES = ("stop", "length", "disconnect", "deadline", "refused", "error", "drained")
"""Every choice ends in exactly one of these. Choices are what is counted, each a request to the engine; what
fails before it is known how many are asked for counts as one."""

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


class ServerMetrics(Collector):
    """The numbers of one front end, and at scrape time those of its engine.

    model_name: the first served name, the value of vLLM's `model_name` label.
    stats: the engine's moment, asked for at every scrape; None leaves the engine's numbers out.
    frontends: the processes that serve; None if that is the engine's own.
    memory_bytes: the device's memory by what holds it, as in MemoryLedger.entries.
    """

    def __init__(
        self,
        model_name: str,
        version: str,
        stats: Callable[[], EngineStats] | None = None,
        frontends: FrontendCounts | None = None,
        memory_bytes: Mapping[str, int] | None = None,
    ) -> None:
        self._model_name = model_name
        self._version = version
        self._stats = stats
        self._frontends = frontends
        self._memory_bytes = memory_bytes or {}
        self.ended: Counter[str] = Counter(dict.fromkeys(CAUSES, 0))
        self._http: Counter[tuple[str, str]] = Counter()
        self._ignored: Counter[str] = Counter()
        self.num_open = 0
        self.num_slow_readers = 0
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
        self.choices = Histogram("request_choices", "Choices asked for of each prompt.", _CHOICES)
        self.loop_lag = Histogram("event_loop_lag_seconds", "How late the event loop woke a timer.", _LAG_S)

    def count_response(self, route: str, status: int) -> None:
        """One HTTP response; `route` from a bounded set."""
        self._http[route, str(status)] += 1

    def count_ignored(self, field: str) -> None:
        """One unknown request field. Clients choose the names, so only the first so many get a label."""
        field = _INDEX.sub("[]", field)[:_MAX_NAME_CHARS]
        known = field in self._ignored or len(self._ignored) < _MAX_IGNORED_NAMES
        self._ignored[field if known else _OTHER] += 1

    def count_slow_reader(self) -> None:
        """One connection was cut since its client did not read."""
        self.num_slow_readers += 1

    def begin(self, num_prompt_tokens: int, arrival_s: float) -> RequestRecord:
        """The engine has taken one choice of a request that came at `arrival_s` (time.monotonic)."""
        return RequestRecord(self, num_prompt_tokens, arrival_s)

    def count_end(self, cause: str, num_choices: int = 1) -> None:
        """Choices ended by `cause` before the engine took them."""
        assert cause in CAUSES, f"cause must be one of {CAUSES}, got {cause!r}"
        self.ended[cause] += num_choices

    def state(self) -> MetricsState:
        """All that was counted here."""
        return MetricsState(
            ended=dict(self.ended),
            http=dict(self._http),
            ignored=dict(self._ignored),
            num_open=self.num_open,
            num_slow_readers=self.num_slow_readers,
            histograms={histogram.name: histogram.state() for histogram in self._histograms()},
        )

    def absorb(self, state: MetricsState) -> None:
        """Add what another front end has counted."""
        self.ended.update(state.ended)
        self._http.update(state.http)
        self._ignored.update(state.ignored)
        self.num_open += state.num_open
        self.num_slow_readers += state.num_slow_readers
        for histogram in self._histograms():
            histogram.absorb(state.histograms[histogram.name])

    def collect(self) -> Iterator[Metric]:
        """All families, the engine's gauges read now."""
        yield InfoMetricFamily(
            "octavo", "The server.", {"version": self._version, "model_name": self._model_name}
        )
        yield GaugeMetricFamily("octavo_requests_open", "Choices that have not ended.", self.num_open)
        yield _counter("octavo_requests", "Choices that ended, by cause.", ("cause",), self.ended)
        yield _counter("octavo_http_responses", "Responses.", ("route", "status"), self._http)
        yield CounterMetricFamily(
            "octavo_slow_readers", "Connections cut because nobody read them.", self.num_slow_readers
        )
        yield _counter("octavo_ignored_fields", "Unknown request fields.", ("field",), self._ignored)
        label = {"model_name": self._model_name}
        for histogram in self._dashboard_histograms():
            yield histogram.family(f"octavo_{histogram.name}", {})
            yield histogram.family(f"vllm:{histogram.name}", label)
        yield self.choices.family(f"octavo_{self.choices.name}", {})
        yield self.loop_lag.family(f"octavo_{self.loop_lag.name}", {})
        yield self._success()
        if self._frontends is not None:
            yield from frontend_families(self._frontends)
        if self._stats is not None:
            yield from engine_families(self._stats(), self._model_name)
        if self._memory_bytes:
            yield memory_family(self._memory_bytes)

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

    def _histograms(self) -> tuple[Histogram, ...]:
        return (*self._dashboard_histograms(), self.choices, self.loop_lag)

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
        if cause == "refused":
            return  # it took no time and brought nothing
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


def cause_of_refusal(error: Exception) -> str:
    """Why a choice ended that the engine has not taken."""
    refused = isinstance(error, RequestError) and (error.status < 500 or error.status == 503)
    return "refused" if refused else "error"


def _counter(
    name: str, help: str, labels: tuple[str, ...], counts: Counter[str] | Counter[tuple[str, str]]
) -> Metric:
    family = CounterMetricFamily(name, help, labels=labels)
    for key, count in counts.items():
        family.add_metric((key,) if isinstance(key, str) else key, count)
    return family
