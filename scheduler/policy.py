"""Decisions without mechanism, as pure functions: how much prompt a step carries, whom to preempt."""

from __future__ import annotations

from collections.abc import Iterable

from .config import SchedulerConfig
from .sequence import Sequence


def prefill_length(config: SchedulerConfig, remaining: int, budget: int) -> int:
    """Prompt tokens that a sequence with `remaining` uncomputed ones gets out of `budget`; 0 is none."""
    if config.enable_chunked_prefill:
        return min(remaining, budget)
    return remaining if remaining <= budget else 0


def choose_victim(running: Iterable[Sequence]) -> Sequence | None:
    """The sequence whose preemption loses the least computed work, the youngest of equals.

    The oldest is never chosen, so that something always gets ahead; None if there is no other.
    """
    candidates = list(running)
    if not candidates:
        return None
    oldest = min(candidates)
    candidates.remove(oldest)
    if not candidates:
        return None
    return min(candidates, key=lambda s: (s.num_scheduled, -s.order[0], -s.order[1]))


def admission_reserve(num_running: int) -> int:
    """Blocks to leave free when a sequence is admitted, so that it is not preempted at once: those that run
    will each ask for another block within `block_size` steps."""
    return num_running
