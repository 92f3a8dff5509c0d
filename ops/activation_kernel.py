"""SiLU and multiplication on a GPU, one pass over the merged projection."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .dependent_launch import launch_options, wait_for_inputs

BLOCK = 1024


@triton.jit
def _silu_mul_kernel(
    gate_up: tl.tensor, out: tl.tensor, SIZE: tl.constexpr, BLOCK: tl.constexpr, DEPENDENT: tl.constexpr
) -> None:
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < SIZE
    wait_for_inputs(DEPENDENT)
    gate = tl.load(gate_up + row * (2 * SIZE) + columns, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * (2 * SIZE) + SIZE + columns, mask=inside, other=0.0).to(tl.float32)
    product = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(out + row * SIZE + columns, product.to(out.dtype.element_ty), mask=inside)


def launch_silu_mul(gate_up: Tensor) -> Tensor:
    """As `silu_mul`."""
    assert gate_up.is_contiguous(), "gate_up must be contiguous"
    num_rows, size = gate_up.shape[0], gate_up.shape[1] // 2
    out = torch.empty((num_rows, size), dtype=gate_up.dtype, device=gate_up.device)
    if num_rows:
        grid = (num_rows, triton.cdiv(size, BLOCK))
        _silu_mul_kernel[grid](gate_up, out, SIZE=size, BLOCK=BLOCK, num_warps=4, **launch_options(gate_up))
    return out
