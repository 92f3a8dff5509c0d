"""The step coroutine: plan, launch, await, commit, deliver. Knows no text, no HTTP and no tensors.

    plan N+1 = scheduler.schedule()
    handle   = executor.launch(plan N+1)      the device works on N, then on N+1 without a gap
    result N = await handle N                 the event loop serves clients meanwhile
    deliver(scheduler.commit(plan N, result N))

Without overlap the same coroutine awaits each step before it plans the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from ..model.plan import Executor, GraphCounts, StepHandle, StepPlan
from ..model.plan_check import PlanCheck
from .cause import cause_of
from .closing import CLOSE_S, close_within
from .constraint import Constraint
from .request import FinishReason, Request, TokenOutput
from .scheduler import Scheduler
from .stats import EngineStats
from .step_meter import StepMeter
from .timeline import Timeline
from .view import EngineView

log = logging.getLogger(__name__)

_MASKS_S = 0.002
"""At most, and half a step: masks for 256 rows take so long on one core, and others do not notice."""

Deliver = Callable[[Sequence[TokenOutput]], None]


class Engine:
    """Owns scheduler and executor; all methods are called from one event loop.

    deliver: receives every step's outputs at once; must not block and must not raise.
    stuck: the device could not be freed; the process must not wait for its threads.
    """

    def __init__(
        self, scheduler: Scheduler, executor: Executor, deliver: Deliver, *, overlap: bool = True
    ) -> None:
        self._scheduler = scheduler
        self._executor = executor
        self._deliver = deliver
        self._depth = 1 if overlap else 0
        self._wake = asyncio.Event()
        self._masks_came = asyncio.Event()
        scheduler.on_masks = self._masks_have_come
        cache = scheduler.cache
        self._check = PlanCheck(scheduler.config.max_num_seqs, cache.num_blocks, cache.block_size)
        self._in_flight: deque[tuple[StepPlan, StepHandle, float]] = deque()  # with the moment of launch
        self._meter = StepMeter()
        self._last_step_s = 0.0
        self._last_end_s = 0.0
        self._last_done_s = 0.0
        self._last_graphs: GraphCounts | None = None  # of a device that is closed
        self._step_began_s: float | None = None  # of the step that is waited for
        self._task: asyncio.Task[None] | None = None
        self._given_up: Exception | None = None
        self.stuck = False
        self._timeline: Timeline | None = None  # while somebody watches

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
        self._meter.settle()
        return replace(
            self._scheduler.stats(),
            last_step_s=self._last_step_s,
            steps=self._meter,
            graphs=self._last_graphs or self._executor.graph_counts(),
        )

    def expire(self) -> None:
        """End whose time is over. Done before every step, and by others while one takes long."""
        expired = self._scheduler.expire()
        if expired:
            self._deliver(expired)

    def step_age_s(self) -> float:
        """For how long the device has been at the step that is waited for; 0 if none is."""
        return 0.0 if self._step_began_s is None else time.perf_counter() - self._step_began_s

    def fail_in_flight(self, error: str) -> None:
        """End the requests of all steps under way; what those bring is dropped when they come back."""
        self._deliver(self._scheduler.fail_in_flight(error))

    def give_up(self, cause: Exception) -> None:
        """Stop waiting for the device: `run` ends every request with the cause, and raises it."""
        self._given_up = cause
        if self._task is not None:
            self._task.cancel()

    def load(self) -> tuple[int, int, float]:
        """Requests that run, that wait, and the predicted seconds to the first token of one more."""
        return self._scheduler.load()

    def look(self, since: int) -> EngineView:
        """What a person who watches sees; steps with larger numbers than `since`.

        The first look begins to record steps, and recording ends by itself soon after the last.
        """
        now_s = time.perf_counter()
        if self._timeline is None:
            self._timeline = Timeline(self._scheduler.counters.num_steps - len(self._in_flight))
        return EngineView.of(self._scheduler, now_s, self.step_age_s(), self._timeline.look(since, now_s))

    async def run(self) -> None:
        """Step until cancelled. If the device fails, every request ends with the cause, then it is raised."""
        self._task = asyncio.current_task()
        try:
            while True:
                self.expire()
                plan = self._plan_and_launch()
                if len(self._in_flight) > (self._depth if plan is not None else 0):
                    await self._complete_oldest()
                elif plan is None:
                    await self._idle()
        except Exception as cause:
            log.exception("the engine fails")  # whole: clients are told one line
            self._fail_all(cause_of(cause))
            raise
        except asyncio.CancelledError:
            if self._given_up is None:
                raise
            self._fail_all(cause_of(self._given_up))
            raise self._given_up from None
        finally:
            self._last_graphs = self._executor.graph_counts()
            self.stuck = not await close_within(self._executor, 0 if self._given_up else CLOSE_S)

    def _plan_and_launch(self) -> StepPlan | None:
        began_s = time.perf_counter()
        plan = self._scheduler.schedule()
        failures = self._scheduler.take_failures()
        if failures:
            self._deliver(failures)
        if plan is None:
            return None
        self._check.check(plan)
        planned_s = time.perf_counter()
        if not self._in_flight:
            self._last_end_s = began_s  # the device had nothing to do until now
        self._in_flight.append((plan, self._executor.launch(plan), planned_s))
        self._meter.planned(plan, planned_s - began_s, time.perf_counter() - planned_s)
        return plan

    async def _complete_oldest(self) -> None:
        plan, handle, launched_s = self._in_flight.popleft()
        began_s = time.perf_counter()
        self._step_began_s = max(launched_s, self._last_done_s)
        result = await handle.result()
        self._step_began_s = None
        done_s = time.perf_counter()
        # A step that was launched ahead begins on the device when the one before it ends.
        device_s, self._last_done_s = done_s - max(launched_s, self._last_done_s), done_s
        outputs = self._scheduler.commit(plan, result, device_s)
        committed_s = time.perf_counter()
        if outputs:
            self._deliver(outputs)
        end_s = time.perf_counter()
        if self._timeline is not None and not self._timeline.record(plan, self._last_end_s, end_s):
            self._timeline = None
        self._last_step_s = end_s - self._last_end_s
        self._last_end_s = end_s
        self._meter.completed(self._last_step_s, done_s - began_s, committed_s - done_s, end_s - committed_s)
        if self._scheduler.masks_under_way:
            await self._let_masks_come()
        else:
            await asyncio.sleep(0)  # a device that is always done would leave the loop no turn for others

    async def _let_masks_come(self) -> None:
        """Wait a moment, in which the device is busy: a row whose mask is late sits the next step out."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(_MASKS_S, self._last_step_s / 2)):
                while self._scheduler.masks_under_way:
                    self._masks_came.clear()
                    await self._masks_came.wait()

    def _masks_have_come(self) -> None:
        self._masks_came.set()
        self._wake.set()

    async def _idle(self) -> None:
        waits = self._scheduler.awaits_masks
        if not waits:
            stuck = self._scheduler.request_ids()
            assert not stuck, f"nothing is in flight and nothing can be planned for {stuck}"
        self._wake.clear()
        while not waits and self._executor.tend():
            await asyncio.sleep(0)  # a request that has come meanwhile is seen
            if self._wake.is_set():
                return
        await self._wake.wait()

    def _fail_all(self, error: str) -> None:
        outputs = [
            self._scheduler.abort(request_id, FinishReason.ERROR)
            for request_id in self._scheduler.request_ids()
        ]
        self._deliver([output._replace(error=error) for output in outputs if output is not None])
