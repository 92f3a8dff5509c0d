"""How a plan is run without holding up the event loop: on a thread (CPU), or on the device's own queue (GPU).

Knows when a step's tokens have reached the host, not what a step computes.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import queue
import threading
from concurrent.futures import Future

import torch

from .divided_step import Parts, merged, run_within_memory
from .plan import GraphCounts, StepPlan, StepResult
from .prompt_scores import LogprobTensors, PromptScores
from .runner import ModelRunner
from .sampler import Sampled

_NOTHING_SAMPLED = StepResult(tokens=())


class ThreadExecutor:
    """For CPUs: one worker thread runs the steps in order; torch releases the GIL inside its operations.

    The thread is its own, not a pool's: those stop taking work before the interpreter tells an engine to end.
    """

    def __init__(self, runner: ModelRunner) -> None:
        self._runner = runner
        self._work: queue.SimpleQueue[tuple[StepPlan, Future[StepResult]] | None] = queue.SimpleQueue()
        self._worker = threading.Thread(target=self._run_all, name="octavo-step", daemon=True)
        self._worker.start()

    def launch(self, plan: StepPlan) -> ThreadHandle:
        future: Future[StepResult] = Future()
        self._work.put((plan, future))
        return ThreadHandle(future)

    def graph_counts(self) -> GraphCounts:
        return self._runner.graph_counts()

    def tend(self) -> bool:
        return False

    def close(self) -> None:
        """Wait for the step under way, drop those behind it, and let go of the model."""
        with contextlib.suppress(queue.Empty):
            while dropped := self._work.get_nowait():
                dropped[1].cancel()
        self._work.put(None)
        self._worker.join()
        del self._runner

    def _run_all(self) -> None:
        while work := self._work.get():
            plan, future = work
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(merged(run_within_memory(plan, self._run, self._runner.refile)))
                except BaseException as error:
                    future.set_exception(error)

    def _run(self, plan: StepPlan) -> StepResult:
        sampled = self._runner.run(plan)
        if sampled is None:
            return _NOTHING_SAMPLED
        return _to_result(sampled, sampled.tokens, sampled.logprobs, sampled.prompt_scores)


class ThreadHandle:
    """A step on the worker thread."""

    def __init__(self, future: Future[StepResult]) -> None:
        self._future = future

    async def result(self) -> StepResult:
        return await asyncio.wrap_future(self._future)


class StreamExecutor:
    """For GPUs: a launch queues the step's kernels and the copy of its tokens on the device's stream."""

    def __init__(self, runner: ModelRunner) -> None:
        self._runner = runner
        self._landings: list[Landing] = []

    def launch(self, plan: StepPlan) -> StreamHandle | DividedHandle:
        parts = run_within_memory(plan, self._queue, self._runner.refile)
        whole = parts[0][1]
        return DividedHandle(parts) if whole is None or len(parts) > 1 else whole

    def graph_counts(self) -> GraphCounts:
        return self._runner.graph_counts()

    def tend(self) -> bool:
        return self._runner.capture_more()

    def _queue(self, plan: StepPlan) -> StreamHandle:
        sampled = self._runner.run(plan)
        landing = self._landings.pop() if self._landings else Landing(self._runner.num_slots)
        return StreamHandle(sampled, landing, self._landings)

    def close(self) -> None:
        """Wait until the device has nothing left to do, and give its memory back."""
        try:
            torch.cuda.synchronize(self._runner.device)
        finally:
            del self._runner
            gc.collect()  # a failed step's traceback holds the model in a cycle
            torch.cuda.empty_cache()


class Landing:
    """Where a step's tokens arrive in pinned host memory, [num_slots] int32, and what tells that they did."""

    def __init__(self, num_slots: int) -> None:
        self.tokens = torch.empty(num_slots, dtype=torch.int32, pin_memory=True)
        self.done = torch.cuda.Event()


class StreamHandle:
    """A step on the device's stream. Asking an event costs about a microsecond; a second thread that waited
    for it would cost the loop up to the interpreter's switch interval."""

    def __init__(self, sampled: Sampled | None, landing: Landing, free: list[Landing]) -> None:
        self._sampled = sampled
        self._landing = landing
        self._free = free
        if sampled is not None:
            self._tokens = landing.tokens[: len(sampled.tokens)].copy_(sampled.tokens, non_blocking=True)
            self._logprobs = sampled.logprobs and LogprobTensors(*map(_to_pinned, sampled.logprobs))
            self._scores = sampled.prompt_scores and sampled.prompt_scores.moved(_to_pinned)
        landing.done.record()

    async def result(self) -> StepResult:
        while not self._landing.done.query():
            await asyncio.sleep(0)
        if self._sampled is None:
            result = _NOTHING_SAMPLED
        else:
            result = _to_result(self._sampled, self._tokens, self._logprobs, self._scores)
        self._free.append(self._landing)
        return result


class DividedHandle:
    """A step that did not fit into memory as a whole."""

    def __init__(self, parts: Parts[StreamHandle]) -> None:
        self._parts = parts

    async def result(self) -> StepResult:
        return merged(
            [(rows, None if handle is None else await handle.result()) for rows, handle in self._parts]
        )


def _to_pinned(tensor: torch.Tensor) -> torch.Tensor:
    """Queue a copy to pinned host memory; into pageable memory, the copy would wait for the device."""
    return torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(tensor, non_blocking=True)


def _to_result(
    sampled: Sampled, tokens: torch.Tensor, logprobs: LogprobTensors | None, scores: PromptScores | None
) -> StepResult:
    """A result from tensors that are in host memory."""
    errors = dict(sampled.errors)
    return StepResult(
        tokens.tolist(),
        None if logprobs is None else sampled.logprobs_to_host(logprobs, errors),
        () if scores is None else scores.to_host(errors),
        errors,
    )
