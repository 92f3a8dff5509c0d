"""Programmatic dependent launch (Hopper and later): a kernel starts while the one before it still runs.

Such a kernel may at once load what nobody writes (weights) and what was written before the previous kernel
began. Before it touches anything else, and on every path, it must call `wait_for_inputs`, or else
`let_next_start` and then `wait_for_previous`.
Source: CUDA programming guide, section of the same name.
"""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

_HOPPER = 9


@triton.jit
def wait_for_inputs(DEPENDENT: tl.constexpr) -> None:
    """Let the next kernel start, then wait until all before this one have finished."""
    let_next_start(DEPENDENT)
    wait_for_previous(DEPENDENT)


@triton.jit
def let_next_start(DEPENDENT: tl.constexpr) -> None:
    """The next kernel starts once all programs of this one have called this, so it is called early."""
    if DEPENDENT:
        tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def wait_for_previous(DEPENDENT: tl.constexpr) -> None:
    """Until all kernels before this one have finished."""
    if DEPENDENT:
        tl.extra.cuda.gdc_wait()


@functools.cache
def _supported(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device)[0] >= _HOPPER


def launch_options(operand: Tensor) -> dict[str, bool]:
    """Keywords for the launch of a kernel that takes DEPENDENT, on the device of `operand`."""
    if operand.is_cuda and _supported(operand.device):
        return {"DEPENDENT": True, "launch_pdl": True}
    return {"DEPENDENT": False}
