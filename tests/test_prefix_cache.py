"""PrefixCache: names, matches, and a state machine over pool, tables and cache together."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from octavo.cache.block_pool import BlockPool
from octavo.cache.block_table import BlockTable
from octavo.cache.prefix_cache import PrefixCache, hash_chain, root_hash


def take(pool: BlockPool, count: int) -> list[int]:
    blocks = pool.allocate(count)
    assert blocks is not None
    return blocks


def cache_of(num_blocks: int) -> tuple[BlockPool, PrefixCache]:
    pool = BlockPool(num_blocks)
    return pool, PrefixCache(pool)


def test_a_name_depends_on_salt_position_and_every_token_before() -> None:
    tokens = list(range(32))
    names = hash_chain(tokens, 16, root_hash())
    assert len(names) == 2 and all(len(name) == 16 for name in names)
    assert names == hash_chain(tokens, 16, root_hash(""))
    assert not set(names) & set(hash_chain(tokens, 16, root_hash("tenant")))
    assert hash_chain(tokens[16:], 16, root_hash())[0] != names[1]
    changed = [99, *tokens[1:]]
    assert not set(names) & set(hash_chain(changed, 16, root_hash()))
    assert hash_chain([*tokens[:31], 99], 16, root_hash())[0] == names[0]


def test_only_full_blocks_have_names() -> None:
    for length, count in ((0, 0), (3, 0), (4, 1), (7, 1), (8, 2)):
        assert len(hash_chain(range(length), 4, root_hash())) == count


def test_a_chain_grown_block_by_block_is_the_chain_of_the_whole() -> None:
    tokens = [7, 2**31 - 1, 0, 5, 5, 5, 9, 1, 3]
    whole = hash_chain(tokens, 2, root_hash("s"))
    parent, grown = root_hash("s"), []
    for start in range(0, 8, 2):
        (parent,) = hash_chain(tokens[start : start + 2], 2, parent)
        grown.append(parent)
    assert grown == whole
    assert whole[:2] + hash_chain(tokens[4:], 2, whole[1]) == whole


def test_token_ids_do_not_run_together() -> None:
    root = root_hash()
    assert (
        len(
            {
                hash_chain(ids, len(ids), root)[0]
                for ids in ([1, 12], [11, 2], [256, 0], [0, 256], [1, 0], [0, 1])
            }
        )
        == 6
    )


def test_matches_the_longest_cached_prefix_and_takes_references() -> None:
    pool, cache = cache_of(4)
    names = hash_chain(range(6), 2, root_hash())
    a, b, c = take(pool, 3)
    for name, block in zip(names, (a, b, c), strict=True):
        assert cache.insert(name, block)
    assert cache.match([]) == []
    assert cache.match([names[0], b"unknown", names[2]]) == [a]
    assert cache.match(names) == [a, b, c]
    assert [pool.references(block) for block in (a, b, c)] == [3, 2, 2]
    cache.check()


def test_a_released_block_is_found_until_it_is_reused() -> None:
    pool, cache = cache_of(2)
    names = hash_chain(range(4), 2, root_hash())
    a, b = take(pool, 2)
    cache.insert(names[0], a)
    cache.insert(names[1], b)
    pool.release([b, a])
    assert cache.match(names) == [a, b]
    pool.release([b, a])
    assert pool.allocate(1) == [b]
    assert cache.match(names) == [a]
    assert len(cache) == 1
    cache.check()
    pool.check()


def test_the_first_block_of_a_name_wins_and_a_duplicate_is_private() -> None:
    pool, cache = cache_of(2)
    (name,) = hash_chain(range(2), 2, root_hash())
    a, b = take(pool, 2)
    assert cache.insert(name, a)
    assert not cache.insert(name, b)
    pool.release([b])
    assert pool.num_evictable == 0 and pool.num_free == 1
    assert cache.match([name]) == [a]
    cache.check()


def test_a_forgotten_block_is_not_found_and_stays_with_its_owner() -> None:
    pool, cache = cache_of(2)
    names = hash_chain(range(4), 2, root_hash())
    a, b = take(pool, 2)
    cache.insert(names[0], a)
    cache.insert(names[1], b)
    cache.forget(a)
    cache.forget(a)
    assert cache.match(names) == []
    assert pool.references(a) == 1
    pool.release([b, a])
    assert pool.num_evictable == 1
    cache.clear()
    assert pool.num_evictable == 0 and pool.num_free == 2 and len(cache) == 0
    cache.check()
    pool.check()


def test_counts_tokens_of_admitted_prompts() -> None:
    _, cache = cache_of(1)
    cache.record(100, 64)
    cache.record(50, 0)
    assert (cache.query_tokens, cache.hit_tokens) == (150, 64)


BLOCK_SIZE = 2


class CacheMachine(RuleBasedStateMachine):
    """Sequences come, grow, share and go in a small pool, beside a model that keeps every block's tokens.

    The model writes a sequence's tokens where its table says, as the device would. So whatever overwrites a
    block in use, or finds one with other contents, shows as wrong tokens read back.
    """

    sequences = Bundle("sequences")

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(7)
        self.cache = PrefixCache(self.pool)
        self.tables: dict[int, tuple[BlockTable, str, list[int]]] = {}
        self.contents: dict[int, list[int]] = {}
        self.idle: list[int] = []
        """The model's evictable blocks, least recently released first."""
        self.names: dict[bytes, int] = {}
        self.next_id = 0

    @rule(
        target=sequences,
        tokens=st.lists(st.integers(0, 1), min_size=1, max_size=8),
        salt=st.sampled_from(["", "tenant"]),
    )
    def start(self, tokens: list[int], salt: str) -> Any:
        names = hash_chain(tokens, BLOCK_SIZE, root_hash(salt))
        expected = []
        for name in names:
            if name not in self.names:
                break
            expected.append(self.names[name])
        matched = self.cache.match(names)
        assert matched == expected
        assert [t for b in matched for t in self.contents[b]] == tokens[: len(matched) * BLOCK_SIZE]
        self.idle = [block for block in self.idle if block not in matched]
        table = BlockTable(self.pool, BLOCK_SIZE)
        table.adopt(matched)
        if not self.extend(table, len(tokens)):
            self.give_back(table)
            return multiple()
        self.write(table, tokens, len(matched) * BLOCK_SIZE)
        self.publish(table, names)
        self.next_id += 1
        self.tables[self.next_id] = (table, salt, tokens)
        return self.next_id

    @rule(sequence=sequences, more=st.lists(st.integers(0, 1), min_size=1, max_size=3))
    def grow(self, sequence: int, more: list[int]) -> None:
        table, salt, tokens = self.tables[sequence]
        if not self.extend(table, len(tokens) + len(more)):
            return
        grown = tokens + more
        self.write(table, grown, len(tokens))
        self.publish(table, hash_chain(grown, BLOCK_SIZE, root_hash(salt)))
        self.tables[sequence] = (table, salt, grown)

    @rule(sequence=consumes(sequences))
    def finish(self, sequence: int) -> None:
        table, _, _ = self.tables.pop(sequence)
        self.give_back(table)

    @rule(sequence=sequences, index=st.integers(0, 7))
    def forget(self, sequence: int, index: int) -> None:
        table, _, _ = self.tables[sequence]
        block = table.blocks[index % len(table)]
        self.cache.forget(block)
        self.names = {name: b for name, b in self.names.items() if b != block}

    def extend(self, table: BlockTable, num_tokens: int) -> bool:
        before, missing, free = list(table.blocks), table.missing(num_tokens), self.pool.num_free
        evictions = max(0, missing - (free - len(self.idle)))
        held = {block for other, _, _ in self.tables.values() for block in other.blocks}
        new = table.ensure(num_tokens)
        if new is None:
            assert missing > free and table.blocks == before and self.pool.num_free == free
            return False
        assert len(new) == missing <= free
        # A block in use is never handed out; of those that could still be found, the oldest go first.
        assert not held & set(new)
        gone, self.idle = self.idle[:evictions], self.idle[evictions:]
        assert set(gone) <= set(new)
        self.names = {name: block for name, block in self.names.items() if block not in gone}
        return True

    def write(self, table: BlockTable, tokens: list[int], start: int) -> None:
        for position in range(start, len(tokens)):
            block, offset = table.blocks[position // BLOCK_SIZE], position % BLOCK_SIZE
            self.contents[block] = [*self.contents.get(block, [])[:offset], tokens[position]]

    def publish(self, table: BlockTable, names: list[bytes]) -> None:
        for name, block in zip(names, table.blocks, strict=False):
            if block in self.names.values():
                continue
            assert self.cache.insert(name, block) == (name not in self.names)
            self.names.setdefault(name, block)

    def give_back(self, table: BlockTable) -> None:
        blocks = list(table.blocks)
        table.release()
        held = {block for other, _, _ in self.tables.values() for block in other.blocks}
        self.idle += [b for b in reversed(blocks) if b not in held and b in self.names.values()]

    @invariant()
    def every_sequence_reads_its_own_tokens(self) -> None:
        for table, _, tokens in self.tables.values():
            assert [t for block in table.blocks for t in self.contents[block]][: len(tokens)] == tokens

    @invariant()
    def pool_and_cache_agree_with_the_model(self) -> None:
        self.pool.check()
        self.cache.check()
        owners = [block for table, _, _ in self.tables.values() for block in table.blocks]
        for block in range(self.pool.num_blocks):
            assert self.pool.references(block) == owners.count(block)
            assert self.pool.is_cached(block) == (block in self.names.values())
        assert self.pool.num_evictable == len(self.idle)
        assert len(self.cache) == len(self.names)

    def teardown(self) -> None:
        for table, _, _ in self.tables.values():
            table.release()
        self.pool.check()
        assert self.pool.num_free == self.pool.num_blocks


CacheMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestCacheMachine = CacheMachine.TestCase
