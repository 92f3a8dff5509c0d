"""What a step costs in Python, over a device that answers at once: the scheduler, and a plan's way there.

    python loadtest/scheduler_cost.py [--steps 400] [--loads sharegpt --running 256]

    steady     every slot decodes, nobody comes or goes       churn      128 tokens in, 128 out, all the time
    sharegpt   ShareGPT's lengths, half of the prompts begin alike     blocked    a long prompt waits for room

One line per load, microseconds of the thread's processor time a step: the lower quartile of each part, then
of `schedule` and `commit` together (the goal at batch 256: 300), their 99th percentile, and the longest pause
of the garbage collector, which is set as `octavo serve` sets it.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import random
import time
from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from octavo.cache.config import CacheConfig
from octavo.model.plan import StepPlan, StepResult
from octavo.model.plan_check import PlanCheck
from octavo.model.sampling_params import SamplingParams
from octavo.model.step_inputs import BlockTableMirror, HostBuffer, StepShape, host_memory, lay_out
from octavo.scheduler.config import SchedulerConfig
from octavo.scheduler.request import Request
from octavo.scheduler.scheduler import Scheduler

LENGTHS = Path(__file__).parent.parent / "tests" / "data" / "sharegpt_lengths.json"
MAX_MODEL_LEN = 131_072
PARTS = ("schedule", "check", "lay out", "commit")
_TOKEN, _END = 1 << 30, 1 << 29
_SERVERS_THRESHOLDS = (50_000, 20, 100)
Times = tuple[float, ...]


def request(name: str, prompt: Sequence[int], num_output: int) -> Request:
    """A greedy request with the end token that every model has."""
    params = SamplingParams(temperature=0, max_tokens=num_output)
    return Request(
        request_id=name,
        prompt_token_ids=prompt,
        params=params,
        max_tokens=num_output,
        eos_token_ids=frozenset({_END}),
    )


def varied(num_prompt: int, num_output: int, spread: float) -> Iterator[Request]:
    """Endless requests without shared tokens; lengths vary by `spread` around the numbers given."""
    rng = random.Random(0)
    for index in itertools.count():
        length, max_tokens = (
            max(1, round(n * rng.uniform(1 - spread, 1 + spread))) for n in (num_prompt, num_output)
        )
        yield request(str(index), [rng.randrange(1 << 30) for _ in range(length)], max_tokens)


def conversations() -> Iterator[Request]:
    """Endless requests of ShareGPT's lengths; half of them behind one of ten instructions."""
    rng = random.Random(0)
    lengths = json.loads(LENGTHS.read_text())
    heads = [array("i", range(first, first + 300)) for first in range(0, 10_000, 1000)]
    for index in itertools.count():
        num_prompt, num_output = rng.choice(lengths)
        first = rng.randrange(1 << 28)
        own = array("i", range(first, first + num_prompt))
        yield request(str(index), rng.choice(heads) + own if rng.random() < 0.5 else own, max(2, num_output))


