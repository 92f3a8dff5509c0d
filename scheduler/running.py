"""Who holds slots and blocks: sequences that prefill, decode, or left while the device was at them.

Slot and blocks of a sequence go back when the last plan that mentions it has committed, never earlier: the
device may still write there.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from ..cache.block_pool import BlockPool
from .distribution import Distribution
from .request import FinishReason
from .sequence import Sequence


class Running:
    """The running sequences and the free slots.

    prefilling: in order of admission.   decoding: every prompt token has been scheduled.
    abort_to_free_s: where it counts how long aborted sequences kept slot and blocks.
    """

    __slots__ = ("_abort_to_free_s", "_free_slots", "_num_slots", "_retiring", "decoding", "prefilling")

    def __init__(self, num_slots: int, abort_to_free_s: Distribution) -> None:
        self.prefilling: dict[Sequence, None] = {}
        self.decoding: dict[Sequence, None] = {}
        self._retiring: set[Sequence] = set()
        self._num_slots = num_slots
        self._abort_to_free_s = abort_to_free_s
        self._free_slots = list(range(num_slots - 1, -1, -1))

    def __len__(self) -> int:
        return len(self.prefilling) + len(self.decoding)

    def __iter__(self) -> Iterator[Sequence]:
        yield from self.prefilling
        yield from self.decoding

    @property
    def has_free_slot(self) -> bool:
        """Whether `enter` may be called."""
        return bool(self._free_slots)

    def enter(self, sequence: Sequence, num_cached: int) -> None:
        """Give a sequence a slot; its first `num_cached` tokens are in the cache already."""
        sequence.begin(self._free_slots.pop(), num_cached)
        self.prefilling[sequence] = None

    def start_decoding(self, sequence: Sequence) -> None:
        """The last chunk of its prompt is scheduled."""
        del self.prefilling[sequence]
        self.decoding[sequence] = None

    def leave(self, sequence: Sequence) -> None:
        """Stop running; slot and blocks go back now or when `committed` sees its last plan."""
        self.prefilling.pop(sequence, None)
        self.decoding.pop(sequence, None)
        if sequence.num_in_flight:
            self._retiring.add(sequence)
        else:
            self._release(sequence)

    def committed(self, sequence: Sequence) -> None:
        """No plan in flight mentions the sequence any more."""
        if sequence in self._retiring:
            self._retiring.remove(sequence)
            self._release(sequence)

    def promised_blocks(self) -> int:
        """Blocks that prompts let in earlier will still take."""
        return sum(s.table.missing(s.num_prefill) for s in self.prefilling)

    def returning_blocks(self) -> int:
        """Blocks that come back, at most, when the plans in flight have committed."""
        return sum(len(s.table) for s in self._retiring)

    def waste(self) -> float:
        """Share of the tokens that the blocks have room for and that nobody has filled. O(running)."""
        room = sum(s.table.capacity_tokens for s in self)
        return 1 - sum(s.num_scheduled for s in self) / room if room else 0.0

    def check(self, pool: BlockPool) -> None:
        """Assert that no slot and no block is held twice or by nobody. O(blocks)."""
        holders = {*self, *self._retiring}
        slots = {s.slot for s in holders}
        assert len(slots) == len(holders), "two sequences in one slot"
        assert slots.isdisjoint(self._free_slots), "a slot both free and in use"
        assert len(slots) + len(self._free_slots) == self._num_slots, "a slot was lost"
        held = sum(len(s.table) for s in holders)
        assert held == sum(map(pool.references, range(pool.num_blocks))), "a block leaked"

    def _release(self, sequence: Sequence) -> None:
        sequence.table.release()
        self._free_slots.append(sequence.slot)
        if sequence.finish_reason in (FinishReason.ABORT, FinishReason.DEADLINE):
            self._abort_to_free_s.observe(time.monotonic() - sequence.timings.finished_s)
