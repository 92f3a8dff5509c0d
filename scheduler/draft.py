"""A step plan while it is put together: rows can be taken back. Knows no policy and no blocks."""

from __future__ import annotations

from collections.abc import Sequence as Ids
from itertools import groupby
from operator import itemgetter

from ..model.plan import SequenceSlice, SlotStart, StepPlan, TokenMasks
from .sequence import Sequence
from .step_time import StepLoad

_START = itemgetter(SequenceSlice._fields.index("start"))


class StepDraft:
    """Rows and their sequences; `budget` is how many tokens the step may still take.

    preempted: somebody lost its place for this step, so nobody new comes in.
    """

    __slots__ = ("_bound", "_chunk_owners", "_chunks", "_owners", "_rows", "budget", "preempted", "starts")

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.preempted = False
        self.starts: list[SlotStart] = []
        self._bound = False  # whether any row has a constraint
        self._rows: list[SequenceSlice] = []  # of length 1
        self._owners: list[Sequence] = []
        self._chunks: list[SequenceSlice] = []
        self._chunk_owners: list[Sequence] = []

    def add_decode(self, sequence: Sequence, position: int, new_blocks: Ids[int]) -> None:
        """Compute on the token that the device sampled last, and sample the next."""
        # Once for every token: the constructor that NamedTuple writes takes twice as long.
        row = tuple.__new__(SequenceSlice, (sequence.slot, position, 1, None, new_blocks, True, ()))
        self._rows.append(row)
        self._owners.append(sequence)
        sequence.num_scheduled = position + 1
        self.budget -= 1
        if sequence.constraint is not None:
            self._bound = True

    def add_prefill(self, sequence: Sequence, start: int, length: int, new_blocks: Ids[int]) -> None:
        """Compute `length` known tokens, and sample if they are the last known."""
        end = start + length
        samples = end == sequence.num_prefill
        tokens, targets = sequence.token_ids[start:end], sequence.targets(start, end)
        row = SequenceSlice(sequence.slot, start, length, tokens, new_blocks, samples, targets)
        self._bound |= sequence.constraint is not None
        rows, owners = (self._rows, self._owners) if length == 1 else (self._chunks, self._chunk_owners)
        rows.append(row)
        owners.append(sequence)
        sequence.num_scheduled = end
        self.budget -= length

    def remove(self, sequence: Sequence) -> None:
        """Take the row of `sequence` back, if it has one."""
        for rows, owners in ((self._rows, self._owners), (self._chunks, self._chunk_owners)):
            if sequence in owners:
                index = owners.index(sequence)
                row = rows.pop(index)
                del owners[index]
                sequence.num_scheduled = row.start
                self.budget += row.length

    def load(self, decodes: StepLoad | None = None) -> StepLoad:
        """What makes the step long. decodes: `load` before there were chunks, if it was called."""
        if decodes is None:
            decodes = StepLoad(len(self._rows), sum(map(_START, self._rows)))
        if not self._chunks:
            return decodes
        return decodes._replace(
            prompt_tokens=sum(row.length for row in self._chunks),
            prompt_work=sum(row.length * (row.start + row.length / 2) for row in self._chunks),
        )

    def build(self) -> tuple[StepPlan, list[Sequence]]:
        """The plan and, row by row, whose it is; without rows there is nothing to launch."""
        rows, owners = (*self._rows, *self._chunks), self._owners + self._chunk_owners
        return StepPlan(rows, tuple(self.starts), _masks(rows, owners) if self._bound else None), owners


def _masks(rows: Ids[SequenceSlice], owners: Ids[Sequence]) -> TokenMasks | None:
    """What the rows that sample may take. All their tokens are known: nobody else's constraint is asked."""
    pairs = zip(rows, owners, strict=True)
    bound = [(row.slot, c) for row, s in pairs if (c := s.constraint) is not None and row.samples]
    if not bound:
        return None
    bound.sort(key=lambda pair: type(pair[1]).__name__)
    words = b""
    for _, same in groupby(bound, key=lambda pair: type(pair[1])):
        constraints = [constraint for _, constraint in same]
        words += constraints[0].masks(constraints)
    return TokenMasks([slot for slot, _ in bound], words)
