"""Deadlines: who runs out of time, when, told once; what has ended is not kept."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st
from sequence_maker import make_sequence

from octavo.scheduler.deadlines import Deadlines
from octavo.scheduler.request import Claim
from octavo.scheduler.sequence import Sequence, SequenceStatus

LIMITS = st.sampled_from([1.0, 2.0, 3.0, 5.0, math.inf])


def limited(order: int, deadline_s: float = math.inf, queue_deadline_s: float = math.inf) -> Sequence:
    return make_sequence(order=order, claim=Claim(deadline_s=deadline_s, queue_deadline_s=queue_deadline_s))


@given(st.lists(st.tuples(LIMITS, LIMITS, st.booleans(), st.booleans()), max_size=30))
@settings(deadline=None)
def test_whoever_is_late_is_named_once_and_nobody_else(
    limits: list[tuple[float, float, bool, bool]],
) -> None:
    deadlines, expected = Deadlines(), set()
    for order, (total_s, queue_s, started, ended) in enumerate(limits):
        sequence = limited(order, total_s, queue_s)
        deadlines.add(sequence)
        if started:
            sequence.timings.scheduled_s = 0.5
        if ended:
            sequence.status = SequenceStatus.FINISHED
            deadlines.ended(sequence)
        elif min(total_s, math.inf if started else queue_s) <= 2.5:
            expected.add(sequence)
    assert deadlines.expired(0.9) == []
    late = [sequence for sequence, _ in deadlines.expired(2.5)]
    assert len(late) == len(expected) and set(late) == expected
    for sequence in late:
        sequence.status = SequenceStatus.FINISHED
        deadlines.ended(sequence)
    assert not {sequence for sequence, _ in deadlines.expired(math.inf)} & expected
    assert len(deadlines) == 0


def test_the_reason_says_which_limit_it_was() -> None:
    deadlines = Deadlines()
    deadlines.add(limited(0, deadline_s=2.5))
    deadlines.add(limited(1, queue_deadline_s=0.25))
    assert [reason for _, reason in deadlines.expired(9.0)] == [
        "the request did not start within its 0.25 s",
        "the request was not finished within its 2.5 s",
    ]


def test_without_limits_nothing_is_kept() -> None:
    deadlines = Deadlines()
    deadlines.add(limited(0))
    assert len(deadlines) == 0


def test_what_has_ended_is_swept_long_before_it_is_due() -> None:
    deadlines = Deadlines()
    alive = limited(0, deadline_s=50.0)
    deadlines.add(alive)
    for order in range(1, 10_000):
        sequence = limited(order, 100.0, 10.0)
        deadlines.add(sequence)
        sequence.status = SequenceStatus.FINISHED
        deadlines.ended(sequence)
    assert len(deadlines) < 300
    assert [sequence for sequence, _ in deadlines.expired(60.0)] == [alive]
