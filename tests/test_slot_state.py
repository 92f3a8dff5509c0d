"""Both ends of a step, kernel and path of the device, against plain Python."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch

from octavo.ops.slot_state import begin_step, end_step
from octavo.ops.slot_state_kernel import launch_begin_step, launch_end_step

NUM_SLOTS, MAX_BLOCKS = 600, 5


def int32(values: list[int], device: torch.device) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32, device=device)


@pytest.mark.parametrize(
    ("num_updates", "num_decodes", "num_tokens"), [(0, 1, 1), (300, 7, 40), (3, 520, 520)]
)
@pytest.mark.parametrize("path", [begin_step, launch_begin_step])
def test_tables_are_brought_up_to_date_and_unknown_tokens_looked_up(
    kernel_device: torch.device,
    path: Callable[..., None],
    num_updates: int,
    num_decodes: int,
    num_tokens: int,
) -> None:
    rng = random.Random(num_updates)
    tables = [[rng.randrange(99) for _ in range(MAX_BLOCKS)] for _ in range(NUM_SLOTS)]
    index = rng.sample(range(NUM_SLOTS * MAX_BLOCKS), num_updates)
    value = [rng.randrange(100, 200) for _ in index]
    token_ids = [rng.choice((-1, 5, 0)) for _ in range(num_tokens)]
    slots = rng.sample(range(NUM_SLOTS), num_decodes)
    last = [rng.randrange(1000) for _ in range(NUM_SLOTS)]

    device_tables, device_ids = int32(sum(tables, []), kernel_device), int32(token_ids, kernel_device)
    path(
        device_tables.view(NUM_SLOTS, MAX_BLOCKS),
        torch.tensor(index, dtype=torch.int64, device=kernel_device),
        int32(value, kernel_device),
        device_ids,
        int32(slots, kernel_device),
        int32(last, kernel_device),
    )
    expected = sum(tables, [])
    for at, block in zip(index, value, strict=True):
        expected[at] = block
    assert device_tables.tolist() == expected
    looked_up = [last[slot] if token < 0 else token for slot, token in zip(slots, token_ids, strict=False)]
    assert device_ids.tolist() == looked_up + token_ids[num_decodes:]


@pytest.mark.parametrize("num_rows", [0, 1, 300])
@pytest.mark.parametrize("path", [end_step, launch_end_step])
def test_sampled_tokens_are_kept_by_slot_and_invalid_ones_as_zero(
    kernel_device: torch.device, path: Callable[..., None], num_rows: int
) -> None:
    rng = random.Random(num_rows)
    slots = rng.sample(range(NUM_SLOTS), num_rows)
    tokens = [rng.choice((-1, rng.randrange(1000))) for _ in slots]
    last = torch.full((NUM_SLOTS,), 7, dtype=torch.int32, device=kernel_device)
    path(last, int32(slots, kernel_device), int32(tokens, kernel_device))
    expected = [7] * NUM_SLOTS
    for slot, token in zip(slots, tokens, strict=True):
        expected[slot] = max(token, 0)
    assert last.tolist() == expected
