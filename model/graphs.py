"""Whole steps as CUDA graphs, one per padded shape. Knows no model: it captures what it is given.

A captured step reads its inputs from one buffer at a fixed address and leaves its results at fixed addresses,
so a launch is one copy and one replay. There are two families of shapes: steps of decodes alone, and mixed
ones, whose rows are decodes and chunks in any proportion. Graphs share one memory pool and are captured from
large to small: the smaller ones live in what the largest needs. A few come first; the others when there is
nothing else to do, or when steps have lost more by making do with a larger one than a capture costs.
"""

from __future__ import annotations

import itertools
import logging
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .step_inputs import (
    BlockTableMirror,
    HostBuffer,
    StepArrays,
    StepLayout,
    StepShape,
    host_memory,
    unpack,
)

_MIXED_TOKENS = (
    *(64, 128, 192, 256, 320, 384, 512, 640, 768, 1024, 1280, 1536, 2048),
    *(2560, 3072, 3584, 4096, 5120, 6144, 7168, 8192),
)
_MIXED_ROWS = (16, 64, 256, 512, 1024, 1536)
_LARGE_TOKENS = 2048
_LARGE_ROWS = (64, 256, 1024, 2048)
"""Rows of graphs of more tokens than that, which take so long that padding costs little."""
_MIN_CHUNKS = 64
_TOKENS_PER_CHUNK = 32
_SPARE_UPDATES = 256
"""Block-table entries of a mixed graph beside one per row and its own tokens': for cached prefixes."""

log = logging.getLogger(__name__)

Step = Callable[[StepArrays], tuple[Tensor, Tensor]]
"""Queues one step on the current stream and returns (logits, tokens)."""


def decode_sizes(max_num_seqs: int) -> list[int]:
    """Batch sizes to capture, ascending; from 64 on, padding costs at most an eighth."""
    sizes = [*range(1, 17), *range(24, 257, 8), *range(288, 513, 32), *range(576, 1025, 64)]
    sizes += range(1152, 2049, 128)
    return sorted({*(size for size in sizes if size < max_num_seqs), min(max_num_seqs, sizes[-1])})


def decode_shapes(max_num_seqs: int) -> list[StepShape]:
    """Steps whose every token is sampled, ascending. A row takes a new block at most, or a cached prefix."""
    return [StepShape(size, size, 0, size, size) for size in decode_sizes(max_num_seqs)]


