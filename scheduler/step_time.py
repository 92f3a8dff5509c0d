"""How long the next step will take, learned from those that went before. Knows no policy and no device.

Steps that only decode and steps that carry prompt tokens are two linear models: their attention is another
kernel, and what bounds them differs (memory, arithmetic).

    decode   a + b * rows + c * context            context: tokens of KV that all decode rows read
    mixed    a + b * tokens + c * context + d * work
                                                   work: over chunks, length x mean context of its tokens
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

from .least_squares import LeastSquares

_TOKENS, _CONTEXT, _WORK = 1024.0, 65536.0, 2.0**26
"""Units of the models, so that their weights are of one size: thousandths of a second."""
_MEMORY = 200.0
_LEAST_TOKEN = 1e-4
"""Ten million prompt tokens a second: no device is so fast."""
_LONGEST_S = 10.0
"""A step that took longer was not the device's doing: a stopped process, a suspended machine."""


class StepLoad(NamedTuple):
    """What makes a step long. Counts of tokens; prompt_work in tokens squared."""

    num_decodes: int
    context_tokens: int
    prompt_tokens: int = 0
    prompt_work: float = 0.0


class PromptCost(NamedTuple):
    """What prompt tokens add to a step: seconds for each, and for each token of context that each attends to.

    base_s: what the step takes before its first prompt token.
    """

    base_s: float
    token_s: float
    work_s: float


class StepTimeModel:
    """Predicts steps; torch-free, a few microseconds a step.

    step_sizes: as in SchedulerConfig; what a step is padded to is what it takes.
    largest: tokens of the largest step ever measured; beyond it, predictions are guesses.
    """

    __slots__ = ("_decode", "_mixed", "_step_sizes", "largest")

    def __init__(self, step_sizes: Sequence[int] = ()) -> None:
        self._step_sizes = step_sizes
        # Seconds in the units above. What a slow GPU would take, until the first steps tell better.
        self._decode = LeastSquares((3e-3, 1e-3, 1e-3), (2e-2, 2e-2, 1e-2), _MEMORY)
        self._mixed = LeastSquares((3e-3, 3e-2, 1e-3, 5e-2), (2e-2, 3e-1, 1e-2, 5e-1), _MEMORY)
        self.largest = 0

    def decode_s(self, num_decodes: int, context_tokens: int) -> float:
        """A step of these decode rows and nothing else."""
        return self._decode.predict((1.0, num_decodes / _TOKENS, context_tokens / _CONTEXT))

    def prompt_cost(self, num_decodes: int, context_tokens: int) -> PromptCost:
        """What it costs to add prompt tokens to a step of these decode rows."""
        constant, token, context, work = self._mixed.weights
        token = max(token, _LEAST_TOKEN)
        base_s = constant + token * num_decodes / _TOKENS + context * context_tokens / _CONTEXT
        return PromptCost(max(base_s, 0.0), token / _TOKENS, max(work, 0.0) / _WORK)

    def predict(self, load: StepLoad) -> float:
        """Seconds that the step will take; a mixed one no less than its decode rows alone."""
        decode_s = self.decode_s(load.num_decodes, load.context_tokens)
        if not load.prompt_tokens:
            return decode_s
        base_s, token_s, work_s = self.prompt_cost(load.num_decodes, load.context_tokens)
        mixed_s = base_s + token_s * load.prompt_tokens + work_s * load.prompt_work
        return max(mixed_s, decode_s) if load.num_decodes else mixed_s

    def _padded(self, tokens: int) -> int:
        index = bisect_left(self._step_sizes, tokens)
        return self._step_sizes[index] if index < len(self._step_sizes) else tokens

    def observe(self, load: StepLoad, seconds: float) -> None:
        """Learn from a step that took `seconds` from the end of the one before to its own."""
        if not 0 < seconds < _LONGEST_S:
            return
        context = load.context_tokens / _CONTEXT
        if load.prompt_tokens:
            tokens = self._padded(load.num_decodes + load.prompt_tokens)
            self.largest = max(self.largest, tokens)
            self._mixed.update((1.0, tokens / _TOKENS, context, load.prompt_work / _WORK), seconds)
        else:
            self._decode.update((1.0, load.num_decodes / _TOKENS, context), seconds)
