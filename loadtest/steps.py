"""Where a decode step's time goes: scheduler, launch, commit, device, and the device's gap between steps.

    python loadtest/steps.py --model tests/data/models/qwen2.5-1.5b --batches 1 256

Drives scheduler and executor as the engine does, one step ahead, without clients. Random weights. With
`--profile`, also the kernels of a step by their share of device time. With `--masks`, every batch twice more
without launching ahead, which rows with a grammar cannot be: without masks, and with one for each row in each
step; and how much longer device and launch take then, as a share of a step.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from octavo.app.config import EngineConfig
from octavo.app.engine_build import build_executor
from octavo.app.engine_plan import plan_engine
from octavo.app.model_source import find_model
from octavo.app.start import Start
from octavo.model.grammar import Grammar, GrammarKind
from octavo.model.plan import Executor, StepHandle, StepPlan
from octavo.model.sampling_params import SamplingParams
from octavo.model.sampling_state import pinned_masks
from octavo.ops.sampling import mask_words
from octavo.scheduler.constraint import MaskRow
from octavo.scheduler.request import Request
from octavo.scheduler.scheduler import Scheduler

WARMUP_STEPS = 20


class StepTimer:
    """Runs an executor under a scheduler and keeps the time of each part of each step, in microseconds.

    ahead: each step is launched before the one in front of it is waited for.
    """

    def __init__(self, scheduler: Scheduler, executor: Executor, *, ahead: bool = True) -> None:
        self._scheduler = scheduler
        self._executor = executor
        self._depth = 1 if ahead else 0
        self._in_flight: deque[tuple[StepPlan, StepHandle]] = deque()
        self.parts: dict[str, list[float]] = {"schedule": [], "launch": [], "wait": [], "commit": []}
        self._marks: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    async def run(self, num_steps: int) -> float:
        """Seconds that `num_steps` took."""
        began = time.perf_counter()
        last = len(self._marks) + num_steps
        while len(self._marks) < last:
            await self.step()
        return time.perf_counter() - began

    async def step(self) -> None:
        """Launch one if anything can be planned, then wait for the one that is due."""
        began = time.perf_counter()
        plan = self._scheduler.schedule()
        if plan is not None:
            began = self._took("schedule", began)
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            self._in_flight.append((plan, self._executor.launch(plan)))
            end.record()
            self._marks.append((start, end))
            self._took("launch", began)
        if len(self._in_flight) > (self._depth if plan is not None else 0):
            began = time.perf_counter()
            done, handle = self._in_flight.popleft()
            result = await handle.result()
            began = self._took("wait", began)
            self._scheduler.commit(done, result)
            self._took("commit", began)

    def _took(self, part: str, began: float) -> float:
        now = time.perf_counter()
        self.parts[part].append((now - began) * 1e6)
        return now

    def device_times(self) -> tuple[list[float], list[float]]:
        """(time on the device, gap before the next step) of each step, in microseconds."""
        torch.cuda.synchronize()
        busy = [start.elapsed_time(end) * 1e3 for start, end in self._marks]
        gaps = [
            end.elapsed_time(start) * 1e3
            for (_, end), (start, _) in zip(self._marks, self._marks[1:], strict=False)
        ]
        return busy, gaps

    def forget(self) -> None:
        """Start counting anew."""
        self._marks.clear()
        for values in self.parts.values():
            values.clear()


class HalfMasks:
    """Lets other tokens through at each place, half of them. Implements scheduler.constraint.Constraint.

    words: [rows of a batch, words of a mask] int32, of which each step has a copy of its own.
    """

    binds_from = 0
    complete = False
    error: str | None = None

    def __init__(self, words: NDArray[np.int32]) -> None:
        self._words = words
        self.mask: MaskRow | None = MaskRow.of(words[0])

    def advance(self, token: int) -> None:
        """See Constraint."""
        self.mask = None

    def prepare(self, batch: Sequence[HalfMasks], came: Callable[[], None]) -> None:
        """See Constraint; done at once."""
        words = pinned_masks(len(batch), self._words.shape[1])
        words[:] = self._words[: len(batch)]
        for row, one in enumerate(batch):
            one.mask = MaskRow(words, row)


async def measure(
    scheduler: Scheduler,
    executor: Executor,
    vocab_size: int,
    batch: int,
    context: int,
    steps: int,
    profile: bool,
    sampling: dict[str, Any],
    *,
    ahead: bool = True,
    masks: NDArray[np.int32] | None = None,
) -> tuple[float, float]:
    """One line for `batch` sequences of `context` tokens, and the kernels if asked.

    ahead: see StepTimer.   masks: see HalfMasks.
    Returns the microseconds of a step on the device, and of its launch.
    """
    rng = random.Random(batch)
    if masks is not None:
        sampling = sampling | {"structured_outputs": Grammar(GrammarKind.REGEX, ".")}
    ids = [f"{batch}-{context}-{len(sampling)}-{ahead}-{i}" for i in range(batch)]
    for request_id in ids:
        scheduler.add(
            Request(
                request_id=request_id,
                prompt_token_ids=[rng.randrange(vocab_size) for _ in range(context)],
                params=SamplingParams(**({"temperature": 0.0} | sampling), ignore_eos=True),
                max_tokens=4 * steps + 1000,
            ),
            None if masks is None else HalfMasks(masks),
        )
    timer = StepTimer(scheduler, executor, ahead=ahead)
    while any(len(s.token_ids) == s.num_prompt for s in scheduler._sequences.values()):
        await timer.step()
    await timer.run(WARMUP_STEPS)
    timer.forget()
    seconds = await timer.run(steps)
    busy, gaps = timer.device_times()
    parts = "".join(f"{statistics.median(values):>10.0f}" for values in timer.parts.values())
    print(
        f"{batch:>6}{context:>8}{seconds / steps * 1e6:>10.0f}{parts}"
        f"{statistics.median(busy):>10.0f}{statistics.median(gaps):>8.1f}{batch * steps / seconds:>12,.0f}",
        flush=True,
    )
    if profile:
        await print_kernels(timer)
    for request_id in ids:
        scheduler.abort(request_id)
    while scheduler.schedule() is not None or timer._in_flight:
        await timer.step()
    return statistics.median(busy), statistics.median(timer.parts["launch"])


async def measure_masks(
    step_us: float, run: Callable[..., Coroutine[Any, Any, tuple[float, float]]], vocab_size: int, batch: int
) -> None:
    """What masks cost. step_us: of a step launched ahead.   run: `measure` of the same batch."""
    words = np.random.default_rng(0).integers(-(2**31), 2**31, (batch, mask_words(vocab_size)), np.int32)
    plain_us = await run(ahead=False)
    masked_us = await run(ahead=False, masks=words)
    device_us, launch_us = (masked - plain for masked, plain in zip(masked_us, plain_us, strict=True))
    print(
        f"    masks of {batch} rows: {device_us:+.0f} us until the device is done, "
        f"{device_us / step_us:+.1%} of a step, with {launch_us:+.0f} us of the launch",
        flush=True,
    )


async def print_kernels(timer: StepTimer, steps: int = 10) -> None:
    """Device time by kernel, over a few steps."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        await timer.run(steps)
        torch.cuda.synchronize()
    events = sorted(profiler.key_averages(), key=lambda e: -e.self_device_time_total)
    total = sum(e.self_device_time_total for e in events)
    print(f"    kernels: {total / steps:.0f} us a step")
    for event in events[:14]:
        share = event.self_device_time_total / total
        print(
            f"    {event.self_device_time_total / steps:>8.1f} us {share:>6.1%} x{event.count / steps:>5.1f} "
            f"{event.key[:90]}"
        )