class Load:
    """A scheduler kept busy, with one step in flight as the engine keeps it."""

    def __init__(self, num_running: int, source: Iterator[Request], num_blocks: int | None = None) -> None:
        config = SchedulerConfig(
            max_num_seqs=num_running, max_num_batched_tokens=8192, max_model_len=MAX_MODEL_LEN
        )
        cache = CacheConfig(num_blocks or 64 * num_running + 8192)
        self.scheduler = Scheduler(config, cache)
        self._check = PlanCheck(num_running, cache.num_blocks, cache.block_size)
        self._mirror = BlockTableMirror(num_running, MAX_MODEL_LEN // cache.block_size, cache.block_size)
        self._memory = host_memory(1 << 20, torch.device("cpu"))
        self._buffers: dict[StepShape, HostBuffer] = {}
        self._source = source
        self._in_flight: deque[StepPlan] = deque()

    def feed(self, num_waiting: int) -> None:
        """Top the queue up."""
        while self.scheduler.load()[1] < num_waiting:
            self.scheduler.add(next(self._source))

    def _buffer(self, shape: StepShape) -> HostBuffer:
        """Of a shape that is a little larger, and made once, as for graphs."""
        rounded = StepShape(*(-(-length // 64) * 64 for length in shape))
        if rounded not in self._buffers:
            self._buffers[rounded] = HostBuffer(rounded, self._memory)
        return self._buffers[rounded]

    def step(self) -> Times:
        """Seconds of each of PARTS in one step."""
        clock = time.thread_time
        began = clock()
        plan = self.scheduler.schedule()
        planned = checked = packed = clock()
        if plan is not None:
            self._check.check(plan)
            checked = clock()
            layout = lay_out(plan, self._mirror)
            self._buffer(layout.shape).pack(layout, self._mirror)
            packed = clock()
            self._in_flight.append(plan)
        committed = resulted = 0.0
        if len(self._in_flight) > 1 or plan is None:
            done = self._in_flight.popleft()
            result = StepResult([_TOKEN] * (len(done.plain.slots) + sum(row.samples for row in done.slices)))
            resulted = clock()
            self.scheduler.commit(done, result, 0.004)
            committed = clock()
        return planned - began, checked - planned, packed - checked, committed - resulted


def steady(num_running: int, steps: int) -> list[Times]:
    """Every slot decodes; nobody comes or goes."""
    load = Load(num_running, varied(128, 4 * steps + 1000, 0.2), num_running * (steps // 4 + 128))
    load.feed(num_running)
    while load.scheduler.load()[1]:
        load.step()
    for _ in range(20):
        load.step()
    return [load.step() for _ in range(steps)]


def churn(num_running: int, steps: int) -> list[Times]:
    """About one in 128 slots changes hands each step."""
    return _kept_full(Load(num_running, varied(128, 128, 0.8)), steps)


def sharegpt(num_running: int, steps: int) -> list[Times]:
    """About one in 200 slots changes hands each step, and prefixes are found."""
    return _kept_full(Load(num_running, conversations()), steps)


def _kept_full(load: Load, steps: int) -> list[Times]:
    elapsed = []
    for _ in range(steps + 300):
        load.feed(8)
        elapsed.append(load.step())
    return elapsed[300:]


def blocked(num_running: int, steps: int) -> list[Times]:
    """A prompt of 100,000 tokens, half of it cached, waits for room while the others decode."""
    num_prompt = 100_000
    head = next(varied(num_prompt, 4, 0))
    source = itertools.chain([head], varied(128, 4 * steps + 1000, 0.2))
    num_blocks = num_prompt // 16 + 64
    load = Load(num_running + 1, source, max(num_blocks, num_running * (steps // 4 + 64)))
    load.feed(1)
    while load.scheduler.request_ids():
        load.step()
    load.feed(num_running)
    while load.scheduler.load()[1]:
        load.step()
    known = head.prompt_token_ids[: num_prompt // 2]
    load.scheduler.add(request("again", [*known, *range(MAX_MODEL_LEN - num_prompt)], head.max_tokens))
    return [load.step() for _ in range(steps)]


LOADS = {load.__name__: load for load in (steady, churn, sharegpt, blocked)}


class Pauses:
    """How long garbage collections took, in seconds."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        self._began = 0.0
        gc.callbacks.append(self._called)

    def _called(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._began = time.thread_time()
        else:
            self.longest_s = max(self.longest_s, time.thread_time() - self._began)


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=400, help="steps to measure, default 400")
    parser.add_argument("--loads", nargs="+", choices=LOADS, default=[*LOADS])
    parser.add_argument("--running", type=int, nargs="+", default=[1, 256, 1024])
    options = parser.parse_args()
    gc.set_threshold(*_SERVERS_THRESHOLDS)
    pauses = Pauses()
    heads = "".join(f"{part:>10}" for part in PARTS)
    print(f"{'load':<10}{'running':>8}{heads}{'sched+com':>10}{'p99':>8}{'gc':>8}")
    for name in options.loads:
        for num_running in [32] if name == "blocked" else options.running:
            gc.collect()
            gc.freeze()
            pauses.longest_s = 0.0
            times = LOADS[name](num_running, options.steps)
            both = sorted(schedule + commit for schedule, _, _, commit in times)
            quartiles = [sorted(part)[len(times) // 4] for part in zip(*times, strict=True)]
            p99 = both[int(0.99 * (len(both) - 1))]
            parts = "".join(f"{part * 1e6:>10.0f}" for part in quartiles)
            total = f"{both[len(both) // 4] * 1e6:>10.0f}{p99 * 1e6:>8.0f}{pauses.longest_s * 1e6:>8.0f}"
            print(f"{name:<10}{num_running:>8}{parts}{total}", flush=True)


if __name__ == "__main__":
    main()
