"""What the engine counts about itself, as plain numbers. Knows no metric names."""

from __future__ import annotations

from dataclasses import dataclass


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
    prefix_query_tokens: int = 0
    prefix_hit_tokens: int = 0


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A moment of the engine. Blocks: free + evictable + referenced = all.

    kv_usage: share of blocks that sequences hold.   kv_waste: share of the tokens that the held blocks have
    room for and that no sequence has filled.   last_step_s: seconds that the last step took.
    """

    num_running: int
    num_waiting: int
    num_blocks: int
    num_free_blocks: int
    num_evictable_blocks: int
    kv_usage: float
    kv_waste: float
    counters: Counters
    last_step_s: float = 0.0
