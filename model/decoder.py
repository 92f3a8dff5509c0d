"""The decoder-only transformer that all supported families share. Knows no requests, files or sampling."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..ops.native_code import find_team
from ..ops.paged_attention import PagedKV
from ..ops.step_memo import StepMemo
from ..ops.tuning import NUM_SPLIT_COUNTERS
from .attention import Attention, AttentionStep
from .batch import ForwardBatch
from .config import ModelConfig
from .layers import Embedding, GatedMLP, RMSNorm
from .linear import DenseMethod, FixedOrderMethod, Linear, LinearMethod, TiedLinear
from .rope import cos_sin_table, identity_table
from .targets import WeightTarget

if TYPE_CHECKING:
    from ..ops.attention_native import NativeAttention


class DecoderLayer:
    """Attention and MLP, each with its norm before it; the residual runs beside them."""

    def __init__(
        self, config: ModelConfig, layer: int, method: LinearMethod, dtype: torch.dtype, device: torch.device
    ) -> None:
        name, size, eps = f"model.layers.{layer}", config.hidden_size, config.rms_norm_eps
        self.input_norm = RMSNorm(f"{name}.input_layernorm", size, eps, dtype, device)
        self.attention = Attention(config, layer, method, dtype, device)
        self.post_norm = RMSNorm(f"{name}.post_attention_layernorm", size, eps, dtype, device)
        self.mlp = GatedMLP(config, layer, method, dtype, device)

    def targets(self) -> Iterator[WeightTarget]:
        """Of all parts."""
        for part in (self.input_norm, self.attention, self.post_norm, self.mlp):
            yield from part.targets()

    def finish(self) -> None:
        """Called once when all targets are filled."""
        self.attention.finish()
        self.mlp.finish()


class DecoderLM:
    """Token ids in, logits out.

    max_positions: length of the longest sequence to be served; the model's own limit by default.
    method: how weights are stored and multiplied; as in the checkpoint by default.
    deterministic: a token's logits are the same to the last bit whatever else a step computes and however
        its sequence came to it. On a GPU only; slower.
    weight_bytes: memory of the checkpoint's tensors in this dtype. On the `meta` device nothing is allocated,
    which serves to weigh a model before it is built.
    The weights' content is undefined until a loader has filled `targets` and called `finish`.
    """

    def __init__(
        self,
        config: ModelConfig,
        dtype: torch.dtype,
        device: torch.device,
        *,
        max_positions: int | None = None,
        method: LinearMethod | None = None,
        deterministic: bool = False,
    ) -> None:
        assert method is None or not deterministic, "products in a fixed order are a method of their own"
        method = method or (FixedOrderMethod if deterministic else DenseMethod)(dtype, device)
        self._deterministic = deterministic
        max_positions = max_positions or config.max_length
        self._embedding = Embedding(config, dtype, device)
        self._layers = [DecoderLayer(config, i, method, dtype, device) for i in range(config.num_layers)]
        self._split_counters = (
            torch.zeros(NUM_SPLIT_COUNTERS, dtype=torch.int32, device=device)
            if device.type == "cuda" and not deterministic
            else None
        )
        self._native = _native_attention(config, dtype, device)
        self._norm = RMSNorm("model.norm", config.hidden_size, config.rms_norm_eps, dtype, device)
        self._head: Linear | TiedLinear
        if config.tie_word_embeddings:
            self._head = TiedLinear(method, Embedding.NAME, self._embedding.table)
        else:
            self._head = Linear(
                method, config.hidden_size, (("lm_head", config.vocab_size),), split=0, is_head=True
            )
        rotating = cos_sin_table(config.rope, max_positions, device)
        unrotating = rotating
        if not all(config.layer_uses_rope):
            unrotating = identity_table(config.rope, max_positions, device)
        self.weight_bytes = sum(target.view.nbytes for target in self.targets())
        self.num_layers = config.num_layers
        self._kinds = [*zip(config.layer_windows, config.layer_uses_rope, strict=True)]
        self._tables = [rotating if rotates else unrotating for rotates in config.layer_uses_rope]

    def outline(self) -> DecoderLM:
        """The model with one layer of each kind and the last only: it launches every kernel of the whole."""
        last = len(self._layers) - 1
        kept = sorted({*{kind: i for i, kind in reversed([*enumerate(self._kinds)])}.values(), last})
        outline = copy.copy(self)
        outline._layers = [self._layers[i] for i in kept]
        outline._tables = [self._tables[i] for i in kept]
        outline.num_layers = len(kept)
        return outline

    def forward(
        self, batch: ForwardBatch, kv: Sequence[tuple[Tensor, Tensor]], out: Tensor | None = None
    ) -> Tensor:
        """Run one step. Call it under `torch.inference_mode()`.

        kv: each layer's (k_cache, v_cache), [num_blocks, num_kv_heads, block_size, head_dim].
        Returns the logits of `batch.last_tokens`: [S, vocab] in the model's dtype, in `out` if given.
        """
        return self.logits(self.hidden(batch, kv), out)

    def hidden(self, batch: ForwardBatch, kv: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """`forward` without the head: [S, hidden_size] of `batch.last_tokens`."""
        step = AttentionStep(batch, self._split_counters, StepMemo(), self._native, self._deterministic)
        residual = self._embedding(batch.token_ids)
        x: Tensor | None = None
        for layer, cos_sin, (k_cache, v_cache) in zip(self._layers, self._tables, kv, strict=True):
            x = layer.input_norm(residual) if x is None else layer.input_norm.add(x, residual)
            # Past the last layer's keys and values tokens do not mix: only the sampled ones go on.
            last = batch.last_tokens if layer is self._layers[-1] else None
            x = layer.attention(x, step, cos_sin, PagedKV(k_cache, v_cache, batch.block_tables), last)
            if last is not None:
                residual = residual[last]
            x = layer.mlp(layer.post_norm.add(x, residual))
        assert x is not None, "a model has at least one layer"
        return self._norm.add(x, residual)

    def logits(self, hidden: Tensor, out: Tensor | None = None) -> Tensor:
        """What `hidden` gave, [S, hidden_size] -> [S, vocab], in `out` if given."""
        return self._head(hidden, out)

    def likeliest(self, hidden: Tensor) -> Tensor | None:
        """ops.sampling.choose_greedy of `logits`, [S] int64, which never exist; None where they have to."""
        return self._head.likeliest(hidden)

    def targets(self) -> Iterator[WeightTarget]:
        """Every checkpoint tensor that the model takes."""
        if not isinstance(self._head, TiedLinear):
            yield from self._embedding.targets()
        for layer in self._layers:
            yield from layer.targets()
        yield from self._norm.targets()
        yield from self._head.targets()

    def ignores(self, name: str) -> bool:
        """Checkpoint tensors that follow from others: a tied head saved again, old rotary buffers."""
        repeats_embedding = name == "lm_head.weight" and isinstance(self._head, TiedLinear)
        return repeats_embedding or name.endswith(".rotary_emb.inv_freq")

    def finish(self) -> None:
        """Bring the weights into the form in which they are used. Called by the loader, once, at its end."""
        for part in (*self._layers, self._head):
            part.finish()


def _native_attention(
    config: ModelConfig, dtype: torch.dtype, device: torch.device
) -> NativeAttention | None:
    """Machine code for a processor's float32; None where there is none."""
    team = find_team() if device.type == "cpu" and dtype == torch.float32 else None
    if team is None:
        return None
    from ..ops.attention_native import HeadShape, NativeAttention  # LLVM is installed where it is of use

    shape = HeadShape(config.num_heads, config.num_kv_heads, config.head_dim)
    return NativeAttention(shape, team) if shape.fits else None
