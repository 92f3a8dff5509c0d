"""Who holds slots and blocks: sequences that prefill, decode, or left while the device was at them.

Slot and blocks of a sequence go back when the last plan that mentions it has committed, never earlier: the
device may still write there. Plans are numbered, and commit in order.

    prefilling --> apart <--> batch          apart: decodes that are looked at one by one, in every step
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from ..cache.block_pool import BlockPool
from .decode_batch import DecodeBatch
from .distribution import Distribution
from .request import FinishReason
from .sequence import Sequence


class Running:
    """The running sequences and the free slots.

    prefilling: in order of admission.   batch: decodes that only go on.
    apart: other decodes. They have a grammar, need a block, sampled their last token or have just begun.
    abort_to_free_s: where it counts how long aborted sequences kept slot and blocks.
    """

    __slots__ = (
        "_abort_to_free_s",
        "_committed_step",
        "_free_slots",
        "_num_slots",
        "_retiring",
        "apart",
        "batch",
        "prefilling",
    )

    def __init__(self, num_slots: int, abort_to_free_s: Distribution) -> None:
        self.prefilling: dict[Sequence, None] = {}
        self.apart: dict[Sequence, None] = {}
        self.batch = DecodeBatch(num_slots)
        self._retiring: dict[Sequence, None] = {}
        self._committed_step = 0
        self._num_slots = num_slots
        self._abort_to_free_s = abort_to_free_s
        self._free_slots = list(range(num_slots - 1, -1, -1))

    def __len__(self) -> int:
        return len(self.prefilling) + len(self.apart) + len(self.batch)

    def __iter__(self) -> Iterator[Sequence]:
        yield from self.prefilling
        yield from self.apart
        yield from self.batch

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
        self.apart[sequence] = None

    def rejoin(self) -> None:
        """Who stands apart and need not any more, joins the batch."""
        for sequence in [s for s in self.apart if self.batch.takes(s)]:
            del self.apart[sequence]
            self.batch.join(sequence)

    def set_apart(self, sequence: Sequence) -> None:
        """Take a sequence out of the batch, for it cannot go on by itself."""
        self.batch.leave(sequence)
        self.apart[sequence] = None

    def leave(self, sequence: Sequence) -> None:
        """Stop running; slot and blocks go back now or when its last plan has committed."""
        self.prefilling.pop(sequence, None)
        self.apart.pop(sequence, None)
        if sequence.place >= 0:
            self.batch.leave(sequence)
        if self.is_in_flight(sequence):
            self._retiring[sequence] = None
        else:
            self._release(sequence)

    @property
    def retiring(self) -> Iterable[Sequence]:
        """Those that left, and that a plan in flight mentions."""
        return self._retiring

    def is_in_flight(self, sequence: Sequence) -> bool:
        """Whether a plan that has not committed mentions a sequence that is in no batch."""
        return sequence.last_step > self._committed_step

    def begin_commit(self, step: int) -> None:
        """The device is done with this step, and those before it."""
        self._committed_step = step

    def end_commit(self) -> None:
        """What the committed steps brought is filed: nobody needs the blocks of those that retired."""
        for sequence in [s for s in self._retiring if not self.is_in_flight(s)]:
            del self._retiring[sequence]
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
