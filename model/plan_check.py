"""Whether a plan keeps the promises of plan.py, before a device is asked to believe it. Torch-free.

A wrong slot or block would overwrite another sequence, and show, if ever, as somebody else's strange text.
"""

from __future__ import annotations

from operator import add

from .plan import StepPlan


class PlanError(Exception):
    """The scheduler planned what must not be launched: its books are wrong, nothing that follows is safe."""


class PlanCheck:
    """Follows how many blocks each slot has. O(rows) for a plan, well under a microsecond for each."""

    def __init__(self, num_slots: int, num_blocks: int, block_size: int) -> None:
        self._num_slots = num_slots
        self._num_blocks = num_blocks
        self._block_size = block_size
        self._room = [0] * num_slots  # tokens

    def check(self, plan: StepPlan) -> None:
        """Raises PlanError with the first row that is wrong."""
        slots, starts, lengths, tokens, new_blocks, *_ = zip(*plan.rows, strict=True)
        if not 0 <= min(slots) <= max(slots) < self._num_slots or len(set(slots)) != len(slots):
            raise PlanError(f"slots must differ and be in [0, {self._num_slots}), got {sorted(slots)[:50]}")
        if min(lengths) < 1 or min(starts) < 0:
            raise PlanError("rows must begin at 0 or later and have a token, got one that does not")
        num_single = lengths.count(1)
        if lengths[:num_single].count(1) != num_single:
            raise PlanError("rows of one token must come first")
        for start in plan.starts:
            if start.slot not in slots:
                raise PlanError(f"slot {start.slot} starts without a row")
            self._room[start.slot] = 0
        room = self._room
        for slot, blocks in zip(slots, new_blocks, strict=True):
            if blocks:
                if not 0 <= min(blocks) <= max(blocks) < self._num_blocks:
                    raise PlanError(f"slot {slot} must get blocks in [0, {self._num_blocks}), got {blocks}")
                room[slot] += len(blocks) * self._block_size
        for slot, end in zip(slots, map(add, starts, lengths), strict=True):
            if end > room[slot]:
                raise PlanError(f"slot {slot} has room for {room[slot]} tokens, and would hold {end}")
        if tokens[:num_single].count(None) == num_single:  # decodes, as nearly always
            slots, lengths, tokens = slots[num_single:], lengths[num_single:], tokens[num_single:]
        for slot, length, known in zip(slots, lengths, tokens, strict=True):
            if length != (1 if known is None else len(known)):
                raise PlanError(f"slot {slot} must bring {length} tokens, got {known}")