def mixed_shapes(max_num_seqs: int, max_num_tokens: int, block_size: int) -> list[StepShape]:
    """Steps with chunks, ascending by tokens, then by rows.

    Beyond 8,192 tokens the device takes longer than launching kernel by kernel does.
    """
    return [
        StepShape(
            tokens,
            size,
            min(size, max_chunks(tokens)),
            size,
            size + -(-tokens // block_size) + _SPARE_UPDATES,
        )
        for tokens in mixed_sizes(max_num_tokens)
        for size in _mixed_rows(tokens, max_num_seqs)
        if size < tokens
    ]


def max_chunks(num_tokens: int) -> int:
    """Chunks of a mixed graph at most; room for one costs next to nothing."""
    return max(_MIN_CHUNKS, num_tokens // _TOKENS_PER_CHUNK)


def _mixed_rows(num_tokens: int, max_num_seqs: int) -> list[int]:
    rows = _MIXED_ROWS if num_tokens <= _LARGE_TOKENS else _LARGE_ROWS
    return sorted({min(num_rows, max_num_seqs) for num_rows in rows})


def first_shapes(decodes: Sequence[StepShape], mixed: Sequence[StepShape]) -> set[StepShape]:
    """Shapes without which no step shall be: any other has one of them that is not much larger."""
    doubled = {shape for shape in decodes if shape.num_tokens.bit_count() == 1}
    widest = {shape.num_tokens: shape for shape in mixed}  # rows ascend, so the last stays
    return {*doubled, *decodes[-1:], *widest.values()}


def mixed_sizes(max_num_tokens: int) -> tuple[int, ...]:
    """Tokens of the steps with chunks that are captured, ascending."""
    return tuple(tokens for tokens in _MIXED_TOKENS if tokens <= max_num_tokens)


def varied_shapes(max_num_seqs: int, block_size: int) -> list[StepShape]:
    """A few steps that between them need every kernel variant that any step needs."""
    *decodes, largest = decode_shapes(max_num_seqs)
    sizes = {1, 2, 3, 8, 16, 32, 64, 128, 256, 512}
    # Small steps with chunks split prefixes, large ones do not: where, depends on the heads.
    few, *mixed, many = mixed_shapes(max_num_seqs, _MIXED_TOKENS[-1], block_size)
    every_width = (shape for shape in mixed if shape.num_tokens == _LARGE_TOKENS)
    return [*(shape for shape in decodes if shape.num_tokens in sizes), largest, few, *every_width, many]


@dataclass(frozen=True, slots=True)
class CapturedStep:
    """One graph and where it leaves its results, of which the first S rows are real.

    inputs: where the step reads what a host buffer holds.
    staging: host buffers of this shape, in memory that all shapes share, see StepGraphs.
    logits: [S, vocab_size].   tokens: [S] int32.
    """

    graph: torch.cuda.CUDAGraph
    inputs: Tensor
    staging: Sequence[HostBuffer]
    logits: Tensor
    tokens: Tensor


def _padding_of(larger: StepShape, best: StepShape) -> int:
    """Tokens that a step of shape `best` computes in vain in a larger one; a sampled row is worth a few."""
    return larger.num_tokens - best.num_tokens + (larger.num_sampled - best.num_sampled) // 4


class StepGraphs:
    """Graphs of the shapes given, which are ascending. The kernels must have been compiled, or captures fail.

    step: what is captured.   load: launches the kernels of `step`, so that libraries load them; they cannot
    during a capture.
    """

    def __init__(
        self,
        step: Step,
        load: Step,
        mirror: BlockTableMirror,
        decodes: Sequence[StepShape],
        mixed: Sequence[StepShape],
        device: torch.device,
    ) -> None:
        self._step = step
        self._load = load
        self._mirror = mirror
        self._decodes = list(decodes)
        self._decode_sizes = [shape.num_tokens for shape in decodes]
        self._mixed = list(mixed)
        self._mixed_tokens = [shape.num_tokens for shape in mixed]
        self._device = device
        self._captured: dict[StepShape, CapturedStep] = {}
        self._left = {*decodes, *mixed}
        self._wasted: Counter[StepShape] = Counter()  # tokens, by the shape that would have saved them
        num_bytes = max(shape.num_bytes for shape in self._left)
        self._inputs = torch.zeros(num_bytes, dtype=torch.uint8, device=device)
        # Used in turn: one is still being read when the next step is packed.
        self._staging = [host_memory(num_bytes, device) for _ in range(_NUM_STAGING)]
        self._turns = itertools.cycle(range(_NUM_STAGING))
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device)

    def capture_first(self) -> None:
        """Capture what must be there from the beginning."""
        for shape in sorted(first_shapes(self._decodes, self._mixed), reverse=True):
            self._capture(shape)

    def capture_next(self) -> bool:
        """Capture the shape that was missed most, or else the smallest; whether any are left."""
        if self._left:
            self._try_to_capture(min(self._left, key=lambda shape: (-self._wasted[shape], shape)))
        return bool(self._left)

    def measure(self) -> int:
        """Bytes that all graphs would take of the device, by capturing the largest shape and a few others,
        which are kept."""
        first, *rest = sorted(self._left, reverse=True)
        some = rest[:: max(1, len(rest) // _NUM_MEASURED)]
        before = self._free_bytes()
        self._capture(first)
        between = self._free_bytes()
        for shape in some:
            self._capture(shape)
        each = (between - self._free_bytes()) / max(1, len(some))
        return before - between + int(_CAUTION * max(0.0, each) * len(rest))

    def replay(self, layout: StepLayout) -> CapturedStep | None:
        """Queue a step on the current stream; None, and nothing done, if no graph can hold it."""
        captured = self._fitting(layout.shape)
        if captured is None:
            return None
        packed = captured.staging[next(self._turns)].pack(layout, self._mirror)
        captured.inputs.copy_(packed, non_blocking=True)
        captured.graph.replay()
        return captured

    def _fitting(self, wanted: StepShape) -> CapturedStep | None:
        """The graph of the smallest shape that holds a step, or of a larger one as long as there is none."""
        if wanted.num_sampled == wanted.num_tokens:
            begin = bisect_left(self._decode_sizes, max(wanted.num_tokens, wanted.num_updates))
            shapes = self._decodes
        else:
            begin = bisect_left(self._mixed_tokens, wanted.num_tokens)
            shapes = self._mixed
        fitting = (shape for shape in itertools.islice(shapes, begin, None) if shape.holds(wanted))
        best = next(fitting, None)
        if best is None:
            return None
        if best in self._captured:
            return self._captured[best]
        stand_in = next((shape for shape in fitting if shape in self._captured), None)
        self._wasted[best] += _LAUNCHED_TOKENS if stand_in is None else _padding_of(stand_in, best)
        if best in self._left and self._wasted[best] > _MAX_WASTED_TOKENS:
            self._try_to_capture(best)
        return self._captured.get(best) or (None if stand_in is None else self._captured[stand_in])

    def _try_to_capture(self, shape: StepShape) -> None:
        try:
            self._capture(shape)
        except RuntimeError as error:  # out of memory is one; steps go on without
            log.warning("%d shapes of steps stay without a graph: %s", len(self._left), error)
            self._left.clear()

    def _free_bytes(self) -> int:
        torch.cuda.synchronize(self._device)
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(self._device)[0]

    def _capture(self, shape: StepShape) -> None:
        staging = [HostBuffer(shape, memory) for memory in self._staging]
        packed = self._inputs[: shape.num_bytes]
        packed.copy_(staging[next(self._turns)].pack(_EMPTY, self._mirror), non_blocking=True)
        inputs = unpack(packed, shape)
        self._load(inputs)
        graph = torch.cuda.CUDAGraph()
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        # Not torch.cuda.graph, which gives the caches of device and host memory back before each capture.
        with torch.cuda.stream(self._stream):
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                logits, tokens = self._step(inputs)
            finally:
                graph.capture_end()
        self._captured[shape] = CapturedStep(graph, packed, staging, logits, tokens)
        self._left.discard(shape)


_NUM_STAGING = 3
_NUM_MEASURED = 6
_CAUTION = 1.1
_MAX_WASTED_TOKENS = 4096
"""Of one shape. Their computation takes about as long as its capture, in which streams wait."""
_LAUNCHED_TOKENS = 1024
"""What a step without any graph loses, in tokens."""
_EMPTY = StepLayout(StepShape(0, 0, 0, 0, 0), 0, [], dict.fromkeys(StepArrays._fields, np.zeros(0, np.int32)))