def main(argv: Iterable[str] | None = None) -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32, 256])
    parser.add_argument("--contexts", type=int, nargs="+", default=[512])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--sampled", action="store_true", help="temperature, top-p, top-k and penalties on")
    parser.add_argument("--masks", action="store_true", help="every batch again with a mask for each row")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings of the engine")
    arguments = parser.parse_args(None if argv is None else list(argv))
    settings = {name: json.loads(value) for name, value in (item.split("=", 1) for item in arguments.set)}
    config = EngineConfig(
        model=arguments.model,
        load_format="dummy",
        skip_tokenizer_init=True,
        max_queued_requests=None,
        **settings,
    )
    source = find_model(config.model, load_format="dummy", with_tokenizer=False)
    plan = plan_engine(config, source)
    start = Start(patient=True)
    start.mark("imports and plan")
    executor, plan = build_executor(config, source, plan, start)
    print(start.table())
    scheduler = Scheduler(plan.scheduler, plan.cache)
    sampling = (
        {"temperature": 0.8, "top_p": 0.95, "top_k": 50, "presence_penalty": 0.1} if arguments.sampled else {}
    )
    print(
        f"{'batch':>6}{'context':>8}{'us/step':>10}{'schedule':>10}{'launch':>10}{'wait':>10}{'commit':>10}"
        f"{'device':>10}{'gap':>8}{'tok/s':>12}"
    )
    for context in arguments.contexts:
        for batch in arguments.batches:
            vocab_size = plan.model.vocab_size
            run = partial(
                measure,
                scheduler,
                executor,
                vocab_size,
                batch,
                context,
                arguments.steps,
                arguments.profile,
                sampling,
            )
            step_us, _ = asyncio.run(run())
            if arguments.masks:
                asyncio.run(measure_masks(step_us, run, vocab_size, batch))


if __name__ == "__main__":
    main()
