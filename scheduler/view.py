"""What a look at the engine shows: plain values, made when somebody asks. Knows not who."""

from __future__ import annotations

from dataclasses import dataclass

from ..cache.pool_picture import PoolPicture
from .scheduler import Scheduler
from .timeline import StepRecord


@dataclass(frozen=True, slots=True)
class EngineView:
    """now_s: when it was taken, time.perf_counter.   max_running: sequences that may run together.

    step_age_s: for how long the step under way has been waited for, 0 if none is.
    block_size: tokens of a KV block.   steps: those that ended since the last look, as far as they are kept.
    Blocks: free + evictable + held = all.   The rest are totals since the start, as in Counters.
    """

    now_s: float
    step_age_s: float
    num_running: int
    max_running: int
    num_waiting: int
    block_size: int
    num_blocks: int
    num_free_blocks: int
    num_evictable_blocks: int
    num_steps: int
    prompt_tokens: int
    generation_tokens: int
    num_preemptions: int
    prefix_query_tokens: int
    prefix_hit_tokens: int
    pool: PoolPicture
    steps: list[StepRecord]

    @classmethod
    def of(cls, scheduler: Scheduler, now_s: float, step_age_s: float, steps: list[StepRecord]) -> EngineView:
        """The engine now. O(running), and the picture's bounded cost."""
        stats, counters = scheduler.stats(), scheduler.counters
        return cls(
            now_s=now_s,
            step_age_s=step_age_s,
            num_running=stats.num_running,
            max_running=scheduler.config.max_num_seqs,
            num_waiting=stats.num_waiting,
            block_size=scheduler.cache.block_size,
            num_blocks=stats.num_blocks,
            num_free_blocks=stats.num_free_blocks,
            num_evictable_blocks=stats.num_evictable_blocks,
            num_steps=counters.num_steps,
            prompt_tokens=counters.prompt_tokens,
            generation_tokens=counters.generation_tokens,
            num_preemptions=counters.num_preemptions,
            prefix_query_tokens=counters.prefix_query_tokens,
            prefix_hit_tokens=counters.prefix_hit_tokens,
            pool=PoolPicture.of(scheduler.pool),
            steps=steps,
        )
