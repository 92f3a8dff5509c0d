"""Host arrays on their way to a device, which nobody waits for. Knows nothing of what they hold."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor


def uploaded(array: NDArray[Any], device: torch.device) -> Tensor:
    """A copy on a GPU, queued on its stream; on a CPU the array's own memory.

    From pinned memory, which the allocator keeps until it has been read: a copy from any other would first
    wait until the device has nothing left to do.
    """
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
