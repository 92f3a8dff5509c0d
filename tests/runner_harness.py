"""A small random model behind a ModelRunner, plans made by hand for it, and its answers computed anew."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import torch
from model_harness import Harness

from octavo.cache.storage import KVStorage
from octavo.model.config import ModelConfig
from octavo.model.decoder import DecoderLM
from octavo.model.executor import StreamExecutor, ThreadExecutor
from octavo.model.plan import Executor, SequenceSlice, SlotStart, StepPlan, StepResult
from octavo.model.runner import ModelRunner
from octavo.model.sampling_params import SamplingParams

VOCAB_SIZE = 61
POISON = VOCAB_SIZE - 1
"""A token whose embedding is not a number, so that the logits after it are none either."""

BLOCK_SIZE = 4
MAX_LENGTH = 64
CPU = torch.device("cpu")
HF_CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": MAX_LENGTH,
}
CONFIG = ModelConfig.from_hf(HF_CONFIG)


def random_model(device: torch.device = CPU, config: ModelConfig = CONFIG) -> DecoderLM:
    """The same float32 weights at every call, so large that a wrong key or position changes tokens."""
    model = DecoderLM(config, torch.float32, device)
    generator = torch.Generator().manual_seed(3)
    for target in model.targets():
        values = torch.randn(target.view.shape, generator=generator) * 0.3
        if target.name == "model.embed_tokens.weight":
            values[POISON] = float("nan")
        if target.name == "lm_head.weight":
            values[POISON] = 0  # it is asked for, never chosen
        target.view.copy_(values + 1 if target.name.endswith("norm.weight") else values)
    model.finish()
    return model


def make_runner(
    *,
    num_slots: int = 4,
    num_blocks: int = 64,
    device: torch.device = CPU,
    model: DecoderLM | None = None,
    vocab_size: int = VOCAB_SIZE,
) -> ModelRunner:
    """A runner of `random_model`."""
    kv = KVStorage(
        CONFIG.num_layers,
        num_blocks,
        CONFIG.num_kv_heads,
        BLOCK_SIZE,
        CONFIG.head_dim,
        torch.float32,
        device,
    )
    return ModelRunner(
        model or random_model(device),
        kv,
        device,
        vocab_size=vocab_size,
        num_slots=num_slots,
        max_model_len=MAX_LENGTH,
        block_size=BLOCK_SIZE,
    )


def continuation(prompt: Sequence[int], num_tokens: int) -> list[int]:
    """The likeliest tokens after `prompt`, the whole text computed anew, alone, for each of them."""
    model, tokens = random_model(), list(prompt)
    for _ in range(num_tokens):
        harness = Harness(model, CONFIG, num_slots=1, max_length=MAX_LENGTH, block_size=BLOCK_SIZE)
        tokens.append(int(harness.step({0: tokens})[0][-1].argmax()))
    return tokens[len(prompt) :]


class PlanMaker:
    """Makes rows; positions and blocks follow from what was asked before. Blocks come in no order."""

    def __init__(self, num_blocks: int = 64) -> None:
        self._free = list(range(num_blocks))
        random.Random(1).shuffle(self._free)
        self._blocks: dict[int, list[int]] = {}
        self._lengths: dict[int, int] = {}
        self._starts: list[SlotStart] = []

    def start(self, slot: int, **settings: Any) -> None:
        """The slot changes hands in the next plan; its blocks are the next to be given out."""
        self._free += self._blocks.pop(slot, [])
        self._blocks[slot], self._lengths[slot] = [], 0
        params = SamplingParams(**({"temperature": 0} | settings))
        self._starts.append(SlotStart(slot, params, 0, frozenset(), [], []))

    def plan(self, *rows: SequenceSlice) -> StepPlan:
        """A step of these rows."""
        starts, self._starts = tuple(self._starts), []
        return StepPlan(rows, starts)

    def prefill(self, slot: int, tokens: Sequence[int], *, samples: bool = True) -> SequenceSlice:
        """The next tokens of a prompt."""
        return self._row(slot, tokens, len(tokens), samples)

    def decode(self, slot: int) -> SequenceSlice:
        """Go on from the token that the device sampled last."""
        return self._row(slot, None, 1, True)

    def _row(self, slot: int, tokens: Sequence[int] | None, length: int, samples: bool) -> SequenceSlice:
        start = self._lengths[slot]
        self._lengths[slot] = end = start + length
        blocks, new = self._blocks[slot], []
        while len(blocks) * BLOCK_SIZE < end:
            blocks.append(self._free.pop())
            new.append(blocks[-1])
        return SequenceSlice(slot, start, length, tokens, new, samples)


def executor_for(runner: ModelRunner) -> Executor:
    """The one that fits its device."""
    return ThreadExecutor(runner) if runner.device.type == "cpu" else StreamExecutor(runner)


def results_of(runner: ModelRunner, steps: Sequence[StepPlan]) -> list[StepResult]:
    """Of an executor that is given all steps before the first is waited for."""

    async def main() -> list[StepResult]:
        executor = executor_for(runner)
        try:
            return [await handle.result() for handle in [executor.launch(step) for step in steps]]
        finally:
            executor.close()

    return asyncio.run(main())
