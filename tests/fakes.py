"""FakeExecutor: a device made of dictionaries, and the toy language model that it runs. Torch-free.

The device keeps what a real one would, pages of tokens and a block table per slot, and the toy's next token
depends on every token of the sequence as read back through the table. So a wrong block, a stale prefix hit, a
block reused too early, a lost or doubled token all change the text that `expected_output` predicts by itself.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from toy_grammar import forbidden
from toy_model import EOS as EOS
from toy_model import ToyModel as ToyModel

from octavo.model.plan import (
    GraphCounts,
    SequenceSlice,
    SlotStart,
    StepPlan,
    StepResult,
    TokenLogprobs,
)


class DeviceError(RuntimeError):
    """What the fake device raises when told to fail."""


class Entry(NamedTuple):
    """What stands for a token's K and V: real ones depend on all tokens before it, so this does, too."""

    token: int
    context: int


@dataclass
class DeviceSlot:
    """What the device knows of one slot."""

    start: SlotStart
    block_table: list[int] = field(default_factory=list)
    num_computed: int | None = None
    last_token: int | None = None
    history: list[int] = field(default_factory=list)
    forbidden: frozenset[int] = frozenset()


class FakeExecutor:
    """Implements `Executor`; asserts that every plan keeps the promises of model/plan.py.

    Plans run in order, and as late as on a real device: when a result that needs them is asked for.
    latency_s: how long a step takes, or a function of the plan.
    fail_at_step: the first step (from 0) that raises.   refuses: starts that end in StepResult.errors.
    """

    def __init__(
        self,
        model: ToyModel,
        *,
        num_slots: int,
        num_blocks: int,
        block_size: int,
        latency_s: float | Callable[[StepPlan], float] = 0.0,
        fail_at_step: int | None = None,
    ) -> None:
        self.model = model
        self.plans: list[StepPlan] = []
        self.max_in_flight = 0
        self.closed = False
        self._num_slots = num_slots
        self._num_blocks = num_blocks
        self._block_size = block_size
        self._latency_s = latency_s
        self._fail_at_step = fail_at_step
        self.refuses: Callable[[SlotStart], bool] = lambda start: False
        self.gates: dict[int, asyncio.Event] = {}  # steps, from 0, that are not done before these are set
        self.awaited = -1  # the step that was last waited for
        self._slots: dict[int, DeviceSlot] = {}
        self._pages: dict[tuple[int, int], Entry] = {}
        self._queue: deque[tuple[FakeHandle, StepPlan, str]] = deque()
        self._free_at_s = 0.0

    def launch(self, plan: StepPlan) -> FakeHandle:
        """Queue the plan; nothing is computed yet."""
        assert not self.closed, "launch after close"
        latency_s = self._latency_s(plan) if callable(self._latency_s) else self._latency_s
        handle = FakeHandle(self, len(self.plans), latency_s)
        self.plans.append(plan)
        self._queue.append((handle, plan, repr(plan)))
        self.max_in_flight = max(self.max_in_flight, len(self._queue))
        return handle

    def graph_counts(self) -> GraphCounts:
        """As if there were no graphs."""
        return GraphCounts({"decode": 0, "mixed": 0}, {"decode": 0, "mixed": len(self.plans)})

    def tend(self) -> bool:
        """Nothing can wait."""
        return False

    def close(self) -> None:
        """No more launches."""
        self.closed = True

    def run_until(self, handle: FakeHandle) -> StepResult:
        """Compute, in order, every queued step up to `handle`'s; its result."""
        while handle.value is None:
            first, plan, as_launched = self._queue.popleft()
            assert repr(plan) == as_launched, "the plan was changed after its launch"
            first.value = self._execute(plan)
        return handle.value

    def wait_s(self, latency_s: float, now_s: float) -> float:
        """Seconds until a step asked for now is done; the device does one at a time."""
        self._free_at_s = max(self._free_at_s, now_s) + latency_s
        return self._free_at_s - now_s

    def _execute(self, plan: StepPlan) -> StepResult:
        step = len(self.plans) - len(self._queue) - 1
        if self._fail_at_step is not None and step >= self._fail_at_step:
            raise DeviceError(f"step {step} failed")
        self._check(plan)
        for start in plan.starts:
            self._slots[start.slot] = DeviceSlot(start, history=[*start.prompt_tokens, *start.output_tokens])
        # Rows run together: one that reads what another row of the same step writes would be a race.
        before = dict(self._pages)
        sampled = [row for row in plan.rows if self._write(row, before)]
        masked = self._mask(plan)
        assert masked <= {row.slot for row in sampled}, f"masks for {sorted(masked)}, which do not sample"
        bound = {row.slot for row in sampled if self._slots[row.slot].start.params.grammar is not None}
        assert bound <= masked, f"masks for slots {sorted(masked)}, grammars in {sorted(bound)}"
        tokens = [self._sample(row, self._slots[row.slot].forbidden) for row in sampled]
        told = [self._tell(row) for row in plan.rows if row.targets]
        asked = [self._slots[row.slot].start.params.logprobs for row in sampled]
        entries = [
            None if n is None else self.model.logprobs(t, n) for t, n in zip(tokens, asked, strict=True)
        ]
        errors = {start.slot: DeviceError("it cannot start") for start in plan.starts if self.refuses(start)}
        return StepResult(tokens, entries if any(entries) else None, told, errors)

    def _mask(self, plan: StepPlan) -> set[int]:
        """Slots that get a mask in this step; those that start with one have got it."""
        size, slots = self.model.vocab_size, list[int]()
        for start in plan.starts:
            if start.mask is not None:
                self._slots[start.slot].forbidden = forbidden(start.mask, size)
        for together in plan.masks:
            slots += together.slots
            for slot, words in zip(together.slots, together.words, strict=True):
                self._slots[slot].forbidden = forbidden(words, size)
        assert len(set(slots)) == len(slots), f"a slot has two masks: {slots}"
        return set(slots)

    def _tell(self, row: SequenceSlice) -> list[TokenLogprobs]:
        """Of a row's targets, which must be what the sequence goes on with."""
        start = self._slots[row.slot].start
        follow = list(start.prompt_tokens[row.start + 1 :][: len(row.targets)])
        assert [*row.targets] == follow and len(follow) <= row.length, f"{follow} follow, not {row.targets}"
        return [self.model.logprobs(token, start.params.prompt_logprobs or 0) for token in row.targets]

    def _check(self, plan: StepPlan) -> None:
        assert plan.rows, "a step without rows"
        lengths = [row.length for row in plan.rows]
        assert lengths == sorted(lengths, key=lambda length: length != 1), (
            f"rows of length 1 not first: {lengths}"
        )
        slots = [row.slot for row in plan.rows]
        assert len(set(slots)) == len(slots), f"a slot twice in one step: {slots}"
        assert all(0 <= slot < self._num_slots for slot in slots), f"no such slot: {slots}"
        starts = [start.slot for start in plan.starts]
        assert len(set(starts)) == len(starts), f"a slot starts twice: {starts}"
        assert set(starts) <= set(slots), "a slot starts without a row"
        new = [block for row in plan.rows for block in row.new_blocks]
        assert all(0 <= block < self._num_blocks for block in new), f"no such block: {new}"

    def _write(self, row: SequenceSlice, before: dict[tuple[int, int], Entry]) -> bool:
        """Put the row's tokens into the pages; whether it samples."""
        slot = self._slots[row.slot]
        slot.block_table += row.new_blocks
        assert len(set(slot.block_table)) == len(slot.block_table), f"a block twice in {slot.block_table}"
        end = row.start + row.length
        room = len(slot.block_table) * self._block_size
        assert end <= room, f"{end} tokens in room for {room}"
        longest = len(slot.start.prompt_tokens) + (slot.start.params.max_tokens or end)
        assert end < longest, f"{end} tokens computed of a sequence whose {longest}th is its last"
        if slot.num_computed is None:
            cached = self._read(slot, row.start, before)
            assert cached == slot.history[: row.start], f"prefix hit {cached} for {slot.history}"
        else:
            assert row.start == slot.num_computed, f"{slot.num_computed} computed, row starts at {row.start}"
        if row.tokens is None:
            assert row.length == 1 and row.samples, f"only a decode takes the device's token: {row}"
            assert slot.last_token is not None, "a decode before anything was sampled"
            tokens: Sequence[int] = [slot.last_token]
        else:
            tokens = row.tokens
        assert row.length == len(tokens) >= 1, f"{row.length} said, {len(tokens)} tokens given"
        context = self._pages[self._address(slot, row.start - 1)].context if row.start else 0
        for position, token in enumerate(tokens, row.start):
            context = hash((context, token))
            self._pages[self._address(slot, position)] = Entry(token, context)
        slot.num_computed = end
        return row.samples

    def _sample(self, row: SequenceSlice, masked: frozenset[int]) -> int:
        slot = self._slots[row.slot]
        start = slot.start
        tokens = self._read(slot, row.start + row.length, self._pages)
        # Penalties count from the history that the slot was given; the text comes from the pages.
        assert tokens == slot.history, f"slot {row.slot} was told {slot.history}, its pages hold {tokens}"
        num_output = len(tokens) - len(start.prompt_tokens)
        banned = start.stop_token_ids if num_output < start.params.min_tokens else frozenset()
        token = self.model.next_token(tokens, 0 if start.params.greedy else start.seed, banned | masked)
        slot.last_token = token
        slot.history.append(token)
        return token

    def _read(self, slot: DeviceSlot, length: int, pages: dict[tuple[int, int], Entry]) -> list[int]:
        """The first `length` tokens as the slot's block table finds them."""
        tokens, context = [], 0
        for position in range(length):
            address = self._address(slot, position)
            assert address in pages, f"nothing was ever written for position {position}, at {address}"
            token, found = pages[address]
            context = hash((context, token))
            assert found == context, f"position {position}, at {address}, was computed after other tokens"
            tokens.append(token)
        return tokens

    def _address(self, slot: DeviceSlot, position: int) -> tuple[int, int]:
        return slot.block_table[position // self._block_size], position % self._block_size


class FakeHandle:
    """Implements `StepHandle`."""

    def __init__(self, executor: FakeExecutor, number: int, latency_s: float) -> None:
        self.value: StepResult | None = None
        self._executor = executor
        self._number = number
        self._latency_s = latency_s

    async def result(self) -> StepResult:
        """Wait the step's latency, and for its gate if it has one, then compute it."""
        self._executor.awaited = self._number
        if self._number in self._executor.gates:
            await self._executor.gates[self._number].wait()
        await asyncio.sleep(self._executor.wait_s(self._latency_s, asyncio.get_running_loop().time()))
        return self.get()

    def get(self) -> StepResult:
        """The result at once, for tests without an event loop."""
        return self._executor.run_until(self)
