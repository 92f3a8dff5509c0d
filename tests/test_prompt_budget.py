"""PromptBudget: chunks that cost what they may, end on a good size, and shares that add up."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sequence_maker import make_sequence

from octavo.scheduler.prompt_budget import UNIT, PromptBudget
from octavo.scheduler.step_time import PromptCost

COST = PromptCost(base_s=5e-3, token_s=20e-6, work_s=1.3e-9)


@given(
    st.integers(0, 9000),
    st.floats(1e-5, 1.0),
    st.integers(0, 200_000),
    st.integers(1, 9000),
    st.integers(0, 999),
)
def test_a_chunk_costs_what_it_may_unless_it_is_very_small(
    tokens: int, seconds: float, start: int, left: int, others: int
) -> None:
    length = PromptBudget(tokens, seconds, COST, others=others).take(start, left)
    assert 0 <= length <= min(tokens, left)
    took_s = length * (COST.token_s + COST.work_s * (start + length / 2))
    assert took_s <= seconds or length <= 16
    if 0 < length < left and length >= 8 * UNIT:
        assert (others + length) % UNIT == 0
    # And it is as long as it may be, but for what the rounding took.
    longer = min(left, tokens, length + UNIT + 1)
    if length < longer:
        assert (
            longer * (COST.token_s + COST.work_s * (start + longer / 2)) > seconds
            or length % UNIT == 0
            or (others + length) % UNIT == 0
        )


def test_tokens_alone_are_handed_out_to_the_last() -> None:
    budget = PromptBudget(100)
    assert [budget.take(0, 40), budget.take(0, 50), budget.take(0, 50)] == [40, 50, 10]
    assert budget.is_spent and budget.take(0, 1) == 0


def test_after_a_cut_nobody_gets_crumbs() -> None:
    budget = PromptBudget(1000, others=20)
    assert budget.take(0, 2000) == 940  # 960 in all
    assert budget.is_spent


def test_whole_prompts_fit_or_wait() -> None:
    budget = PromptBudget(100, whole=True)
    assert [budget.take(0, 101), budget.take(0, 60), budget.take(0, 41), budget.take(0, 40)] == [0, 60, 0, 40]


@given(st.integers(0, 5000), st.floats(0, 1), st.sampled_from([math.inf, 0.02]))
def test_what_is_set_aside_and_put_back_is_neither_lost_nor_doubled(
    tokens: int, share: float, seconds: float
) -> None:
    cost = None if math.isinf(seconds) else COST
    budget, untouched = (PromptBudget(tokens, seconds, cost) for _ in range(2))
    kept = budget.set_aside(share)
    assert kept.tokens + budget.tokens == tokens
    assert kept.tokens == 0 or kept.tokens >= UNIT
    budget.put_back(kept)
    budget.put_back(kept)
    assert budget.take(100, 9999) == untouched.take(100, 9999)


def test_what_was_set_aside_can_be_spent_by_others_meanwhile() -> None:
    budget = PromptBudget(1024, 20e-3, COST)
    kept = budget.set_aside(0.25)
    assert kept.tokens == 256
    assert kept.take(0, 9999) == pytest.approx(5e-3 / COST.token_s, abs=UNIT)
    assert budget.take(0, 9999) == pytest.approx(15e-3 / COST.token_s, abs=UNIT)
    budget.put_back(kept)
    assert budget.is_spent


def test_covers_counts_tokens_and_seconds() -> None:
    prompts = [make_sequence(range(n), order=n) for n in (100, 300)]
    assert PromptBudget(400).covers(prompts) and not PromptBudget(399).covers(prompts)
    took_s = sum(n * (COST.token_s + COST.work_s * n / 2) for n in (100, 300))
    assert PromptBudget(999, took_s * 1.01, COST).covers(prompts)
    assert not PromptBudget(999, took_s * 0.99, COST).covers(prompts)


SIZES = (64, 128, 256, 512, 1024)


@pytest.mark.parametrize(
    ("others", "affordable", "length"),
    [
        (20, 300, 236),  # 320 would be padded to 512 and take as long: down to 256
        (20, 490, 492),  # 510 are padded to 512 anyway: up to it
        (20, 1400, 1388),  # beyond the last size nothing is padded: a multiple of 64
        (250, 20, 20),  # 256 would be less than what is there already
        (0, 64, 64),
    ],
)
def test_a_cut_step_ends_on_a_size_that_the_device_has(others: int, affordable: int, length: int) -> None:
    budget = PromptBudget(
        8000, affordable * 1e-5 * 1.0001, PromptCost(0, 1e-5, 0), others=others, step_sizes=SIZES
    )
    assert budget.take(0, 9000) == length


def test_a_whole_prompt_is_not_cut_to_a_size_and_no_size_exceeds_the_budget() -> None:
    cost = PromptCost(0, 1e-5, 0)
    assert PromptBudget(8000, 1.0, cost, others=20, step_sizes=SIZES).take(0, 300) == 300
    assert PromptBudget(490, 1.0, cost, others=20, step_sizes=SIZES).take(0, 9000) == 490
