"""A scheduler in simulated time for tests: who got a token when, over a device that is a formula."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any
from zlib import crc32

from simulation.device import DeviceTimes
from simulation.engine import SimulatedEngine

from octavo.cache.config import CacheConfig
from octavo.model.plan import StepPlan
from octavo.model.sampling_params import SamplingParams
from octavo.scheduler.config import SchedulerConfig
from octavo.scheduler.request import Request, TokenOutput


def request(name: str, num_prompt: int, num_output: int, arrival_s: float = 0.0) -> Request:
    """Tokens that no other name shares."""
    first = crc32(name.encode()) % 2**30
    return Request(
        request_id=name,
        prompt_token_ids=range(first, first + num_prompt),
        params=SamplingParams(temperature=0, max_tokens=num_output),
        max_tokens=num_output,
        arrival_s=arrival_s,
    )


def noisy(device: DeviceTimes, seed: int = 0, outliers: float = 0.002) -> Callable[[StepPlan], float]:
    """The formula, a few percent up and down, and now and then a step that takes eight times as long."""
    rng = random.Random(seed)
    return lambda plan: device.seconds(plan) * rng.gauss(1, 0.03) * (8 if rng.random() < outliers else 1)


class Observed:
    """A run: when each request got its tokens, in seconds since it came."""

    def __init__(
        self, seconds: Callable[[StepPlan], float], num_blocks: int = 100_000, **limits: Any
    ) -> None:
        config = SchedulerConfig(
            **({"max_num_seqs": 1024, "max_num_batched_tokens": 8192, "max_model_len": 131_072} | limits)
        )
        self.token_times: dict[str, list[float]] = defaultdict(list)
        self.plans: list[StepPlan] = []
        self.engine = SimulatedEngine(config, CacheConfig(num_blocks), self._seconds, self._receive)
        self._device = seconds
        self.arrivals: dict[str, float] = {}

    def _seconds(self, plan: StepPlan) -> float:
        self.plans.append(plan)
        return self._device(plan)

    def _receive(self, now_s: float, outputs: Sequence[TokenOutput]) -> None:
        for output in outputs:
            self.token_times[output.request_id] += [now_s] * len(output.token_ids)

    def run(self, requests: Iterable[Request]) -> Observed:
        ordered = sorted(requests, key=lambda r: r.arrival_s)
        self.arrivals = {r.request_id: r.arrival_s for r in ordered}
        self.engine.run(replace(r) for r in ordered)
        return self

    def ttft_s(self, request_id: str) -> float:
        return self.token_times[request_id][0] - self.arrivals[request_id]

    def gaps_s(self, request_ids: Iterable[str]) -> list[float]:
        """All times between tokens of these requests, ascending."""
        return sorted(
            later - sooner
            for each in request_ids
            for sooner, later in zip(self.token_times[each], self.token_times[each][1:], strict=False)
        )


def quantile(ascending: Sequence[float], share: float) -> float:
    return ascending[min(len(ascending) - 1, int(share * len(ascending)))]
