"""Sampling operations against definitions of others: draws, penalties, counts, log-probabilities."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import RepetitionPenaltyLogitsProcessor
from transformers_filters import expected_survivors

from octavo.ops import sampling


def test_arrivals_are_exponential_and_independent() -> None:
    seeds = torch.arange(100).repeat_interleave(40)
    positions = torch.arange(40).repeat(100)
    times = sampling.arrivals(sampling.draw_keys(seeds, positions), 25).double()
    assert times.min() > 0 and times.max() < 17
    numbers = torch.exp(-times)
    counts = torch.histc(numbers, 100, 0, 1)
    assert chi_square(counts, torch.full((100,), 1000.0)) < chi_square_limit(99)
    grid = numbers.view(100, 40, 25)
    neighbours = (
        (grid[1:], grid[:-1]),  # in seed
        (grid[:, 1:], grid[:, :-1]),  # in position
        (grid[:, :, 1:], grid[:, :, :-1]),  # in runner
        (grid[:, 1:, :-1], grid[:, :-1, 1:]),
    )
    for a, b in neighbours:
        assert abs(float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])) < 0.02


@pytest.mark.parametrize("vocab_size", [1, 31, 32, 33, 100])
def test_masks_leave_what_their_bits_allow(vocab_size: int) -> None:
    logits = torch.randn(4, vocab_size)
    logits[1, 0] = torch.nan
    rows = torch.tensor([1, 3])
    allowed = torch.rand(2, vocab_size) < 0.5
    words = torch.zeros(2, sampling.mask_words(vocab_size), dtype=torch.int64)
    for row, token in allowed.nonzero().tolist():
        words[row, token // 32] |= 1 << token % 32
    expected = logits.clone()
    expected[rows] += torch.where(allowed, 0.0, -torch.inf)
    sampling.apply_masks(logits, rows, words.to(torch.uint32).view(torch.int32))
    assert torch.equal(logits.nan_to_num(9.5), expected.nan_to_num(9.5))


def test_arrivals_are_made_of_the_published_splitmix64() -> None:
    def mix(z: int) -> int:
        z = (z + 0x9E3779B97F4A7C15) % 2**64
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        return z ^ (z >> 31)

    def nth(start: int, n: int) -> int:
        return mix((start + n * 0x9E3779B97F4A7C15) % 2**64)

    assert mix(0) == 0xE220A8397B1DCDAF  # the first output of the generator seeded with 0
    for seed in (0, 1, -1, 2**63 - 1, -(2**63)):
        for position in (0, 1, 131_071):
            keys = sampling.draw_keys(torch.tensor([seed]), torch.tensor([position], dtype=torch.int32))
            key = nth(mix(seed % 2**64), position)
            assert keys.item() % 2**64 == key
            uniforms = [((nth(key, n) >> 41) + 0.5) / 2**23 for n in range(3)]
            expected = [[-math.log(uniform) for uniform in uniforms]]
            torch.testing.assert_close(sampling.arrivals(keys, 3), torch.tensor(expected))


def chi_square(counts: Tensor, expected: Tensor) -> float:
    return float(((counts - expected) ** 2 / expected).sum())


def chi_square_limit(freedom: int, z: float = 4.0) -> float:
    """The value passed with a probability of 3e-5 (Wilson and Hilferty's approximation)."""
    return float(freedom) * (1.0 - 2 / (9 * freedom) + z * math.sqrt(2 / (9 * freedom))) ** 3


@pytest.mark.parametrize(
    "filters",
    [
        {},
        {"temperature": 0.5},
        {"temperature": 1.7},
        {"top_k": 4},
        {"top_p": 0.8},
        {"min_p": 0.2},
        {"temperature": 1.3, "top_k": 8, "top_p": 0.9, "min_p": 0.05},
    ],
    ids=str,
)
def test_draws_follow_the_filtered_distribution(filters: dict[str, Any]) -> None:
    vocab_size, num_draws = 12, 20_000
    torch.manual_seed(3)
    logits = torch.randn(1, vocab_size) * 1.5
    arguments = {**filters, "top_k": int(filters.get("top_k", 0))}
    kept = expected_survivors(logits, **arguments)[0]
    exact = (logits[0] / filters.get("temperature", 1.0)).masked_fill(~kept, -torch.inf).softmax(0)
    tokens = sampling.choose(
        logits.expand(num_draws, -1).contiguous(),
        sampling.draw_keys(torch.full((num_draws,), 17), torch.arange(num_draws)),
        torch.full((num_draws,), filters.get("temperature", 1.0)),
        sampling.Filters(
            torch.arange(num_draws),
            torch.full((num_draws,), arguments["top_k"] or vocab_size),
            torch.full((num_draws,), filters.get("top_p", 1.0)),
            torch.full((num_draws,), filters.get("min_p", 0.0)),
        ),
    )
    counts = torch.bincount(tokens, minlength=vocab_size).double()
    assert counts[~kept].sum() == 0
    assert chi_square(counts[kept], exact[kept] * num_draws) < chi_square_limit(int(kept.sum()) - 1)


@pytest.mark.parametrize("vocab_size", [3, 1500, 9000])
def test_draws_of_blocks_groups_and_tokens_follow_the_distribution(vocab_size: int) -> None:
    torch.manual_seed(vocab_size)
    logits = torch.randn(1, vocab_size) * 2
    exact = logits[0].double().softmax(0)
    tokens = torch.cat(
        [
            sampling.choose(
                logits.expand(2000, -1).contiguous(),
                sampling.draw_keys(torch.full((2000,), seed), torch.arange(2000)),
                torch.ones(2000),
            )
            for seed in range(4)
        ]
    )
    # Each residue gathers tokens of every group, each stretch whole groups and blocks.
    num_bins = min(vocab_size, 30)
    for bins in (torch.arange(vocab_size) % num_bins, torch.arange(vocab_size) * num_bins // vocab_size):
        expected = torch.zeros(num_bins, dtype=torch.double).index_add_(0, bins, exact) * len(tokens)
        counts = torch.bincount(bins[tokens], minlength=num_bins).double()
        assert chi_square(counts, expected) < chi_square_limit(num_bins - 1)


def test_rounding_of_logits_hardly_ever_changes_a_draw() -> None:
    """Of draws that invert the cumulative distribution of the vocabulary, it changed 8 here."""
    torch.manual_seed(0)
    logits = torch.randn(500, 49_152) * 2.5
    rounded = logits * (1 + 1e-5 * torch.randn_like(logits))
    keys, temperature = sampling.draw_keys(torch.arange(500), torch.arange(500)), torch.full((500,), 1.5)
    tokens = sampling.choose(logits, keys, temperature)
    assert (tokens != sampling.choose(rounded, keys, temperature)).sum() <= 2
    assert len(tokens.unique()) > 400


def test_tokens_without_weight_are_never_drawn() -> None:
    logits = torch.full((300, 1030), -torch.inf)
    logits[:, 5] = logits[:, 1024] = 0.0
    keys = sampling.draw_keys(torch.zeros(300, dtype=torch.int64), torch.arange(300))
    assert set(sampling.choose(logits, keys, torch.ones(300)).tolist()) == {5, 1024}


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_rows_that_are_not_finite_choose_nothing_and_disturb_nobody(broken: float) -> None:
    torch.manual_seed(0)
    logits = torch.randn(4, 600)
    keys, temperature = sampling.draw_keys(torch.arange(4), torch.arange(4)), torch.ones(4)
    filters = sampling.Filters(
        torch.arange(4), torch.full((4,), 20), torch.full((4,), 0.9), torch.full((4,), 0.01)
    )
    clean = sampling.choose(logits, keys, temperature, filters)
    greedy = sampling.choose_greedy(logits)
    logits[1, 77] = broken
    logits[3] = -torch.inf
    for before, after in (
        (clean, sampling.choose(logits, keys, temperature, filters)),
        (greedy, sampling.choose_greedy(logits)),
    ):
        assert after.tolist() == [int(before[0]), -1, int(before[2]), -1]


def test_repetition_penalty_is_that_of_transformers() -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 90) * 3
    seen = torch.randint(0, 90, (3, 30))
    expected = RepetitionPenaltyLogitsProcessor(1.7)(seen, logits.clone())
    history = torch.zeros(5, 90, dtype=torch.int16)
    rows = torch.tensor([4, 0, 2])
    history[rows[:, None], seen] = sampling.PROMPT_SEEN
    off = torch.zeros(3)
    sampling.apply_penalties(logits, torch.arange(3), history, rows, torch.full((3,), 1.7), off, off)
    assert torch.equal(logits, expected)


def test_presence_and_frequency_count_the_output_only() -> None:
    logits = torch.zeros(2, 4)
    history = torch.tensor([[sampling.PROMPT_SEEN, 3, sampling.PROMPT_SEEN + 1, 0]], dtype=torch.int16)
    sampling.apply_penalties(
        logits,
        torch.tensor([1]),
        history,
        torch.tensor([0]),
        torch.tensor([1.0]),
        torch.tensor([0.5]),
        torch.tensor([0.25]),
    )
    assert logits.tolist() == [[0, 0, 0, 0], [0, -1.25, -0.75, 0]]


def test_counts_saturate() -> None:
    history = torch.tensor([[sampling.MAX_COUNT, sampling.PROMPT_SEEN | sampling.MAX_COUNT, 0]] * 4)
    history = history.to(torch.int16)
    before = history.clone()
    sampling.count_tokens(history, torch.arange(4), torch.tensor([0, 1, 2, -1]))
    before[2, 2] = 1
    assert torch.equal(history, before)


def test_log_probabilities_are_those_of_log_softmax() -> None:
    torch.manual_seed(0)
    logits = torch.randn(6, 100).to(torch.bfloat16)
    tokens = torch.randint(0, 100, (6,))
    chosen, ranks, top, top_tokens = sampling.log_probabilities(logits, tokens.to(torch.int32), 5)
    exact = logits.double().log_softmax(-1)
    torch.testing.assert_close(chosen.double(), exact.gather(1, tokens[:, None])[:, 0], atol=1e-5, rtol=0)
    torch.testing.assert_close(top.double(), exact.topk(5).values, atol=1e-5, rtol=0)
    torch.testing.assert_close(exact.gather(1, top_tokens), exact.topk(5).values)
    assert ranks.tolist() == (1 + (exact > exact.gather(1, tokens[:, None])).sum(-1)).tolist()
