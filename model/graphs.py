"""Whole steps as CUDA graphs, one per padded shape. Knows no model: it captures what it is given.

A captured step reads its inputs from one buffer at a fixed address and leaves its results at fixed addresses,
so a launch is one copy and one replay. There are two families of shapes: steps of decodes alone, and mixed
ones, whose rows are decodes and chunks in any proportion. Graphs share one memory pool and are captured from
large to small: the smaller ones live in what the largest needs.
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

from .step_inputs import BlockTableMirror, HostBuffer, StepArrays, StepLayout, StepShape, unpack

MAX_CHUNKS = 64
"""Chunks of a mixed graph at most."""

_MIXED_TOKENS = (64, 128, 192, 256, 320, 384, 512, 640, 768, 1024, 1280, 1536, 2048)
_MIXED_ROWS = (16, 64, 256, 512, 1024)
_SPARE_UPDATES = 256
"""Block-table entries of a mixed graph beside one per row and its own tokens': for cached prefixes."""


def decode_sizes(max_num_seqs: int) -> list[int]:
    """Batch sizes to capture, ascending; from 64 on, padding costs at most an eighth."""
    sizes = [*range(1, 17), *range(24, 257, 8), *range(288, 513, 32), *range(576, 1025, 64)]
    return sorted({*(size for size in sizes if size < max_num_seqs), min(max_num_seqs, sizes[-1])})


def decode_shapes(max_num_seqs: int) -> list[StepShape]:
    """Steps whose every token is sampled, ascending. A row takes a new block at most, or a cached prefix."""
    return [StepShape(size, size, 0, size, size) for size in decode_sizes(max_num_seqs)]


def mixed_shapes(max_num_seqs: int, max_num_tokens: int, block_size: int) -> list[StepShape]:
    """Steps with chunks, ascending by tokens, then by rows.

    Beyond 2,048 tokens the device takes longer than launching kernel by kernel does.
    """
    rows = sorted({min(num_rows, max_num_seqs) for num_rows in _MIXED_ROWS})
    return [
        StepShape(tokens, size, min(size, MAX_CHUNKS), size, size + -(-tokens // block_size) + _SPARE_UPDATES)
        for tokens in mixed_sizes(max_num_tokens)
        for size in rows
        if size < tokens
    ]


def mixed_sizes(max_num_tokens: int) -> tuple[int, ...]:
    """Tokens of the steps with chunks that are captured, ascending."""
    return tuple(tokens for tokens in _MIXED_TOKENS if tokens <= max_num_tokens)


def varied_shapes(max_num_seqs: int, block_size: int) -> list[StepShape]:
    """A few steps that between them need every kernel variant that any step needs."""
    *decodes, largest = decode_shapes(max_num_seqs)
    sizes = {1, 2, 3, 8, 16, 32, 64, 128, 256, 512}
    mixed = mixed_shapes(max_num_seqs, _MIXED_TOKENS[-1], block_size)[-len(_MIXED_ROWS) :]
    return [*(shape for shape in decodes if shape.num_tokens in sizes), largest, *mixed]


@dataclass(frozen=True, slots=True)
class CapturedStep:
    """One graph and where it leaves its results, of which the first S rows are real.

    inputs: where the step reads what a host buffer holds.
    staging: host buffers used in turn; one is still being read when the next step is packed.
    logits: [S, vocab_size].   tokens: [S] int32.
    """

    graph: torch.cuda.CUDAGraph
    inputs: Tensor
    staging: Iterator[HostBuffer]
    logits: Tensor
    tokens: Tensor


class StepGraphs:
    """Graphs of the shapes given, which are ascending."""

    def __init__(
        self,
        mirror: BlockTableMirror,
        decodes: Sequence[StepShape],
        mixed: Sequence[StepShape],
        device: torch.device,
    ) -> None:
        self._mirror = mirror
        self._decodes = list(decodes)
        self._decode_sizes = [shape.num_tokens for shape in decodes]
        self._mixed = list(mixed)
        self._mixed_tokens = [shape.num_tokens for shape in mixed]
        self._device = device
        self._captured: dict[StepShape, CapturedStep] = {}
        num_bytes = max(shape.num_bytes for shape in (*decodes, *mixed))
        self._inputs = torch.zeros(num_bytes, dtype=torch.uint8, device=device)

    def capture_all(self, step: Callable[[StepArrays], tuple[Tensor, Tensor]]) -> None:
        """Capture every shape. The kernels must have been compiled, or capture fails.

        step: queues one step on the current stream and returns (logits, tokens).
        """
        pool = torch.cuda.graph_pool_handle()
        for shape in sorted((*self._decodes, *self._mixed), reverse=True):
            self._captured[shape] = self._capture(step, shape, pool)

    def replay(self, layout: StepLayout) -> CapturedStep | None:
        """Queue a step on the current stream; None, and nothing done, if no graph can hold it."""
        shape = self._fitting(layout.shape)
        if shape is None:
            return None
        captured = self._captured[shape]
        packed = next(captured.staging).pack(layout, self._mirror)
        captured.inputs.copy_(packed, non_blocking=True)
        captured.graph.replay()
        return captured

    def _fitting(self, wanted: StepShape) -> StepShape | None:
        """The smallest shape that holds a step."""
        if wanted.num_sampled == wanted.num_tokens:
            index = bisect_left(self._decode_sizes, max(wanted.num_tokens, wanted.num_updates))
            return self._decodes[index] if index < len(self._decodes) else None
        begin = bisect_left(self._mixed_tokens, wanted.num_tokens)
        return next((shape for shape in self._mixed[begin:] if shape.holds(wanted)), None)

    def _capture(
        self, step: Callable[[StepArrays], tuple[Tensor, Tensor]], shape: StepShape, pool: Any
    ) -> CapturedStep:
        staging = [HostBuffer(shape, self._device) for _ in range(_NUM_STAGING)]
        packed = self._inputs[: shape.num_bytes]
        packed.copy_(staging[0].pack(_EMPTY, self._mirror))
        inputs = unpack(packed, shape)
        step(inputs)  # compiles what this shape needs
        torch.cuda.synchronize(self._device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            logits, tokens = step(inputs)
        return CapturedStep(graph, packed, itertools.cycle(staging), logits, tokens)


_NUM_STAGING = 3
_EMPTY = StepLayout(StepShape(0, 0, 0, 0, 0), 0, [], dict.fromkeys(StepArrays._fields, np.zeros(0, np.int32)))
