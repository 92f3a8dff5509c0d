"""Which decode steps are captured, and that a replayed step says what a launched one says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from runner_harness import BLOCK_SIZE, VOCAB_SIZE, PlanMaker, make_runner
from torch import Tensor

from octavo.model import graphs
from octavo.model.graph_shapes import (
    decode_shapes,
    decode_sizes,
    first_shapes,
    max_chunks,
    mixed_shapes,
)
from octavo.model.graphs import StepGraphs
from octavo.model.plan import GraphCounts, SequenceSlice, StepPlan
from octavo.model.runner import ModelRunner
from octavo.model.step_inputs import BlockTableMirror, StepArrays, StepShape

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
LARGEST = 2048


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


@given(st.integers(1, 1500), st.integers(1, 9000), st.sampled_from([4, 16, 64]))
def test_mixed_graphs_are_ordered_and_hold_what_their_tokens_may_bring(
    max_num_seqs: int, max_num_tokens: int, block_size: int
) -> None:
    shapes = mixed_shapes(max_num_seqs, max_num_tokens, block_size)
    assert shapes == sorted(set(shapes))
    for shape in shapes:
        assert shape.num_tokens <= min(max_num_tokens, 8192)
        assert 0 < shape.num_chunks <= min(max_chunks(shape.num_tokens), shape.num_decodes)
        assert shape.num_decodes == shape.num_sampled <= min(max_num_seqs, shape.num_tokens)
        assert shape.num_updates >= shape.num_decodes + shape.num_tokens // block_size
    if max_num_tokens >= 64:
        assert shapes
    decodes = decode_shapes(max_num_seqs)
    first = first_shapes(decodes, shapes)
    for shape in decodes:
        assert any(other.holds(shape) and other.num_tokens <= 2 * shape.num_tokens for other in first)
    for shape in shapes:
        assert any(other.holds(shape) and other.num_tokens == shape.num_tokens for other in first)


@pytest.fixture
def choice(monkeypatch: pytest.MonkeyPatch) -> tuple[StepGraphs, list[StepShape]]:
    """Graphs of all shapes that are captured without a GPU, as their own shapes; which were, in order."""
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 0))
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: None)
    step: Any = None
    chosen = StepGraphs(
        step,
        step,
        BlockTableMirror(4, 4, 16),
        decode_shapes(1024),
        mixed_shapes(1024, 8192, 16),
        torch.device("cpu"),
    )
    order: list[StepShape] = []

    def capture(shape: Any) -> None:
        chosen._captured[shape] = shape
        chosen._left.discard(shape)
        order.append(shape)

    monkeypatch.setattr(chosen, "_capture", capture)
    chosen.capture_first()
    return chosen, order


def fitting(chosen: StepGraphs, wanted: StepShape) -> Any:
    """The shape whose graph a step takes."""
    return chosen._fitting(wanted)


def test_a_step_makes_do_with_a_larger_graph_until_that_has_cost_enough(
    choice: tuple[StepGraphs, list[StepShape]],
) -> None:
    chosen, order = choice
    order.clear()
    three, many = StepShape(3, 3, 0, 3, 1), StepShape(300, 300, 0, 300, 10)
    for _ in range(1000):
        assert fitting(chosen, three) == StepShape(4, 4, 0, 4, 4)
    assert order == [], "a row in vain, a thousand times, is not worth a pause"
    used = [fitting(chosen, many) for _ in range(100)]
    assert used[0] == StepShape(512, 512, 0, 512, 512)
    assert used[-1] == StepShape(320, 320, 0, 320, 320) and order == [used[-1]]
    mixed = StepShape(200, 2, 3, 5, 20)
    assert fitting(chosen, mixed) == max(shape for shape in chosen._mixed if shape.num_tokens == 256)
    assert fitting(chosen, StepShape(9000, 2, 3, 5, 20)) is None


def test_in_idle_time_what_was_missed_comes_first_then_the_smallest(
    choice: tuple[StepGraphs, list[StepShape]],
) -> None:
    chosen, order = choice
    order.clear()
    fitting(chosen, StepShape(700, 700, 0, 700, 1))
    while chosen.capture_next():
        pass
    assert order[:3] == [StepShape(n, n, 0, n, n) for n in (704, 3, 5)]
    assert len(chosen._captured) == len(chosen._decodes) + len(chosen._mixed)


def test_where_memory_is_short_steps_keep_to_the_graphs_that_there_are(
    choice: tuple[StepGraphs, list[StepShape]], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, _ = choice

    def full(shape: StepShape) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(chosen, "_capture", full)
    assert not chosen.capture_next()
    assert fitting(chosen, StepShape(3, 3, 0, 3, 1)) == StepShape(4, 4, 0, 4, 4)


def cuda_runner(num_slots: int) -> ModelRunner:
    return make_runner(num_slots=num_slots, num_blocks=512, device=torch.device("cuda", 0))


def tokens_launched_ahead(runner: ModelRunner, steps: Sequence[StepPlan]) -> list[list[int]]:
    """The tokens of all steps, launched as the engine does, one ahead of the one that is waited for; a graph
    writes its own over those of the replay before, so they are copied."""
    copies, done = [], torch.cuda.Event()
    for step in steps:
        sampled = runner.run(step)
        if sampled is not None:
            copies.append(sampled.tokens.clone())
        done.synchronize()  # of the step before; nothing yet at the first
        done = torch.cuda.Event()
        done.record()
    return [tokens.tolist() for tokens in copies]


def tokens_of(runner: ModelRunner, num_slots: int, num_decodes: int) -> list[list[int]]:
    """Prompts of mixed lengths, then decodes; every second sequence draws, penalises and wants logprobs."""
    plans, steps = PlanMaker(num_blocks=512), []
    random = {"temperature": 0.8, "top_p": 0.9, "presence_penalty": 0.5, "logprobs": 2}
    for slot in range(num_slots):
        plans.start(slot, **(random if slot % 2 else {}))
        prompt = [(7 * slot + i) % (VOCAB_SIZE - 1) for i in range(2 + slot % 9)]
        steps.append(plans.plan(plans.prefill(slot, prompt)))
    steps += [plans.plan(*map(plans.decode, range(num_slots))) for _ in range(num_decodes)]
    return tokens_launched_ahead(runner, steps)


@needs_gpu
@pytest.mark.parametrize("batch", [1, 7, 33])
def test_replayed_steps_give_the_tokens_of_launched_ones(batch: int) -> None:
    launched, replayed = cuda_runner(40), cuda_runner(40)
    replayed.capture_graphs(128)
    assert tokens_of(replayed, batch, 12) == tokens_of(launched, batch, 12)
    counts = replayed.graph_counts()
    assert sum(counts.replayed.values()) == batch + 12 and not any(counts.launched.values())
    assert counts.replayed["decode"] >= 12


@needs_gpu
@pytest.mark.parametrize("captured", ["a few", "those that were missed", "all"])
def test_tokens_do_not_depend_on_which_graphs_there_are_yet(
    captured: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched, replayed = cuda_runner(40), cuda_runner(40)
    replayed.capture_graphs(128)
    if captured == "those that were missed":
        monkeypatch.setattr(graphs, "_MAX_WASTED_TOKENS", 0)  # each at once, while a step is under way
    while captured == "all" and replayed.capture_more():
        pass
    for batch in (3, 13, 33, 39):
        assert tokens_of(replayed, batch, 4) == tokens_of(launched, batch, 4)
    assert not any(replayed.graph_counts().launched.values())
    assert replayed.capture_more() == (captured != "all")


@needs_gpu
def test_a_capture_that_runs_out_of_memory_half_way_costs_graphs_and_nothing_else() -> None:
    launched, replayed = cuda_runner(40), cuda_runner(40)
    replayed.capture_graphs(128)
    captured = replayed._graphs
    assert captured is not None
    whole = captured._step

    def too_large(inputs: StepArrays) -> tuple[Tensor, Tensor]:
        whole(inputs)
        raise torch.OutOfMemoryError("CUDA out of memory")

    captured._step = too_large
    assert not replayed.capture_more()
    assert not torch.cuda.is_current_stream_capturing()
    torch.cuda.empty_cache()  # which torch refuses while it believes that something is being captured
    assert tokens_of(replayed, 13, 4) == tokens_of(launched, 13, 4)
    assert not any(replayed.graph_counts().launched.values())


def mixed_tokens_of(runner: ModelRunner, num_slots: int) -> list[list[int]]:
    """Every sequence decodes while the prompts of the next come in chunks, two at a time."""
    plans, steps = PlanMaker(num_blocks=512), []
    for slot in range(0, num_slots, 2):
        for new in (slot, slot + 1):
            plans.start(new, **({"temperature": 0.9, "top_k": 9} if new % 3 else {}))
        prompts = [
            [(5 * new + i) % (VOCAB_SIZE - 1) for i in range(20 + new % 11)] for new in (slot, slot + 1)
        ]
        for begin, end in ((0, 9), (9, None)):
            decodes = [plans.decode(running) for running in range(slot)]
            chunks = [
                plans.prefill(new, prompt[begin:end], samples=end is None)
                for new, prompt in zip((slot, slot + 1), prompts, strict=True)
            ]
            steps.append(plans.plan(*decodes, *chunks))
    return tokens_launched_ahead(runner, steps)


@needs_gpu
@pytest.mark.parametrize("num_slots", [2, 18, 40])
def test_replayed_mixed_steps_give_the_tokens_of_launched_ones(num_slots: int) -> None:
    launched, replayed = cuda_runner(40), cuda_runner(40)
    replayed.capture_graphs(128)
    assert mixed_tokens_of(replayed, num_slots) == mixed_tokens_of(launched, num_slots)
    assert replayed.graph_counts() == GraphCounts(
        {"decode": 0, "mixed": num_slots}, {"decode": 0, "mixed": 0}
    )


@needs_gpu
def test_a_step_with_more_new_blocks_than_rows_is_launched_or_takes_a_larger_graph() -> None:
    """Of a cached prompt only the last token is computed, but every block of it is new to the slot."""
    prompt = [(5 * i) % (VOCAB_SIZE - 1) for i in range(7 * BLOCK_SIZE + 1)]
    for num_slots, hits in ((2, 0), (16, 1)):
        runner, plans = cuda_runner(num_slots), PlanMaker()
        runner.capture_graphs(16)
        plans.start(0)
        first = plans.prefill(0, prompt)
        expected = runner.run(plans.plan(first))
        plans.start(1)
        blocks = [*first.new_blocks[:7], 500]
        row = SequenceSlice(1, len(prompt) - 1, 1, prompt[-1:], blocks, True)
        hit = runner.run(StepPlan((row,), plans.plan().starts))
        assert expected is not None and hit is not None
        assert hit.tokens.tolist() == expected.tokens.tolist()
        counts = runner.graph_counts()
        assert (counts.replayed["decode"], counts.launched["decode"]) == (hits, 1 - hits)
        assert counts.launched["mixed"] == 1, "the prompt is larger than any graph here"
