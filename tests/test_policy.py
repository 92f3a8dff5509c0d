"""Policy, queue and limits of the scheduler, each alone."""

from __future__ import annotations

from typing import Any

import pytest

from octavo.cache.block_pool import BlockPool
from octavo.cache.block_table import BlockTable
from octavo.model.sampling_params import SamplingParams
from octavo.scheduler.config import SchedulerConfig
from octavo.scheduler.policy import choose_victim
from octavo.scheduler.request import Request
from octavo.scheduler.sequence import Sequence, SequenceStatus
from octavo.scheduler.waiting import WaitingQueue


def sequence(order: int, *, num_scheduled: int = 0, priority: int = 0) -> Sequence:
    request = Request(
        request_id=str(order),
        prompt_token_ids=[1],
        params=SamplingParams(),
        max_tokens=4,
        priority=priority,
    )
    made = Sequence(request, BlockTable(BlockPool(1), 1), max_length=5, order=order, seed=0)
    made.num_scheduled = num_scheduled
    return made


def test_the_victim_loses_least_work_and_is_the_youngest_of_equals() -> None:
    a, b, c, d = (sequence(order, num_scheduled=n) for order, n in enumerate((1, 9, 5, 5)))
    assert choose_victim([d, b, a, c]) is d
    assert choose_victim([a, b]) is b


def test_the_oldest_is_nobodys_victim() -> None:
    a, b = sequence(0, num_scheduled=0), sequence(1, num_scheduled=99)
    assert choose_victim([a, b]) is b
    assert choose_victim([a]) is None and choose_victim([]) is None
    urgent = sequence(2, num_scheduled=0, priority=-1)
    assert choose_victim([a, urgent]) is a


def test_the_queue_is_by_priority_then_arrival_and_forgets_who_ended() -> None:
    queue = WaitingQueue()
    first, second, urgent, ended = (
        sequence(0),
        sequence(1),
        sequence(2, priority=-1),
        sequence(3, priority=-2),
    )
    for each in (second, ended, first, urgent):
        queue.push(each)
    ended.status = SequenceStatus.FINISHED
    queue.ended(ended)
    assert len(queue) == 3
    order = []
    while (head := queue.first()) is not None:
        assert queue.first() is head
        order.append(head)
        queue.pop()
    assert order == [urgent, first, second] and len(queue) == 0


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_num_seqs": 0}, "max_num_seqs must be at least 1, got 0"),
        (
            {"max_num_seqs": 8, "max_num_batched_tokens": 4},
            "max_num_batched_tokens must be at least max_num_seqs",
        ),
        (
            {"enable_chunked_prefill": False, "max_num_batched_tokens": 300, "max_model_len": 301},
            "at least max_model_len.*301.*got 300",
        ),
        ({"itl_target_s": 0.0}, "itl_target_s must be above 0, got 0.0"),
        (
            {"itl_target_s": 1.0, "enable_chunked_prefill": False, "max_num_batched_tokens": 4096},
            "itl_target_s needs chunked prefill",
        ),
        ({"max_queued_requests": 0}, "max_queued_requests must be at least 1, got 0"),
    ],
)
def test_limits_that_contradict_each_other_are_refused(limits: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SchedulerConfig(**limits)
