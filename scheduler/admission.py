"""Whether there is room for a sequence that waits, and what of it is cached. Knows no queue and no budget."""

from __future__ import annotations

from ..cache.block_pool import BlockPool
from ..cache.config import CacheConfig
from ..cache.prefix_cache import PrefixCache
from . import policy
from .running import Running
from .sequence import Sequence


class Admission:
    """Asked for the same sequence step after step while it does not fit, it answers without looking again."""

    __slots__ = ("_cache", "_pool", "_prefix_cache", "_refused", "_running")

    def __init__(
        self, cache: CacheConfig, pool: BlockPool, prefix_cache: PrefixCache, running: Running
    ) -> None:
        self._cache = cache
        self._pool = pool
        self._prefix_cache = prefix_cache
        self._running = running
        self._refused: tuple[Sequence, int] | None = None  # who did not fit, in how many blocks

    def find_room(self, sequence: Sequence) -> list[int] | None:
        """Cached blocks that a waiting sequence starts from, held for it; None if the rest does not fit.

        It must leave what prompts let in earlier will still take, so these never have to preempt for it.
        """
        length, size = len(sequence.token_ids), self._cache.block_size
        reserve = self._running.promised_blocks() + policy.admission_reserve(len(self._running))
        room = self._pool.num_free - reserve
        if self._refused is not None and self._refused[0] is sequence and room <= self._refused[1]:
            return None  # nothing was freed since; looking its blocks up again would only cost time
        cached: list[int] = []
        if self._cache.enable_prefix_caching and sequence.request.params.reads_prefix_cache:
            sequence.hash_blocks(length // size, size)
            cached = self._prefix_cache.match(sequence.block_hashes[: (length - 1) // size])
        if self._cache.blocks_for(length) - len(cached) + reserve > self._pool.num_free:
            self._pool.release(reversed(cached))
            self._refused = (sequence, room)
            return None
        return cached
