"""Rows whose survivors lie in a few groups of tokens, or just not: kernels and reference choose the same."""

from __future__ import annotations

import pytest
import torch
from sample_kernel_harness import KernelsAndReference
from torch import Tensor

from octavo.model.sampling_params import SamplingParams

VOCAB_SIZE = 9000  # 141 groups, of which 64 can be read again
FILTERS = [
    SamplingParams(top_k=1),
    SamplingParams(top_k=64),
    SamplingParams(top_k=65, top_p=0.9),
    SamplingParams(top_k=20, top_p=0.9),
    SamplingParams(top_k=20, top_p=0.9, min_p=0.1),
    SamplingParams(top_p=0.99),
    SamplingParams(top_p=0.5, min_p=0.2),
    SamplingParams(min_p=0.02),
]


def rows_of(kind: str) -> Tensor:
    """Logits [len(FILTERS), VOCAB_SIZE] float32."""
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(len(FILTERS), VOCAB_SIZE, generator=generator)
    if kind == "few far above":
        logits[:, torch.randperm(VOCAB_SIZE, generator=generator)[:40]] += 12.0
    elif kind == "neighbours":
        logits[:, 4090:4100] += 12.0  # at the border of two blocks
    elif kind == "ties":
        logits[:, ::200] = 15.0  # 45 groups, and more survivors than top-k asks for
    elif kind == "ties in too many groups":
        logits[:, ::70] = 15.0
    elif kind == "the last token":
        logits[:, -1] = 30.0
    elif kind == "hardly any":
        logits[:, torch.randperm(VOCAB_SIZE, generator=generator)[3:]] = -torch.inf
    return logits


@pytest.mark.parametrize(
    "kind",
    ["few far above", "neighbours", "ties", "ties in too many groups", "the last token", "hardly any"],
)
def test_groups_are_narrowed_like_the_reference(kind: str) -> None:
    both, logits = KernelsAndReference(FILTERS, VOCAB_SIZE), rows_of(kind)
    for position in (1, 2):
        positions = torch.full((len(FILTERS),), position, dtype=torch.int32)
        tokens, expected = both.sample(logits, positions, changes=position == 2)
        assert tokens == expected
