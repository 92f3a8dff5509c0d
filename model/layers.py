"""The other parts of a decoder: norm, gated MLP and embedding. None knows a family or a step."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops.activation import silu_mul
from ..ops.rms_norm import add_rms_norm, rms_norm
from .config import ModelConfig
from .linear import Linear, LinearMethod
from .targets import WeightTarget


class RMSNorm:
    """Root-mean-square norm with a learned scale."""

    def __init__(self, name: str, size: int, eps: float, dtype: torch.dtype, device: torch.device) -> None:
        self._name = name
        self._eps = eps
        self._weight = torch.empty(size, dtype=dtype, device=device)

    def __call__(self, x: Tensor) -> Tensor:
        """[T, size] -> [T, size]."""
        return rms_norm(x, self._weight, self._eps)

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        """The norm of residual + x. `residual` becomes that sum; `x` is used up."""
        return add_rms_norm(x, residual, self._weight, self._eps)

    def targets(self) -> Iterator[WeightTarget]:
        """The scale."""
        yield WeightTarget(f"{self._name}.weight", self._weight)


class GatedMLP:
    """down(silu(gate(x)) * up(x)), gate and up in one product. Shazeer 2020, arXiv:2002.05202."""

    def __init__(
        self, config: ModelConfig, layer: int, method: LinearMethod, dtype: torch.dtype, device: torch.device
    ) -> None:
        name, hidden, inner = f"model.layers.{layer}.mlp", config.hidden_size, config.intermediate_size
        up_bias = down_bias = None
        if config.mlp_bias:
            up_bias = torch.empty(2 * inner, dtype=dtype, device=device)
            down_bias = torch.empty(hidden, dtype=dtype, device=device)
        up_parts = ((f"{name}.gate_proj", inner), (f"{name}.up_proj", inner))
        self._gate_up = Linear(method, hidden, up_parts, split=0, bias=up_bias)
        self._down = Linear(method, inner, ((f"{name}.down_proj", hidden),), split=1, bias=down_bias)

    def __call__(self, x: Tensor) -> Tensor:
        """[T, hidden] -> [T, hidden]."""
        return self._down(silu_mul(self._gate_up(x)))

    def targets(self) -> Iterator[WeightTarget]:
        """The three projections and their biases."""
        yield from self._gate_up.targets()
        yield from self._down.targets()

    def finish(self) -> None:
        """Called once when all targets are filled."""
        self._gate_up.finish()
        self._down.finish()


class Embedding:
    """One row per token id."""

    NAME = "model.embed_tokens"

    def __init__(self, config: ModelConfig, dtype: torch.dtype, device: torch.device) -> None:
        self.table = torch.empty(config.vocab_size, config.hidden_size, dtype=dtype, device=device)

    def __call__(self, token_ids: Tensor) -> Tensor:
        """token_ids [T] int32 -> [T, hidden], memory of its own."""
        return F.embedding(token_ids, self.table)

    def targets(self) -> Iterator[WeightTarget]:
        """The table."""
        yield WeightTarget(f"{self.NAME}.weight", self.table, 0)
