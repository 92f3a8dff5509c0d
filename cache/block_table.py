"""One sequence's blocks, in order of position. Knows neither token ids nor what the blocks contain."""

from __future__ import annotations

from collections.abc import Sequence

from .block_pool import BlockPool


class BlockTable:
    """Block ids of one sequence: position p lives in `blocks[p // block_size]`, at offset p % block_size.

    The table owns one reference of each of its blocks.
    capacity_tokens: tokens that the blocks have room for; to be read only, a plain attribute because the
    scheduler reads it for every token.
    """

    __slots__ = ("_block_size", "_pool", "blocks", "capacity_tokens")

    def __init__(self, pool: BlockPool, block_size: int) -> None:
        self.blocks: list[int] = []
        self._pool = pool
        self._block_size = block_size
        self.capacity_tokens = 0

    def __len__(self) -> int:
        return len(self.blocks)

    def missing(self, num_tokens: int) -> int:
        """Blocks that `ensure(num_tokens)` would have to take."""
        if num_tokens <= self.capacity_tokens:
            return 0
        return -(-(num_tokens - self.capacity_tokens) // self._block_size)

    def ensure(self, num_tokens: int) -> Sequence[int] | None:
        """Make room for the first `num_tokens` tokens of the sequence.

        Returns the blocks appended for it, or None, and nothing changed, if the pool has too few.
        """
        short = num_tokens - self.capacity_tokens
        if short <= 0:
            return ()
        blocks = self._pool.allocate(-(-short // self._block_size))
        if blocks is None:
            return None
        self.blocks += blocks
        self.capacity_tokens += len(blocks) * self._block_size
        return blocks

    def append(self, block: int) -> None:
        """Take over a block that the caller has allocated."""
        self.blocks.append(block)
        self.capacity_tokens += self._block_size

    def adopt(self, blocks: Sequence[int]) -> None:
        """Begin an empty table with cached blocks; takes over the references that the match took."""
        assert not self.blocks, "cached blocks are a prefix: the table must be empty"
        self.blocks.extend(blocks)
        self.capacity_tokens = len(blocks) * self._block_size

    def release(self) -> None:
        """Give every block back, the last first.

        Of a cached sequence the tail is then evicted before the head, which is what other sequences share
        and without which the tail cannot be found.
        """
        self._pool.release(reversed(self.blocks))
        self.blocks.clear()
        self.capacity_tokens = 0
