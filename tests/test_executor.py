"""Executors over a real runner: steps in flight, their results, their errors, and what is left after them."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from runner_harness import (
    POISON,
    VOCAB_SIZE,
    PlanMaker,
    continuation,
    executor_for,
    make_runner,
)

from octavo.model.executor import StreamExecutor, ThreadExecutor
from octavo.model.grammar import Grammar, GrammarKind
from octavo.model.plan import INVALID_TOKEN, StepPlan, StepResult, TokenMasks
from octavo.model.sampler import Sampled

PROMPTS = [[5, 9, 2, 33, 7, 8, 1], [40, 3, 40, 3, 40, 3, 17]]


def worker_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("octavo-step")]


def test_steps_launched_ahead_of_their_tokens_give_the_tokens_of_a_recompute(device: torch.device) -> None:
    """Nine steps are in flight before the first token is read: each takes the last one's from the device."""

    async def main() -> list[StepResult]:
        executor, plans = executor_for(make_runner(device=device)), PlanMaker()
        plans.start(0, logprobs=2)
        steps = [plans.plan(plans.prefill(0, PROMPTS[0]))]
        plans.start(1)
        steps.append(plans.plan(plans.decode(0), plans.prefill(1, PROMPTS[1][:4], samples=False)))
        steps.append(plans.plan(plans.decode(0), plans.prefill(1, PROMPTS[1][4:])))
        steps += [plans.plan(plans.decode(1), plans.decode(0)) for _ in range(6)]
        try:
            return [await handle.result() for handle in [executor.launch(step) for step in steps]]
        finally:
            executor.close()

    results = asyncio.run(main())
    first = [result.tokens[0] for result in results[:3]] + [result.tokens[1] for result in results[3:]]
    second = [results[2].tokens[1], *(result.tokens[0] for result in results[3:])]
    assert first == continuation(PROMPTS[0], 9)
    assert second == continuation(PROMPTS[1], 7)
    for result in results[3:]:
        assert result.logprobs is not None
        unasked, asked = result.logprobs
        assert unasked is None
        assert asked is not None and asked.rank == 1 and len(asked.top) == 2
        assert asked.top[0] == (result.tokens[1], asked.logprob)


def test_a_step_that_samples_nothing_and_one_that_finds_no_number() -> None:
    async def main() -> None:
        executor, plans = ThreadExecutor(make_runner()), PlanMaker()
        plans.start(0, logprobs=0)
        prompt = executor.launch(plans.plan(plans.prefill(0, [1, 2], samples=False)))
        poisoned = executor.launch(plans.plan(plans.prefill(0, [POISON])))
        assert await prompt.result() == StepResult(())
        assert await poisoned.result() == StepResult([INVALID_TOKEN], (None,))
        executor.close()

    asyncio.run(main())


def test_what_the_runner_raises_reaches_whoever_awaits_that_step() -> None:
    async def main() -> None:
        executor, plans = ThreadExecutor(make_runner()), PlanMaker()
        plans.start(0)
        healthy = executor.launch(plans.plan(plans.prefill(0, PROMPTS[0])))
        failing = executor.launch(plans.plan(plans.prefill(0, [VOCAB_SIZE])))  # no such row of the embedding
        assert (await healthy.result()).tokens == continuation(PROMPTS[0], 1)
        with pytest.raises(IndexError, match="out of range"):
            await failing.result()
        executor.close()

    asyncio.run(main())


def test_close_waits_for_the_step_under_way_and_drops_those_behind_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        runner, plans, dropped = make_runner(), PlanMaker(), threading.Event()
        run = runner.run

        def held(plan: StepPlan) -> Sampled | None:
            """The second step lasts until the last is dropped."""
            if not plan.starts:
                dropped.wait(60)
            return run(plan)

        monkeypatch.setattr(runner, "run", held)
        others = worker_threads()  # of models that other tests share
        executor = ThreadExecutor(runner)
        plans.start(0)
        first = executor.launch(plans.plan(plans.prefill(0, PROMPTS[0])))
        rest = [executor.launch(plans.plan(plans.decode(0))) for _ in range(5)]
        rest[-1]._future.add_done_callback(lambda _: dropped.set())
        await first.result()
        executor.close()
        assert worker_threads() == others
        ended = await asyncio.gather(*(handle.result() for handle in rest), return_exceptions=True)
        done = [end for end in ended if isinstance(end, StepResult)]
        assert all(isinstance(end, asyncio.CancelledError) for end in ended[len(done) :])
        assert [result.tokens[0] for result in done] == continuation(PROMPTS[0], 1 + len(done))[1:]
        assert len(done) <= 1, "steps ran that close should have dropped"

    asyncio.run(main())


def test_close_lets_go_of_the_model() -> None:
    async def main() -> None:
        runner, plans = make_runner(), PlanMaker()
        gone = weakref.ref(runner)
        executor = ThreadExecutor(runner)
        plans.start(0)
        await executor.launch(plans.plan(plans.prefill(0, PROMPTS[0]))).result()
        executor.close()
        del runner
        gc.collect()
        assert gone() is None
        del executor

    asyncio.run(main())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
@pytest.mark.parametrize("with_graphs", [True, False])
def test_a_launch_waits_for_nothing_whatever_is_asked(with_graphs: bool) -> None:
    """Settings of all kinds, masks, log-probabilities of tokens and of prompts."""
    runner = make_runner(device=torch.device("cuda", 0))
    if with_graphs:
        runner.capture_graphs(64)

    async def main() -> None:
        executor = StreamExecutor(runner)
        for mode in ("default", "error"):  # kernels are loaded, and pinned memory is at hand, in the first
            plans = PlanMaker()
            plans.start(0, logprobs=2, temperature=0.8, top_p=0.9)
            plans.start(1, prompt_logprobs=2, presence_penalty=0.5)
            plans.start(2, structured_outputs=Grammar(GrammarKind.REGEX, "a"), logit_bias={5: 1.0})
            masks = (TokenMasks([2], np.array([[1 << 5, 0]], np.int32)),)
            asking = plans.prefill(1, PROMPTS[0])._replace(targets=PROMPTS[0][1:])
            rows = plans.prefill(0, PROMPTS[1]), asking, plans.prefill(2, PROMPTS[1])
            steps = [plans.plan(*rows), *(plans.plan(*map(plans.decode, range(3))) for _ in range(3))]
            torch.cuda.set_sync_debug_mode(mode)
            try:
                handles = [executor.launch(replace(step, masks=masks)) for step in steps]
            finally:
                torch.cuda.set_sync_debug_mode("default")
            results = [await handle.result() for handle in handles]
            assert all(result.tokens[2] == 5 and result.logprobs for result in results)
            assert results[0].prompt_logprobs and not any(result.errors for result in results)
        executor.close()

    asyncio.run(main())
