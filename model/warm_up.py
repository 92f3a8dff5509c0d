"""Runs what users will ask for before they do: compiles kernels and loads libraries' code, on a GPU.

Knows the classes of steps that are not replayed from graphs, not what they cost.
"""

from __future__ import annotations

import torch

from .plan import SequenceSlice, SlotStart, StepPlan
from .runner import ModelRunner
from .sampling_params import SamplingParams

_SMALL_CHUNK = 2


def warm_up(
    runner: ModelRunner, *, max_tokens: int, max_length: int, block_size: int, num_slots: int
) -> None:
    """Run a small chunk and a large one, alone and beside a decode, on block 0 and two slots.

    max_tokens: of one step.   max_length: tokens of one sequence.
    Nothing is left behind that a new owner of the slots and blocks would see.
    """
    largest = max(1, min(max_tokens - 1, max_length - 1))
    for length in sorted({min(_SMALL_CHUNK, largest), largest}):
        chunk = SequenceSlice(0, 0, length, [0] * length, [0] * -(-length // block_size), True)
        runner.run(StepPlan((chunk,), (_start(0),)))
        if num_slots > 1:
            decode = SequenceSlice(1, 0, 1, [0], [0], True)
            runner.run(StepPlan((decode, chunk), (_start(0), _start(1))))
    torch.cuda.synchronize(runner.device)


def _start(slot: int) -> SlotStart:
    params = SamplingParams(temperature=0.5, top_p=0.9, presence_penalty=0.1, logprobs=1)
    return SlotStart(slot, params, 0, frozenset(), [0], [])
