"""Steps a scheduler over a FakeExecutor by hand, without an event loop, and checks what must always hold."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from expected import expected_output
from fakes import FakeExecutor, FakeHandle, ToyModel
from toy_grammar import ToyConstraint

from octavo.cache.config import CacheConfig
from octavo.model.plan import StepPlan, TokenLogprobs
from octavo.model.sampling_params import SamplingParams
from octavo.scheduler.cause import OUR_FAULT
from octavo.scheduler.config import SchedulerConfig
from octavo.scheduler.request import FinishReason, Request, RequestTimings, TokenOutput
from octavo.scheduler.scheduler import Scheduler


@dataclass
class Received:
    """What one request got until now."""

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprobs] = field(default_factory=list)
    last: TokenOutput | None = None

    @property
    def end(self) -> TokenOutput:
        """The last output of a request that must have ended."""
        assert self.last is not None, "the request has not ended"
        return self.last

    @property
    def timings(self) -> RequestTimings:
        """What the last output tells of the whole request."""
        assert self.end.timings is not None, "the last output has no timings"
        return self.end.timings


class Stepper:
    """Does what Engine.run does; `received` holds every request's outputs by its id."""

    def __init__(
        self,
        *,
        num_blocks: int = 64,
        block_size: int = 4,
        prefix_caching: bool = True,
        depth: int = 1,
        model: ToyModel | None = None,
        **limits: Any,
    ) -> None:
        self.model = model or ToyModel()
        self.config = SchedulerConfig(
            **({"max_num_seqs": 4, "max_num_batched_tokens": 64, "max_model_len": 64} | limits)
        )
        cache = CacheConfig(num_blocks, block_size, prefix_caching)
        self.scheduler = Scheduler(self.config, cache, seed=0)
        self.executor = FakeExecutor(
            self.model, num_slots=self.config.max_num_seqs, num_blocks=num_blocks, block_size=block_size
        )
        self.requests: dict[str, Request] = {}
        self.received: dict[str, Received] = {}
        self.depth = depth
        self.broken: set[str] = set()  # at whom something is planted: they must end with an error
        self._in_flight: deque[tuple[StepPlan, FakeHandle]] = deque()

    def add(self, prompt: list[int], *, max_tokens: int = 8, **settings: Any) -> str:
        """Queue a request and return its id; settings are fields of Request or of SamplingParams."""
        fields = {
            name: settings.pop(name)
            for name in ("eos_token_ids", "priority", "cache_salt", "claim", "limits", "thinking")
            if name in settings
        }
        params = SamplingParams(max_tokens=max_tokens, **({"temperature": 0} | settings))
        request_id = f"r{len(self.requests)}"
        request = Request(
            request_id=request_id, prompt_token_ids=prompt, params=params, max_tokens=max_tokens, **fields
        )
        self.scheduler.add(request, ToyConstraint.of(request, self.model.vocab_size))
        self.requests[request_id] = request
        self.received[request_id] = Received()
        return request_id

    def abort(self, request_id: str) -> None:
        """Abort, and check that it brings exactly one last output if the request is alive."""
        output = self.scheduler.abort(request_id)
        assert (output is not None) == (request_id in self.alive())
        if output is not None:
            assert output.finish_reason is FinishReason.ABORT and not output.token_ids
            self.received[request_id].last = output

    def alive(self) -> list[str]:
        """Requests that have no last output."""
        return [request_id for request_id, received in self.received.items() if received.last is None]

    def step(self) -> bool:
        """Plan, launch and commit as the engine does; False if there was nothing to do."""
        plan = self.schedule()
        if plan is not None:
            self._in_flight.append((plan, self.executor.launch(plan)))
        elif not self._in_flight:
            if not self.scheduler.awaits_masks:
                assert not self.alive(), f"{self.alive()} wait, and nothing can be planned for them"
            return False
        if len(self._in_flight) > self.depth or plan is None:
            self.commit()
        self.check()
        return True

    def schedule(self) -> StepPlan | None:
        """Plan a step: within the limits, and without preempting the oldest."""
        for output in self.scheduler.expire():
            assert output.finish_reason is FinishReason.DEADLINE and output.error and not output.token_ids
            assert self.received[output.request_id].last is None
            self.received[output.request_id].last = output
        running = self.scheduler._running
        oldest = min(running, default=None)
        preemptions = oldest.timings.num_preemptions if oldest else 0
        plan = self.scheduler.schedule()
        failures = self.scheduler.take_failures()
        for output in failures:
            assert self.received[output.request_id].last is None
            self.received[output.request_id].last = output
            self.check_answer(output.request_id)
        if oldest is not None and not failures:
            assert oldest in [*running], "the oldest lost its place"
            assert oldest.timings.num_preemptions == preemptions, "the oldest was preempted"
        if plan is not None:
            assert len(plan.rows) <= self.config.max_num_seqs
            assert sum(row.length for row in plan.rows) <= self.config.max_num_batched_tokens
        return plan

    def commit(self) -> None:
        """File the oldest step in flight."""
        plan, handle = self._in_flight.popleft()
        step_s = 1e-3 * sum(row.length for row in plan.rows)
        for output in self.scheduler.commit(plan, handle.get(), step_s):
            received = self.received[output.request_id]
            assert received.last is None, f"{output.request_id} had its last output already"
            received.token_ids += output.token_ids
            received.logprobs += output.logprobs
            assert not (output.prompt_logprobs and received.token_ids), "the prompt's come first"
            received.prompt_logprobs += output.prompt_logprobs
            if output.finish_reason is not None:
                received.last = output
                self.check_answer(output.request_id)

    def run(self) -> None:
        """Step until nothing is left, in a bounded number of steps, and check that everything came back."""
        # Progress: however small the pool, each step brings the oldest a token nearer to its end, and a
        # preempted sequence is computed again at most once for every token of the others.
        total = sum(len(r.prompt_token_ids) + r.max_tokens for r in self.requests.values())
        for _ in range(10 + 4 * total * (1 + len(self.requests))):
            if not self.step():
                break
        else:
            raise AssertionError(f"no end in sight for {self.alive()}")
        assert self.scheduler.pool.num_free == self.scheduler.pool.num_blocks
        assert self.scheduler.request_ids() == []
        stats = self.scheduler.stats()
        assert (stats.num_running, stats.num_waiting, stats.kv_usage) == (0, 0, 0)

    def check_answer(self, request_id: str) -> None:
        """Compare a request that ended by itself with what it must have brought."""
        received = self.received[request_id]
        if request_id in self.broken:
            assert received.end.finish_reason is FinishReason.ERROR and received.end.error == OUR_FAULT
            return
        expected = expected_output(self.requests[request_id], self.model, self.config.max_model_len)
        assert received.token_ids == expected.token_ids
        assert received.logprobs == expected.logprobs
        assert received.prompt_logprobs == expected.prompt_logprobs
        assert received.end.finish_reason is expected.finish_reason
        assert received.end.stop_reason == expected.stop_reason
        assert (received.end.error is not None) == (expected.finish_reason is FinishReason.ERROR)
        assert received.timings.finished_s > 0

    def check(self) -> None:
        """Pool, cache and slots are sound; nobody has had a token too many or a wrong one."""
        self.scheduler.check()
        assert sorted(self.scheduler.request_ids()) == sorted(self.alive())
        if self.depth == 0:
            unforeseen = (FinishReason.ABORT, FinishReason.DEADLINE)
            ended = [r.last.finish_reason for r in self.received.values() if r.last]
            surplus = self.scheduler.counters.surplus_tokens
            assert not surplus or self.broken or any(reason in unforeseen for reason in ended)
