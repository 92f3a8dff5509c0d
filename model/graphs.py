"""Whole steps as CUDA graphs, one per padded shape. Knows no model: it captures what it is given.

A captured step reads its inputs from one buffer at a fixed address and leaves its results at fixed addresses,
so a launch is one copy and one replay. Graphs share one memory pool and are captured from large to small: the
smaller ones live in what the largest needs. A few are captured first; the others when there is nothing else
to do, or when steps have lost more by making do with a larger one than a capture costs.
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

from .graph_shapes import first_shapes
from .step_inputs import (
    BlockTableMirror,
    HostBuffer,
    StepArrays,
    StepLayout,
    StepShape,
    host_memory,
    unpack,
)

_NUM_STAGING = 3
"""Host buffers that take turns: one is still being read when the next step is packed."""
_NUM_MEASURED = 6
"""Graphs beside the largest that `measure` captures."""
_CAUTION = 1.1
"""What `measure` multiplies the graphs that it has not captured by."""
_MAX_WASTED_TOKENS = 4096
"""Tokens computed in vain for want of one shape. They take about as long as its capture does."""
_LAUNCHED_TOKENS = 1024
"""What a step without any graph loses, in tokens."""
_EMPTY = StepLayout(StepShape(0, 0, 0, 0, 0), 0, [], dict.fromkeys(StepArrays._fields, np.zeros(0, np.int32)))

log = logging.getLogger(__name__)

Step = Callable[[StepArrays], tuple[Tensor, Tensor]]
"""Queues one step on the current stream and returns (logits, tokens)."""


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
