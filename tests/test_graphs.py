"""Which decode steps are captured, and that a replayed step says what a launched one says."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from runner_harness import BLOCK_SIZE, VOCAB_SIZE, PlanMaker, make_runner

from octavo.model.graphs import decode_sizes
from octavo.model.plan import SequenceSlice, StepPlan
from octavo.model.runner import ModelRunner

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
LARGEST = 1024


@given(st.integers(1, 3000))
def test_every_batch_finds_a_graph_that_is_hardly_larger(max_num_seqs: int) -> None:
    sizes = decode_sizes(max_num_seqs)
    assert sizes == sorted(set(sizes))
    assert sizes[0] == 1 and sizes[-1] == min(max_num_seqs, LARGEST)
    for rows in range(1, sizes[-1] + 1):
        padding = next(size for size in sizes if size >= rows) - rows
        if rows <= 16:
            assert padding == 0
        else:
            assert padding < 8 or padding * 8 <= rows


def cuda_runner(num_slots: int) -> ModelRunner:
    return make_runner(num_slots=num_slots, num_blocks=512, device=torch.device("cuda", 0))


def tokens_of(runner: ModelRunner, num_slots: int, num_decodes: int) -> list[list[int]]:
    """Prompts of mixed lengths, then decodes; every second sequence draws, penalises and wants logprobs."""
    plans, steps = PlanMaker(num_blocks=512), []
    random = {"temperature": 0.8, "top_p": 0.9, "presence_penalty": 0.5, "logprobs": 2}
    for slot in range(num_slots):
        plans.start(slot, **(random if slot % 2 else {}))
        prompt = [(7 * slot + i) % (VOCAB_SIZE - 1) for i in range(2 + slot % 9)]
        steps.append(plans.plan(plans.prefill(slot, prompt)))
    steps += [plans.plan(*map(plans.decode, range(num_slots))) for _ in range(num_decodes)]
    results = [runner.run(step) for step in steps]  # launched ahead: nothing is read before the last
    return [result.tokens.tolist() for result in results if result is not None]


@needs_gpu
@pytest.mark.parametrize("batch", [1, 7, 33])
def test_replayed_steps_give_the_tokens_of_launched_ones(batch: int) -> None:
    launched, replayed = cuda_runner(40), cuda_runner(40)
    replayed.capture_graphs()
    graphs = replayed._graphs
    assert graphs is not None
    assert tokens_of(replayed, batch, 12) == tokens_of(launched, batch, 12)
    assert (graphs.hits, graphs.misses) == (12, 0)


@needs_gpu
def test_a_step_with_more_new_blocks_than_rows_is_launched_or_takes_a_larger_graph() -> None:
    """Of a cached prompt only the last token is computed, but every block of it is new to the slot."""
    prompt = [(5 * i) % (VOCAB_SIZE - 1) for i in range(7 * BLOCK_SIZE + 1)]
    for num_slots, hits in ((2, 0), (16, 1)):
        runner, plans = cuda_runner(num_slots), PlanMaker()
        runner.capture_graphs()
        graphs = runner._graphs
        assert graphs is not None
        plans.start(0)
        first = plans.prefill(0, prompt)
        expected = runner.run(plans.plan(first))
        plans.start(1)
        blocks = [*first.new_blocks[:7], 500]
        row = SequenceSlice(1, len(prompt) - 1, 1, prompt[-1:], blocks, True)
        hit = runner.run(StepPlan((row,), plans.plan().starts))
        assert expected is not None and hit is not None
        assert hit.tokens.tolist() == expected.tokens.tolist()
        assert (graphs.hits, graphs.misses) == (hits, 1 - hits)
