"""Runs plans on one device, in the order given: inputs, decoder, sampler, state. Waits for nothing.

What outlives a step is held here, by slot: block tables and the token sampled last. The next step reads both
on the device, so it can be launched before this one's tokens have reached the host.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..cache.storage import KVStorage
from .batch import ForwardBatch
from .decoder import DecoderLM
from .graphs import DecodeGraphs, decode_sizes
from .plan import GraphCounts, StepPlan
from .prompt_scores import PromptQuestions, PromptScores
from .sampler import Sampled, Sampler
from .step_inputs import BlockTableMirror, HostBuffer, StepArrays, StepBounds, lay_out, unpack


class ModelRunner:
    """One model, its KV pages and `num_slots` sequences on one device.

    max_model_len: tokens of the longest sequence; sizes the block tables.
    """

    def __init__(
        self,
        model: DecoderLM,
        kv: KVStorage,
        device: torch.device,
        *,
        vocab_size: int,
        num_slots: int,
        max_model_len: int,
        block_size: int,
    ) -> None:
        self.device = device
        self._model = model
        self._kv = kv
        self._num_slots = num_slots
        self._vocab_size = vocab_size
        self._dtype = kv.layers[0][0].dtype
        max_blocks = -(-max_model_len // block_size)
        self._mirror = BlockTableMirror(num_slots, max_blocks, block_size)
        self._block_tables = torch.zeros(num_slots + 1, max_blocks, dtype=torch.int32, device=device)
        self._last_token = torch.zeros(num_slots + 1, dtype=torch.int32, device=device)
        self._sampler = Sampler(num_slots + 1, vocab_size, device)
        self._graphs: DecodeGraphs | None = None
        self._num_launched = {"decode": 0, "mixed": 0}

    @torch.inference_mode()
    def capture_graphs(self) -> None:
        """Capture decode steps as CUDA graphs; until then, every step is launched kernel by kernel."""
        sizes = decode_sizes(self._num_slots)
        # All graphs leave their logits here: as results of their own they would add up to gigabytes.
        self._logits = torch.empty(sizes[-1], self._vocab_size, dtype=self._dtype, device=self.device)
        graphs = DecodeGraphs(self._decode_step, self._mirror, sizes, self.device)
        graphs.capture_all()
        self._graphs = graphs

    @torch.inference_mode()
    def run(self, plan: StepPlan) -> Sampled | None:
        """Queue the plan's work on the device; None if no row samples. Raises what launching raises."""
        self._sampler.start(plan.starts)
        self._sampler.mask(plan.masks)
        layout = lay_out(plan, self._mirror)
        questions = PromptQuestions.of(plan, self._sampler.state.num_prompt_logprobs)
        if self._graphs is not None and layout.bounds.max_query_len == 1 and questions is None:
            step = self._graphs.replay(layout)
            if step is not None:
                num_sampled = layout.shape.num_sampled
                return self._sampler.report(
                    step.logits[:num_sampled], step.tokens[:num_sampled], layout.host_slots
                )
        self._num_launched["decode" if layout.bounds.max_query_len == 1 else "mixed"] += 1
        packed = HostBuffer(layout.shape, self.device).pack(layout, self._mirror)
        inputs = unpack(packed.to(self.device, non_blocking=True), layout.shape)
        scores = None
        if questions is None:
            logits = self._forward(inputs, layout.bounds)
        else:
            logits, scores = self._forward_asked(inputs, layout.bounds, questions)
        if not layout.host_slots and scores is None:
            return None
        sampled = self._sampler.sample(
            logits, inputs.sample_slots, inputs.sample_positions, layout.host_slots
        )
        self._remember(inputs, sampled.tokens)
        return sampled if scores is None else replace(sampled, prompt_scores=scores)

    def graph_counts(self) -> GraphCounts:
        """How plans reached the device."""
        num_replayed = 0 if self._graphs is None else self._graphs.hits
        return GraphCounts({"decode": num_replayed, "mixed": 0}, dict(self._num_launched))

    def _decode_step(self, inputs: StepArrays, num_rows: int) -> tuple[Tensor, Tensor]:
        """A whole step of single-token rows without a host decision: (logits, tokens) of all rows."""
        max_seq_len = self._block_tables.shape[1] * self._mirror.block_size
        logits = self._forward(inputs, StepBounds(num_rows, 1, max_seq_len), self._logits[:num_rows])
        tokens = self._sampler.choose_on_gpu(
            logits, inputs.sample_slots, inputs.sample_positions, changes=True, filters=True
        )
        self._remember(inputs, tokens)
        return logits, tokens

    def _forward(self, inputs: StepArrays, bounds: StepBounds, logits: Tensor | None = None) -> Tensor:
        """Bring the block tables up to date and run the decoder: [S, vocab_size], in `logits` if given."""
        return self._model.forward(self._batch(inputs, bounds), self._kv.layers, logits)

    def _forward_asked(
        self, inputs: StepArrays, bounds: StepBounds, questions: PromptQuestions
    ) -> tuple[Tensor, PromptScores]:
        """`_forward`, and what is asked of prompts."""
        asked = torch.from_numpy(questions.tokens).to(self.device, non_blocking=True)
        batch = self._batch(inputs, bounds)
        batch = replace(batch, last_tokens=torch.cat([batch.last_tokens, asked]))
        hidden = self._model.hidden(batch, self._kv.layers)
        num_sampled = len(inputs.last_tokens)
        # First of all, so that no other logits take memory meanwhile.
        scores = questions.answer(hidden[num_sampled:], self._model.logits, self._num_slots)
        return self._model.logits(hidden[:num_sampled]), scores

    def _batch(self, inputs: StepArrays, bounds: StepBounds) -> ForwardBatch:
        """The step as the decoder takes it, once the block tables are up to date."""
        self._block_tables.view(-1).index_copy_(0, inputs.update_index, inputs.update_value)
        decodes = inputs.token_ids[: bounds.num_decodes]
        sampled_last = self._last_token.index_select(0, inputs.slots[: bounds.num_decodes])
        decodes.copy_(torch.where(decodes < 0, sampled_last, decodes))
        return ForwardBatch(
            token_ids=inputs.token_ids,
            positions=inputs.positions,
            kv_slots=inputs.kv_slots,
            block_tables=self._block_tables,
            slots=inputs.slots,
            query_starts=inputs.query_starts,
            seq_lens=inputs.seq_lens,
            last_tokens=inputs.last_tokens,
            num_decodes=bounds.num_decodes,
            max_query_len=bounds.max_query_len,
            max_seq_len=bounds.max_seq_len,
        )

    def _remember(self, inputs: StepArrays, tokens: Tensor) -> None:
        # INVALID_TOKEN must not be looked up: its sequence runs one more step before the host can end it.
        self._last_token.index_copy_(0, inputs.sample_slots.long(), tokens.clamp(min=0))
