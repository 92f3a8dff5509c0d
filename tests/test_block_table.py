"""BlockTable: growth, adoption of cached blocks, release."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from octavo.cache.block_pool import BlockPool
from octavo.cache.block_table import BlockTable


def grow(table: BlockTable, num_tokens: int) -> Sequence[int]:
    blocks = table.ensure(num_tokens)
    assert blocks is not None
    return blocks


@pytest.mark.parametrize("block_size", [1, 2, 16])
def test_holds_exactly_the_blocks_that_the_tokens_need(block_size: int) -> None:
    pool = BlockPool(64)
    table = BlockTable(pool, block_size)
    for num_tokens in range(1, 40):
        before, missing = len(table), table.missing(num_tokens)
        new = table.ensure(num_tokens)
        assert new is not None and len(new) == missing
        assert table.blocks[before:] == list(new)
        assert len(table) == -(-num_tokens // block_size)
        assert table.capacity_tokens == len(table) * block_size
    assert len(set(table.blocks)) == len(table)


def test_needs_nothing_for_tokens_that_have_room() -> None:
    table = BlockTable(BlockPool(2), 16)
    assert len(grow(table, 17)) == 2
    assert table.ensure(32) == () and table.ensure(1) == () and table.missing(32) == 0


def test_changes_nothing_if_the_pool_has_too_few() -> None:
    pool = BlockPool(3)
    table = BlockTable(pool, 4)
    blocks = list(grow(table, 5))
    assert table.ensure(17) is None
    assert table.blocks == blocks and table.capacity_tokens == 8 and pool.num_free == 1
    assert len(grow(table, 12)) == 1


def test_adopts_a_prefix_and_grows_after_it() -> None:
    pool = BlockPool(4)
    owner, table = BlockTable(pool, 4), BlockTable(pool, 4)
    shared = list(grow(owner, 8))
    for block in shared:
        pool.incref(block)
    table.adopt(shared)
    assert table.ensure(8) == ()
    assert len(grow(table, 9)) == 1
    assert table.blocks[:2] == shared
    owner.release()
    assert [pool.references(block) for block in table.blocks] == [1, 1, 1]
    table.release()
    assert pool.num_free == 4
    pool.check()
    with pytest.raises(AssertionError, match="must be empty"):
        owner.adopt(grow(owner, 4))


def test_release_lets_the_tail_be_evicted_first_and_the_table_start_anew() -> None:
    evicted: list[int] = []
    pool = BlockPool(3, evicted.append)
    table = BlockTable(pool, 2)
    head, middle, tail = grow(table, 6)
    for block in table.blocks:
        pool.set_cached(block, True)
    table.release()
    assert table.blocks == [] and table.capacity_tokens == 0 and pool.num_free == 3
    pool.allocate(3)
    assert evicted == [tail, middle, head]
