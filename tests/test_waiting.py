"""WaitingQueue: one tenant's order against a sorted list; what several get of each other's time."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from patience import at_some_pace
from sequence_maker import make_sequence

from octavo.scheduler.request import Claim
from octavo.scheduler.sequence import Sequence, SequenceStatus
from octavo.scheduler.waiting import WaitingQueue


def finish(queue: WaitingQueue, sequence: Sequence) -> None:
    sequence.status = SequenceStatus.FINISHED
    queue.ended(sequence)


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
    assert len(queue._lines[""].heap) < 100
    assert drain(queue) == sorted(left, key=lambda sequence: sequence.order)


def take(queue: WaitingQueue) -> Sequence:
    """Who is next, taken out and running."""
    sequence = queue.first()
    assert sequence is not None
    queue.pop()
    sequence.begin(0, 0)
    return sequence


def flood(queue: WaitingQueue, tenant: str, count: int, *, first: int = 0, **claim: float) -> None:
    for order in range(first, first + count):
        queue.push(make_sequence(order=order, claim=Claim(tenant=tenant, **claim)))


def tenants_of(sequences: list[Sequence]) -> str:
    return "".join(sequence.request.claim.tenant for sequence in sequences)


def test_one_who_asks_a_little_does_not_wait_behind_one_who_floods() -> None:
    queue = WaitingQueue()
    flood(queue, "a", 100)
    assert tenants_of([take(queue) for _ in range(10)]) == "a" * 10
    flood(queue, "b", 3, first=100)
    assert tenants_of([take(queue) for _ in range(8)]).count("b") == 3


@pytest.mark.parametrize("weight", [1.0, 3.0, 0.5])
def test_shares_follow_weights(weight: float) -> None:
    queue = WaitingQueue()
    flood(queue, "a", 400)
    flood(queue, "b", 400, first=400, weight=weight)
    got = Counter(tenants_of([take(queue) for _ in range(200)]))
    # Every eighth turn goes to whoever has waited longest for one, whatever the weights.
    assert got["b"] / got["a"] == pytest.approx(weight, rel=0.25)


def test_who_comes_back_has_saved_up_nothing() -> None:
    """Whoever asks for nothing for long must not have the engine for itself as long afterwards."""
    queue = WaitingQueue()
    flood(queue, "a", 300)
    flood(queue, "b", 1, first=300)
    assert tenants_of([take(queue) for _ in range(200)]).count("b") == 1
    flood(queue, "b", 100, first=301)
    assert 16 <= tenants_of([take(queue) for _ in range(40)]).count("b") <= 24


def test_a_tenant_of_no_weight_is_not_starved() -> None:
    queue = WaitingQueue()
    flood(queue, "small", 5, weight=1e-9)
    flood(queue, "large", 1000, first=5)
    took = tenants_of([take(queue) for _ in range(100)]).replace("large", "L").replace("small", "s")
    assert took.count("s") == 5
    waits = [len(run) for run in took.split("s")]
    assert max(waits[:-1]) <= 16, "each tenant that waits has a turn in 8 x tenants"


def test_what_was_really_generated_counts() -> None:
    """Prompts are alike, but the answers of one are a hundred times as long."""
    queue = WaitingQueue()
    flood(queue, "a", 300)
    flood(queue, "b", 300, first=300)
    got: Counter[str] = Counter()
    for _ in range(200):
        sequence = take(queue)
        tenant = sequence.request.claim.tenant
        got[tenant] += 1
        sequence.token_ids.extend([7] * (300 if tenant == "a" else 3))
        sequence.status = SequenceStatus.FINISHED
        queue.settle(sequence)
    assert got["b"] > 5 * got["a"]


def test_one_that_was_preempted_pays_once() -> None:
    queue = WaitingQueue()
    flood(queue, "a", 2)
    flood(queue, "b", 1, first=2)
    first = take(queue)
    first.give_up()
    queue.push(first)
    assert take(queue) is first, "its tenant has had nothing, so it is still the first one's turn"


def test_priorities_order_a_tenants_own_requests_and_nobody_elses() -> None:
    queue = WaitingQueue()
    flood(queue, "a", 1)
    for order in range(1, 4):
        queue.push(make_sequence(order=order, priority=-order, claim=Claim(tenant="b")))
    took = [take(queue) for _ in range(4)]
    assert tenants_of(took) == "abbb"
    assert [sequence.order[1] for sequence in took] == [0, 3, 2, 1]


def every_turn(queue: WaitingQueue) -> Iterator[float]:
    while len(queue):
        began_s = time.process_time()
        for _ in range(64):
            take(queue)
        yield time.process_time() - began_s


def test_a_turn_costs_the_same_however_many_wait() -> None:
    """Median of 64 turns among 16,384 that wait, against 512: a scan would take 32 times as long."""

    def cost(count: int) -> float:
        queue = WaitingQueue()
        for tenant in range(16):
            flood(queue, f"t{tenant}", count // 16, first=tenant * count)
        turns = sorted(every_turn(queue))
        return turns[len(turns) // 2]

    def check(pace: float) -> None:
        assert cost(1 << 14) < 10 * cost(1 << 9)

    at_some_pace(check, paces=(1.0,) * 5)
