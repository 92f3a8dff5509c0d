"""Runs plans on one device, in the order given: inputs, decoder, sampler, state. Waits for nothing.

What outlives a step is held here, by slot: block tables and the token sampled last. The next step reads both
on the device, so it can be launched before this one's tokens have reached the host.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..cache.storage import KVStorage
from .batch import ForwardBatch
from .decoder import DecoderLM
from .plan import StepPlan
from .sampler import Sampled, Sampler
from .step_inputs import BlockTableMirror, StepArrays, StepLayout, StepShape, lay_out, pack, unpack


class ModelRunner:
    """One model, its KV pages and `num_slots` sequences on one device.

    max_model_len: tokens of the longest sequence; sizes the block tables.
    """

    def __init__(
        self, model: DecoderLM, kv: KVStorage, *, num_slots: int, max_model_len: int, block_size: int
    ) -> None:
        self.model = model
        self.device = model.device
        self._kv = kv
        max_blocks = -(-max_model_len // block_size)
        self._mirror = BlockTableMirror(num_slots, max_blocks, block_size)
        self._block_tables = torch.zeros(num_slots + 1, max_blocks, dtype=torch.int32, device=self.device)
        self._last_token = torch.zeros(num_slots + 1, dtype=torch.int32, device=self.device)
        self._sampler = Sampler(num_slots + 1, model.config.vocab_size, self.device)

    @torch.inference_mode()
    def run(self, plan: StepPlan) -> Sampled | None:
        """Queue the plan's work on the device; None if no row samples. Raises what the device raises at once."""
        self._sampler.start(plan.starts)
        layout = lay_out(plan, self._mirror)
        inputs = self._upload(layout, layout.shape)
        self._update_block_tables(inputs)
        logits = self._forward(inputs, layout)
        if not layout.host_slots:
            return None
        sampled = self._sampler.sample(
            logits, inputs.sample_slots, inputs.sample_positions, layout.host_slots
        )
        self._last_token.index_copy_(0, inputs.sample_slots.long(), sampled.tokens.clamp(min=0))
        return sampled

    def _upload(self, layout: StepLayout, shape: StepShape) -> StepArrays:
        pinned = self.device.type == "cuda"
        host = torch.empty(shape.num_bytes, dtype=torch.uint8, pin_memory=pinned)
        pack(layout, shape, self._mirror, host.numpy())
        return unpack(host.to(self.device, non_blocking=True), shape)

    def _update_block_tables(self, inputs: StepArrays) -> None:
        self._block_tables.view(-1).index_copy_(0, inputs.update_index, inputs.update_value)

    def _forward(self, inputs: StepArrays, layout: StepLayout) -> Tensor:
        """Logits [S, vocab_size] of the sampled rows."""
        decodes = inputs.token_ids[: layout.num_decodes]
        sampled_last = self._last_token.index_select(0, inputs.slots[: layout.num_decodes])
        decodes.copy_(torch.where(decodes < 0, sampled_last, decodes))
        batch = ForwardBatch(
            token_ids=inputs.token_ids,
            positions=inputs.positions,
            kv_slots=inputs.kv_slots,
            block_tables=self._block_tables,
            slots=inputs.slots,
            query_starts=inputs.query_starts,
            seq_lens=inputs.seq_lens,
            last_tokens=inputs.last_tokens,
            num_decodes=layout.num_decodes,
            max_query_len=layout.max_query_len,
            max_seq_len=layout.max_seq_len,
        )
        return self.model.forward(batch, self._kv.layers)
