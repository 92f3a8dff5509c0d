"""Finds blocks whose contents a new sequence can reuse. Knows hashes of token ids, not sequences or requests.

A full block's name is a hash of (the previous block's name, its token ids), so that equal names mean equal
tokens from the very first on. The chain begins with a hash of the tenant's salt: tenants never meet.
128 bits (BLAKE2b, RFC 7693) make an accidental or forged collision infeasible.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from hashlib import blake2b

from .block_pool import BlockPool

_DIGEST_BYTES = 16


def root_hash(cache_salt: str = "") -> bytes:
    """The parent of a sequence's first block: 16 bytes that only requests with the same salt share."""
    return blake2b(cache_salt.encode(), digest_size=_DIGEST_BYTES, person=b"octavo salt").digest()


def hash_chain(tokens: Sequence[int], block_size: int, parent: bytes) -> list[bytes]:
    """16-byte names of the full blocks of `tokens` (each below 2^31), which follow the block named `parent`.

    What fills no block is left out. To extend a sequence's names, pass its tokens from
    `len(names) * block_size` on and its last name.
    """
    packed = tokens if isinstance(tokens, array) and tokens.typecode == "i" else array("i", tokens)
    data, stride = packed.tobytes(), block_size * packed.itemsize
    names = []
    for start in range(0, len(data) - stride + 1, stride):
        parent = blake2b(parent + data[start : start + stride], digest_size=_DIGEST_BYTES).digest()
        names.append(parent)
    return names


class PrefixCache:
    """Names of the pool's full blocks, and the blocks by name; one block a name.

    hit_tokens, query_tokens: running totals of what `record` was told.
    """

    __slots__ = ("_block_by_hash", "_hash_by_block", "_pool", "hit_tokens", "query_tokens")

    def __init__(self, pool: BlockPool) -> None:
        assert pool.on_evict is None, "a pool has one prefix cache"
        self.hit_tokens = 0
        self.query_tokens = 0
        self._pool = pool
        self._block_by_hash: dict[bytes, int] = {}
        self._hash_by_block: dict[int, bytes] = {}
        pool.on_evict = self._evicted

    def __len__(self) -> int:
        return len(self._block_by_hash)

    def match(self, hashes: Iterable[bytes]) -> list[int]:
        """Blocks of the longest cached prefix, in order, with a reference taken on each for the caller.

        A caller that must still compute a token passes only the hashes of blocks that end before it.
        """
        blocks = []
        find, incref = self._block_by_hash.get, self._pool.incref
        for name in hashes:
            block = find(name)
            if block is None:
                break
            incref(block)
            blocks.append(block)
        return blocks

    def record(self, query_tokens: int, hit_tokens: int) -> None:
        """Count one admitted prompt; apart from `match`, which is repeated while a prompt waits for room."""
        self.query_tokens += query_tokens
        self.hit_tokens += hit_tokens

    def insert(self, name: bytes, block: int) -> bool:
        """Let later sequences find `block`, which the caller holds and whose contents are complete.

        The first block of a name wins; a duplicate stays private (False) and is freed with its sequence.
        """
        return self.insert_all((name,), (block,)) == 1

    def insert_all(self, names: Iterable[bytes], blocks: Iterable[int]) -> int:
        """`insert` each of `blocks` by its name; how many got it."""
        by_hash, by_block, set_cached = self._block_by_hash, self._hash_by_block, self._pool.set_cached
        before = len(by_hash)
        for name, block in zip(names, blocks, strict=True):
            if name not in by_hash:
                assert block not in by_block, f"block {block} has a name already"
                set_cached(block, True)
                by_hash[name] = block
                by_block[block] = name
        return len(by_hash) - before

    def forget(self, block: int) -> None:
        """Make `block` unfindable, as when its contents are suspect; nothing if it has no name."""
        name = self._hash_by_block.pop(block, None)
        if name is not None:
            del self._block_by_hash[name]
            self._pool.set_cached(block, False)

    def clear(self) -> None:
        """Forget every block; those that sequences hold stay theirs."""
        for block in list(self._hash_by_block):
            self.forget(block)

    def check(self) -> None:
        """Assert that names and blocks mirror each other and the pool agrees. O(num_blocks)."""
        assert len(self._block_by_hash) == len(self._hash_by_block), (
            "a block has two names, or a name two blocks"
        )
        for block, name in self._hash_by_block.items():
            assert self._block_by_hash[name] == block, f"block {block}'s name finds another block"
        cached = {block for block in range(self._pool.num_blocks) if self._pool.is_cached(block)}
        assert cached == set(self._hash_by_block), (
            "the pool keeps other blocks than the prefix cache can find"
        )

    def _evicted(self, block: int) -> None:
        del self._block_by_hash[self._hash_by_block.pop(block)]
