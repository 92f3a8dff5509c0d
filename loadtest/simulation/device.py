"""How long a device takes for a step: a formula with a few measured constants. Knows no scheduler, no clock.

products     reading all weights once and computing on every token; the larger hides most of the other
attention    KV that decode rows read, at the memory's speed; what prompt tokens attend to, at the kernel's
the rest     norms, sampler, launches: a constant, larger for a step that carries prompt tokens
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from math import hypot

from octavo.model.plan import StepPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceTimes:
    """Seconds.

    weights_s: reading all weights once.   token_s: products of one token in a large step.
    context_s: a decode row's attention for each token of its context.
    work_s: prompt attention for each pair of a token and one that it attends to.
    rest_s, mixed_s: everything else, in a step of decodes alone and in one with prompt tokens.
    sizes: tokens of the steps with prompts that are prepared, ascending; others take as long as the next.
    padding: beyond the last, as long as the next multiple of it.
    """

    weights_s: float
    token_s: float
    context_s: float
    work_s: float
    rest_s: float
    mixed_s: float
    sizes: tuple[int, ...] = ()
    padding: int = 1

    def seconds(self, plan: StepPlan) -> float:
        """How long the step takes."""
        num_tokens, context, work = len(plan.plain.slots), int(plan.plain.starts.sum()), 0.0
        slices = plan.slices
        mixed = bool(slices) and slices[-1].length > 1
        for _, start, length, *_ in slices:
            num_tokens += length
            if length == 1:
                context += start
            else:
                work += length * (start + length / 2)
        if not mixed:
            return hypot(self.weights_s, self.token_s * num_tokens) + self.rest_s + self.context_s * context
        products_s = hypot(self.weights_s, self.token_s * self._padded(num_tokens))
        return products_s + self.mixed_s + self.context_s * context + self.work_s * work

    def _padded(self, num_tokens: int) -> int:
        index = bisect_left(self.sizes, num_tokens)
        if index < len(self.sizes):
            return self.sizes[index]
        return -(-num_tokens // self.padding) * self.padding


H100 = {
    # Measured: products of one row and of many, decode attention of ragged batches, 400 TFLOP/s for prompts'.
    "qwen": DeviceTimes(
        weights_s=1.5e-3,
        token_s=4.0e-6,
        context_s=28_672 / 1.6e12,
        work_s=4 * 28 * 12 * 128 / 400e12,
        rest_s=0.45e-3,
        mixed_s=0.6e-3,
    ),
    "llama": DeviceTimes(
        weights_s=5.55e-3,
        token_s=22.0e-6,
        context_s=131_072 / 2.45e12,
        work_s=4 * 32 * 32 * 128 / 400e12,
        rest_s=0.45e-3,
        mixed_s=0.6e-3,
    ),
}
"""One H100 80 GB: Qwen2.5-1.5B and Llama-3.1-8B, bf16."""
_LARGE = (2560, 3072, 3584, 4096, 5120, 6144, 7168, 8192)
GRAPHS = (64, 128, 192, 256, 320, 384, 512, 640, 768, 1024, 1280, 1536, 2048, *_LARGE)
"""Tokens of the steps with prompts of model/graph_shapes.py."""
FINER_GRAPHS = (*range(64, 512, 64), *range(512, 2049, 128), *_LARGE)
"""What products in tiles of 128 rows leave room for."""
