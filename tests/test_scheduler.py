"""Scheduler: what each rule does, one at a time; test_scheduler_machine.py has them all at once."""

from __future__ import annotations

import json
import time
from itertools import count
from pathlib import Path

import pytest
from expected import expected_output
from fakes import EOS, ToyModel
from patience import at_some_pace
from stepper import Stepper

from octavo.cache.config import CacheConfig
from octavo.model.plan import StepResult
from octavo.model.sampling_params import SamplingParams
from octavo.scheduler.config import SchedulerConfig
from octavo.scheduler.errors import CapacityError, QueueFullError
from octavo.scheduler.request import Claim, FinishReason, Request
from octavo.scheduler.scheduler import Scheduler

LENGTHS = Path(__file__).parent / "data" / "sharegpt_lengths.json"


def first_plan(stepper: Stepper) -> list[tuple[int, int, bool]]:
    """(start, length, samples) of the next step's rows."""
    stepper.step()
    return [(row.start, row.length, row.samples) for row in stepper.executor.plans[-1].rows]


def test_a_prompt_is_computed_at_once_and_then_token_by_token() -> None:
    stepper = Stepper()
    stepper.add([5] * 10, max_tokens=3)
    stepper.run()
    rows = [[(r.start, r.length, r.tokens is None) for r in plan.rows] for plan in stepper.executor.plans]
    assert rows == [[(0, 10, False)], [(10, 1, True)], [(11, 1, True)]]


@pytest.mark.parametrize("depth", [0, 1])
def test_overlap_launches_a_step_before_the_last_one_is_read(depth: int) -> None:
    stepper = Stepper(depth=depth)
    stepper.add([1, 2], max_tokens=5)
    stepper.run()
    assert stepper.executor.max_in_flight == depth + 1
    assert stepper.scheduler.counters.surplus_tokens == 0


def test_an_end_that_was_not_foreseen_costs_one_surplus_token() -> None:
    model = ToyModel(eos_probability=0.3)
    stepper = Stepper(depth=1, model=model)
    request_id = stepper.add([1, 2, 3], max_tokens=40, eos_token_ids=frozenset({EOS}))
    stepper.run()
    received = stepper.received[request_id]
    assert received.end.finish_reason is FinishReason.STOP and received.token_ids[-1] == EOS
    assert received.end.stop_reason is None
    assert stepper.scheduler.counters.surplus_tokens == 1


def test_chunks_fill_the_budget_and_only_the_last_samples() -> None:
    stepper = Stepper(max_num_batched_tokens=8, depth=0)
    stepper.add([5] * 10, max_tokens=4)
    stepper.add([6] * 9, max_tokens=4)
    assert first_plan(stepper) == [(0, 8, False)]
    assert first_plan(stepper) == [(8, 2, True), (0, 6, False)]
    assert first_plan(stepper) == [(10, 1, True), (6, 3, True)]
    stepper.run()


def test_without_chunks_a_prompt_waits_until_it_fits_a_step_whole() -> None:
    stepper = Stepper(max_num_batched_tokens=12, max_model_len=12, enable_chunked_prefill=False, depth=0)
    stepper.add([5] * 7, max_tokens=4)
    stepper.add([6] * 7, max_tokens=4)
    assert first_plan(stepper) == [(0, 7, True)]
    assert first_plan(stepper) == [(7, 1, True), (0, 7, True)]
    stepper.run()


def test_running_streams_keep_their_token_beside_a_long_prompt() -> None:
    stepper = Stepper(num_blocks=64, max_num_batched_tokens=8)
    stepper.add([1, 2], max_tokens=20)
    stepper.step()
    stepper.add([9] * 40, max_tokens=2)
    for _ in range(5):
        assert first_plan(stepper)[0][1:] == (1, True)
    stepper.run()


def test_slots_are_reused_in_a_queue_longer_than_the_slots() -> None:
    stepper = Stepper(max_num_seqs=2)
    ids = [stepper.add([index + 1, 2], max_tokens=3) for index in range(7)]
    stepper.run()
    assert max(len(plan.rows) for plan in stepper.executor.plans) == 2
    finished = [stepper.received[i].timings.finished_s for i in ids]
    assert finished == sorted(finished)


def test_priority_goes_before_arrival() -> None:
    stepper = Stepper(max_num_seqs=1)
    stepper.add([1], max_tokens=2)
    stepper.step()
    late, urgent = stepper.add([2], priority=5), stepper.add([3], priority=-1)
    stepper.run()
    scheduled = {i: stepper.received[i].timings.scheduled_s for i in (late, urgent)}
    assert scheduled[urgent] < scheduled[late]


