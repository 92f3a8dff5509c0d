"""What the next step computes: decodes first, then prompts, and who is let in. Knows no results.

Takes from the waiting, moves the running, asks the pool for blocks; the scheduler files what a step brought.
"""

from __future__ import annotations

import time
from typing import NamedTuple

from ..cache.block_pool import BlockPool
from ..cache.config import CacheConfig
from ..cache.prefix_cache import PrefixCache
from ..model.plan import PlainRows, StepPlan
from . import policy
from .admission import Admission
from .config import SchedulerConfig
from .draft import StepDraft
from .pacing import Pacing
from .prompt_budget import PromptBudget
from .running import Running
from .sequence import Sequence, SequenceStatus
from .stats import Counters
from .step_time import StepLoad
from .waiting import WaitingQueue


class Planned(NamedTuple):
    """A step and, row by row, whose it is: first those of the plain rows, then of the slices.

    number: of the step.   left_over: prompt tokens have to wait for a later step.
    turning: of the plain rows' owners, those whose block this step fills, or whose last token it samples.
    """

    plan: StepPlan
    number: int
    plain_owners: list[Sequence]
    owners: list[Sequence]
    turning: list[Sequence]
    load: StepLoad
    left_over: bool

    def sequences(self) -> list[Sequence]:
        """Whose all the rows are."""
        return [*self.plain_owners, *self.owners]


