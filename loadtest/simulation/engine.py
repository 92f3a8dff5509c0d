"""Scheduler.schedule and commit over a clock that jumps: what engine.py does, without a device and a loop.

As there, a step is launched before the tokens of the one before are read. What a request samples is made up;
what the scheduler and the cache do with it is theirs.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from octavo.cache.config import CacheConfig
from octavo.model.plan import StepPlan, StepResult
from octavo.scheduler.config import SchedulerConfig
from octavo.scheduler.request import Request, TokenOutput
from octavo.scheduler.scheduler import Scheduler

Receive = Callable[[float, Sequence[TokenOutput]], None]
_TOKEN = 1


@dataclass(slots=True)
class SimulatedEngine:
    """One replica. Requests come from `arrivals`, in order of `arrival_s`, on this clock.

    seconds: how long the device takes for a plan.   receive: hears (now, outputs) of every step.
    host_s: what the host takes between the end of a step and the launch of the next but one.
    """

    config: SchedulerConfig
    cache: CacheConfig
    seconds: Callable[[StepPlan], float]
    receive: Receive
    host_s: float = 0.0
    now_s: float = 0.0
    busy_s: float = 0.0
    num_steps: int = 0
    scheduler: Scheduler = field(init=False)
    _in_flight: deque[tuple[StepPlan, float, float]] = field(init=False, default_factory=deque)
    _free_at_s: float = 0.0
    _completed_s: float = 0.0
    _results: dict[int, StepResult] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.scheduler = Scheduler(self.config, self.cache, seed=0)

    def run(self, arrivals: Iterable[Request]) -> None:
        """Serve all of them to their end."""
        source = iter(arrivals)
        request = next(source, None)
        while True:
            while request is not None and request.arrival_s <= self.now_s:
                self.scheduler.add(request)
                request = next(source, None)
            if not self.step():
                if request is None:
                    return
                self.now_s = request.arrival_s

    def step(self, until_s: float = math.inf) -> bool:
        """Launch a step, and complete one if two are in flight; False if there is nothing to do."""
        plan = self.scheduler.schedule()
        if plan is not None:
            begin_s = max(self.now_s + self.host_s, self._free_at_s)
            took_s = self.seconds(plan)
            self._free_at_s = begin_s + took_s
            self.busy_s += took_s
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
        rows = plan.rows
        sampled = len(rows) if rows[-1].length == 1 else sum(row.samples for row in rows)
        if rows[0].tokens is not None and rows[-1].length == 1:
            sampled = sum(row.samples for row in rows)
        if sampled not in self._results:
            self._results[sampled] = StepResult((_TOKEN,) * sampled)
        return self._results[sampled]
