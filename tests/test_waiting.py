"""WaitingQueue against a sorted list."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from sequence_maker import make_sequence

from octavo.scheduler.sequence import Sequence, SequenceStatus
from octavo.scheduler.waiting import WaitingQueue


def finish(queue: WaitingQueue, sequence: Sequence) -> None:
    sequence.status = SequenceStatus.FINISHED
    queue.ended()


def drain(queue: WaitingQueue) -> list[Sequence]:
    sequences = []
    while (sequence := queue.first()) is not None:
        sequences.append(sequence)
        queue.pop()
    return sequences


@given(st.lists(st.tuples(st.sampled_from(["push", "pop", "end"]), st.integers(-1, 2), st.integers(0, 99))))
@settings(deadline=None)
def test_first_is_the_earliest_of_those_that_still_wait(actions: list[tuple[str, int, int]]) -> None:
    queue, waiting = WaitingQueue(), list[Sequence]()
    for order, (action, priority, which) in enumerate(actions):
        if action == "push":
            waiting.append(make_sequence(order=order, priority=priority))
            queue.push(waiting[-1])
        elif waiting and action == "pop":
            waiting.sort(key=lambda sequence: sequence.order)
            assert queue.first() is waiting.pop(0)
            queue.pop()
        elif waiting:
            finish(queue, waiting.pop(which % len(waiting)))
        assert len(queue) == len(waiting)
        assert queue.first() is min(waiting, key=lambda sequence: sequence.order, default=None)
    assert drain(queue) == sorted(waiting, key=lambda sequence: sequence.order)


def test_a_preempted_sequence_comes_before_all_that_arrived_after_it() -> None:
    queue = WaitingQueue()
    old, *others = (make_sequence(order=order) for order in range(4))
    for sequence in (*reversed(others), old):
        queue.push(sequence)
    assert drain(queue) == [old, *others]


def test_those_that_ended_are_swept_and_the_rest_keeps_its_order() -> None:
    """A thousand clients that leave while they wait must not stay in memory until their turn comes."""
    queue = WaitingQueue()
    sequences = [make_sequence(order=order, priority=order % 3) for order in range(1000)]
    for sequence in sequences:
        queue.push(sequence)
    left = sequences[::100]
    for sequence in sequences:
        if sequence not in left:
            finish(queue, sequence)
    assert len(queue) == len(left)
    assert len(queue._heap) < 100
    assert drain(queue) == sorted(left, key=lambda sequence: sequence.order)
