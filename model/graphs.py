"""Whole decode steps as CUDA graphs, one per padded batch size. Knows no model: it captures what it is given.

A captured step reads its inputs from one buffer at a fixed address and leaves its results at fixed addresses,
so a launch is one copy and one replay. Graphs share one memory pool and are captured from large to small: the
smaller ones live in what the largest needs.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .step_inputs import BlockTableMirror, HostBuffer, StepArrays, StepBounds, StepLayout, StepShape, unpack


def decode_sizes(max_num_seqs: int) -> list[int]:
    """Batch sizes to capture, ascending; from 64 on, padding costs at most an eighth."""
    sizes = [*range(1, 17), *range(24, 257, 8), *range(288, 513, 32), *range(576, 1025, 64)]
    return sorted({*(size for size in sizes if size < max_num_seqs), min(max_num_seqs, sizes[-1])})


@dataclass(frozen=True, slots=True)
class CapturedStep:
    """One graph and where it leaves its results, of which the first S rows are real.

    staging: host buffers used in turn; one is still being read when the next step is packed.
    logits: [size, vocab_size].   tokens: [size] int32.
    """

    graph: torch.cuda.CUDAGraph
    staging: Iterator[HostBuffer]
    logits: Tensor
    tokens: Tensor


class DecodeGraphs:
    """Graphs of steps whose rows are all of length 1.

    step: queues one step on the current stream and returns (logits, tokens).
    hits, misses: decode steps that were replayed, and that were larger than any graph.
    """

    def __init__(
        self,
        step: Callable[[StepArrays, int], tuple[Tensor, Tensor]],
        mirror: BlockTableMirror,
        sizes: Sequence[int],
        device: torch.device,
    ) -> None:
        self.hits = 0
        self.misses = 0
        self._step = step
        self._mirror = mirror
        self._sizes = sorted(sizes)
        self._device = device
        self._captured: dict[int, CapturedStep] = {}
        self._inputs = torch.zeros(_shape(self._sizes[-1]).num_bytes, dtype=torch.uint8, device=device)

    def capture_all(self) -> None:
        """Capture every size. The kernels must have been compiled, or capture fails."""
        pool = torch.cuda.graph_pool_handle()
        for size in reversed(self._sizes):
            self._captured[size] = self._capture(size, pool)

    def replay(self, layout: StepLayout) -> CapturedStep | None:
        """Queue a step on the current stream; None, and nothing done, if no graph is large enough."""
        index = bisect_left(self._sizes, max(layout.shape.num_rows, layout.shape.num_updates))
        captured = self._captured.get(self._sizes[index]) if index < len(self._sizes) else None
        if captured is None:
            self.misses += 1
            return None
        self.hits += 1
        self._copy_in(layout, next(captured.staging))
        captured.graph.replay()
        return captured

    def _capture(self, size: int, pool: Any) -> CapturedStep:
        shape = _shape(size)
        staging = [HostBuffer(shape, self._device) for _ in range(_NUM_STAGING)]
        self._copy_in(_EMPTY, staging[0])
        inputs = unpack(self._inputs, shape)
        self._step(inputs, size)  # compiles what this size needs
        torch.cuda.synchronize(self._device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            logits, tokens = self._step(inputs, size)
        return CapturedStep(graph, itertools.cycle(staging), logits, tokens)

    def _copy_in(self, layout: StepLayout, staging: HostBuffer) -> None:
        packed = staging.pack(layout, self._mirror)
        self._inputs[: len(packed)].copy_(packed, non_blocking=True)


_NUM_STAGING = 3
_EMPTY = StepLayout(
    StepShape(0, 0, 0, 0),
    StepBounds(0, 0, 0),
    [],
    {name: np.zeros(0, np.int32) for name in StepArrays._fields},
)


def _shape(size: int) -> StepShape:
    """A decode row takes at most one new block; one that continues a cached prefix may bring more."""
    return StepShape(size, size, size, size)
