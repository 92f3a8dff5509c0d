"""What all tests share: which devices there are, and how a kernel runs where there is no GPU."""

from __future__ import annotations

import os
import signal

import pytest
import torch

if not torch.cuda.is_available():
    # Read when a kernel is defined: from here on, kernels are interpreted and take tensors in host memory.
    os.environ["TRITON_INTERPRET"] = "1"

DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    """Every device there is: a test of something that picks its own path, reference or kernel."""
    return torch.device(request.param)


@pytest.fixture
def kernel_device() -> torch.device:
    """Where a kernel can run: the GPU, or else the CPU through Triton's interpreter."""
    return torch.device(DEVICES[-1])


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def _interruptible() -> None:
    """A shell starts background jobs with interrupts ignored, and processes inherit that; tests send them."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
