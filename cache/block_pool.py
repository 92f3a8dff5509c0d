"""Who holds which KV block. Knows neither tokens, sequences nor where a block's bytes live.

A block is in exactly one of three states, and every change is O(1):

    free        on the free list; its contents are worthless
    referenced  held by one or more block tables
    evictable   held by none, but the prefix cache can still find its contents; reused when no block is free,
                least recently released first
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable


class BlockPool:
    """Reference counts over blocks 0 .. num_blocks - 1.

    on_evict: called with a block's id when its contents are about to be overwritten although they could
    still be found; set by the prefix cache.
    """

    __slots__ = ("_cached", "_evictable", "_free", "_references", "num_blocks", "on_evict")

    def __init__(self, num_blocks: int, on_evict: Callable[[int], None] | None = None) -> None:
        assert num_blocks >= 1, f"a pool needs a block, got {num_blocks}"
        self.num_blocks = num_blocks
        self.on_evict = on_evict
        self._references = [0] * num_blocks
        self._cached = [False] * num_blocks
        self._evictable: OrderedDict[int, None] = OrderedDict()
        # A stack, so that the block released last, which a processor's cache may still hold, is reused first.
        self._free = list(range(num_blocks - 1, -1, -1))

    @property
    def num_free(self) -> int:
        """Blocks that can be allocated now: free and evictable."""
        return len(self._free) + len(self._evictable)

    @property
    def num_evictable(self) -> int:
        """Blocks that only the prefix cache remembers."""
        return len(self._evictable)

    @property
    def num_referenced(self) -> int:
        """Blocks that sequences hold."""
        return self.num_blocks - len(self._free) - len(self._evictable)

    def allocate(self, count: int = 1) -> list[int] | None:
        """Take `count` blocks, each with one reference; None, and nothing changed, if there are too few."""
        free = self._free
        if count > len(free):
            if count > len(free) + len(self._evictable):
                return None
            self._evict(count - len(free))
        references = self._references
        blocks = []
        for _ in range(count):
            block = free.pop()
            references[block] = 1
            blocks.append(block)
        return blocks

    def incref(self, block: int) -> None:
        """Add a reference to a block that is referenced or evictable."""
        count = self._references[block]
        if count == 0:
            assert block in self._evictable, f"block {block} is free: its contents are gone"
            del self._evictable[block]
        self._references[block] = count + 1

    def decref(self, block: int) -> None:
        """Drop a reference; with the last one the block becomes evictable if it is cached, else free."""
        self.release((block,))

    def release(self, blocks: Iterable[int]) -> None:
        """Drop a reference of each block, in the order given: the first becomes the first to be evicted."""
        references, cached, evictable, free = self._references, self._cached, self._evictable, self._free
        for block in blocks:
            count = references[block] - 1
            assert count >= 0, f"block {block} was released more often than it was taken"
            references[block] = count
            if count:
                continue
            if cached[block]:
                evictable[block] = None
            else:
                free.append(block)

    def references(self, block: int) -> int:
        """How many hold the block."""
        return self._references[block]

    def is_cached(self, block: int) -> bool:
        """Whether the prefix cache can find the block's contents."""
        return self._cached[block]

    def states(self, blocks: slice) -> tuple[list[int], list[bool]]:
        """How many hold each of `blocks`, and whether the prefix cache can find it. O(blocks)."""
        return self._references[blocks], self._cached[blocks]

    def set_cached(self, block: int, cached: bool) -> None:
        """Say whether the contents can be found again; for the prefix cache, which keeps the hash."""
        assert self._references[block] or block in self._evictable, f"block {block} is free: nothing to cache"
        self._cached[block] = cached
        if not cached and block in self._evictable:
            del self._evictable[block]
            self._free.append(block)

    def check(self) -> None:
        """Assert every invariant. O(num_blocks): for tests, and for an idle engine."""
        free, evictable = set(self._free), set(self._evictable)
        assert len(free) == len(self._free), "a block is on the free list twice"
        assert not free & evictable, f"blocks both free and evictable: {sorted(free & evictable)}"
        referenced = {block for block, count in enumerate(self._references) if count}
        assert not referenced & free, f"referenced blocks on the free list: {sorted(referenced & free)}"
        assert not referenced & evictable, f"referenced blocks evictable: {sorted(referenced & evictable)}"
        assert len(free) + len(evictable) + len(referenced) == self.num_blocks, (
            f"{len(free)} free + {len(evictable)} evictable + {len(referenced)} referenced blocks "
            f"are not {self.num_blocks}"
        )
        assert len(referenced) == self.num_referenced
        cached = {block for block, flag in enumerate(self._cached) if flag}
        assert evictable <= cached, f"evictable blocks that nothing can find: {sorted(evictable - cached)}"
        assert not cached & free, f"free blocks that the prefix cache can find: {sorted(cached & free)}"

    def _evict(self, count: int) -> None:
        for _ in range(count):
            block, _ = self._evictable.popitem(last=False)
            self._cached[block] = False
            if self.on_evict is not None:
                self.on_evict(block)
            self._free.append(block)