@pytest.mark.parametrize("num_prompt", [8, 9, 12])
def test_a_second_prompt_starts_from_the_firsts_blocks_but_computes_a_token(num_prompt: int) -> None:
    stepper = Stepper(block_size=4)
    prompt = list(range(1, num_prompt + 1))
    stepper.add(prompt, max_tokens=1)
    stepper.run()
    second = stepper.add(prompt, max_tokens=6)
    stepper.run()
    cached = (num_prompt - 1) // 4 * 4
    assert stepper.received[second].timings.num_cached_tokens == cached
    stats = stepper.scheduler.stats().counters
    assert (stats.prefix_query_tokens, stats.prefix_hit_tokens) == (2 * num_prompt, cached)


def test_answers_are_cached_too() -> None:
    stepper = Stepper(block_size=4)
    first = stepper.add([1, 2, 3], max_tokens=9)
    stepper.run()
    follow_up = [1, 2, 3, *stepper.received[first].token_ids, 4]
    second = stepper.add(follow_up)
    stepper.run()
    # 12 tokens, of which the last was sampled and never computed on: two full blocks.
    assert stepper.received[second].timings.num_cached_tokens == 8


def test_salts_share_nothing_and_so_does_a_cache_that_is_off() -> None:
    for prefix_caching, salts in ((True, ("a", "b")), (True, ("", "a")), (False, ("", ""))):
        stepper = Stepper(prefix_caching=prefix_caching)
        ids = []
        for salt in salts:
            ids.append(stepper.add([7] * 20, cache_salt=salt))
            stepper.run()
        assert stepper.received[ids[1]].timings.num_cached_tokens == 0


def test_a_starved_pool_preempts_the_young_and_everybody_gets_the_right_answer() -> None:
    stepper = Stepper(num_blocks=8, block_size=2, max_num_seqs=3)
    ids = [stepper.add([index + 1] * 3, max_tokens=12) for index in range(3)]
    stepper.run()
    preemptions = [stepper.received[i].timings.num_preemptions for i in ids]
    assert preemptions[0] == 0 and sum(preemptions) == stepper.scheduler.counters.num_preemptions > 0


def test_a_request_that_can_never_fit_is_refused_with_the_numbers() -> None:
    stepper = Stepper(num_blocks=3, block_size=4, max_model_len=64)
    with pytest.raises(CapacityError, match=r"14 tokens.*12 \(3 x 4\)"):
        stepper.add([1] * 6, max_tokens=8)
    stepper.add([1] * 6, max_tokens=7)
    stepper.run()


def test_a_full_queue_refuses_and_takes_again_when_there_is_room() -> None:
    stepper = Stepper(max_num_seqs=1, max_queued_requests=2)
    first, _ = stepper.add([1]), stepper.add([2])
    with pytest.raises(QueueFullError, match="2"):
        stepper.add([3])
    stepper.abort(first)
    stepper.add([3])
    stepper.run()


def test_one_that_waits_too_long_is_dropped_before_it_costs_anything() -> None:
    stepper = Stepper(max_num_seqs=1)
    runs = stepper.add([1] * 5, max_tokens=6)
    late = stepper.add([2] * 5, claim=Claim(arrival_s=-2.0, queue_deadline_s=0.0))
    assert stepper.step()
    assert stepper.received[late].end.error == "the request did not start within its 2 s"
    stepper.run()
    assert stepper.received[runs].end.finish_reason is FinishReason.LENGTH
    computed = [list(row.tokens) for plan in stepper.executor.plans for row in plan.rows if row.tokens]
    assert computed == [[1] * 5]


def test_one_that_runs_too_long_ends_and_gives_everything_back() -> None:
    def check(pace: float) -> None:
        stepper = Stepper()
        now_s, limit_s = time.monotonic(), 0.05 * pace
        claim = Claim(arrival_s=now_s, queue_deadline_s=now_s + limit_s, deadline_s=now_s + limit_s)
        late = stepper.add([1] * 5, max_tokens=50, claim=claim)
        other = stepper.add([1] * 5, max_tokens=50)
        for _ in range(4):
            stepper.step()
        time.sleep(1.2 * limit_s)
        stepper.run()
        assert stepper.received[late].end.error == f"the request was not finished within its {limit_s:g} s"
        assert 0 < len(stepper.received[late].token_ids) < 50
        assert stepper.received[other].end.finish_reason is FinishReason.LENGTH

    at_some_pace(check)


def test_the_model_length_ends_an_answer() -> None:
    stepper = Stepper(max_model_len=10, max_num_batched_tokens=16)
    request_id = stepper.add([1] * 6, max_tokens=100)
    stepper.run()
    assert len(stepper.received[request_id].token_ids) == 4
    assert stepper.received[request_id].end.finish_reason is FinishReason.LENGTH


