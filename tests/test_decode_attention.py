"""Decode attention against its definition: reference and kernel, divisions of the work, windows."""

from __future__ import annotations

import pytest
import torch
from paged_cache import DTYPES, TOLERANCE, PagedCache
from torch import Tensor

from octavo.ops.decode_attention import decode_attention
from octavo.ops.decode_attention_kernel import launch_decode_attention
from octavo.ops.paged_attention import DecodeRows
from octavo.ops.step_memo import StepMemo
from octavo.ops.tuning import NUM_SPLIT_COUNTERS, DecodeTiles, decode_programs

TILES = DecodeTiles(block_n=32, num_warps=4, num_stages=2, programs_per_sm=2)


def run_kernel(q: Tensor, cache: PagedCache, max_seq_len: int | None = None, **options: object) -> Tensor:
    if max_seq_len is None:  # a captured stream may not be asked
        max_seq_len = int(cache.seq_lens.max())
    arguments = dict(scale=q.shape[2] ** -0.5, tiles=TILES) | options
    return launch_decode_attention(q, cache.kv, cache.decodes(max_seq_len), **arguments)


def check(out: Tensor, q: Tensor, cache: PagedCache, window: int | None = None) -> None:
    for row, length in enumerate(cache.seq_lens.tolist()):
        if length:
            expected = cache.attend(q[row : row + 1], row, q.shape[2] ** -0.5, window)[0]
            torch.testing.assert_close(
                out[row].double(), expected, atol=TOLERANCE[q.dtype], rtol=TOLERANCE[q.dtype]
            )


@pytest.mark.parametrize("window", [None, 1, 7, 40])
@pytest.mark.parametrize("lengths", [[70], [33, 33], [1, 16, 17, 130, 31], [0, 5, 0]])
def test_any_path_of_a_device_agrees_with_the_definition(
    device: torch.device, lengths: list[int], window: int | None
) -> None:
    cache = PagedCache.random(lengths, 3, 64, 16, torch.float32, device)
    q = torch.randn(len(lengths), 9, 64, device=device)
    memo = StepMemo()
    for _ in range(2):  # the second call finds its indices in the memo
        rows = cache.decodes(max(lengths))
        out = decode_attention(q, cache.kv, rows, scale=64**-0.5, window=window, memo=memo)
        check(out, q, cache, window)


def test_reference_splits_large_batches_into_groups() -> None:
    lengths = [300, 20, 2000, 310, 300, 1]
    cache = PagedCache.random(lengths, 2, 64, 16, torch.float32, torch.device("cpu"))
    q, out = torch.randn(6, 4, 64), torch.empty(6, 4, 64)
    returned = decode_attention(q, cache.kv, cache.decodes(2000), scale=0.125, out=out)
    assert returned.data_ptr() == out.data_ptr()
    check(out, q, cache)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lengths", [[100, 1, 64, 65, 0], [200, 1, 1, 5, 70, 0, 0], [64, 64, 64]])
def test_work_is_shared_by_any_number_of_programs(
    kernel_device: torch.device, lengths: list[int], dtype: torch.dtype
) -> None:
    cache = PagedCache.random(lengths, 2, 32, 16, dtype, kernel_device)
    q = torch.randn(len(lengths), 6, 32, dtype=dtype, device=kernel_device)
    counters = torch.zeros(2 * 9, dtype=torch.int32, device=kernel_device)
    for num_programs in (1, 3, 9, 3):
        out = run_kernel(q, cache, counters=counters, num_programs=num_programs)
        check(out, q, cache)
        assert not counters.any(), "the next launch needs them as they were"


@pytest.mark.parametrize("group", [1, 3, 6, 7, 9, 17])
def test_kernel_with_any_group(kernel_device: torch.device, group: int) -> None:
    cache = PagedCache.random([45, 70], 2, 32, 16, torch.float32, kernel_device)
    q = torch.randn(2, 2 * group, 32, device=kernel_device)
    check(run_kernel(q, cache, num_programs=3), q, cache)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("block_size", [16, 32, 64])
@pytest.mark.parametrize("head_dim", [64, 80, 96, 128, 256])
def test_kernel_with_any_head_and_block(
    kernel_device: torch.device, head_dim: int, block_size: int, dtype: torch.dtype
) -> None:
    cache = PagedCache.random([77, 40], 2, head_dim, block_size, dtype, kernel_device)
    q = torch.randn(2, 4, head_dim, dtype=dtype, device=kernel_device)
    check(run_kernel(q, cache, num_programs=2, tiles=None), q, cache)


@pytest.mark.parametrize("window", [1, 33, 64])
@pytest.mark.parametrize("num_programs", [1, 4])
def test_kernel_with_window(kernel_device: torch.device, window: int | None, num_programs: int) -> None:
    cache = PagedCache.random([150, 20, 64, 0], 2, 32, 16, torch.float32, kernel_device)
    q = torch.randn(4, 4, 32, device=kernel_device)
    check(run_kernel(q, cache, window=window, num_programs=num_programs), q, cache, window)


def test_more_rows_than_are_added_up_at_a_time(kernel_device: torch.device) -> None:
    lengths = [1 + 37 * row % 41 for row in range(300)]
    cache = PagedCache.random(lengths, 1, 16, 16, torch.float32, kernel_device)
    q = torch.randn(300, 2, 16, device=kernel_device)
    check(run_kernel(q, cache, num_programs=7), q, cache)


def test_no_sequence_at_all(kernel_device: torch.device) -> None:
    cache = PagedCache.random([5], 2, 32, 16, torch.float32, kernel_device)
    none = DecodeRows(cache.slots[:0], cache.seq_lens[:0], max_seq_len=1)
    q = torch.empty(0, 4, 32, device=kernel_device)
    out = launch_decode_attention(q, cache.kv, none, scale=1.0)
    assert out.shape == (0, 4, 32)


def test_programs_fill_the_card_and_no_more() -> None:
    tiles = DecodeTiles(block_n=64, num_warps=4, num_stages=3, programs_per_sm=2)
    assert decode_programs(tiles, 256, 8, 4096, 132) == 32, "eight sequences each"
    assert decode_programs(tiles, 448, 2, 4096, 132) == 132, "four each would leave too many places empty"
    assert decode_programs(tiles, 1, 8, 128, 132) == 2
    assert decode_programs(tiles, 1, 2, 100_000, 132) == 32
    assert decode_programs(tiles, 32, 2, 4096, 132) == 128
    assert decode_programs(tiles, 9, 2000, 4096, 132) == 1
    assert decode_programs(tiles, 8192, 8, 4096, 1000) * 8 <= NUM_SPLIT_COUNTERS


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_kernel_in_a_cuda_graph_follows_lengths_that_grow() -> None:
    device = torch.device("cuda")
    cache = PagedCache.random([600, 300, 0], 2, 64, 16, torch.float16, device)
    q = torch.randn(3, 4, 64, dtype=torch.float16, device=device)
    counters = torch.zeros(NUM_SPLIT_COUNTERS, dtype=torch.int32, device=device)
    lengths = cache.seq_lens.clone()
    cache.seq_lens.copy_(torch.tensor([10, 1, 0]))
    run_kernel(q, cache, max_seq_len=600, tiles=None, counters=counters)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = run_kernel(q, cache, max_seq_len=600, tiles=None, counters=counters)
    for seq_lens in (torch.tensor([10, 1, 0], device=device), lengths):
        cache.seq_lens.copy_(seq_lens)
        graph.replay()
        check(out, q, cache)
