"""The step coroutine: plan, launch, await, commit, deliver. Knows no text, no HTTP and no tensors.

    plan N+1 = scheduler.schedule()
    handle   = executor.launch(plan N+1)      the device works on N, then on N+1 without a gap
    result N = await handle N                 the event loop serves clients meanwhile
    deliver(scheduler.commit(plan N, result N))

Without overlap the same coroutine awaits each step before it plans the next.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from ..model.plan import Executor, GraphCounts, StepHandle, StepPlan
from .constraint import Constraint
from .request import FinishReason, Request, TokenOutput
from .scheduler import Scheduler
from .stats import EngineStats
from .step_meter import StepMeter

Deliver = Callable[[Sequence[TokenOutput]], None]


class Engine:
    """Owns scheduler and executor; all methods are called from one event loop.

    deliver: receives every step's outputs at once; must not block and must not raise.
    """

    def __init__(
        self, scheduler: Scheduler, executor: Executor, deliver: Deliver, *, overlap: bool = True
    ) -> None:
        self._scheduler = scheduler
        self._executor = executor
        self._deliver = deliver
        self._depth = 1 if overlap else 0
        self._wake = asyncio.Event()
        self._in_flight: deque[tuple[StepPlan, StepHandle, float]] = deque()  # with the moment of launch
        self._meter = StepMeter()
        self._last_step_s = 0.0
        self._last_end_s = 0.0
        self._last_done_s = 0.0
        self._last_graphs: GraphCounts | None = None  # of a device that is closed

    def add(self, request: Request, constraint: Constraint | None = None) -> None:
        """Queue a request, `constraint` following its grammar.

        Raises RequestRefusedError and takes nothing if it does not fit the limits.
        """
        self._scheduler.add(request, constraint)
        self._wake.set()

    def abort(self, request_id: str, reason: FinishReason = FinishReason.ABORT) -> None:
        """End a request, delivering its last output; nothing if it has ended already."""
        output = self._scheduler.abort(request_id, reason)
        if output is not None:
            self._deliver([output])

    def stats(self) -> EngineStats:
        """A moment of the engine."""
        return replace(
            self._scheduler.stats(),
            last_step_s=self._last_step_s,
            steps=self._meter,
            graphs=self._last_graphs or self._executor.graph_counts(),
        )

    async def run(self) -> None:
        """Step until cancelled. If the device fails, every request ends with the cause, then it is raised."""
        try:
            while True:
                expired = self._scheduler.expire()
                if expired:
                    self._deliver(expired)
                plan = self._plan_and_launch()
                if len(self._in_flight) > (self._depth if plan is not None else 0):
                    await self._complete_oldest()
                elif plan is None:
                    await self._idle()
        except Exception as cause:
            self._fail_all(f"{type(cause).__name__}: {cause}")
            raise
        finally:
            self._last_graphs = self._executor.graph_counts()
            self._executor.close()

    def _plan_and_launch(self) -> StepPlan | None:
        began_s = time.perf_counter()
        plan = self._scheduler.schedule()
        if plan is None:
            return None
        planned_s = time.perf_counter()
        if not self._in_flight:
            self._last_end_s = began_s  # the device had nothing to do until now
        self._in_flight.append((plan, self._executor.launch(plan), planned_s))
        self._meter.planned(plan, planned_s - began_s, time.perf_counter() - planned_s)
        return plan

    async def _complete_oldest(self) -> None:
        plan, handle, launched_s = self._in_flight.popleft()
        began_s = time.perf_counter()
        result = await handle.result()
        done_s = time.perf_counter()
        # A step that was launched ahead begins on the device when the one before it ends.
        device_s, self._last_done_s = done_s - max(launched_s, self._last_done_s), done_s
        outputs = self._scheduler.commit(plan, result, device_s)
        committed_s = time.perf_counter()
        if outputs:
            self._deliver(outputs)
        end_s = time.perf_counter()
        self._last_step_s = end_s - self._last_end_s
        self._last_end_s = end_s
        self._meter.completed(self._last_step_s, done_s - began_s, committed_s - done_s, end_s - committed_s)
        await asyncio.sleep(0)  # a device that is always done would leave the loop no turn for anybody else

    async def _idle(self) -> None:
        stuck = self._scheduler.request_ids()
        assert not stuck, f"nothing is in flight and nothing can be planned for {stuck}"
        self._wake.clear()
        await self._wake.wait()

    def _fail_all(self, error: str) -> None:
        outputs = [
            self._scheduler.abort(request_id, FinishReason.ERROR)
            for request_id in self._scheduler.request_ids()
        ]
        self._deliver([output._replace(error=error) for output in outputs if output is not None])
