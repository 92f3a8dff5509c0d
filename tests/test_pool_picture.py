"""The picture of the pool: every state is seen, and a large pool is a sample of bounded size."""

from __future__ import annotations

import pytest

from octavo.cache.block_pool import BlockPool
from octavo.cache.pool_picture import MAX_BLOCKS, PoolPicture
from octavo.cache.prefix_cache import PrefixCache, hash_chain


def test_every_state_is_seen() -> None:
    pool = BlockPool(7)
    prefixes = PrefixCache(pool)
    blocks = pool.allocate(6)
    assert blocks == [0, 1, 2, 3, 4, 5]
    free, shared, cached_and_held, kept, alone, cached_and_shared = blocks
    names = hash_chain(list(range(12)), 4, b"")
    for name, block in zip(names, (cached_and_held, kept, cached_and_shared), strict=True):
        prefixes.insert(name, block)
    for _ in range(300):
        pool.incref(shared)
    pool.incref(cached_and_shared)
    pool.release([free, kept])
    expected = {
        free: "0",
        shared: "3",
        cached_and_held: "2",
        kept: "1",
        alone: "2",
        cached_and_shared: "3",
        6: "0",
    }
    assert PoolPicture.of(pool) == PoolPicture(stride=1, states="".join(map(expected.__getitem__, range(7))))


@pytest.mark.parametrize(
    ("num_blocks", "stride"), [(1, 1), (4096, 1), (4097, 2), (5825, 2), (1_000_003, 245)]
)
def test_a_large_pool_is_a_sample(num_blocks: int, stride: int) -> None:
    pool = BlockPool(num_blocks)
    empty = PoolPicture.of(pool)
    assert empty.stride == stride and set(empty.states) == {"0"}
    assert (len(empty.states) - 1) * stride < num_blocks <= len(empty.states) * stride
    assert len(empty.states) <= MAX_BLOCKS
    pool.allocate(-(-num_blocks // 2))  # the first half: the pool gives them out in order
    half = PoolPicture.of(pool).states
    assert half == "2" * half.count("2") + "0" * half.count("0")
    assert half.count("2") / len(half) == pytest.approx(0.5, abs=0.01) or num_blocks == 1
