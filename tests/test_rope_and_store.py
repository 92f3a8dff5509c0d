"""Bias, head norms, rotation and the write to pages, against the same steps one head at a time in float64."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from paged_cache import DTYPES, TOLERANCE
from torch import Tensor

from octavo.ops.rope_and_store import QKVHeads, rope_and_store
from octavo.ops.rope_and_store_kernel import launch_rope_and_store
from octavo.ops.step_memo import StepMemo

EPS = 1e-6
NUM_BLOCKS, BLOCK_SIZE = 4, 16


def expected_heads(heads: Tensor, norm: Tensor | None, angles: Tensor, rotary_dim: int) -> Tensor:
    """heads [T, n, d] normalized and rotated; angles [T, rotary_dim / 2]."""
    heads = heads.double()
    if norm is not None:
        heads = heads / (heads.square().mean(-1, keepdim=True) + EPS).sqrt() * norm.double()
    half = rotary_dim // 2
    turned = torch.complex(heads[..., :half], heads[..., half:rotary_dim]) * torch.polar(
        torch.ones_like(angles), angles
    ).unsqueeze(1)
    return torch.cat((turned.real, turned.imag, heads[..., rotary_dim:]), dim=-1)


def check(
    run: Callable[..., Tensor],
    device: torch.device,
    dtype: torch.dtype,
    *,
    num_tokens: int = 5,
    num_heads: int = 3,
    num_kv_heads: int = 1,
    head_dim: int = 64,
    rotary_dim: int = 64,
    bias: bool = False,
    norm: bool = False,
    padding: bool = False,
) -> None:
    size = (num_heads + 2 * num_kv_heads) * head_dim
    wide = torch.randn(num_tokens, size + 64, dtype=dtype, device=device)
    qkv = wide[:, :size] if num_tokens % 2 else wide[:, :size].contiguous()
    positions = torch.randint(0, 50, (num_tokens,), dtype=torch.int32, device=device)
    kv_slots = torch.randperm(NUM_BLOCKS * BLOCK_SIZE, device=device)[:num_tokens]
    if padding:
        kv_slots[::2] = -1
    table_angles = torch.rand(50, rotary_dim // 2, dtype=torch.float64, device=device) * 6
    cos_sin = torch.cat((table_angles.cos(), table_angles.sin()), dim=-1).float()
    caches = [
        torch.full((NUM_BLOCKS, num_kv_heads, BLOCK_SIZE, head_dim), 7.0, dtype=dtype, device=device)
        for _ in range(2)
    ]
    vectors = {
        "bias": torch.randn(size, dtype=dtype, device=device) if bias else None,
        "q_norm": torch.randn(head_dim, dtype=dtype, device=device) if norm else None,
        "k_norm": torch.randn(head_dim, dtype=dtype, device=device) if norm else None,
    }
    made = QKVHeads(num_heads, eps=EPS, **vectors)
    q = run(qkv, positions, kv_slots, cos_sin, *caches, made)

    heads = qkv.double() if vectors["bias"] is None else qkv.double() + vectors["bias"].double()
    heads = heads.view(num_tokens, -1, head_dim) if num_tokens else heads.view(0, size // head_dim, head_dim)
    queries, keys, values = torch.split(heads, [num_heads, num_kv_heads, num_kv_heads], dim=1)
    angles = table_angles[positions.long()]
    wanted = [torch.full(c.shape, 7.0, dtype=torch.float64, device=device) for c in caches]
    keys = expected_heads(keys, vectors["k_norm"], angles, rotary_dim)
    for token, slot in enumerate(kv_slots.tolist()):
        if slot >= 0:
            wanted[0][slot // BLOCK_SIZE, :, slot % BLOCK_SIZE] = keys[token]
            wanted[1][slot // BLOCK_SIZE, :, slot % BLOCK_SIZE] = values[token]
    assert_close = partial(torch.testing.assert_close, atol=2 * TOLERANCE[dtype], rtol=2 * TOLERANCE[dtype])
    assert q.shape == (num_tokens, num_heads, head_dim) and q.dtype == dtype
    assert_close(q.double(), expected_heads(queries, vectors["q_norm"], angles, rotary_dim))
    for cache, pages in zip(caches, wanted, strict=True):
        assert_close(cache.double(), pages)


VARIANTS: list[dict[str, Any]] = [
    {},
    {"bias": True},
    {"norm": True, "num_heads": 6, "num_kv_heads": 2},
    {"bias": True, "norm": True, "padding": True},
    {"rotary_dim": 16},
    {"head_dim": 80, "rotary_dim": 32, "norm": True},
    {"head_dim": 96, "rotary_dim": 96, "num_tokens": 4},
    {"num_tokens": 1, "num_heads": 7, "head_dim": 128, "rotary_dim": 128},
    {"num_tokens": 0},
    {"padding": True, "num_tokens": 1},
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("variant", VARIANTS)
def test_any_path_of_a_device(device: torch.device, variant: dict[str, Any], dtype: torch.dtype) -> None:
    check(rope_and_store, device, dtype, **variant)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_kernel(kernel_device: torch.device, variant: dict[str, Any], dtype: torch.dtype) -> None:
    check(launch_rope_and_store, kernel_device, dtype, **variant)


def test_layers_of_a_step_share_what_the_first_one_looked_up() -> None:
    memo, lookups = StepMemo(), 0

    class Table(torch.Tensor):
        def index_select(self, *arguments: Any) -> Tensor:
            nonlocal lookups
            lookups += 1
            return super().index_select(*arguments)

    cos_sin = torch.randn(8, 16).as_subclass(Table)
    k_cache, v_cache = torch.zeros(2, 1, 16, 16), torch.zeros(2, 1, 16, 16)
    positions, kv_slots = torch.tensor([3], dtype=torch.int32), torch.tensor([3])
    qkv = torch.randn(1, 3 * 16)
    first, second = (
        rope_and_store(qkv, positions, kv_slots, cos_sin, k_cache, v_cache, QKVHeads(1), memo=memo)
        for _ in range(2)
    )
    assert lookups == 1 and torch.equal(first, second)
