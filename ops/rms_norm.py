"""Root-mean-square layer normalization, alone and with the residual addition before it.

Source: Zhang and Sennrich, "Root Mean Square Layer Normalization" (arXiv 1910.07467). Sums are float32.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rms_norm_reference(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x ** 2) + eps) * weight over the last dimension, in float32, returned in x's dtype."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    factor = norm.square_().mul_(1 / x.shape[-1]).add_(eps).rsqrt_()
    return torch.mul(x, factor).mul_(weight).to(x.dtype)


def rms_norm(x: Tensor, weight: Tensor, eps: float, out: Tensor | None = None) -> Tensor:
    """Normalize rows: x [T, D], weight [D] -> [T, D] in x's dtype; `out` may be x itself."""
    if x.is_cuda:
        from .rms_norm_kernel import launch_rms_norm

        return launch_rms_norm(x, weight, eps, out)
    normed = rms_norm_reference(x, weight, eps)
    return normed if out is None else out.copy_(normed)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> Tensor:
    """residual += x in place; returns the sum, normalized. All [T, D], weight [D]. x may hold the result."""
    if x.is_cuda:
        from .rms_norm_kernel import launch_add_rms_norm

        return launch_add_rms_norm(x, residual, weight, eps)
    return rms_norm_reference(residual.add_(x), weight, eps)
