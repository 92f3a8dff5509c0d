"""What an engine will use of a GPU's memory, measured before there is a KV cache: the largest step is run.

The rehearsal has pages of one block, into which every row of it writes: what it computes is worth nothing.
"""

from __future__ import annotations

import torch

from .memory import MemoryUse, device_memory
from .plan import SequenceSlice, SlotStart, StepPlan
from .runner import ModelRunner
from .sampling_params import SamplingParams

_SPARE_BYTES = 96 << 20
"""For what the driver and the allocator will hold later and do not yet: kernels of matrix libraries for other
shapes, and segments that steps of other sizes leave half used."""
_TOP_LOGPROBS = 20


def rehearse(
    runner: ModelRunner, *, max_tokens: int, max_length: int, block_size: int, with_graphs: bool
) -> MemoryUse:
    """Run the largest step, capture a few graphs, and tell what they took.

    The kernels must have been compiled. max_tokens: of one step.   max_length: tokens of one sequence.
    Raises torch.OutOfMemoryError if even that does not fit. Nothing is left behind that a new owner of slots
    would see.
    """
    device = runner.device
    num_top = min(_TOP_LOGPROBS, runner.vocab_size)
    step = largest_step(runner.num_slots, max_tokens, max_length, block_size, num_top)
    runner.run(step)  # libraries load what they need
    graphs_bytes = runner.graph_bytes(max_tokens) if with_graphs else 0
    _free_cached(device)
    total_bytes, others_bytes = device_memory(device)
    torch.cuda.reset_peak_memory_stats(device)
    runner.run(step)
    torch.cuda.synchronize(device)
    peak_bytes = torch.cuda.max_memory_reserved(device)
    _free_cached(device)
    return MemoryUse(
        total_bytes,
        others_bytes,
        runner.weight_bytes,
        peak_bytes - runner.weight_bytes + _SPARE_BYTES,
        graphs_bytes,
        peak_bytes - torch.cuda.memory_reserved(device),
    )


def largest_step(num_slots: int, max_tokens: int, max_length: int, block_size: int, num_top: int) -> StepPlan:
    """As many rows as there may be, as many tokens, all sampled, and everything asked of all of them.

    num_top: log-probabilities that are told of a token.   All rows are in block 0.
    """
    params = SamplingParams(temperature=0.5, top_p=0.9, logprobs=num_top, prompt_logprobs=num_top)
    num_rows = min(num_slots, max_tokens)
    longest = max(1, max_length - 1)  # the last token of a sequence is sampled, never computed on
    lengths = [1] * num_rows
    left = max_tokens - num_rows
    for row in reversed(range(num_rows)):
        lengths[row] += (more := min(left, longest - 1))
        left -= more
    starts = [SlotStart(row, params, 0, frozenset(), [0], []) for row in range(num_rows)]
    rows = [
        SequenceSlice(
            slot=row,
            start=0,
            length=length,
            tokens=[0] * length,
            new_blocks=[0] * -(-length // block_size),
            samples=True,
            targets=[0] * (length - 1),
        )
        for row, length in enumerate(lengths)
    ]
    return StepPlan(tuple(rows), tuple(starts))


def _free_cached(device: torch.device) -> None:
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
