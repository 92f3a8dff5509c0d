"""Scheduler.schedule and commit over a clock that jumps: what engine.py does, without a device and a loop.

As there, a step is launched before the tokens of the one before are read. What a request samples is made up;
what the scheduler and the cache do with it is theirs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

from octavo.cache.config import CacheConfig
from octavo.model.plan import StepPlan, StepResult
from octavo.scheduler.config import SchedulerConfig
from octavo.scheduler.request import Request, TokenOutput
from octavo.scheduler.scheduler import Scheduler

Receive = Callable[[float, Sequence[TokenOutput]], None]
TOKEN = 1
"""Every token that is sampled: the next turn of a conversation repeats what the one before was answered."""


@dataclass(slots=True)
class SimulatedEngine:
    """One replica.

    seconds: how long the device takes for a plan.   receive: hears (now, outputs) of every step.
    now_s: the moment until which everything has happened.   busy_s: what the device has worked.
    """

    config: SchedulerConfig
    cache: CacheConfig
    seconds: Callable[[StepPlan], float]
    receive: Receive
    now_s: float = 0.0
    busy_s: float = 0.0
    num_steps: int = 0
    scheduler: Scheduler = field(init=False)
    _in_flight: deque[tuple[StepPlan, float, float]] = field(init=False, default_factory=deque)
    _free_at_s: float = field(init=False, default=0.0)
    _completed_s: float = field(init=False, default=0.0)
    _results: dict[int, StepResult] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.scheduler = Scheduler(self.config, self.cache, seed=0)

    def run(self, arrivals: Iterable[Request]) -> None:
        """Serve requests that come in order of `arrival_s` on this clock, all of them to their end."""
        for request in arrivals:
            self.advance(request.arrival_s)
            self.scheduler.add(request)
        while self._step():
            pass

    def follow(self, requests: Iterator[Request], max_open: int) -> None:
        """Serve requests, `max_open` at a time: as one ends, the next comes."""
        for request in islice(requests, max_open):
            self.scheduler.add(request)
        num_open = max_open
        while self._step():
            ended = num_open - len(self.scheduler.request_ids())
            for request in islice(requests, ended):
                self.scheduler.add(replace(request, arrival_s=self.now_s))
            num_open = len(self.scheduler.request_ids())

    def advance(self, until_s: float) -> None:
        """Let steps happen until the one under way at `until_s` has ended, or nothing is left to do."""
        while self.now_s < until_s:
            if not self._step():
                self.now_s = until_s

    def _step(self) -> bool:
        """Launch a step, and complete one if two are in flight; False if there is nothing to do."""
        plan = self.scheduler.schedule()
        if plan is not None:
            took_s = self.seconds(plan)
            self.busy_s += took_s
            self._free_at_s = max(self.now_s, self._free_at_s) + took_s
            self._in_flight.append((plan, self.now_s, self._free_at_s))
        elif not self._in_flight:
            return False
        if len(self._in_flight) > 1 or plan is None:
            self._complete()
        return True

    def _complete(self) -> None:
        plan, launched_s, done_s = self._in_flight.popleft()
        self.now_s = max(self.now_s, done_s)
        began_s, self._completed_s = max(launched_s, self._completed_s), self.now_s
        outputs = self.scheduler.commit(plan, self._result(plan), self.now_s - began_s)
        self.num_steps += 1
        if outputs:
            self.receive(self.now_s, outputs)

    def _result(self, plan: StepPlan) -> StepResult:
        sampled = len(plan.plain.slots) + sum([row.samples for row in plan.slices])
        if sampled not in self._results:
            self._results[sampled] = StepResult((TOKEN,) * (sampled + 1))
        return self._results[sampled]
