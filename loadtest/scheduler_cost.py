"""What a step costs in Python: `schedule` and `commit` alone, over a device that answers at once. Torch-free.

    python loadtest/scheduler_cost.py [--steps 400]

One line per load: the median and the 99th percentile of microseconds per step. The goal is 300 at batch 256.
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
import time
from collections import deque
from collections.abc import Iterator

from octavo.cache.config import CacheConfig
from octavo.model.plan import StepPlan, StepResult
from octavo.model.sampling_params import SamplingParams
from octavo.scheduler.config import SchedulerConfig
from octavo.scheduler.request import Request
from octavo.scheduler.scheduler import Scheduler

MAX_MODEL_LEN = 131_072


def requests(seed: int, num_prompt: int, num_output: int, spread: float) -> Iterator[Request]:
    """Endless requests without shared tokens; lengths vary by `spread` around the numbers given."""
    rng = random.Random(seed)
    for index in itertools.count():
        length, max_tokens = (
            max(1, round(n * rng.uniform(1 - spread, 1 + spread))) for n in (num_prompt, num_output)
        )
        prompt = [rng.randrange(1 << 30) for _ in range(length)]
        params = SamplingParams(temperature=0, max_tokens=max_tokens)
        yield Request(request_id=str(index), prompt_token_ids=prompt, params=params, max_tokens=max_tokens)


class Load:
    """A scheduler kept busy, with one step in flight as the engine keeps it."""

    def __init__(self, num_running: int, source: Iterator[Request], num_blocks: int | None = None) -> None:
        config = SchedulerConfig(
            max_num_seqs=num_running, max_num_batched_tokens=8192, max_model_len=MAX_MODEL_LEN
        )
        self.scheduler = Scheduler(config, CacheConfig(num_blocks or 64 * num_running + 8192))
        self._source = source
        self._in_flight: deque[StepPlan] = deque()

    def feed(self, num_waiting: int) -> None:
        """Top the queue up."""
        while self.scheduler.stats().num_waiting < num_waiting:
            self.scheduler.add(next(self._source))

    def step(self) -> float:
        """Seconds of Python in one step."""
        began = time.thread_time()
        plan = self.scheduler.schedule()
        elapsed = time.thread_time() - began
        if plan is not None:
            self._in_flight.append(plan)
        if len(self._in_flight) > 1 or plan is None:
            done = self._in_flight.popleft()
            result = StepResult([1 << 30] * sum(row.samples for row in done.rows))
            began = time.thread_time()
            self.scheduler.commit(done, result)
            elapsed += time.thread_time() - began
        return elapsed


def steady(num_running: int, steps: int) -> list[float]:
    """Every slot decodes; nobody comes or goes."""
    load = Load(num_running, requests(0, 128, 4 * steps + 1000, 0.2), num_running * (steps // 4 + 128))
    load.feed(num_running)
    while load.scheduler.stats().num_waiting:
        load.step()
    for _ in range(20):
        load.step()
    return [load.step() for _ in range(steps)]


def churn(num_running: int, steps: int) -> list[float]:
    """Requests of 128 in and 128 out follow each other: about one in 128 slots changes hands each step."""
    load = Load(num_running, requests(0, 128, 128, 0.8))
    elapsed = []
    for _ in range(steps + 300):
        load.feed(8)
        elapsed.append(load.step())
    return elapsed[300:]


def blocked(num_running: int, steps: int) -> list[float]:
    """A prompt of 100,000 tokens, half of it cached, waits for room while the others decode."""
    num_prompt = 100_000
    head = next(requests(1, num_prompt, 4, 0))
    source = itertools.chain([head], requests(0, 128, 4 * steps + 1000, 0.2))
    num_blocks = num_prompt // 16 + 64
    load = Load(num_running + 1, source, max(num_blocks, num_running * (steps // 4 + 64)))
    load.feed(1)
    while load.scheduler.request_ids():
        load.step()
    load.feed(num_running)
    while load.scheduler.stats().num_waiting:
        load.step()
    again = Request(
        request_id="again",
        prompt_token_ids=[*head.prompt_token_ids[: num_prompt // 2], *range(MAX_MODEL_LEN - num_prompt)],
        params=head.params,
        max_tokens=head.max_tokens,
    )
    load.scheduler.add(again)
    return [load.step() for _ in range(steps)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=400, help="steps to measure, default 400")
    steps = parser.parse_args().steps
    print(f"{'load':<10}{'running':>8}{'median us':>12}{'p99 us':>10}")
    for load, sizes in ((steady, (1, 256, 1024)), (churn, (1, 256, 1024)), (blocked, (32,))):
        for num_running in sizes:
            times = sorted(load(num_running, steps))
            median, p99 = statistics.median(times), times[int(0.99 * (len(times) - 1))]
            print(f"{load.__name__:<10}{num_running:>8}{median * 1e6:>12.0f}{p99 * 1e6:>10.0f}")


if __name__ == "__main__":
    main()
