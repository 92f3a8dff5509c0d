"""A record takes every moment of a choice's life."""

from __future__ import annotations

import time

import pytest

from octavo.app.choice_record import cause_of_refusal
from octavo.app.errors import EngineDeadError, EngineOverloadedError, RequestError
from octavo.app.generation import TextDelta
from octavo.app.metrics import ServerMetrics
from octavo.scheduler.request import FinishReason, RequestTimings


def test_the_first_token_is_timed_from_arrival_and_all_are_counted() -> None:
    metrics = ServerMetrics("toy", "1")
    record = metrics.begin(3, time.monotonic() - 5)
    for _ in range(4):
        record.receive(TextDelta("a", (1, 2)))
    first = metrics.histograms.first_token
    assert first.count == 1 and 5 <= first.total < 10
    assert record.num_tokens == 8


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
