"""What all tests share: devices, how a kernel runs where there is no GPU, and a server for clients."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, settings
from server_process import CLIENT_KEY, CLIENT_MODEL, serve_demo

from octavo import LLM

if not torch.cuda.is_available():
    # Read when a kernel is defined: from here on, kernels are interpreted and take tensors in host memory.
    os.environ["TRITON_INTERPRET"] = "1"

# A machine that is busy makes examples slow; where `CI` is set, hypothesis' own profile has more to say.
settings.register_profile("octavo", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("octavo")

DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    """Every device there is: a test of something that picks its own path, reference or kernel."""
    return torch.device(request.param)


@pytest.fixture
def kernel_device() -> torch.device:
    """Where a kernel can run: the GPU, or else the CPU through Triton's interpreter."""
    return torch.device(DEVICES[-1])


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A headless Chromium for all tests that need one; its DevTools' address."""
    from browser import run_browser  # what it needs is not installed where only kernels are tested

    with run_browser(tmp_path_factory.mktemp("browser")) as address:
        yield address


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def _interruptible() -> None:
    """A shell starts background jobs with interrupts ignored, and processes inherit that; tests send them."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def demo_llm() -> Iterator[LLM]:
    """The demo model in this process, for all tests that only ask it."""
    with LLM(model="demo", max_model_len=512, kv_cache_memory_bytes="256MiB", max_num_seqs=16) as llm:
        yield llm


@pytest.fixture(scope="session")
def demo_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server process with the demo model, one for all tests with other people's clients."""
    folder = tmp_path_factory.mktemp("demo-server")
    with serve_demo(folder, "--api-key", CLIENT_KEY, "--served-model-name", CLIENT_MODEL) as url:
        yield url
