"""BlockPool: states, order of reuse, and what a caller's mistake meets."""

from __future__ import annotations

import pytest

from octavo.cache.block_pool import BlockPool


def take(pool: BlockPool, count: int) -> list[int]:
    blocks = pool.allocate(count)
    assert blocks is not None
    return blocks


def cached(pool: BlockPool, count: int) -> list[int]:
    blocks = take(pool, count)
    for block in blocks:
        pool.set_cached(block, True)
    return blocks


def test_allocates_every_block_once_and_then_none() -> None:
    pool = BlockPool(5)
    first, second = take(pool, 2), take(pool, 3)
    assert sorted([*first, *second]) == [0, 1, 2, 3, 4]
    assert pool.num_free == 0 and pool.num_referenced == 5
    assert pool.allocate(1) is None
    pool.check()


def test_allocation_is_all_or_nothing() -> None:
    pool = BlockPool(4)
    taken = take(pool, 3)
    assert pool.allocate(2) is None
    assert pool.num_free == 1
    pool.release(taken)
    assert pool.num_free == 4
    pool.check()


def test_nothing_is_taken_by_an_empty_allocation() -> None:
    pool = BlockPool(1)
    assert pool.allocate(0) == []
    assert pool.num_free == 1


def test_a_shared_block_is_free_with_its_last_reference() -> None:
    pool = BlockPool(1)
    (block,) = take(pool, 1)
    pool.incref(block)
    assert pool.references(block) == 2
    pool.decref(block)
    assert pool.num_free == 0
    pool.decref(block)
    assert pool.num_free == 1 and pool.num_evictable == 0


def test_free_blocks_go_before_evictable_ones_and_the_least_recently_released_first() -> None:
    evicted: list[int] = []
    pool = BlockPool(4, evicted.append)
    a, b, c = cached(pool, 3)
    pool.release([b, c, a])
    assert pool.num_free == 4 and pool.num_evictable == 3
    take(pool, 1)
    assert evicted == []
    assert pool.allocate(1) == [b]
    assert sorted(take(pool, 2)) == sorted([c, a])
    assert evicted == [b, c, a]
    assert not pool.is_cached(a)
    pool.check()


def test_a_use_makes_an_evictable_block_the_most_recent() -> None:
    evicted: list[int] = []
    pool = BlockPool(2, evicted.append)
    a, b = cached(pool, 2)
    pool.release([a, b])
    pool.incref(a)
    assert pool.num_free == 1 and pool.references(a) == 1
    pool.decref(a)
    take(pool, 2)
    assert evicted == [b, a]


def test_a_referenced_block_is_never_evicted() -> None:
    evicted: list[int] = []
    pool = BlockPool(2, evicted.append)
    cached(pool, 1)
    take(pool, 1)
    assert pool.allocate(1) is None
    assert evicted == []


def test_a_block_that_is_no_longer_cached_is_free() -> None:
    evicted: list[int] = []
    pool = BlockPool(1, evicted.append)
    (block,) = cached(pool, 1)
    pool.release([block])
    pool.set_cached(block, False)
    assert pool.num_evictable == 0 and pool.num_free == 1
    pool.check()
    assert pool.allocate(1) == [block]
    assert evicted == []


def test_mistakes_are_caught() -> None:
    pool = BlockPool(2)
    with pytest.raises(AssertionError, match="block 0 was released more often"):
        pool.decref(0)
    with pytest.raises(AssertionError, match="block 1 is free"):
        pool.incref(1)
    with pytest.raises(AssertionError, match="block 1 is free"):
        pool.set_cached(1, True)
    with pytest.raises(AssertionError, match="a pool needs a block"):
        BlockPool(0)


def test_check_notices_a_lost_and_a_doubled_block() -> None:
    lost = BlockPool(3)
    lost._free.pop()
    with pytest.raises(AssertionError, match="are not 3"):
        lost.check()
    doubled = BlockPool(3)
    doubled._free.append(0)
    with pytest.raises(AssertionError, match="twice"):
        doubled.check()
    owned_and_free = BlockPool(3)
    owned_and_free._free.extend(take(owned_and_free, 1))
    with pytest.raises(AssertionError, match="referenced blocks on the free list"):
        owned_and_free.check()
