"""KVStorage: shapes, isolation of pages, bytes as the ledger counts them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from octavo.cache.ledger import kv_bytes_per_block
from octavo.cache.storage import KVStorage


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shapes_dtype_and_bytes(dtype: torch.dtype) -> None:
    storage = KVStorage(3, 5, 2, 4, 8, dtype, "cpu")
    assert len(storage.layers) == 3
    for pages in (page for layer in storage.layers for page in layer):
        assert pages.shape == (5, 2, 4, 8)
        assert pages.dtype == dtype
        assert pages.is_contiguous()
        assert not pages.any()
    shape = SimpleNamespace(num_layers=3, num_kv_heads=2, head_dim=8)
    assert storage.num_bytes == 5 * kv_bytes_per_block(shape, 4, dtype.itemsize)


def test_layers_and_k_and_v_share_no_memory() -> None:
    storage = KVStorage(2, 2, 1, 2, 2, torch.float32, torch.device("cpu"))
    pages = [page for layer in storage.layers for page in layer]
    for index, page in enumerate(pages):
        page.fill_(index + 1)
    assert [set(page.flatten().tolist()) for page in pages] == [{1.0}, {2.0}, {3.0}, {4.0}]
