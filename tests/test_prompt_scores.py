"""Log-probabilities of prompts: those of a whole pass, however a prompt is cut, whoever runs beside it."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
import torch
from model_harness import Harness
from runner_harness import BLOCK_SIZE, CONFIG, MAX_LENGTH, PlanMaker, continuation, make_runner, random_model

from octavo.model.executor import StreamExecutor, ThreadExecutor
from octavo.model.plan import SequenceSlice, StepPlan, StepResult
from octavo.model.prompt_scores import PromptQuestions, Span

PROMPT = [5, 9, 2, 33, 7, 8, 1, 40, 3, 40, 17, 22, 6]


def reference(prompt: list[int]) -> torch.Tensor:
    """[len(prompt) - 1, vocab_size], of each token but the first."""
    harness = Harness(random_model(), CONFIG, num_slots=1, max_length=MAX_LENGTH, block_size=BLOCK_SIZE)
    logits = [harness.step({0: [token]})[0][-1] for token in prompt]
    return torch.stack(logits).float().log_softmax(-1)[:-1]


def asking(row: SequenceSlice, prompt: list[int]) -> SequenceSlice:
    return row._replace(targets=prompt[row.start + 1 : row.start + row.length + 1])


def run_all(plans: list[StepPlan], device: torch.device) -> list[StepResult]:
    async def main() -> list[StepResult]:
        runner = make_runner(device=device)
        executor = ThreadExecutor(runner) if device.type == "cpu" else StreamExecutor(runner)
        try:
            return [await handle.result() for handle in [executor.launch(plan) for plan in plans]]
        finally:
            executor.close()

    return asyncio.run(main())


@pytest.mark.parametrize("lengths", [[13], [1] * 13, [6, 1, 6], [12, 1], [2, 9, 2]])
def test_chunks_beside_a_decode_tell_what_a_whole_pass_tells(
    lengths: list[int], device: torch.device
) -> None:
    plans = PlanMaker()
    plans.start(0)
    steps = [plans.plan(plans.prefill(0, [4, 4]))]
    plans.start(1, prompt_logprobs=3)
    done = 0
    for length in lengths:
        chunk = PROMPT[done : done + length]
        done += length
        row = asking(plans.prefill(1, chunk, samples=done == len(PROMPT)), PROMPT)
        steps.append(plans.plan(plans.decode(0), row))
    results = run_all(steps, device)
    told = [entry for result in results for row in result.prompt_logprobs for entry in row]
    expected = reference(PROMPT)
    best = expected.topk(3)
    assert len(told) == len(PROMPT) - 1
    for i, (entry, token) in enumerate(zip(told, PROMPT[1:], strict=True)):
        assert entry.logprob == pytest.approx(expected[i, token].item(), abs=1e-4)
        assert entry.rank == (expected[i] > expected[i, token]).sum() + 1
        assert [t for t, _ in entry.top] == best.indices[i].tolist()
        assert [p for _, p in entry.top] == pytest.approx(best.values[i].tolist(), abs=1e-4)
    # Neither neighbour's tokens change for it.
    assert [result.tokens[0] for result in results] == continuation([4, 4], len(results))
    assert results[-1].tokens[1:] == continuation(PROMPT, 1)


def test_a_step_may_ask_without_sampling() -> None:
    plans = PlanMaker()
    plans.start(0, prompt_logprobs=0)
    row = asking(plans.prefill(0, PROMPT[:5], samples=False), PROMPT)
    (result,) = run_all([plans.plan(row)], torch.device("cpu"))
    assert not result.tokens
    assert [(len(rows), rows[0].top) for rows in result.prompt_logprobs] == [(5, ())]


def test_rows_of_several_prompts_are_told_apart() -> None:
    rows = (
        SequenceSlice(2, 0, 1, [7], [0], False, [8]),
        SequenceSlice(0, 5, 1, None, [], True),
        SequenceSlice(1, 0, 4, [1, 2, 3, 4], [1], False, [2, 3]),
        SequenceSlice(3, 0, 2, [1, 2], [2], True),
    )
    num_top = np.array([9, 2, 1, 9])
    questions = PromptQuestions.of(StepPlan(rows), num_top)
    assert questions is not None
    assert (questions.tokens.tolist(), questions.targets.tolist()) == ([0, 2, 3], [8, 2, 3])
    assert (questions.slots.tolist(), questions.lens.tolist()) == ([2, 1, 1], [1, 1, 2])
    assert questions.spans == ((2, 1, 1), (1, 2, 2))
    assert PromptQuestions.of(StepPlan(rows[1:2]), num_top) is None


def test_the_head_sees_no_more_rows_than_a_step_may_sample() -> None:
    """Logits of a long prompt would take gigabytes: the pieces are what memory was set aside for."""
    sizes = []

    def head(hidden: torch.Tensor) -> torch.Tensor:
        sizes.append(len(hidden))
        return hidden

    tokens, slots = np.arange(150), np.zeros(150, np.int32)
    questions = PromptQuestions(tokens, slots, slots + 1, tokens % 7, (Span(0, 150, 2),))
    hidden = torch.randn(150, 7, generator=torch.Generator().manual_seed(0))
    scores = questions.answer(hidden, head, num_slots=50)
    assert sizes == [50, 50, 50]
    wanted = hidden.log_softmax(-1)[torch.arange(150), torch.arange(150) % 7]
    assert [entry.logprob for entry in scores.to_host({})[0]] == pytest.approx(wanted.tolist(), abs=1e-5)
