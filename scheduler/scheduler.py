"""Decides what each step computes and files what it brought. Knows no tensors and no clients.

`schedule` may be called again before the plan before it has committed (overlap). What that plan samples is
then not known yet: a decode row names no token, the device takes the one it sampled. A sequence may so run a
step past its end; `commit` drops the surplus.
"""

from __future__ import annotations

import logging
import random
import time
from collections import deque
from collections.abc import Callable
from itertools import count

from ..cache.block_pool import BlockPool
from ..cache.block_table import BlockTable
from ..cache.config import CacheConfig
from ..cache.prefix_cache import PrefixCache
from ..model.plan import DeviceFullError, StepPlan, StepResult, TokenLogprobs
from .cause import OUR_FAULT
from .config import SchedulerConfig
from .constraint import Constraint, prepare_masks
from .deadlines import Deadlines
from .errors import CapacityError
from .filing import Filing
from .gate import Gate
from .planner import Planned, Planner
from .request import Claim, FinishReason, Request, TokenOutput
from .running import Running
from .sequence import Ending, Sequence, SequenceStatus
from .stats import Counters, EngineStats
from .waiting import WaitingQueue

log = logging.getLogger(__name__)


class Scheduler:
    """Continuous batching over `config.max_num_seqs` slots and one block pool.

    on_masks: called by the event loop when masks have come for which sequences sat out.
    """

    def __init__(self, config: SchedulerConfig, cache: CacheConfig, *, seed: int | None = None) -> None:
        self.config = config
        self.cache = cache
        self.pool = BlockPool(cache.num_blocks)
        self.prefix_cache = PrefixCache(self.pool)
        self.counters = Counters()
        self._sequences: dict[str, Sequence] = {}
        self._waiting = WaitingQueue()
        self._deadlines = Deadlines()
        self._running = Running(config.max_num_seqs, self.counters.abort_to_free_s)
        self._gate = Gate(config, self._waiting, self._running)
        self._in_flight: deque[Planned] = deque()
        self._planner = Planner(
            config, cache, self.pool, self.prefix_cache, self._waiting, self._running, self.counters
        )
        self._failures: list[TokenOutput] = []
        self._arrivals = count()
        self._random = random.Random(seed)
        self.on_masks: Callable[[], None] = lambda: None
        self._filing = Filing(
            cache, self.prefix_cache, self._running, self.counters, self._finish, self._fail
        )

    def add(self, request: Request, constraint: Constraint | None = None) -> None:
        """Queue a request, `constraint` following its grammar. Raises CapacityError, QueueFullError."""
        assert request.request_id not in self._sequences, f"request id {request.request_id} is in use"
        num_prompt = len(request.prompt_token_ids)
        max_length = min(num_prompt + request.max_tokens, self.config.max_model_len)
        assert 0 < num_prompt < max_length, f"{num_prompt} tokens of prompt leave no room to generate"
        # The last token is sampled but never computed on.
        if max_length - 1 > self.cache.capacity_tokens:
            raise CapacityError(
                f"the request may grow to {max_length} tokens ({num_prompt} of prompt), but the KV cache "
                f"holds {self.cache.capacity_tokens} ({self.cache.num_blocks} x {self.cache.block_size})"
            )
        self._gate.check(request)
        seed = request.params.seed if request.params.seed is not None else self._random.getrandbits(63)
        table = BlockTable(self.pool, self.cache.block_size)
        order = next(self._arrivals)
        if request.limits is not None:
            constraint = request.limits.follower(constraint)
        if request.thinking is not None and request.fixed_limits is not None:
            constraint = request.thinking.follower(request.fixed_limits, constraint)
        if constraint is not None and constraint.mask is None:
            prepare_masks([constraint], self.on_masks)
        sequence = Sequence(request, table, constraint, max_length=max_length, order=order, seed=seed)
        self._sequences[request.request_id] = sequence
        self._deadlines.add(sequence)
        self._waiting.push(sequence)

    def abort(self, request_id: str, reason: FinishReason = FinishReason.ABORT) -> TokenOutput | None:
        """End a request now; its last output, or None if it is not (or no longer) here."""
        sequence = self._sequences.get(request_id)
        return None if sequence is None else self._finish(sequence, Ending(reason))

    def expire(self) -> list[TokenOutput]:
        """End whose time is over; their last outputs. To be called before every plan."""
        due = self._deadlines.expired(time.monotonic())
        num_running = sum(sequence.status is SequenceStatus.RUNNING for sequence, _ in due)
        self.counters.num_expired_running += num_running
        self.counters.num_expired_waiting += len(due) - num_running
        endings = [(sequence, Ending(FinishReason.DEADLINE, error=reason)) for sequence, reason in due]
        return [self._finish(*late) for late in endings]

    def fail_in_flight(self, error: str) -> list[TokenOutput]:
        """End the requests of all plans that have not committed; their last outputs."""
        alive = {s: None for planned in self._in_flight for s in planned.sequences()}
        return [
            self._finish(sequence, Ending(FinishReason.ERROR, error=error))
            for sequence in alive
            if sequence.status is not SequenceStatus.FINISHED
        ]

    @property
    def masks_under_way(self) -> bool:
        """Whether masks that the last commit asked for are still being computed."""
        return any(constraint.mask is None for constraint in self._filing.asked)

    @property
    def awaits_masks(self) -> bool:
        """Whether somebody's mask is still being computed. O(requests)."""
        constraints = (sequence.constraint for sequence in self._sequences.values())
        return any(constraint is not None and constraint.mask is None for constraint in constraints)

    def request_ids(self) -> list[str]:
        """Of all that have not ended, in order of arrival."""
        return list(self._sequences)

    def schedule(self) -> StepPlan | None:
        """The next step, or None if nothing can be computed now.

        Requests whose turn cannot be worked out end: see `take_failures`.
        """
        while True:
            planned = self._planner.plan()
            if planned is not None:
                self._in_flight.append(planned)
            if self._planner.failed:
                self._failures += [self._fail(*failed) for failed in self._planner.failed]
                self.check()
            if planned is not None or not self._planner.failed:
                return None if planned is None else planned.plan

    def take_failures(self) -> list[TokenOutput]:
        """Last outputs of those that `schedule` had to end, each told of once."""
        failures, self._failures = self._failures, []
        return failures

    def _fail(self, sequence: Sequence, error: Exception) -> TokenOutput:
        """End a request at which something failed that concerns it alone; what is wrong, the log says.

        Whoever calls this after scheduler or pool may have been left half-way has the books checked.
        """
        if sequence.status is SequenceStatus.FINISHED:
            raise error  # it failed in ending it: not this request's affair alone
        request_id = sequence.request_id
        fields = {"engine_id": request_id}
        log.error("request %s failed", request_id, exc_info=error, extra={"fields": fields})
        cause = str(error) if isinstance(error, DeviceFullError) else OUR_FAULT
        return self._finish(sequence, Ending(FinishReason.ERROR, error=cause))

    # Filing a step.

    def commit(self, plan: StepPlan, result: StepResult, step_s: float | None = None) -> list[TokenOutput]:
        """File the tokens of `plan`, the oldest in flight: what each living request got, in row order.

        step_s: seconds that the device took, from the end of the step before if it had one.
        """
        planned = self._in_flight.popleft()
        assert planned.plan is plan, "plans commit in the order in which they were scheduled"
        if step_s is not None:
            self._gate.forecast.observe_step(planned.load.prompt_tokens, step_s)
            self._planner.pacing.observe(planned.load, step_s, left_over=planned.left_over)
        outputs = self._filing.file(planned, result)
        prepare_masks(self._filing.asked, self.on_masks)
        if not self._filing.sound:
            self.check()
        return outputs

    def _finish(
        self,
        sequence: Sequence,
        ending: Ending,
        token_ids: tuple[int, ...] = (),
        logprobs: tuple[TokenLogprobs, ...] = (),
    ) -> TokenOutput:
        ran = sequence.status is SequenceStatus.RUNNING
        reason, stop_reason, error = ending
        sequence.end(reason)
        if reason in (FinishReason.ABORT, FinishReason.DEADLINE):
            self.counters.aborted_tokens += sequence.num_computed
        if ran:
            self._running.leave(sequence)
            self._waiting.settle(sequence)
            self._gate.forecast.observe_end(time.monotonic() - sequence.timings.scheduled_s)
        else:
            self._waiting.ended(sequence)
        self._deadlines.ended(sequence)
        request_id = sequence.request_id
        del self._sequences[request_id]
        return TokenOutput(request_id, token_ids, logprobs, reason, stop_reason, sequence.timings, error)

    # Looking at it.

    def load(self) -> tuple[int, int, float]:
        """Sequences that run, that wait, and the predicted seconds to the first token of a newcomer."""
        return len(self._running), len(self._waiting), self._gate.predict_ttft_s(Claim())

    def stats(self) -> EngineStats:
        """Counts and shares at this moment. O(running)."""
        pool, counters = self.pool, self.counters
        counters.prefix_query_tokens = self.prefix_cache.query_tokens
        counters.prefix_hit_tokens = self.prefix_cache.hit_tokens
        first = self._waiting.first()
        return EngineStats(
            num_running=len(self._running),
            num_waiting=len(self._waiting),
            num_blocks=pool.num_blocks,
            num_free_blocks=pool.num_free - pool.num_evictable,
            num_evictable_blocks=pool.num_evictable,
            kv_usage=pool.num_referenced / pool.num_blocks,
            kv_waste=self._running.waste(),
            counters=counters,
            block_size=self.cache.block_size,
            oldest_waiting_s=0.0 if first is None else time.monotonic() - first.request.arrival_s,
        )

    def check(self) -> None:
        """Assert what must hold between steps. O(blocks): for tests, and for an idle engine."""
        self.pool.check()
        self.prefix_cache.check()
        self._running.check(self.pool)
