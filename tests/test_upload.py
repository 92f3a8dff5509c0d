"""What is uploaded arrives, and on a GPU nobody waits for it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from octavo.model.upload import uploaded


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_what_is_uploaded_is_there(device: torch.device, dtype: type[np.int32] | type[np.int64]) -> None:
    array = np.arange(5, dtype=dtype)
    assert uploaded(array, device).tolist() == [0, 1, 2, 3, 4]
    assert uploaded(array, device).device.type == device.type


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_a_copy_is_queued_behind_what_the_device_does_and_keeps_its_content() -> None:
    """The device is busy for a while; meanwhile the array is overwritten, and pinned memory used again."""
    array, device = np.arange(1000, dtype=np.int32), torch.device("cuda")
    uploaded(array, device)  # pinned memory is at hand from here on
    torch.cuda.set_sync_debug_mode("error")
    try:
        torch.cuda._sleep(200_000_000)
        copies = [uploaded(array + i, device) for i in range(20)]
        array[:] = -1
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for i, copy in enumerate(copies):
        assert copy.tolist() == list(range(i, 1000 + i))
