"""Top-k and top-p against transformers, and against their definition where logits are equal."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers_filters import expected_survivors

from octavo.ops.sampling_threshold import filter_thresholds


def survivors(
    logits: Tensor, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0
) -> Tensor:
    """Which tokens may be drawn, [R, V] bool, from logits [R, V]."""
    num_rows, vocab_size = logits.shape
    largest = logits.amax(-1)
    weights = ((logits - largest[:, None]) / temperature).exp()
    thresholds = filter_thresholds(
        logits,
        largest,
        torch.full((num_rows,), temperature),
        weights.sum(-1),
        torch.full((num_rows,), top_k or vocab_size),
        torch.full((num_rows,), top_p),
    )
    return (logits >= thresholds[:, None]) & (weights >= min_p)


@pytest.mark.parametrize("vocab_size", [2, 17, 50, 1000, 20_003])
@pytest.mark.parametrize("scale", [0.3, 1.0, 5.0])
@pytest.mark.parametrize(
    "filters",
    [
        {"top_k": 1},
        {"top_k": 7},
        {"top_k": 400},
        {"top_p": 0.05},
        {"top_p": 0.9},
        {"top_p": 0.999},
        {"min_p": 0.1},
        {"top_k": 40, "top_p": 0.7},
        {"top_k": 300, "top_p": 0.95, "min_p": 0.02},
    ],
    ids=str,
)
def test_filters_keep_what_transformers_keep(vocab_size: int, scale: float, filters: dict[str, Any]) -> None:
    torch.manual_seed(vocab_size)
    logits = torch.randn(5, vocab_size) * scale
    arguments = {**filters, "top_k": min(int(filters.get("top_k", 0)), vocab_size - 1)}
    got = survivors(logits, temperature=0.7, **arguments)
    assert torch.equal(got, expected_survivors(logits, temperature=0.7, **arguments))


def test_ties_at_the_threshold_survive_together() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.0, 2.0, 0.0, 2.0]])
    assert survivors(logits, top_k=2).tolist() == [[True, False, True, True, False, True]]
    weights = logits.exp() / logits.exp().sum()
    just_into_the_ties = float(weights[0, 0]) + 0.01
    assert survivors(logits, top_p=just_into_the_ties).tolist() == [[True, False, True, True, False, True]]


def test_top_p_counts_mass_after_top_k() -> None:
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()
    # Of the first two, 0.4 / 0.7 = 0.57 lies above the second: p = 0.5 needs one of them, of all four two.
    assert survivors(logits, top_k=2, top_p=0.5).sum() == 1
    assert survivors(logits, top_p=0.5).sum() == 2


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.integers(-6, 6), min_size=1, max_size=80),
    top_k=st.integers(0, 80),
    top_p=st.floats(0.01, 1.0),
)
def test_filters_follow_their_definition_with_many_ties(values: list[int], top_k: int, top_p: float) -> None:
    logits = torch.tensor([values], dtype=torch.float32)
    top_k = min(top_k, len(values))
    kept = sorted(values, reverse=True)
    if top_k:
        kept = [v for v in kept if v >= kept[top_k - 1]]
    weights = torch.tensor(kept, dtype=torch.float64).exp()
    total = weights.sum()
    above = [float(weights[torch.tensor(kept) > v].sum() / total) for v in kept]
    if any(abs(a - top_p) < 1e-5 for a in above):
        return  # float32 may fall to either side
    expected = {v for v, a in zip(kept, above, strict=True) if a < top_p}
    got = survivors(logits, top_k=top_k, top_p=top_p)[0]
    assert {v for v, keep in zip(values, got.tolist(), strict=True) if keep} == expected
