"""RMSNorm on a GPU: one program per row, with the residual addition in the same pass if there is one."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .dependent_launch import launch_options, wait_for_inputs


@triton.jit
def _rms_norm_kernel(
    x: tl.tensor,
    residual: tl.tensor,
    weight: tl.tensor,
    out: tl.tensor,
    x_stride: tl.tensor,
    eps: tl.tensor,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    ADD: tl.constexpr,
    DEPENDENT: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < SIZE
    scale = tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    wait_for_inputs(DEPENDENT)
    values = tl.load(x + row * x_stride + columns, mask=inside, other=0.0).to(tl.float32)
    if ADD:
        residual_ptrs = residual + row * SIZE + columns
        values += tl.load(residual_ptrs, mask=inside, other=0.0).to(tl.float32)
        rounded = values.to(residual.dtype.element_ty)
        tl.store(residual_ptrs, rounded, mask=inside)
        values = rounded.to(tl.float32)
    factor = tl.rsqrt(tl.sum(values * values, axis=0) / SIZE + eps)
    tl.store(out + row * SIZE + columns, (values * factor * scale).to(out.dtype.element_ty), mask=inside)


def _launch(x: Tensor, residual: Tensor | None, weight: Tensor, eps: float, out: Tensor) -> Tensor:
    num_rows, size = x.shape
    assert x.stride(1) == 1 and out.is_contiguous(), "rows must be contiguous"
    assert residual is None or residual.is_contiguous(), "residual must be contiguous"
    if num_rows:
        block = triton.next_power_of_2(size)
        _rms_norm_kernel[(num_rows,)](
            x,
            x if residual is None else residual,
            weight,
            out,
            x.stride(0),
            eps,
            SIZE=size,
            BLOCK=block,
            ADD=residual is not None,
            num_warps=min(8, max(1, block // 256)),
            **launch_options(x),
        )
    return out


def launch_rms_norm(x: Tensor, weight: Tensor, eps: float, out: Tensor | None = None) -> Tensor:
    """As `rms_norm`; rows of x may lie apart."""
    if out is None:
        out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    return _launch(x, None, weight, eps, out)


def launch_add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> Tensor:
    """As `add_rms_norm`; the result takes x's memory."""
    return _launch(x, residual, weight, eps, x)
