"""Forecast: arithmetic by hand, and against a simulated server that computes what was predicted."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest
from patience import at_some_pace
from stepper import Stepper

from octavo.scheduler.errors import QueueFullError, TooLateError
from octavo.scheduler.forecast import LONGEST_RETRY_S, Ahead, Forecast
from octavo.scheduler.request import Claim


def test_nothing_measured_predicts_nothing() -> None:
    assert Forecast(8).first_token_s(1000, Ahead(5, 10_000, 0)) == 0


def test_prompts_ahead_and_own_take_their_time() -> None:
    forecast = Forecast(8)
    for _ in range(100):
        forecast.observe_step(500, 0.1)  # 5,000 tokens a second
        forecast.observe_step(0, 9.0)  # decodes alone
    assert forecast.first_token_s(1000, Ahead(0, 0, 8)) == pytest.approx(0.2, rel=1e-6)
    assert forecast.first_token_s(1000, Ahead(3, 4000, 8)) == pytest.approx(1.0, rel=1e-6)


def test_places_are_waited_for_when_all_are_taken() -> None:
    forecast = Forecast(4)
    for _ in range(200):
        forecast.observe_end(2.0)  # a place becomes free every half second
    assert forecast.first_token_s(10, Ahead(3, 0, 0)) == pytest.approx(2.0)
    assert forecast.first_token_s(10, Ahead(0, 0, 1)) == 0


def test_the_pace_of_now_counts() -> None:
    forecast = Forecast(4)
    for _ in range(1000):
        forecast.observe_step(500, 0.1)
    for _ in range(300):
        forecast.observe_step(500, 1.0)
    assert forecast.token_s() == pytest.approx(1 / 500, rel=0.05)


def test_those_who_are_refused_come_back_one_after_another() -> None:
    forecast = Forecast(4)
    forecast.observe_end(8.0)  # a turn every 2 s
    told = [forecast.retry_after_s(100.0, 3.0, 10) for _ in range(5)]
    assert told == [5, 7, 9, 11, 13]
    assert forecast.retry_after_s(150.0, 0.0, 10) == 2, "by then they have come"
    assert [forecast.retry_after_s(150.0, 0.0, 10) for _ in range(1000)][-1] == LONGEST_RETRY_S


@pytest.mark.parametrize("num_places", [1, 8])
def test_predictions_come_true(num_places: int) -> None:
    """Requests served in turn in a simulated time, each holding a place; half of the answers are long."""
    draw = random.Random(1)
    forecast = Forecast(num_places)
    free_at = [0.0] * num_places
    waits, errors = list[float](), list[float]()
    begins = list[float]()
    for number in range(600):
        arrived = number * 1.0 / num_places * 0.95
        free_at.sort()
        began = max(arrived, free_at[0])
        held = draw.choice([0.5, 1.5])
        free_at[0] = began + held
        begins.append(began)
        num_waiting = sum(begin > arrived for begin in begins[:-1])
        predicted = forecast.first_token_s(0, Ahead(num_waiting, 0, sum(at <= arrived for at in free_at)))
        forecast.observe_end(held)
        if number > 100 and began > arrived:
            waits.append(began - arrived)
            errors.append(predicted - (began - arrived))
    assert abs(sum(errors) / len(errors)) < 0.35 * sum(waits) / len(waits) + 0.5 / num_places


def crowded(**limits: Any) -> Stepper:
    stepper = Stepper(max_num_seqs=2, **limits)
    for _ in range(4):
        stepper.add([1] * 10, max_tokens=10)
    began_s = time.monotonic()
    while stepper.alive():
        stepper.step()
        time.sleep(0.002)
    assert time.monotonic() - began_s < 300
    return stepper


def test_who_would_wait_too_long_is_refused_with_the_numbers() -> None:
    def check(pace: float) -> None:
        stepper = crowded(max_ttft_s=0.05)
        with pytest.raises(
            TooLateError, match="the first token would come in about .* s, and 0.05 s may pass"
        ) as late:
            for _ in range(100):
                stepper.add([1] * 10, max_tokens=10)
        assert late.value.retry_after_s >= 1
        assert 2 <= len(stepper.alive()) < 100
        predicted = stepper.scheduler._gate.predict_ttft_s(Claim(tenant="somebody else"), 10)
        assert predicted < 0.05, "a tenant that has asked for nothing does not wait behind one that floods"
        stepper.run()

    at_some_pace(check, paces=(1.0,) * 5)  # a machine that stands still is slow, as is then predicted


def test_a_full_queue_says_when_to_come_back() -> None:
    stepper = crowded(max_queued_requests=4)
    for _ in range(4):
        stepper.add([1] * 10)
    with pytest.raises(QueueFullError) as full:
        stepper.add([1] * 10)
    assert full.value.retry_after_s >= 1
    stepper.run()
