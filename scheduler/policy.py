"""Decisions without mechanism, as pure functions: who gets which share of a step, whom to preempt."""

from __future__ import annotations

from collections.abc import Iterable

from .sequence import Sequence

ELDEST_SHARE = 1 / 4
"""What the prompt let in first gets at least of a step: it takes four times as long at most."""
NEWCOMERS_SHARE = 1 / 8
"""What those who wait get of the rest at least, though shorter remainders are under way."""


def remaining(sequence: Sequence) -> int:
    """Prompt tokens that are not scheduled yet."""
    return sequence.num_prefill - sequence.num_scheduled


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
