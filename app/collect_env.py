"""What a bug report should say of the machine: versions and hardware. Names no host, user or path."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

from .. import __version__

_PACKAGES = (
    "torch", "triton", "numpy", "starlette", "uvicorn", "uvloop", "httptools", "sse-starlette", "msgspec",
    "tokenizers", "jinja2", "safetensors", "gguf", "huggingface-hub", "prometheus-client", "tqdm",
)  # fmt: skip


def report() -> str:
    """Lines of `name  value`; imports torch."""
    import torch

    lines = {
        "octavo": __version__,
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": f"{_processor()}, {len(os.sched_getaffinity(0))} cores usable",
        "cpu capability": torch.backends.cpu.get_cpu_capability(),
        "cuda": torch.version.cuda or "none in this torch",
    }
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        size_gib = properties.total_memory / (1 << 30)
        capability = f"{properties.major}.{properties.minor}"
        lines[f"gpu {index}"] = f"{properties.name}, {size_gib:.1f} GiB, compute capability {capability}"
    lines.update((name, _version(name)) for name in _PACKAGES)
    width = max(map(len, lines)) + 2
    return "\n".join(f"{name:<{width}}{value}" for name, value in lines.items())


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():  # elsewhere than on Linux, the platform module knows less, but something
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"
