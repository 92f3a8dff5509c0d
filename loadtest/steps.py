"""Where a decode step's time goes: scheduler, launch, commit, device, and the device's gap between steps.

    python loadtest/steps.py --model tests/data/models/qwen2.5-1.5b --batches 1 256

Drives scheduler and executor as the engine does, one step ahead, without clients. Random weights. With
`--profile`, also the kernels of a step by their share of device time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import time
from collections import deque
from collections.abc import Iterable

import torch

from octavo.app.config import EngineConfig
from octavo.app.engine_build import build_executor
from octavo.app.engine_plan import plan_engine
from octavo.app.model_source import find_model
from octavo.app.start import Start
from octavo.model.plan import Executor, StepHandle, StepPlan
from octavo.model.sampling_params import SamplingParams
from octavo.scheduler.request import Request
from octavo.scheduler.scheduler import Scheduler

WARMUP_STEPS = 20


class StepTimer:
    """Runs an executor under a scheduler and keeps the time of each part of each step, in microseconds."""

    def __init__(self, scheduler: Scheduler, executor: Executor) -> None:
        self._scheduler = scheduler
        self._executor = executor
        self._in_flight: deque[tuple[StepPlan, StepHandle]] = deque()
        self.parts: dict[str, list[float]] = {"schedule": [], "launch": [], "wait": [], "commit": []}
        self._marks: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    async def run(self, num_steps: int) -> float:
        """Seconds that `num_steps` took."""
        began = time.perf_counter()
        for _ in range(num_steps):
            await self.step()
        return time.perf_counter() - began

    async def step(self) -> None:
        """Launch one, then wait for the one before it."""
        marks = [time.perf_counter()]
        plan = self._scheduler.schedule()
        marks.append(time.perf_counter())
        if plan is not None:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            self._in_flight.append((plan, self._executor.launch(plan)))
            end.record()
            self._marks.append((start, end))
        marks.append(time.perf_counter())
        if len(self._in_flight) > (1 if plan is not None else 0):
            done, handle = self._in_flight.popleft()
            result = await handle.result()
            marks.append(time.perf_counter())
            self._scheduler.commit(done, result)
            marks.append(time.perf_counter())
            for name, a, b in zip(self.parts, marks, marks[1:], strict=False):
                self.parts[name].append((b - a) * 1e6)

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


async def measure(
    scheduler: Scheduler,
    executor: Executor,
    vocab_size: int,
    batch: int,
    context: int,
    steps: int,
    profile: bool,
    sampling: dict[str, float],
) -> None:
    """One line for `batch` sequences of `context` tokens, and the kernels if asked."""
    rng = random.Random(batch)
    ids = [f"{batch}-{context}-{len(sampling)}-{i}" for i in range(batch)]
    for request_id in ids:
        scheduler.add(
            Request(
                request_id=request_id,
                prompt_token_ids=[rng.randrange(vocab_size) for _ in range(context)],
                params=SamplingParams(**({"temperature": 0.0} | sampling), ignore_eos=True),  # type: ignore[arg-type]
                max_tokens=4 * steps + 1000,
            )
        )
    timer = StepTimer(scheduler, executor)
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
            asyncio.run(
                measure(
                    scheduler,
                    executor,
                    plan.model.vocab_size,
                    batch,
                    context,
                    arguments.steps,
                    arguments.profile,
                    sampling,
                )
            )


if __name__ == "__main__":
    main()
