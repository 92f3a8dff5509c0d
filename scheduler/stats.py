"""What the engine counts about itself, as plain numbers. Knows no metric names."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..model.plan import GraphCounts
from .distribution import Distribution
from .step_meter import StepMeter

_FREE_S = (0.0001, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)


@dataclass(slots=True)
class Counters:
    """Totals since start."""

    num_steps: int = 0
    prompt_tokens: int = 0
    """Prompt tokens whose sequence was admitted for the first time, cached ones included."""
    generation_tokens: int = 0
    num_preemptions: int = 0
    recomputed_tokens: int = 0
    """Positions computed again after preemption."""
    surplus_tokens: int = 0
    """Tokens sampled for a sequence that had already ended: the price of overlap."""
    aborted_tokens: int = 0
    """Positions computed for requests that were then aborted, those that the prefix cache gave left out."""
    num_expired_waiting: int = 0
    num_expired_running: int = 0
    num_corrupted: int = 0
    """Requests ended since the model's logits were not finite."""
    prefix_query_tokens: int = 0
    prefix_hit_tokens: int = 0
    abort_to_free_s: Distribution = field(default_factory=lambda: Distribution(_FREE_S))
    """From a running request's abort until its slot and blocks are free."""


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A moment of the engine. Blocks, of `block_size` tokens: free + evictable + referenced = all.

    kv_usage: share of blocks that sequences hold.   kv_waste: share of the tokens that the held blocks have
    room for and that no sequence has filled.   oldest_waiting_s: for how long the first in the queue has been
    here.   last_step_s: seconds from the end of the step before the last, or from the last one's launch if
    nothing ran, to its end.   steps: what all steps carried and took.   graphs: how they reached the device.
    """

    num_running: int
    num_waiting: int
    num_blocks: int
    num_free_blocks: int
    num_evictable_blocks: int
    kv_usage: float
    kv_waste: float
    counters: Counters
    block_size: int = 0
    oldest_waiting_s: float = 0.0
    last_step_s: float = 0.0
    steps: StepMeter = field(default_factory=StepMeter)
    graphs: GraphCounts = field(default_factory=lambda: GraphCounts({}, {}))