class Planner:
    """Plans steps over what it shares with the scheduler: pool, cache, queue, running sequences, counters.

    pacing: how long steps may take; learns from those that were measured.
    failed: whose turn the last plan could not work out, and why. They have no row in it, and cannot go on.
    """

    def __init__(
        self,
        config: SchedulerConfig,
        cache: CacheConfig,
        pool: BlockPool,
        prefix_cache: PrefixCache,
        waiting: WaitingQueue,
        running: Running,
        counters: Counters,
    ) -> None:
        self._config = config
        self._cache = cache
        self.pacing = Pacing(config.itl_target_s, config.step_sizes)
        self._prefix_cache = prefix_cache
        self._pool = pool
        self._waiting = waiting
        self._running = running
        self._counters = counters
        self.failed: list[tuple[Sequence, Exception]] = []
        self._admission = Admission(cache, pool, prefix_cache, running)

    def plan(self) -> Planned | None:
        """The next step, or None if nothing can be computed now."""
        self.failed = []
        draft = StepDraft(self._config.max_num_batched_tokens)
        self._schedule_batch(draft)
        self._schedule_decodes(draft)
        decodes = draft.load()
        left_over = self._schedule_prompts(draft, decodes)
        self.failed += draft.mask()
        plan, owners = draft.build()
        if not plan.num_rows:
            return None
        batch = self._running.batch
        number = batch.last_step = batch.clock.now
        for sequence in owners:
            sequence.last_step = number
        self._counters.num_steps += 1
        load = draft.load(decodes)
        return Planned(plan, number, draft.plain_owners, owners, batch.due(), load, left_over)

    def _schedule_batch(self, draft: StepDraft) -> None:
        """Rows of all that only go on, with a block for whom it needs one; if there are too few blocks, those
        stand apart, as do all that have their last token on the way."""
        running, batch = self._running, self._running.batch
        running.rejoin()
        due = batch.due()
        ended = [s for s in due if s.num_scheduled + 1 >= s.max_length]
        full = [s for s in due if s.num_scheduled + 1 < s.max_length]
        # Who stands apart may need one, too, and has waited for longer.
        enough = len(full) + len(running.apart) <= self._pool.num_free
        blocks = self._pool.allocate(len(full)) if enough else None
        if blocks is None:
            ended, full, blocks = due, [], []
        for sequence in ended:
            running.set_apart(sequence)
        batch.grow(full, blocks)
        batch.advance()
        slots, starts, owners = batch.rows()
        plain = PlainRows(slots, starts, [s.slot for s in full], blocks)
        draft.add_plain(plain, owners, batch.context_tokens)

    def _schedule_decodes(self, draft: StepDraft) -> None:
        """Those that are looked at one by one."""
        for sequence in list(self._running.apart):
            position = sequence.num_scheduled
            if position + 1 >= sequence.max_length or sequence.status is not SequenceStatus.RUNNING:
                continue  # its last token is in flight already, or another took its place in this very step
            try:
                if sequence.constraint is not None and not sequence.may_sample(position + 1):
                    continue  # what may come next depends on a token that is in flight, or is being computed
                if position < sequence.table.capacity_tokens:
                    draft.add_decode(sequence, position, ())
                elif (blocks := self._make_room(sequence, position + 1, draft)) is not None:
                    draft.add_decode(sequence, position, blocks)
            except Exception as error:
                self._leave_out(sequence, draft, error)

    def _schedule_prompts(self, draft: StepDraft, decodes: StepLoad) -> bool:
        """Share what the step may spend on prompts; whether some of their tokens wait for another step.

        While prompts under way fit the step, they come first and newcomers after them. Otherwise the shortest
        remainder goes first, be it a newcomer's. The eldest gets a share at least, so it never starves, and
        so does whoever is next in the queue: those behind it, which may be short, get their turn.
        """
        if not (self._running.prefilling or len(self._waiting)):
            return False
        whole = not self._config.enable_chunked_prefill
        # Of those that decode, some only wait for their last token to come back.
        streams = decodes.num_decodes > 0 or any(s.constraint is not None for s in self._running.apart)
        budget = self.pacing.budget(decodes, draft.budget, streams=streams, whole=whole)
        prompts = sorted(self._running.prefilling, key=policy.remaining)
        if prompts and not whole and not budget.covers(prompts):
            eldest = next(iter(self._running.prefilling))
            kept = budget.set_aside(policy.ELDEST_SHARE if len(prompts) > 1 or len(self._waiting) else 0)
            self._admit(draft, budget, below=policy.remaining(prompts[0]))
            door = budget.set_aside(policy.NEWCOMERS_SHARE)
            self._admit(draft, door)
            budget.put_back(door)
        else:
            eldest, kept = None, budget
        for sequence in prompts:
            if sequence is eldest:
                budget.put_back(kept)
            try:
                if sequence.status is SequenceStatus.RUNNING:
                    self._schedule_prefill(sequence, draft, budget)
            except Exception as error:
                self._leave_out(sequence, draft, error)
        self._admit(draft, budget)
        waits = self._running.prefilling or (len(self._waiting) and self._running.has_free_slot)
        return bool(waits) and budget.is_spent

    def _schedule_prefill(
        self,
        sequence: Sequence,
        draft: StepDraft,
        budget: PromptBudget,
        cached_blocks: list[int] | None = None,
    ) -> None:
        start = sequence.num_scheduled
        length = budget.take(start, min(sequence.num_prefill - start, sequence.max_chunk))
        if length == 0:
            return
        blocks = self._make_room(sequence, start + length, draft)
        if blocks is None:
            return
        draft.add_prefill(sequence, start, length, [*cached_blocks, *blocks] if cached_blocks else blocks)
        if start + length == sequence.num_prefill:
            self._running.start_decoding(sequence)

    def _admit(self, draft: StepDraft, budget: PromptBudget, below: int | None = None) -> None:
        """Let in who waits, in order, until somebody does not fit: nobody overtakes.

        below: only those with fewer tokens.
        """
        while (
            not (budget.is_spent or draft.preempted)
            and self._running.has_free_slot
            and (sequence := self._waiting.first()) is not None
        ):
            length = len(sequence.token_ids)
            if below is not None and length >= below:
                return
            if self._running.is_in_flight(sequence):
                return  # preempted in this moment: the device still writes into its blocks
            if not self._config.enable_chunked_prefill and length > budget.tokens:
                return
            try:
                if not sequence.may_sample(length):
                    return  # preempted while its mask is computed
                cached_blocks = self._admission.find_room(sequence)
                if cached_blocks is None:
                    return
                self._begin(sequence, cached_blocks, draft, budget)
            except Exception as error:
                self._leave_out(sequence, draft, error)

    def _begin(
        self, sequence: Sequence, cached_blocks: list[int], draft: StepDraft, budget: PromptBudget
    ) -> None:
        num_cached = len(cached_blocks) * self._cache.block_size
        sequence.table.adopt(cached_blocks)
        self._waiting.pop()
        self._running.enter(sequence, num_cached)
        if sequence.timings.num_preemptions == 0:
            sequence.timings.scheduled_s = time.monotonic()
            sequence.timings.num_cached_tokens = num_cached
            self._counters.prompt_tokens += sequence.num_prompt
            self._prefix_cache.record(sequence.num_prompt, num_cached)
        else:
            self._counters.recomputed_tokens += sequence.num_prefill - num_cached
        draft.starts.append(sequence.slot_start())
        self._schedule_prefill(sequence, draft, budget, cached_blocks)

    def _make_room(self, sequence: Sequence, num_tokens: int, draft: StepDraft) -> list[int] | None:
        """New blocks, so that a running sequence has room for `num_tokens`; preempts others if it must.

        None if it has to wait a step: blocks of a sequence in flight come back when its plan commits.
        """
        while (blocks := sequence.table.ensure(num_tokens)) is None:
            if self._running.returning_blocks() + self._pool.num_free >= sequence.table.missing(num_tokens):
                return None
            victim = policy.choose_victim(self._running)
            if victim is None:
                return None
            self._preempt(victim, draft)
            if victim is sequence:
                return None
        return list(blocks)

    def _leave_out(self, sequence: Sequence, draft: StepDraft, error: Exception) -> None:
        """Its turn fails: the step does without it, and without newcomers, of whom it may be the first."""
        draft.drop(sequence)
        draft.preempted = True
        self.failed.append((sequence, error))

    def _preempt(self, sequence: Sequence, draft: StepDraft) -> None:
        self._running.leave(sequence)
        draft.remove(sequence)
        draft.preempted = True
        self._counters.num_preemptions += 1
        sequence.give_up()
        self._waiting.push(sequence)