@pytest.mark.parametrize("steps", range(5))
def test_an_abort_at_any_moment_gives_everything_back(steps: int) -> None:
    stepper = Stepper(max_num_batched_tokens=4)
    request_id, other = stepper.add([1] * 8, max_tokens=20), stepper.add([2] * 3)
    for _ in range(steps):
        stepper.step()
    stepper.abort(request_id)
    stepper.abort(request_id)
    stepper.run()
    assert stepper.received[request_id].end.finish_reason is FinishReason.ABORT
    assert len(stepper.received[other].token_ids) == 8


def test_logits_that_are_not_finite_end_only_their_own_request_and_leave_no_cached_block() -> None:
    model = ToyModel(nan_probability=0.1)
    stepper = Stepper(model=model, num_blocks=400)
    for index in range(1, 30):
        stepper.add([index] * 9, max_tokens=10)
    stepper.run()
    reasons = [received.end.finish_reason for received in stepper.received.values()]
    assert set(reasons) == {FinishReason.ERROR, FinishReason.LENGTH}
    for request_id, received in list(stepper.received.items()):
        if received.end.finish_reason is FinishReason.ERROR:
            assert received.end.error is not None and "finite" in received.end.error
            again = stepper.add(list(stepper.requests[request_id].prompt_token_ids), max_tokens=1)
            stepper.run()
            assert stepper.received[again].timings.num_cached_tokens == 0
            break


def test_min_tokens_and_stop_ids_and_logprobs_survive_preemption() -> None:
    model = ToyModel(vocab_size=6)
    stepper = Stepper(num_blocks=10, block_size=2, max_num_seqs=3, model=model)
    for index in range(3):
        stepper.add([index + 1] * 3, max_tokens=14, min_tokens=12, stop_token_ids=(2, 3), logprobs=2)
    stepper.run()
    assert stepper.scheduler.counters.num_preemptions > 0
    assert all(len(received.token_ids) >= 12 for received in stepper.received.values())


def test_a_seed_that_nobody_named_stays_the_same_through_preemption(monkeypatch: pytest.MonkeyPatch) -> None:
    stepper = Stepper(num_blocks=8, block_size=2, max_num_seqs=3)
    for index in range(3):
        stepper.add([index + 1] * 3, max_tokens=12, temperature=1, seed=index)
    stepper.run()
    # Nobody can foresee this text, so the answers are not compared.
    drawn = Stepper(num_blocks=8, block_size=2, max_num_seqs=2)
    monkeypatch.setattr(drawn, "check_answer", lambda request_id: None)
    for _ in range(2):
        drawn.add([1, 1, 1], max_tokens=12, temperature=1)
    drawn.run()
    seeds = {start.seed for plan in drawn.executor.plans for start in plan.starts}
    assert drawn.scheduler.counters.num_preemptions > 0 and len(seeds) == 2


def test_expected_output_can_fail() -> None:
    """The oracle itself: another token, seed or ban gives another text."""
    model = ToyModel()
    tokens = [1, 2, 3, 4]
    first = model.next_token(tokens, 0)
    assert any(model.next_token([*tokens[:i], 9, *tokens[i + 1 :]], 0) != first for i in range(4))
    assert len({model.next_token(tokens, seed) for seed in range(20)}) > 5
    assert model.next_token(tokens, 0, frozenset({first})) != first
    params = SamplingParams(temperature=0, max_tokens=4, stop_token_ids=(first,))
    request = Request(request_id="r", prompt_token_ids=tokens, params=params, max_tokens=4)
    assert expected_output(request, model).finish_reason is FinishReason.STOP


def test_less_than_four_percent_of_the_held_cache_is_empty_on_sharegpt_lengths() -> None:
    """Weighted over time: token places in held blocks that no token fills, by all places in held blocks."""
    lengths = json.loads(LENGTHS.read_text())[:600]
    config = SchedulerConfig(max_num_seqs=64, max_num_batched_tokens=2048, max_model_len=8192)
    scheduler = Scheduler(config, CacheConfig(num_blocks=2000, block_size=16))
    fresh_token = count(1)
    for index, (num_prompt, num_output) in enumerate(lengths):
        # No two prompts share a token, so that sharing does not flatter the figure.
        prompt = [next(fresh_token) for _ in range(num_prompt)]
        params = SamplingParams(temperature=0, max_tokens=num_output, ignore_eos=True)
        scheduler.add(
            Request(request_id=str(index), prompt_token_ids=prompt, params=params, max_tokens=num_output)
        )
    held, empty = 0, 0.0
    while plan := scheduler.schedule():
        stats = scheduler.stats()
        places = round(stats.kv_usage * stats.num_blocks) * 16
        held += places
        empty += stats.kv_waste * places
        scheduler.commit(plan, StepResult([1] * sum(row.samples for row in plan.rows)))
    assert scheduler.pool.num_free == 2000
    assert scheduler.counters.generation_tokens == sum(num_output for _, num_output in lengths)
    assert 0 < empty / held < 0.04
