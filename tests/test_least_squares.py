"""LeastSquares: finds weights, follows changes, and is not led astray."""

from __future__ import annotations

import random

import pytest

from octavo.scheduler.least_squares import LeastSquares


def model(memory: float = 100) -> LeastSquares:
    return LeastSquares((0.0, 0.0), (10.0, 10.0), memory)


def feed(
    model: LeastSquares, weights: tuple[float, float], count: int, *, seed: int = 0, **noise: float
) -> None:
    rng = random.Random(seed)
    for _ in range(count):
        x = (1.0, rng.uniform(0, 4))
        y = weights[0] + weights[1] * x[1]
        y *= rng.gauss(1, noise.get("spread", 0.0))
        model.update(x, y * noise.get("factor", 8) if rng.random() < noise.get("outliers", 0) else y)


def test_it_finds_the_weights_through_noise_and_outliers() -> None:
    exact, noisy = model(), model()
    feed(exact, (2.0, 0.5), 400)
    assert exact.weights == pytest.approx([2.0, 0.5], rel=0.02)
    feed(noisy, (2.0, 0.5), 1000, spread=0.05, outliers=0.01)
    assert noisy.predict((1.0, 2.0)) == pytest.approx(3.0, rel=0.05)


def test_one_outlier_moves_it_little_and_a_real_change_is_followed() -> None:
    steady = model()
    feed(steady, (2.0, 0.5), 300, spread=0.02)
    steady.update((1.0, 2.0), 300.0)
    assert steady.predict((1.0, 2.0)) == pytest.approx(3.0, rel=0.05)
    feed(steady, (4.0, 1.0), 600, spread=0.02)
    assert steady.predict((1.0, 2.0)) == pytest.approx(6.0, rel=0.05)


def test_what_is_never_seen_stays_as_it_was_however_long() -> None:
    """Forgetting alone would let the variance of what is not excited grow without bound."""
    rng = random.Random(0)
    idle = LeastSquares((1.0, 3.0), (10.0, 10.0), 50)
    for _ in range(20_000):
        idle.update((1.0, 0.0), 2.0 * rng.gauss(1, 0.05))
    assert idle.weights == pytest.approx([2.0, 3.0], rel=0.1)
    feed(idle, (2.0, 0.5), 200)
    assert idle.weights == pytest.approx([2.0, 0.5], rel=0.05)


def test_two_measures_that_always_go_together_do_not_run_away() -> None:
    rng = random.Random(0)
    twins = LeastSquares((1.0, 1.0), (10.0, 10.0), 50)
    for _ in range(5_000):
        size = rng.uniform(1, 2)
        twins.update((size, size * rng.gauss(1, 1e-3)), 3.0 * size * rng.gauss(1, 0.1))
    assert twins.predict((1.5, 1.5)) == pytest.approx(4.5, rel=0.1)
    assert all(-0.1 < weight < 3.5 for weight in twins.weights)
