"""Counts the kernels that an engine on a GPU compiles; a module, so that a fresh process can run it."""

from __future__ import annotations

import os
from typing import Any

import torch
from runner_harness import BLOCK_SIZE, MAX_LENGTH, VOCAB_SIZE, PlanMaker, make_runner

from octavo.model.plan import StepPlan
from octavo.model.warm_up import warm_up


def kernels_compiled(with_graphs: bool, cache: str) -> tuple[list[str], list[str], list[str]]:
    """Names of the kernels that were loaded before the first request, of those among them that were not in
    the cache on disk, and of those that requests of all kinds needed. cache: an empty folder for it."""
    os.environ["TRITON_CACHE_DIR"] = cache
    from triton import knobs

    compiled: list[str] = []
    knobs.runtime.jit_cache_hook = lambda *, repr, **_: compiled.append(repr)  # before each compilation
    num_slots = 20
    late: list[str] = []
    knobs.compilation.listener = lambda *, src, cache_hit, **_: None if cache_hit else late.append(src.name)
    runner = make_runner(num_slots=num_slots, num_blocks=512, device=torch.device("cuda", 0))
    runner.compile_kernels().wait()
    compiled.clear()
    warm_up(runner, max_tokens=256, max_length=MAX_LENGTH, block_size=BLOCK_SIZE, num_slots=num_slots)
    if with_graphs:
        runner.capture_graphs(256)
    num_before, late_before = len(compiled), list(late)
    for step in all_kinds_of_steps(num_slots):
        runner.run(step)
    torch.cuda.synchronize()
    return compiled[:num_before], late_before, compiled[num_before:]


def all_kinds_of_steps(num_slots: int) -> list[StepPlan]:
    """Every batch of decodes, alone and beside chunks of every length, by every kind of sampling."""
    kinds: list[dict[str, Any]] = [
        {},
        {"temperature": 1.0},
        {"temperature": 0.7, "top_k": 5, "min_p": 0.1},
        {"temperature": 0.7, "top_p": 0.5, "logprobs": 5},
        {"frequency_penalty": 0.5, "repetition_penalty": 1.2, "logprobs": 0},
        {"logit_bias": {3: 5.0}},
        {"prompt_logprobs": 2},
    ]
    plans, steps = PlanMaker(num_blocks=512), []
    for slot in range(num_slots):
        plans.start(slot, **kinds[slot % len(kinds)])
        prompt = [(7 * slot + i) % (VOCAB_SIZE - 1) for i in range(1 + 2 * slot)]
        targets = prompt[1 : 2 + slot % 3] if "prompt_logprobs" in kinds[slot % len(kinds)] else []
        chunks = [plans.prefill(slot, prompt[:9], samples=len(prompt) <= 9)._replace(targets=targets)]
        decodes = [plans.decode(running) for running in range(slot)]
        one, more = (chunks, []) if len(prompt) == 1 else ([], chunks)
        steps.append(plans.plan(*one, *decodes, *more))
        if len(prompt) > 9:
            steps.append(plans.plan(plans.prefill(slot, prompt[9:])))
        steps.append(plans.plan(*(plans.decode(running) for running in range(slot + 1))))
    return steps
