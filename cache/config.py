"""The shape of the KV cache that the scheduler hands out. Knows neither layers nor bytes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CacheConfig:
    """Size and rules of the block pool.

    num_blocks: blocks in the pool.   block_size: tokens in a block, a power of two.
    Raises ValueError, naming the field, the rule and the value.
    """

    num_blocks: int
    block_size: int = 16
    enable_prefix_caching: bool = True

    def __post_init__(self) -> None:
        if self.num_blocks < 1:
            raise ValueError(f"num_blocks must be at least 1, got {self.num_blocks}")
        if self.block_size < 1 or self.block_size & (self.block_size - 1):
            raise ValueError(f"block_size must be a power of two, got {self.block_size}")

    @property
    def capacity_tokens(self) -> int:
        """Tokens that the whole pool holds; also the longest sequence that can ever run."""
        return self.num_blocks * self.block_size

    def blocks_for(self, num_tokens: int) -> int:
        """Blocks that `num_tokens` tokens of one sequence occupy."""
        return -(-num_tokens // self.block_size)
