"""After the warm-up nothing is compiled any more, and nothing of it is left for those who come after it."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from compiled_kernels import kernels_compiled
from runner_harness import BLOCK_SIZE, PlanMaker, continuation, make_runner

from octavo.model.plan import StepPlan
from octavo.model.runner import ModelRunner
from octavo.model.warm_up import warm_up

PROMPT = [5, 9, 2, 33, 7, 8, 1]


def run_warm_up(runner: ModelRunner, *, num_slots: int, max_tokens: int = 64, max_length: int = 32) -> None:
    warm_up(runner, max_tokens=max_tokens, max_length=max_length, block_size=BLOCK_SIZE, num_slots=num_slots)


@pytest.fixture
def no_gpu_to_wait_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps run on any device, here on the CPU; only the wait at the end of the warm-up needs a GPU."""
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)


@pytest.mark.usefixtures("no_gpu_to_wait_for")
def test_the_first_owners_of_slots_and_blocks_see_nothing_of_it() -> None:
    runner, plans = make_runner(num_slots=2, num_blocks=8), PlanMaker(num_blocks=8)
    run_warm_up(runner, num_slots=2)
    tokens: dict[int, list[int]] = {0: [], 1: []}
    for slot in tokens:
        plans.start(slot)
    steps = [plans.plan(plans.prefill(0, PROMPT), plans.prefill(1, PROMPT[::-1]))]
    steps += [plans.plan(plans.decode(0), plans.decode(1)) for _ in range(4)]
    for step in steps:
        sampled = runner.run(step)
        assert sampled is not None
        for slot, token in zip(tokens, sampled.tokens.tolist(), strict=True):
            tokens[slot].append(token)
    assert tokens == {0: continuation(PROMPT, 5), 1: continuation(PROMPT[::-1], 5)}


@pytest.mark.usefixtures("no_gpu_to_wait_for")
@pytest.mark.parametrize(
    ("num_slots", "num_blocks", "max_tokens", "max_length"),
    [(1, 8, 64, 16), (1, 8, 1, 16), (2, 8, 2, 16), (2, 1, 64, 2), (2, 1, 64, 4), (4, 16, 8, 1)],
)
def test_the_smallest_engines_are_warmed_up_too(
    num_slots: int, num_blocks: int, max_tokens: int, max_length: int
) -> None:
    """One sequence at a time, one token in a step, one block in all: within slots and pages all the same."""
    runner = make_runner(num_slots=num_slots, num_blocks=num_blocks)
    steps: list[StepPlan] = []

    class Watched:
        device = runner.device

        def run(self, plan: StepPlan) -> None:
            steps.append(plan)
            runner.run(plan)

    watched: Any = Watched()
    run_warm_up(watched, num_slots=num_slots, max_tokens=max_tokens, max_length=max_length)
    rows = [row for plan in steps for row in plan.rows]
    assert rows and all(row.slot < num_slots and 1 <= row.length <= max_length for row in rows)
    assert all(block < num_blocks for row in rows for block in row.new_blocks)
    if num_slots > 1:
        assert any(len(plan.rows) == 2 for plan in steps)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("with_graphs", [True, False])
def test_no_kernel_is_compiled_once_the_engine_is_ready(with_graphs: bool, tmp_path: Path) -> None:
    """In a process of its own: this one has compiled kernels for other tests."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        before, late, after = process.submit(kernels_compiled, with_graphs, str(tmp_path)).result()
    assert before, "the hook saw no kernel loaded: it does not watch what it should"
    assert late == [], "these were not compiled ahead, together with the others"
    assert after == []
