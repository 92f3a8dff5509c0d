"""Prefill attention against its definition: ragged rows, prefixes, windows, padding, any group and page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from paged_cache import DTYPES, TOLERANCE, PagedCache
from torch import Tensor

from octavo.ops.paged_attention import ChunkRows
from octavo.ops.prefill_attention import prefill_attention
from octavo.ops.prefill_attention_kernel import launch_prefill_attention
from octavo.ops.prefill_plan_kernel import launch_split_plan
from octavo.ops.step_memo import StepMemo
from octavo.ops.tuning import PrefillTiles

TILES = PrefillTiles(block_m=32, block_n=32, num_warps=4, num_stages=2)
RAGGED = [
    ([50], [50]),
    ([10], [50]),
    ([1, 40, 5, 33], [1, 70, 5, 100]),
    ([0, 7, 0, 64, 0], [0, 7, 0, 64, 0]),
]

SPLIT_TILES = PrefillTiles(block_m=32, block_n=32, num_warps=4, num_stages=2, min_split=32)
LARGE_TILES = PrefillTiles(block_m=128, block_n=64, num_warps=8, num_stages=5)


def starts(query_lens: list[int], device: torch.device) -> Tensor:
    return torch.tensor([0, *query_lens], device=device).cumsum(0).to(torch.int32)


def chunks(cache: PagedCache, query_starts: Tensor) -> ChunkRows:
    return ChunkRows(cache.slots, query_starts, cache.seq_lens)


def run_kernel(q: Tensor, cache: PagedCache, query_lens: list[int], **options: object) -> Tensor:
    arguments = dict(scale=q.shape[2] ** -0.5, tiles=TILES) | options
    return launch_prefill_attention(q, cache.kv, chunks(cache, starts(query_lens, q.device)), **arguments)


def plan(
    query_lens: list[int],
    seq_lens: list[int],
    device: torch.device,
    tiles: PrefillTiles = LARGE_TILES,
    **options: int,
) -> tuple[int, int, list[int], list[int]]:
    """Keys of a split, splits in all, each row's first, each row's first place."""
    arguments = dict(num_programs=132, num_places=528, num_kv_heads=8, tokens=32) | options
    lens = torch.tensor(seq_lens, dtype=torch.int32, device=device)
    rows = ChunkRows(lens, starts(query_lens, device), lens)  # slots do not matter
    numbers = launch_split_plan(rows, tiles, **arguments).tolist()
    num_rows = len(seq_lens)
    return numbers[0], numbers[1], numbers[2 : 2 + num_rows], numbers[2 + num_rows :]


def check(
    out: Tensor, q: Tensor, cache: PagedCache, query_lens: list[int], window: int | None = None
) -> None:
    end = 0
    for row, query_len in enumerate(query_lens):
        begin, end = end, end + query_len
        if query_len:
            expected = cache.attend(q[begin:end], row, q.shape[2] ** -0.5, window)
            torch.testing.assert_close(
                out[begin:end].double(), expected, atol=TOLERANCE[q.dtype], rtol=TOLERANCE[q.dtype]
            )


@pytest.mark.parametrize("window", [None, 1, 7, 40])
@pytest.mark.parametrize(("query_lens", "seq_lens"), RAGGED)
def test_any_path_of_a_device_agrees_with_the_definition(
    device: torch.device, query_lens: list[int], seq_lens: list[int], window: int | None
) -> None:
    cache = PagedCache.random(seq_lens, 3, 64, 16, torch.float32, device)
    q, memo = torch.randn(sum(query_lens), 9, 64, device=device), StepMemo()
    for _ in range(2):  # the second call finds its indices in the memo
        rows = chunks(cache, starts(query_lens, device))
        out = prefill_attention(q, cache.kv, rows, scale=64**-0.5, window=window, memo=memo)
        check(out, q, cache, query_lens, window)


@pytest.mark.parametrize("before", [1, 40])
@pytest.mark.parametrize("path", [prefill_attention, launch_prefill_attention])
def test_queries_of_others_before_and_behind_the_rows_are_left_alone(
    kernel_device: torch.device, path: Callable[..., Tensor], before: int
) -> None:
    cache = PagedCache.random([30, 50, 0], 2, 32, 16, torch.float32, kernel_device)
    q = torch.randn(before + 30 + 12 + 20, 6, 32, device=kernel_device)
    query_starts = starts([30, 12, 0], kernel_device) + before
    out = torch.full_like(q, 7)
    path(q, cache.kv, chunks(cache, query_starts), scale=32**-0.5, out=out)
    check(out[before:], q[before:], cache, [30, 12, 0])
    assert (out[:before] == 7).all() and (out[before + 42 :] == 7).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", [None, 1, 40])
@pytest.mark.parametrize(("query_lens", "seq_lens"), RAGGED)
def test_kernel_with_ragged_rows(
    kernel_device: torch.device,
    query_lens: list[int],
    seq_lens: list[int],
    window: int | None,
    dtype: torch.dtype,
) -> None:
    cache = PagedCache.random(seq_lens, 2, 32, 16, dtype, kernel_device)
    q = torch.randn(sum(query_lens), 6, 32, dtype=dtype, device=kernel_device)
    out = torch.full_like(q, float("nan"))
    assert run_kernel(q, cache, query_lens, window=window, out=out) is out
    check(out, q, cache, query_lens, window)


@pytest.mark.parametrize("group", [1, 3, 4, 6, 7, 8, 9])
def test_kernel_with_any_group(kernel_device: torch.device, group: int) -> None:
    cache = PagedCache.random([45, 70], 2, 32, 16, torch.float32, kernel_device)
    q = torch.randn(45 + 12, 2 * group, 32, device=kernel_device)
    check(run_kernel(q, cache, [45, 12]), q, cache, [45, 12])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("block_size", [16, 32, 64])
@pytest.mark.parametrize("head_dim", [64, 80, 96, 128, 256])
def test_kernel_with_any_head_and_block(
    kernel_device: torch.device, head_dim: int, block_size: int, dtype: torch.dtype
) -> None:
    cache = PagedCache.random([77, 40], 1, head_dim, block_size, dtype, kernel_device)
    q = torch.randn(77 + 9, 3, head_dim, dtype=dtype, device=kernel_device)
    check(run_kernel(q, cache, [77, 9], tiles=None), q, cache, [77, 9])


@pytest.mark.parametrize(
    ("query_lens", "seq_lens", "group", "num_walkers"),
    [
        ([20], [150], 3, 13),
        ([20], [150], 4, 13),
        ([0, 7, 3, 40, 3], [0, 60, 3, 700, 300], 4, 13),
        ([50], [900], 3, 8),
    ],
)
def test_kernel_with_split_prefixes(
    kernel_device: torch.device, query_lens: list[int], seq_lens: list[int], group: int, num_walkers: int
) -> None:
    cache = PagedCache.random(seq_lens, 2, 32, 16, torch.float32, kernel_device)
    q = torch.randn(sum(query_lens), 2 * group, 32, device=kernel_device)
    counters = torch.zeros(64, dtype=torch.int32, device=kernel_device)
    options = dict(num_programs=num_walkers, num_places=4 * num_walkers, num_kv_heads=2, tokens=32 // group)
    assert plan(query_lens, seq_lens, kernel_device, SPLIT_TILES, **options)[1] > 0
    for _ in range(2):  # the second call finds the counters as the first left them
        out = torch.full_like(q, float("nan"))
        run_kernel(
            q, cache, query_lens, out=out, counters=counters, tiles=SPLIT_TILES, num_walkers=num_walkers
        )
        check(out, q, cache, query_lens)


def test_a_long_prefix_is_split_so_that_whole_waves_of_programs_take_it(kernel_device: torch.device) -> None:
    # 6 tiles by 8 KV heads by 11 pieces are four times 132.
    split, num_splits, _, _ = plan([192], [100_192], kernel_device)
    assert split % 64 == 0 and 100_000 // split == 10 and num_splits == 48 * 10
    # 11 by 8 by 3 are twice 132.
    split, num_splits, _, _ = plan([352], [100_352], kernel_device)
    assert 100_000 // split == 2 and num_splits == 88 * 2


def test_what_fills_the_card_or_is_short_is_not_split(kernel_device: torch.device) -> None:
    for query_lens, seq_lens in (
        ([8192], [8192]),
        ([220] * 16, [220] * 16),
        ([8192], [108_192]),
        ([50], [950]),
    ):
        split, num_splits, firsts, places = plan(query_lens, seq_lens, kernel_device)
        assert num_splits == 0 and split > max(seq_lens) - query_lens[0]
        assert firsts == places == [0] * len(seq_lens)


def test_rows_have_splits_and_places_of_their_own(kernel_device: torch.device) -> None:
    query_lens, seq_lens = [64, 220, 0, 30] + [10] * 70, [60_000, 220, 0, 30_030] + [10] * 69 + [20_010]
    split, num_splits, firsts, places = plan(query_lens, seq_lens, kernel_device)
    first, fourth, last = 59_936 // split, 30_000 // split, 20_000 // split
    assert last >= 1
    assert num_splits == 8 * (2 * first + fourth + last)
    assert firsts == [0, *[16 * first] * 3, *[16 * first + 8 * fourth] * 70]
    assert places[3] == 16 * (first + 1) and places[-1] == places[3] + 8 * (fourth + 1)
    assert places[-1] + 8 * (last + 1) <= 528


def test_more_query_heads_per_kv_head_than_rows_of_a_tile(kernel_device: torch.device) -> None:
    cache = PagedCache.random([20], 1, 32, 16, torch.float32, kernel_device)
    q = torch.randn(20, 40, 32, device=kernel_device)
    check(run_kernel(q, cache, [20]), q, cache, [20])


def test_chunks_agree_with_the_whole_prompt(kernel_device: torch.device) -> None:
    cache = PagedCache.random([96], 2, 32, 16, torch.float32, kernel_device)
    q = torch.randn(96, 4, 32, device=kernel_device)
    whole = run_kernel(q, cache, [96])
    for begin, end in ((0, 31), (31, 40), (40, 96)):
        seq_lens = torch.full_like(cache.seq_lens, end)
        chunk = PagedCache(cache.k, cache.v, cache.block_tables, cache.slots, seq_lens)
        torch.testing.assert_close(run_kernel(q[begin:end], chunk, [end - begin]), whole[begin:end])


def test_no_token_at_all(kernel_device: torch.device) -> None:
    cache = PagedCache.random([0], 2, 32, 16, torch.float32, kernel_device)
    assert run_kernel(torch.empty(0, 4, 32, device=kernel_device), cache, [0]).shape == (0, 4, 32)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("with_splits", [False, True])
def test_kernel_in_a_cuda_graph_follows_rows_that_change(with_splits: bool) -> None:
    device = torch.device("cuda")
    cache = PagedCache.random([600, 300, 200], 2, 64, 16, torch.float16, device)
    q = torch.randn(300, 6, 64, dtype=torch.float16, device=device)
    query_starts, full_lens = starts([300, 0, 0], device), cache.seq_lens.clone()

    options: dict[str, Any] = {}
    if with_splits:
        options |= dict(counters=torch.zeros(64, dtype=torch.int32, device=device), num_walkers=16)
        options |= dict(tiles=replace(SPLIT_TILES, block_m=64))

    def launch() -> Tensor:
        return launch_prefill_attention(q, cache.kv, chunks(cache, query_starts), scale=0.125, **options)

    launch()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = launch()
    for query_lens in ([300, 0, 0], [100, 150, 50], [1, 1, 200], [10, 5, 0], [30, 0, 1]):
        query_starts.copy_(starts(query_lens, device))
        cache.seq_lens.copy_(full_lens)
        graph.replay()
        check(out, q, cache, query_lens)


@pytest.mark.parametrize("window", [None, 40])
def test_a_query_is_the_same_to_the_last_bit_in_any_chunk(
    kernel_device: torch.device, window: int | None
) -> None:
    lengths = [150, 20, 97]
    cache = PagedCache.random(lengths, 2, 64, 16, torch.float16, kernel_device)
    q = torch.randn(sum(lengths), 6, 64, dtype=torch.float16, device=kernel_device)
    whole = run_kernel(q, cache, lengths, window=window)
    for row, last, tokens in ((0, 150, 1), (0, 100, 1), (0, 64, 30), (1, 20, 13), (2, 97, 90), (2, 33, 2)):
        end = sum(lengths[:row]) + last
        part = PagedCache(
            cache.k,
            cache.v,
            cache.block_tables,
            cache.slots[row : row + 1],
            torch.tensor([last], dtype=torch.int32, device=kernel_device),
        )
        got = run_kernel(q[end - tokens : end], part, [tokens], window=window)
        assert torch.equal(got, whole[end - tokens : end]), f"row {row}, {tokens} tokens up to {last}"
