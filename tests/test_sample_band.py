"""Rows on which the sampled bracket of the threshold is wrong, too wide or hard to see: the kernels still
choose what the reference chooses."""

from __future__ import annotations

import pytest
import torch
from sample_kernel_harness import DEVICE, KernelsAndReference, slot_start
from torch import Tensor

from octavo.model.sampler import Sampler
from octavo.model.sampling_params import SamplingParams
from octavo.ops import sample_kernel

VOCAB_SIZE = 9000  # more than a sample, so that two of three runs of 8 tokens stay unseen
FILTERS = [
    SamplingParams(top_p=0.9),
    SamplingParams(top_p=0.3),
    SamplingParams(top_p=0.9, min_p=0.9),
    SamplingParams(top_p=0.9, temperature=0.1),
    SamplingParams(top_k=50),
    SamplingParams(top_k=3000, top_p=0.8),
]


def hard_rows(kind: str) -> Tensor:
    """Logits [len(FILTERS), VOCAB_SIZE] float32."""
    logits = torch.randn(len(FILTERS), VOCAB_SIZE, generator=torch.Generator().manual_seed(11))
    unseen = torch.arange(VOCAB_SIZE) // 8 % 3 != 0
    if kind == "heavy tokens unseen":
        logits[:, unseen] += 4.0
    elif kind == "heavy tokens seen":
        logits[:, ~unseen] += 4.0
    elif kind == "too many for the band":
        logits *= 1e-4
    elif kind == "crowded in one block":
        logits[:, 4096:8192] += 8.0
    elif kind == "outliers far below":
        logits[:, ::7] = -1e30
        logits[:, 5] = -torch.inf
    elif kind == "one far above":
        logits[:, 4321] += 60.0
    return logits


@pytest.mark.parametrize(
    "kind",
    [
        "heavy tokens unseen",
        "heavy tokens seen",
        "too many for the band",
        "crowded in one block",
        "outliers far below",
        "one far above",
    ],
)
def test_hard_rows_are_narrowed_like_the_reference(kind: str) -> None:
    positions = torch.arange(1, len(FILTERS) + 1, dtype=torch.int32)
    both = KernelsAndReference(FILTERS, VOCAB_SIZE)
    tokens, expected = both.sample(hard_rows(kind), positions, changes=False)
    assert tokens == expected


def test_a_filtered_row_draws_the_same_alone_and_among_others() -> None:
    sampler = Sampler(2, VOCAB_SIZE, DEVICE)
    sampler.start([slot_start(0, SamplingParams(top_p=0.8), 5)])
    state = sampler.state
    tables = (state.table, state.biases, state.history, state.masks)
    logits = torch.randn(3, VOCAB_SIZE, device=DEVICE)
    slots = torch.tensor([1, 0, 0], dtype=torch.int32, device=DEVICE)
    positions = torch.tensor([9, 4, 7], dtype=torch.int32, device=DEVICE)
    together = sample_kernel.sample(logits, slots, positions, *tables)
    alone = [
        sample_kernel.sample(logits[i : i + 1], slots[i : i + 1], positions[i : i + 1], *tables)
        for i in range(3)
    ]
    assert together.tolist() == torch.cat(alone).tolist()
