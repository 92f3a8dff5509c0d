"""Whether a plan keeps the promises of plan.py, before a device is asked to believe it. Torch-free.

A wrong slot or block would overwrite another sequence, and would show, if at all, as strange text of another
request.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import add

import numpy as np

from .plan import PlainRows, SequenceSlice, StepPlan


class PlanError(Exception):
    """The scheduler planned what must not be launched: its books are wrong, nothing that follows is safe."""


class PlanCheck:
    """Follows how many blocks each slot has. O(slices) in Python, O(rows) in numpy."""

    def __init__(self, num_slots: int, num_blocks: int, block_size: int) -> None:
        self._num_slots = num_slots
        self._num_blocks = num_blocks
        self._block_size = block_size
        self._room = np.zeros(num_slots, np.int64)  # tokens
        self._taken = np.zeros(num_slots, np.bool_)

    def check(self, plan: StepPlan) -> None:
        """Raises PlanError with the first row that is wrong."""
        plain = plan.plain
        slots = [row.slot for row in plan.slices]
        self._check_slots(plain, slots)
        for begun in plan.starts:
            if begun.slot not in slots:
                raise PlanError(f"slot {begun.slot} starts without a row")
            self._room[begun.slot] = 0
        if len(plain.slots):
            self._check_plain(plain)
        if plan.slices:
            self._check_slices(plan.slices)

    def _check_slots(self, plain: PlainRows, others: Sequence[int]) -> None:
        slots = np.concatenate((plain.slots, np.array(others, np.int32))) if others else plain.slots
        if 0 <= int(slots.min()) <= int(slots.max()) < self._num_slots:
            self._taken[slots] = True
            num_taken = np.count_nonzero(self._taken)
            self._taken[slots] = False
            if num_taken == len(slots):
                return
        given = sorted(slots.tolist())[:50]
        raise PlanError(f"slots must differ and be in [0, {self._num_slots}), got {given}")

    def _check_plain(self, plain: PlainRows) -> None:
        slots, starts, grown, blocks = plain
        for slot, block in zip(grown, blocks, strict=True):
            self._grow(slot, [block])
        if int(starts.min()) < 0:
            raise PlanError("rows must begin at 0 or later, got one that does not")
        short = starts >= self._room[slots]
        if short.any():
            self._refuse(int(slots[short][0]), int(starts[short][0]) + 1)

    def _check_slices(self, slices: Sequence[SequenceSlice]) -> None:
        slots, starts, lengths, tokens, new_blocks, *_ = zip(*slices, strict=True)
        if min(lengths) < 1 or min(starts) < 0:
            raise PlanError("rows must begin at 0 or later and have a token, got one that does not")
        num_single = lengths.count(1)
        if lengths[:num_single].count(1) != num_single:
            raise PlanError("rows of one token must come first")
        room = self._room
        for slot, blocks, end in zip(slots, new_blocks, map(add, starts, lengths), strict=True):
            if blocks:
                self._grow(slot, blocks)
            if end > room[slot]:
                self._refuse(slot, end)
        for slot, length, known in zip(slots, lengths, tokens, strict=True):
            if length != (1 if known is None else len(known)):
                raise PlanError(f"slot {slot} must bring {length} tokens, got {known}")

    def _grow(self, slot: int, blocks: Sequence[int]) -> None:
        if not 0 <= min(blocks) <= max(blocks) < self._num_blocks:
            raise PlanError(f"slot {slot} must get blocks in [0, {self._num_blocks}), got {blocks}")
        self._room[slot] += len(blocks) * self._block_size

    def _refuse(self, slot: int, num_tokens: int) -> None:
        raise PlanError(f"slot {slot} has room for {self._room[slot]} tokens, and would hold {num_tokens}")
