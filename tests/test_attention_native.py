"""Machine code for attention against the torch references: pages in any order, windows, padding, threads."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from octavo.ops.attention_native import HeadShape, NativeAttention
from octavo.ops.decode_attention import decode_attention
from octavo.ops.native_code import find_team
from octavo.ops.paged_attention import ChunkRows, DecodeRows, PagedKV
from octavo.ops.prefill_attention import prefill_attention
from octavo.ops.rope_and_store import QKVHeads, rope_and_store

TEAM = find_team()
pytestmark = pytest.mark.skipif(TEAM is None, reason="no native code on this processor")
SHAPES = [
    HeadShape(9, 3, 64),
    HeadShape(4, 4, 32),
    HeadShape(14, 2, 96),
    HeadShape(4, 2, 16),
    HeadShape(5, 1, 80),
]


@pytest.fixture(scope="module", params=SHAPES, ids=str)
def native(request: pytest.FixtureRequest) -> NativeAttention:
    assert TEAM is not None
    return NativeAttention(request.param, TEAM)


def caches(shape: HeadShape, block_size: int, num_blocks: int = 48) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    size = (num_blocks, shape.num_kv_heads, block_size, shape.head_dim)
    return torch.randn(size, generator=generator), torch.randn(size, generator=generator)


@pytest.mark.parametrize("block_size", [16, 32])
@pytest.mark.parametrize("window", [None, 1, 5, 16, 40])
def test_decode_attention(native: NativeAttention, block_size: int, window: int | None) -> None:
    k_cache, v_cache = caches(native.shape, block_size)
    tables = torch.randperm(48, generator=torch.Generator().manual_seed(1)).view(4, 12).int()
    lengths = [1, 16, 37, 12 * block_size, 17]
    slots = torch.tensor([2, 0, 3, 1, 0], dtype=torch.int32)
    # What stands behind a sequence's end, or before its window, must not matter.
    for slot, length in zip(slots[:4].tolist(), lengths[:4], strict=True):
        for position in range(max(length, 17 if slot == 0 else 0), 12 * block_size):
            for cache in (k_cache, v_cache):
                cache[tables[slot, position // block_size], :, position % block_size] = float("nan")
    q = torch.randn(5, native.shape.num_heads, native.shape.head_dim)

    def attend(machine: NativeAttention | None, out: Tensor | None = None) -> Tensor:
        rows = DecodeRows(slots, torch.tensor(lengths, dtype=torch.int32), 12 * block_size)
        kv = PagedKV(k_cache, v_cache, tables)
        return decode_attention(q, kv, rows, scale=0.2, window=window, out=out, native=machine)

    torch.testing.assert_close(attend(native), attend(None), atol=2e-5, rtol=1e-4)
    wide = torch.zeros(7, *q.shape[1:])
    assert attend(native, wide[1:6]).data_ptr() == wide[1:6].data_ptr()
    torch.testing.assert_close(wide[1:6], attend(None), atol=2e-5, rtol=1e-4)
    assert not wide[0].any() and not wide[6].any()


@pytest.mark.parametrize("window", [None, 5])
def test_short_chunks_of_prompts(native: NativeAttention, window: int | None) -> None:
    """Beside long ones, which are left to torch, padding and tokens that belong to no chunk."""
    shape = native.shape
    k_cache, v_cache = caches(shape, 16)
    tables = torch.randperm(48, generator=torch.Generator().manual_seed(1)).view(4, 12).int()
    slots = torch.tensor([2, 0, 3, 1, 0], dtype=torch.int32)
    starts = torch.tensor([3, 10, 50, 50, 52, 55], dtype=torch.int32)
    lengths = torch.tensor([7, 150, 0, 40, 0], dtype=torch.int32)
    q = torch.randn(57, shape.num_heads, shape.head_dim)
    results = []
    for machine in (native, None):
        out = torch.full_like(q, 9.0)
        kv, rows = PagedKV(k_cache, v_cache, tables), ChunkRows(slots, starts, lengths)
        prefill_attention(q, kv, rows, scale=0.2, window=window, out=out, native=machine)
        results.append(out)
    torch.testing.assert_close(results[0], results[1], atol=2e-5, rtol=1e-4)
    assert (results[0][:3] == 9).all() and (results[0][52:] == 9).all() and (results[0][3] != 9).any()


def test_a_row_that_is_not_a_number_stays_so(native: NativeAttention) -> None:
    k_cache, v_cache = caches(native.shape, 16)
    q = torch.randn(2, native.shape.num_heads, native.shape.head_dim)
    q[0] = float("nan")
    out = torch.empty_like(q)
    tables, two = torch.arange(8).view(2, 4).int(), torch.tensor([0, 1], dtype=torch.int32)
    kv, rows = PagedKV(k_cache, v_cache, tables), DecodeRows(two, two + 20, max_seq_len=64)
    native.decode_attention(q, kv, rows, scale=0.1, window=None, out=out)
    assert out[0].isnan().all() and out[1].isfinite().all()


@pytest.mark.parametrize("num_tokens", [0, 1, 7, 40])
@pytest.mark.parametrize("biased", [False, True])
def test_rope_and_store(native: NativeAttention, num_tokens: int, biased: bool) -> None:
    shape = native.shape
    generator = torch.Generator().manual_seed(2)
    width = (shape.num_heads + 2 * shape.num_kv_heads) * shape.head_dim
    qkv = torch.randn(num_tokens, width, generator=generator)
    positions = torch.randint(0, 100, (num_tokens,), generator=generator).int()
    kv_slots = torch.randperm(48 * 16, generator=generator)[:num_tokens]
    kv_slots[2:4] = -1
    cos_sin = torch.randn(100, shape.head_dim, generator=generator)
    bias = torch.randn(width, generator=generator) if biased else None
    results = []
    for machine in (native, None):
        k_cache, v_cache = caches(shape, 16)
        q = rope_and_store(
            qkv,
            positions,
            kv_slots,
            cos_sin,
            k_cache,
            v_cache,
            QKVHeads(shape.num_heads, bias),
            native=machine,
        )
        results.append((q, k_cache, v_cache))
    torch.testing.assert_close(results[0], results[1], atol=1e-5, rtol=1e-5)


def test_what_the_code_does_not_do_is_left_to_torch(native: NativeAttention) -> None:
    """Pages of no whole vectors, heads that rotate in part."""
    shape = native.shape
    k_cache, _ = caches(shape, 8)
    q = torch.randn(2, shape.num_heads, shape.head_dim)
    assert not native.attends(q, k_cache, torch.empty_like(q))
    assert not native.rotates(torch.randn(2, 8), torch.randn(4, shape.head_dim - 2))
    assert not HeadShape(4, 4, 40).fits
