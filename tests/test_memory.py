"""What a device has and what a model takes of it, against what is really allocated."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from octavo.model import memory
from octavo.model.config import ModelConfig
from octavo.model.decoder import DecoderLM
from octavo.model.memory import activation_bytes, device_memory, graph_bytes, weight_bytes

CPU, META = torch.device("cpu"), torch.device("meta")
SIZES: dict[str, Any] = {
    "vocab_size": 89,
    "hidden_size": 48,
    "intermediate_size": 72,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
FAMILIES: list[tuple[str, dict[str, Any]]] = [
    ("LlamaForCausalLM", {}),
    ("LlamaForCausalLM", {"tie_word_embeddings": True, "head_dim": 16}),
    ("LlamaForCausalLM", {"attention_bias": True, "mlp_bias": True}),
    ("MistralForCausalLM", {"sliding_window": 6}),
    ("Qwen2ForCausalLM", {"num_key_value_heads": 6}),
    ("Qwen3ForCausalLM", {"head_dim": 16}),
    ("Qwen3ForCausalLM", {"head_dim": 16, "attention_bias": True, "tie_word_embeddings": True}),
    ("SmolLM3ForCausalLM", {"attention_bias": True}),
]


def config_of(architecture: str, **settings: Any) -> ModelConfig:
    return ModelConfig.from_hf({"architectures": [architecture], **SIZES, **settings})


@pytest.mark.parametrize(("architecture", "settings"), FAMILIES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_weights_are_weighed_as_they_are_built(
    architecture: str, settings: dict[str, Any], dtype: torch.dtype
) -> None:
    config = config_of(architecture, **settings)
    assert weight_bytes(config, dtype) == DecoderLM(config, dtype, META).weight_bytes


@pytest.mark.parametrize("name", ["hidden_size", "intermediate_size", "vocab_size", "num_attention_heads"])
def test_a_larger_model_needs_no_less(name: str) -> None:
    def bound(value: int) -> int:
        config = config_of("LlamaForCausalLM", head_dim=8, **{name: value})
        return activation_bytes(
            config, torch.float32, max_num_batched_tokens=64, max_num_seqs=8, on_gpu=False
        )

    sizes = [bound(SIZES[name] * factor) for factor in (1, 2, 20)]
    assert sizes == sorted(sizes) and sizes[0] < sizes[2]


def test_larger_steps_need_more() -> None:
    config = config_of("LlamaForCausalLM")

    def bound(tokens: int, seqs: int, dtype: torch.dtype = torch.float32, on_gpu: bool = False) -> int:
        return activation_bytes(
            config, dtype, max_num_batched_tokens=tokens, max_num_seqs=seqs, on_gpu=on_gpu
        )

    assert bound(64, 8) < bound(65, 8) < bound(65, 9)
    assert bound(64, 8, torch.bfloat16) < bound(64, 8)
    assert bound(64, 8) < bound(64, 8, on_gpu=True)
    # Logits and what filters make of them are most of a decode step: at least two float32 rows for each.
    assert bound(64, 200) - bound(64, 100) >= 100 * config.vocab_size * 8


def test_graphs_cost_by_the_number_of_captured_shapes_and_the_tokens_of_the_largest() -> None:
    config = config_of("LlamaForCausalLM")

    def cost(max_num_seqs: int, max_num_batched_tokens: int) -> int:
        return graph_bytes(
            config,
            torch.bfloat16,
            max_num_batched_tokens=max_num_batched_tokens,
            max_num_seqs=max_num_seqs,
            block_size=16,
        )

    assert 0 < cost(1, 32) < cost(16, 32) < cost(256, 256) < cost(256, 2048) < cost(1024, 2048)
    assert cost(1024, 2048) < cost(1024, 8192)
    assert cost(5000, 16384) == cost(2048, 8192)  # larger steps are not captured


def test_memory_of_a_cpu_is_the_machines_or_what_its_container_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(memory, "_CGROUP_LIMIT", limit)
    assert device_memory(CPU) == (machine, 0)  # no such file: not Linux, or no container
    for text, total in (("max\n", machine), ("123456789\n", 123456789), (f"{machine * 2}\n", machine)):
        limit.write_text(text)
        assert device_memory(CPU) == (total, 0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_our_own_memory_is_not_counted_as_that_of_others() -> None:
    device = torch.device("cuda", 0)
    torch.zeros(1, device=device)
    total, others = device_memory(device)
    held = torch.empty(256 << 20, dtype=torch.uint8, device=device)
    total_now, others_now = device_memory(device)
    assert total_now == total == torch.cuda.get_device_properties(device).total_memory
    assert abs(others_now - others) < held.nbytes // 2
