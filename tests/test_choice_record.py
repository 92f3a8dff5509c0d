"""A record takes every moment of a choice's life."""

from __future__ import annotations

import time

import pytest

from octavo.app.choice_record import cause_of_refusal
from octavo.app.errors import EngineDeadError, EngineOverloadedError, RequestError
from octavo.app.generation import TextDelta
from octavo.app.metrics import ServerMetrics
from octavo.scheduler.request import FinishReason, RequestTimings


def test_gaps_lie_between_deliveries_and_fall_into_buckets_like_any() -> None:
    metrics = ServerMetrics("toy", "1")
    record = metrics.begin(3, time.monotonic())
    for _ in range(4):
        record.receive(TextDelta("a", (1,)))
        time.sleep(0.012)
    gaps = metrics.histograms.inter_token
    assert gaps.count == 3 and gaps.total >= 0.036
    assert sum(gaps.counts[: gaps.bounds.index(0.01) + 1]) == 0


def test_a_delta_without_tokens_is_no_delivery() -> None:
    metrics = ServerMetrics("toy", "1")
    record = metrics.begin(3, time.monotonic())
    record.receive(TextDelta("", ()))
    assert record.first_token_s == 0 and metrics.histograms.first_token.count == 0


def test_a_request_of_one_token_has_no_time_per_token() -> None:
    metrics = ServerMetrics("toy", "1")
    record = metrics.begin(3, time.monotonic())
    timings = RequestTimings(1.0, 2.0, 3.0, 3.0)
    record.receive(TextDelta("a", (1,), finish_reason=FinishReason.LENGTH, timings=timings))
    assert metrics.histograms.per_token.count == 0
    assert metrics.histograms.decode.count == 1


def test_who_was_refused_is_in_no_distribution_of_times() -> None:
    metrics = ServerMetrics("toy", "1")
    metrics.begin(3, time.monotonic()).end("refused")
    assert metrics.ended["refused"] == 1 and metrics.histograms.latency.count == 0


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (RequestError("no"), "refused"),
        (EngineOverloadedError("full"), "refused"),
        (EngineDeadError("gone"), "error"),
        (KeyError("bug"), "error"),
    ],
)
def test_a_refusal_is_the_clients_affair_or_the_loads(error: Exception, cause: str) -> None:
    assert cause_of_refusal(error) == cause
