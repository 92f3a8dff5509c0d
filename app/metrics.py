"""What a front end counts, and how Prometheus sees it. Knows neither HTTP routes nor the scheduler's inside.

Counting is plain arithmetic in the event loop's thread; metric objects exist only while a scrape is answered.
Names: octavo_* by Prometheus' rules, and those that dashboards for vLLM read, with its labels.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from typing import Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from ..scheduler.distribution import Distribution
from ..scheduler.stats import EngineStats
from .choice_record import CAUSES, ChoiceRecord
from .engine_metrics import engine_families, frontend_families, memory_family
from .errors import ADMISSION_REFUSALS, REFUSALS, RequestError
from .frontend_histograms import RESPONSE_S, FrontendHistograms
from .histogram import histogram_family
from .metrics_state import FrontendCounts, MetricsState

_MAX_IGNORED_NAMES = 50
_MAX_NAME_CHARS = 64
_INDEX = re.compile(r"\[\d+\]")
_OTHER = "other"
_READING = ("mode", "outcome", "request_type")
_READINGS = tuple(
    product(("streaming", "non_streaming"), ("tool_call", "no_tool_call"), ("chat_completions", "responses"))
)


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
        self.histograms = FrontendHistograms()
        self.ended: Counter[str] = Counter(dict.fromkeys(CAUSES, 0))
        self.refused: Counter[str] = Counter(dict.fromkeys(REFUSALS, 0))
        self._http: Counter[tuple[str, str]] = Counter()
        self._errors: Counter[str] = Counter()
        self._response_s: dict[str, Distribution] = {}
        self._ignored: Counter[str] = Counter()
        self._readings: Counter[tuple[str, str, str]] = Counter(dict.fromkeys(_READINGS, 0))
        self._rejected: Counter[str] = Counter(dict.fromkeys(ADMISSION_REFUSALS, 0))
        self.num_open = 0
        self.num_slow_readers = 0

    def count_response(self, route: str, status: int, error_code: str | None = None) -> None:
        """One HTTP response; `route` from a bounded set. error_code: the `code` of its body, if an error."""
        self._http[route, str(status)] += 1
        if error_code is not None:
            self._errors[error_code] += 1

    def count_duration(self, route: str, seconds: float) -> None:
        """One HTTP request has ended, so long after it came."""
        if route not in self._response_s:
            self._response_s[route] = Distribution(RESPONSE_S)
        self._response_s[route].observe(seconds)

    def count_ignored(self, field: str) -> None:
        """One unknown request field. Clients choose the names, so only the first so many get a label."""
        field = _INDEX.sub("[]", field)[:_MAX_NAME_CHARS]
        known = field in self._ignored or len(self._ignored) < _MAX_IGNORED_NAMES
        self._ignored[field if known else _OTHER] += 1

    def tool_readings(self, id_prefix: str, *, streams: bool) -> Callable[[bool], None]:
        """Counts texts in which calls were looked for: called with whether there were any.

        id_prefix: of the answer's route; translated ones count as what they are translated to, as in vLLM.
        """
        mode = "streaming" if streams else "non_streaming"
        kind = "responses" if id_prefix == "resp_" else "chat_completions"

        def count(has_calls: bool) -> None:
            self._readings[mode, "tool_call" if has_calls else "no_tool_call", kind] += 1

        return count

    def count_slow_reader(self) -> None:
        """One connection was cut since its client did not read."""
        self.num_slow_readers += 1

    def begin(self, num_prompt_tokens: int, arrival_s: float) -> ChoiceRecord:
        """The engine has taken one choice of a request that came at `arrival_s` (time.monotonic)."""
        return ChoiceRecord(self, num_prompt_tokens, arrival_s)

    def count_end(self, cause: str, num_choices: int = 1) -> None:
        """Choices ended by `cause` before the engine took them."""
        assert cause in CAUSES, f"cause must be one of {CAUSES}, got {cause!r}"
        self.ended[cause] += num_choices

    def count_refused(self, error: Exception, num_choices: int) -> None:
        """Why choices ended that were refused; those that ended otherwise are not among `num_choices`."""
        if num_choices and isinstance(error, RequestError):
            self.refused[error.refusal] += num_choices
            if error.refusal in ADMISSION_REFUSALS:
                self._rejected[error.refusal] += 1

    def state(self) -> MetricsState:
        """All that was counted here."""
        return MetricsState(
            ended=dict(self.ended),
            refused=dict(self.refused),
            http=dict(self._http),
            errors=dict(self._errors),
            response_s={route: (d.counts.copy(), d.total) for route, d in self._response_s.items()},
            ignored=dict(self._ignored),
            readings=dict(self._readings),
            rejected=dict(self._rejected),
            num_open=self.num_open,
            num_slow_readers=self.num_slow_readers,
            histograms=self.histograms.state(),
        )

    def absorb(self, state: MetricsState) -> None:
        """Add what another front end has counted."""
        self.ended.update(state.ended)
        self.refused.update(state.refused)
        self._http.update(state.http)
        self._errors.update(state.errors)
        for route, counted in state.response_s.items():
            self._response_s.setdefault(route, Distribution(RESPONSE_S)).absorb(*counted)
        self._ignored.update(state.ignored)
        self._readings.update(state.readings)
        self._rejected.update(state.rejected)
        self.num_open += state.num_open
        self.num_slow_readers += state.num_slow_readers
        self.histograms.absorb(state.histograms)

    def collect(self) -> Iterator[Metric]:
        """All families, the engine's gauges read now."""
        yield InfoMetricFamily(
            "octavo", "The server.", {"version": self._version, "model_name": self._model_name}
        )
        yield GaugeMetricFamily("octavo_requests_open", "Choices that have not ended.", self.num_open)
        yield _counter("octavo_requests", "Choices that ended, by cause.", ("cause",), self.ended)
        yield _counter(
            "octavo_requests_refused", "Choices that were not taken, by why.", ("cause",), self.refused
        )
        yield _counter("octavo_http_responses", "Responses.", ("route", "status"), self._http)
        yield _counter(
            "octavo_http_errors", "Responses that are errors, by their code.", ("code",), self._errors
        )
        yield histogram_family(
            "octavo_http_response_seconds",
            "From a request's beginning to its response's end, by route.",
            ("route",),
            (((route,), seconds) for route, seconds in self._response_s.items()),
        )
        yield CounterMetricFamily(
            "octavo_slow_readers", "Connections cut because nobody read them.", self.num_slow_readers
        )
        yield _counter("octavo_ignored_fields", "Unknown request fields.", ("field",), self._ignored)
        for histogram in self.histograms:
            yield histogram.family(f"octavo_{histogram.name}", {})
            if histogram.alias:
                yield histogram.family(f"vllm:{histogram.alias}", {"model_name": self._model_name})
        help = "Texts in which tool calls were looked for: streamed pieces, whole choices."
        yield _counter("octavo_tool_call_parser_invocations", help, _READING, self._readings)
        yield from self._vllm()
        if self._frontends is not None:
            yield from frontend_families(self._frontends)
        if self._stats is not None:
            yield from engine_families(self._stats(), self._model_name)
        if self._memory_bytes:
            yield memory_family(self._memory_bytes)

    def _vllm(self) -> Iterator[Metric]:
        """What else vLLM counts, in its words: whatever ended early is an abort there."""
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
        yield family
        readings = Counter({(self._model_name, *key): count for key, count in self._readings.items()})
        yield _counter(
            "vllm:tool_call_parser_invocations", "As octavo's.", ("model_name", *_READING), readings
        )
        yield _counter(
            "vllm:admission_rejections",
            "Requests that came when too many were here.",
            ("model_name", "reason"),
            Counter({(self._model_name, reason): count for reason, count in self._rejected.items()}),
        )


def _counter(name: str, help: str, labels: tuple[str, ...], counts: Counter[Any]) -> Metric:
    family = CounterMetricFamily(name, help, labels=labels)
    for key, count in counts.items():
        family.add_metric((key,) if isinstance(key, str) else key, count)
    return family
