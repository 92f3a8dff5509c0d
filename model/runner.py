"""Runs plans on one device, in the order given: inputs, decoder, sampler, state. Waits for nothing.

What outlives a step is held here, by slot: block tables and the token sampled last. The next step reads both
on the device, so it can be launched before this one's tokens have reached the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..cache.storage import KVStorage
from ..ops.compiler_process import CompilerProcess
from ..ops.paged_attention import ChunkRows, DecodeRows
from ..ops.slot_state import begin_step, end_step
from .batch import ForwardBatch
from .decoder import DecoderLM
from .graph_shapes import decode_shapes, mixed_shapes, varied_shapes
from .graphs import StepGraphs
from .plan import GraphCounts, StepPlan
from .prompt_scores import MIN_PIECE_ROWS, PromptQuestions, PromptScores
from .sampler import Sampled, Sampler
from .step_inputs import (
    BlockTableMirror,
    HostBuffer,
    StepArrays,
    StepLayout,
    host_memory,
    lay_out,
    unpack,
)
from .upload import uploaded

if TYPE_CHECKING:
    from ..ops.compile_ahead import CompilingAhead


class ModelRunner:
    """One model, its KV pages and `num_slots` sequences on one device.

    max_model_len: tokens of the longest sequence; sizes the block tables.
    weight_bytes: see DecoderLM.
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
        self.weight_bytes = model.weight_bytes
        self._model = model
        self._pages = kv.layers
        self.num_slots = num_slots
        self.vocab_size = vocab_size
        self._dtype = kv.layers[0][0].dtype
        max_blocks = -(-max_model_len // block_size)
        self._mirror = BlockTableMirror(num_slots, max_blocks, block_size)
        self._block_tables = torch.zeros(num_slots + 1, max_blocks, dtype=torch.int32, device=device)
        self._last_token = torch.zeros(num_slots + 1, dtype=torch.int32, device=device)
        self._sampler = Sampler(num_slots + 1, vocab_size, device)
        # Of every step, also of all graphs: as results of their own, theirs would add up to gigabytes.
        self._logits = (
            torch.empty(max(num_slots, MIN_PIECE_ROWS), vocab_size, dtype=self._dtype, device=device)
            if device.type == "cuda"
            else None
        )
        self._graphs: StepGraphs | None = None
        self._untold: dict[int, Exception] = {}
        self._num_replayed = {"decode": 0, "mixed": 0}
        self._num_launched = {"decode": 0, "mixed": 0}

    @torch.inference_mode()
    def compile_kernels(self, compiler: CompilerProcess | None = None) -> CompilingAhead:
        """Have the kernels of all kinds of steps compiled, several at a time and beside this process, which
        may launch none until they are; what slots hold is lost. compiler: see CompilingAhead."""
        from ..ops.compile_ahead import kernels_compiled_ahead  # Triton exists for some platforms only

        with kernels_compiled_ahead(compiler) as ahead:
            for shape in varied_shapes(self.num_slots, self._mirror.block_size):
                packed = torch.zeros(shape.num_bytes, dtype=torch.uint8, device=self.device)
                self._outlined_step(unpack(packed, shape))
        self._block_tables.zero_()
        self._last_token.zero_()
        return ahead

    def use_pages(self, kv: KVStorage) -> None:
        """Keep keys and values there from now on; what the pages before held is lost, and so are graphs."""
        self._pages = kv.layers
        self._graphs = None

    @torch.inference_mode()
    def graph_bytes(self, max_num_tokens: int) -> int:
        """What `capture_graphs` will take of the device's memory; nothing is kept."""
        return self._new_graphs(max_num_tokens).measure()

    @torch.inference_mode()
    def capture_graphs(self, max_num_tokens: int) -> None:
        """Capture a few steps of up to `max_num_tokens` tokens as CUDA graphs; until then, every step is
        launched kernel by kernel."""
        graphs = self._new_graphs(max_num_tokens)
        graphs.capture_first()
        self._graphs = graphs

    @torch.inference_mode()
    def capture_more(self) -> bool:
        """Capture one more step, which takes some 20 ms; whether there are others to be captured."""
        return self._graphs is not None and self._graphs.capture_next()

    def _new_graphs(self, max_num_tokens: int) -> StepGraphs:
        decodes = decode_shapes(self.num_slots)
        mixed = mixed_shapes(self.num_slots, max_num_tokens, self._mirror.block_size)
        return StepGraphs(self._whole_step, self._outlined_step, self._mirror, decodes, mixed, self.device)

    @torch.inference_mode()
    def run(self, plan: StepPlan) -> Sampled | None:
        """Queue the plan's work on the device; None if there is nothing to tell of it.

        Raises what launching raises. After torch.OutOfMemoryError and `refile`, the plan's rows may run
        again, in pieces and without starts, masks and new blocks.
        """
        layout = lay_out(plan, self._mirror)  # first, as it needs no memory: `refile` does the rest
        self._settle(plan)
        sampled = self._run(plan, layout)
        errors, self._untold = self._untold, {}
        if not errors:
            return sampled
        sampled = sampled or Sampled.nothing(self.device)
        return replace(sampled, errors={**sampled.errors, **errors})

    def _settle(self, plan: StepPlan) -> None:
        """Slots change hands, and get the masks of this step."""
        self._untold |= self._sampler.start(plan.starts)  # until a run gets through
        self._sampler.mask(plan.masks)

    def _run(self, plan: StepPlan, layout: StepLayout) -> Sampled | None:
        questions = PromptQuestions.of(plan, self._sampler.state.num_prompt_logprobs)
        kind = "mixed" if layout.shape.num_chunks else "decode"
        step = self._graphs.replay(layout) if self._graphs is not None and questions is None else None
        if step is not None:
            self._num_replayed[kind] += 1
            num_sampled = layout.shape.num_sampled
            if not num_sampled:
                return None
            return self._sampler.report(
                step.logits[:num_sampled], step.tokens[:num_sampled], layout.host_slots
            )
        self._num_launched[kind] += 1
        memory = host_memory(layout.shape.num_bytes, self.device)
        packed = HostBuffer(layout.shape, memory).pack(layout, self._mirror)
        inputs = unpack(packed.to(self.device, non_blocking=True), layout.shape)
        scores = None
        if questions is None:
            hidden = self._model.hidden(self._batch(inputs, layout.max_seq_len), self._pages)
        else:
            hidden, scores = self._hidden_asked(inputs, layout.max_seq_len, questions)
        if not layout.host_slots and scores is None:
            return None
        sampled = self._choose(hidden, inputs, layout.host_slots)
        end_step(self._last_token, inputs.sample_slots, sampled.tokens)
        return sampled if scores is None else replace(sampled, prompt_scores=scores)

    def _choose(self, hidden: Tensor, inputs: StepArrays, host_slots: Sequence[int]) -> Sampled:
        """Tokens for hidden states [S, hidden_size]; logits are written down only for who needs them."""
        needy = self._sampler.rows_beyond_greedy(host_slots)
        tokens = self._model.likeliest(hidden) if 2 * len(needy) <= len(host_slots) else None
        slots, positions = inputs.sample_slots, inputs.sample_positions
        if tokens is None:
            return self._sampler.sample(self._head(hidden), slots, positions, host_slots)
        if not len(needy):
            return Sampled.tokens_alone(tokens, host_slots)
        rows, their_slots = torch.from_numpy(needy), [host_slots[row] for row in needy.tolist()]
        sampled = self._sampler.sample(self._head(hidden[rows]), slots[rows], positions[rows], their_slots)
        return sampled.among(tokens, needy, host_slots)

    @torch.inference_mode()
    def refile(self, plan: StepPlan) -> None:
        """Bring what is kept by slot up to date with a plan whose run broke off before or after it did so,
        but before anything was sampled."""
        self._settle(plan)
        index, values = self._mirror.entries([row.slot for row in plan.rows])
        self._block_tables.view(-1)[torch.tensor(index, device=self.device)] = torch.tensor(
            values, dtype=torch.int32, device=self.device
        )

    def graph_counts(self) -> GraphCounts:
        """How plans reached the device."""
        return GraphCounts(dict(self._num_replayed), dict(self._num_launched))

    def _whole_step(self, inputs: StepArrays) -> tuple[Tensor, Tensor]:
        """A step without a host decision, for a graph: (logits, tokens) of all rows that may be sampled."""
        max_seq_len = self._block_tables.shape[1] * self._mirror.block_size
        logits = self._forward(inputs, max_seq_len)
        tokens = self._sampler.choose_on_gpu(
            logits, inputs.sample_slots, inputs.sample_positions, changes=True, filters=True
        )
        end_step(self._last_token, inputs.sample_slots, tokens)
        return logits, tokens

    def _outlined_step(self, inputs: StepArrays) -> tuple[Tensor, Tensor]:
        """Launches every kernel of `_whole_step`, few of them twice; what it gives is worth nothing."""
        whole, pages = self._model, self._pages
        self._model = whole.outline()
        self._pages = pages[: self._model.num_layers]
        try:
            return self._whole_step(inputs)
        finally:
            self._model, self._pages = whole, pages

    def _forward(self, inputs: StepArrays, max_seq_len: int) -> Tensor:
        """Bring the block tables up to date and run the decoder: [S, vocab_size]."""
        out = None if self._logits is None else self._logits[: len(inputs.sample_slots)]
        return self._model.forward(self._batch(inputs, max_seq_len), self._pages, out)

    def _hidden_asked(
        self, inputs: StepArrays, max_seq_len: int, questions: PromptQuestions
    ) -> tuple[Tensor, PromptScores]:
        """The hidden states of sampled rows [S, hidden_size], and what is asked of prompts."""
        tokens, slots, lens = (
            uploaded(asked, self.device) for asked in (questions.tokens, questions.slots, questions.lens)
        )
        last_slots = torch.cat([inputs.sample_slots, slots])
        last_lens = torch.cat([inputs.sample_positions, lens])
        batch = replace(
            self._batch(inputs, max_seq_len),
            last_tokens=torch.cat([inputs.last_tokens, tokens]),
            last=DecodeRows(last_slots, last_lens, max_seq_len),
        )
        hidden = self._model.hidden(batch, self._pages)
        num_sampled = len(inputs.last_tokens)
        # First of all, so that no other logits take memory meanwhile.
        scores = questions.answer(hidden[num_sampled:], self._head, self.num_slots)
        return hidden[:num_sampled], scores

    def _head(self, hidden: Tensor) -> Tensor:
        """[S, hidden_size] -> logits [S, vocab_size]; on a GPU the next call overwrites them."""
        return self._model.logits(hidden, None if self._logits is None else self._logits[: len(hidden)])

    def _batch(self, inputs: StepArrays, max_seq_len: int) -> ForwardBatch:
        """The step as the decoder takes it, once the block tables are up to date."""
        begin_step(
            self._block_tables,
            inputs.update_index,
            inputs.update_value,
            inputs.token_ids,
            inputs.decode_slots,
            self._last_token,
        )
        every_token = len(inputs.last_tokens) == len(inputs.token_ids)
        return ForwardBatch(
            token_ids=inputs.token_ids,
            positions=inputs.positions,
            kv_slots=inputs.kv_slots,
            block_tables=self._block_tables,
            decodes=DecodeRows(inputs.decode_slots, inputs.decode_lens, max_seq_len),
            chunks=ChunkRows(inputs.chunk_slots, inputs.chunk_starts, inputs.chunk_lens),
            last_tokens=None if every_token else inputs.last_tokens,
            last=DecodeRows(inputs.sample_slots, inputs.sample_positions, max_seq_len),
        )
