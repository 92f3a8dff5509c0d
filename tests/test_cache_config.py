"""CacheConfig: bounds and rounding."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from octavo.cache.config import CacheConfig


@pytest.mark.parametrize("block_size", [1, 2, 16, 64])
def test_rounds_up_to_blocks(block_size: int) -> None:
    config = CacheConfig(num_blocks=3, block_size=block_size)
    assert config.capacity_tokens == 3 * block_size
    assert [config.blocks_for(n) for n in (0, 1, block_size, block_size + 1)] == [0, 1, 1, 2]


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("num_blocks", 0, "at least 1"),
        ("block_size", 0, "a power of two"),
        ("block_size", 24, "a power of two"),
    ],
)
def test_a_wrong_value_is_named(field: str, value: Any, rule: str) -> None:
    with pytest.raises(ValueError, match=f"{field} must be {rule}, got {value}"):
        replace(CacheConfig(num_blocks=1), **{field: value})
