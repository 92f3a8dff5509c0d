"""What counting costs: microseconds of processor time per step, token, request and scrape.

    python loadtest/metrics_cost.py

Compare with what a step lasts, and with what a token costs altogether (loadtest/frontends.py).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, generate_latest

from octavo.app.generation import TextDelta
from octavo.app.metrics import ServerMetrics
from octavo.model.plan import SequenceSlice, StepPlan
from octavo.scheduler.request import FinishReason, RequestTimings
from octavo.scheduler.stats import Counters, EngineStats
from octavo.scheduler.step_meter import StepMeter

_NUM_ROWS = 256


def best_us(call: Callable[[], object], num_calls: int, num_rounds: int = 9) -> float:
    """Processor time of one call in the best round: other programs on the machine make rounds worse only."""
    rounds = []
    for _ in range(num_rounds):
        began_s = time.process_time()
        for _ in range(num_calls):
            call()
        rounds.append((time.process_time() - began_s) / num_calls)
    return min(rounds) * 1e6


def main() -> int:
    """The program."""
    meter = StepMeter()
    plan = StepPlan(tuple(SequenceSlice(slot, 0, 1, None, (), True) for slot in range(_NUM_ROWS)))
    metrics = ServerMetrics("toy", "0", lambda: EngineStats(0, 0, 1, 1, 0, 0.0, 0.0, Counters()))
    delta = TextDelta("a", (1,))
    last = delta._replace(finish_reason=FinishReason.STOP, timings=RequestTimings(1.0, 2.0, 3.0, 4.0))
    registry = CollectorRegistry()
    registry.register(metrics)
    record = metrics.begin(10, time.monotonic())

    def step() -> None:
        for _ in range(6):
            time.perf_counter()
        meter.planned(plan, 1e-4, 2e-4)
        meter.completed(2e-3, 1e-3, 1e-4, 1e-4)

    def request() -> None:
        histograms = metrics.histograms
        for histogram in (histograms.choices, histograms.tokenize, histograms.max_tokens):
            histogram.observe(1.0)
        each = metrics.begin(10, time.monotonic())
        each.receive(delta)
        each.receive(last)
        metrics.count_response("/v1/completions", 200)

    nothing_us = best_us(lambda: None, 100_000)
    figures = {
        "step_us": best_us(step, 20_000) - nothing_us,
        "token_us": best_us(lambda: record.receive(delta), 100_000) - nothing_us,
        "request_us": best_us(request, 5_000) - nothing_us,
        "scrape_us": best_us(lambda: generate_latest(registry), 20),
    }
    print(json.dumps(figures, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
