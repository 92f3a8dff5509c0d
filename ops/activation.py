"""The gated activation of the feed-forward layer: silu(gate) * up."""

from __future__ import annotations

import torch
from torch import Tensor


def silu_mul_reference(gate_up: Tensor) -> Tensor:
    """silu(first half) * second half of the last dimension, in gate_up's dtype."""
    gate, up = gate_up.chunk(2, dim=-1)
    return torch.nn.functional.silu(gate).mul_(up)


def silu_mul(gate_up: Tensor) -> Tensor:
    """gate_up [T, 2 F] -> [T, F] in the same dtype."""
    if gate_up.is_cuda:
        from .activation_kernel import launch_silu_mul

        return launch_silu_mul(gate_up)
    return silu_mul_reference(gate_up)
