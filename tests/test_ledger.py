"""MemoryLedger: the sums, the table, and sentences that say which flag to change."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from octavo.cache.ledger import MemoryFitError, MemoryLedger, format_bytes, kv_bytes_per_block

GIB = 1 << 30
MIB = 1 << 20


def fit(**changes: Any) -> MemoryLedger:
    settings: dict[str, Any] = {
        "total_bytes": 80 * GIB,
        "weights_bytes": 3 * GIB,
        "activations_bytes": 512 * MIB,
        "graphs_bytes": 100 * MIB,
        "block_bytes": MIB,
        "block_size": 16,
    }
    return MemoryLedger.fit(**(settings | changes))


def test_block_bytes_of_a_known_model() -> None:
    # Qwen2.5-1.5B: 28 layers, 2 KV heads of 128, bf16: 28 KiB a token.
    shape = SimpleNamespace(num_layers=28, num_kv_heads=2, head_dim=128)
    assert kv_bytes_per_block(shape, 16, 2) == 16 * 28 * 1024


def test_kv_takes_what_utilization_leaves() -> None:
    ledger = fit(utilization=0.5, others_bytes=GIB)
    assert ledger.num_blocks == (40 * GIB - GIB - 3 * GIB - 612 * MIB) // MIB
    assert ledger.kv_bytes == ledger.num_blocks * MIB
    assert ledger.headroom_bytes == 40 * GIB
    assert ledger.capacity_tokens == ledger.num_blocks * 16


def test_explicit_sizes_win_over_utilization() -> None:
    assert fit(kv_cache_bytes=10 * MIB + 5).num_blocks == 10
    assert fit(num_blocks=7, kv_cache_bytes=10 * MIB).num_blocks == 7
    assert fit(num_blocks=7).headroom_bytes == 80 * GIB - 3 * GIB - 612 * MIB - 7 * MIB


@pytest.mark.parametrize(
    "changes", [{}, {"num_blocks": 3}, {"others_bytes": 12345}, {"total_bytes": 5 * GIB + 1}]
)
def test_entries_add_up_to_the_total(changes: dict[str, int]) -> None:
    entries = fit(**changes).entries()
    assert sum(entries.values()) == 2 * entries["total"]


def test_table_names_every_entry_once_with_its_size() -> None:
    lines = fit(num_blocks=1024).table().splitlines()
    assert [line[:16].strip() for line in lines] == [
        "weights",
        "activations",
        "graphs",
        "KV cache",
        "headroom",
        "total",
    ]
    assert lines[0].split() == ["weights", "3.00", "GiB"]
    assert lines[1].split() == ["activations", "512.0", "MiB"]
    assert lines[3].endswith("1.00 GiB  1,024 blocks x 16 tokens = 16,384 tokens")
    assert lines[-1].split() == ["total", "80.00", "GiB"]


def test_sizes_for_people() -> None:
    assert [format_bytes(n) for n in (0, 96 * 1024, 412 * MIB, 3 * GIB // 2, -GIB)] == [
        "0.0 KiB",
        "96.0 KiB",
        "412.0 MiB",
        "1.50 GiB",
        "-1.00 GiB",
    ]


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        (
            {"weights_bytes": 79 * GIB},
            ["weights 79.00 GiB", "total 80.00 GiB", "0.9", "--gpu-memory-utilization"],
        ),
        ({"weights_bytes": 80 * GIB}, ["0.9; choose a smaller model"]),
        ({"activations_bytes": 99 * GIB}, ["0.9; lower --max-num-batched-tokens or --max-num-seqs"]),
        ({"others_bytes": 76 * GIB}, ["other processes 76.00 GiB", "--gpu-memory-utilization"]),
        ({"weights_bytes": 81 * GIB, "kv_cache_bytes": MIB}, ["81.00 GiB", "choose a smaller model"]),
        ({"kv_cache_bytes": MIB - 1}, ["--kv-cache-memory-bytes", "1.0 MiB", "16 tokens", "--block-size"]),
        ({"num_blocks": 0}, ["--num-gpu-blocks-override", "raise it"]),
        (
            {"kv_cache_bytes": 78 * GIB},
            ["78.00 GiB", "80.00 GiB", "--kv-cache-memory-bytes", str(77 * GIB - 612 * MIB)],
        ),
        ({"num_blocks": 100_000}, ["100,000 blocks", "--num-gpu-blocks-override", str(77 * 1024 - 612)]),
        (
            {"max_model_len": 4096, "num_blocks": 200},
            ["4,096", "256.0 MiB", "3,200", "--max-model-len to 3200", "--num-gpu-blocks-override"],
        ),
        (
            {"max_model_len": 33, "kv_cache_bytes": 2 * MIB},
            ["33", "3.0 MiB", "--max-model-len to 32", "--kv-cache-memory-bytes"],
        ),
        (
            {"max_model_len": 2_000_000, "utilization": 0.8},
            ["2,000,000", "--max-model-len", "--gpu-memory-utilization above 0.8"],
        ),
    ],
)
def test_what_does_not_fit_is_one_sentence_with_numbers_and_flag(
    changes: dict[str, float], parts: list[str]
) -> None:
    with pytest.raises(MemoryFitError) as caught:
        fit(**changes)
    message = str(caught.value)
    for part in parts:
        assert part in message
    assert "\n" not in message


def test_following_the_advice_fits() -> None:
    assert fit(num_blocks=200, max_model_len=3200).capacity_tokens == 3200
    assert fit(kv_cache_bytes=77 * GIB - 612 * MIB).headroom_bytes == 0
    assert fit(num_blocks=77 * 1024 - 612).headroom_bytes == 0
