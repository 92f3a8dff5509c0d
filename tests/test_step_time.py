"""StepTimeModel: what it makes of a device whose time is no straight line."""

from __future__ import annotations

import random

import pytest
from simulation.device import H100

from octavo.model.plan import SequenceSlice, StepPlan
from octavo.scheduler.step_time import StepLoad, StepTimeModel


def step(num_decodes: int, context: int, length: int = 0, start: int = 0) -> tuple[StepLoad, float]:
    """A step and how long the device takes for it; each decode row has `context` tokens."""
    rows = [SequenceSlice(i, context, 1, None, (), True) for i in range(num_decodes)]
    if length:
        rows.append(SequenceSlice(num_decodes, start, length, range(length), (), False))
    load = StepLoad(num_decodes, num_decodes * context, length, length * (start + length / 2))
    return load, H100["llama"].seconds(StepPlan(tuple(rows)))


def taught(seed: int, count: int = 600) -> StepTimeModel:
    """Decodes, short prompts beside them, and one long one in chunks, with noise and pauses."""
    rng, model = random.Random(seed), StepTimeModel()
    for i in range(count):
        length = rng.choice([0, 0, 0, 150, 300, 500, 900])
        load, seconds = step(32, 300 + i, length, rng.choice([0, 100 * i]) if length else 0)
        model.observe(load, seconds * rng.gauss(1, 0.03) * (8 if rng.random() < 0.01 else 1))
    return model


@pytest.mark.parametrize("seed", range(3))
def test_it_learns_decodes_chunks_and_what_long_contexts_cost(seed: int) -> None:
    model = taught(seed)
    for load, seconds in (
        step(32, 800),
        step(32, 800, 512),
        step(32, 800, 900),
        step(32, 800, 500, 30_000),
        step(32, 800, 200, 50_000),
    ):
        assert model.predict(load) == pytest.approx(seconds, rel=0.15), load
    # Few tokens are free: the weights are read anyway. A straight line cannot say so, but is near.
    load, seconds = step(32, 800, 64)
    assert 0.85 * seconds < model.predict(load) < 1.3 * seconds


def test_a_prompt_makes_no_step_shorter_and_every_token_costs_something() -> None:
    model = taught(0)
    assert model.predict(StepLoad(32, 20_000, 1)) >= model.decode_s(32, 20_000)
    never = StepTimeModel()
    for _ in range(500):
        never.observe(StepLoad(8, 1000, 100, 5000), 1e-9)
    cost = never.prompt_cost(8, 1000)
    assert cost.token_s > 0 and cost.work_s >= 0 and cost.base_s >= 0


def test_a_stopped_process_teaches_nothing() -> None:
    model = taught(0)
    load, _ = step(32, 800, 512)
    before = model.predict(load)
    for seconds in (0.0, -1.0, 3600.0):
        model.observe(load, seconds)
    assert model.predict(load) == before
