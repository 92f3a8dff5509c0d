"""How long a step may take, so that streams stay even and prompts are not kept waiting for it.

Knows the model of step time and the target; not which prompts there are.

    nobody decodes             the whole budget: there is nobody to wait
    few prompt tokens wait     as many as fit the target
    more than that, for long   prompts get a growing share of the device's time, whatever the target says

With a decode step of d seconds, a step of T gives prompts the share (T - d) / T, so T = d / (1 - share). The
share that prompts get at least rises from CALM to BEHIND while every step leaves prompt tokens undone: a
target that is close to d, or below it, would otherwise keep a long prompt or a full queue waiting for ever.
"""

from __future__ import annotations

from collections.abc import Sequence

from .prompt_budget import PromptBudget
from .step_time import StepLoad, StepTimeModel

CALM, BEHIND = 0.25, 0.75
"""Least share of the device's time that prompts get when they begin to wait, and in the end."""
PATIENCE_S = 0.5
"""From the one to the other, in seconds of steps that left something undone."""
_FIRST_STEP = 256
"""Tokens that a step may carry before any was measured; then twice the largest that was."""


class Pacing:
    """itl_target_s: seconds between a stream's tokens to aim for; None is no limit.

    step_sizes: as in SchedulerConfig.
    """

    __slots__ = ("_behind_s", "_model", "_step_sizes", "_target_s")

    def __init__(self, itl_target_s: float | None, step_sizes: Sequence[int] = ()) -> None:
        self._target_s = itl_target_s
        self._step_sizes = step_sizes
        self._model = StepTimeModel(step_sizes)
        self._behind_s = 0.0

    def budget(self, decodes: StepLoad, tokens: int, *, streams: bool, whole: bool) -> PromptBudget:
        """What a step with these decode rows may spend on prompts, of `tokens` at most.

        streams: whether anybody decodes, be it not in this step.   whole: no prompt may be cut.
        """
        if self._target_s is None or not streams or whole:
            return PromptBudget(tokens, others=decodes.num_decodes, whole=whole)
        num_decodes, context_tokens = decodes.num_decodes, decodes.context_tokens
        cost = self._model.prompt_cost(num_decodes, context_tokens)
        alone_s = max(self._model.decode_s(num_decodes, context_tokens), cost.base_s)
        share = CALM + (BEHIND - CALM) * min(1.0, self._behind_s / PATIENCE_S)
        step_s = max(self._target_s, alone_s / (1 - share))
        known = max(2 * self._model.largest, _FIRST_STEP) - num_decodes
        return PromptBudget(
            min(tokens, max(known, 1)),
            step_s - cost.base_s,
            cost,
            others=num_decodes,
            step_sizes=self._step_sizes,
        )

    def observe(self, load: StepLoad, seconds: float, *, left_over: bool) -> None:
        """A step of this load took so long. left_over: prompt tokens had to wait for a later step."""
        self._model.observe(load, seconds)
        self._behind_s = self._behind_s + seconds if left_over else 0.0
