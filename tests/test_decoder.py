"""Every family against transformers' own implementation, logit by logit, on small random models."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from model_harness import Harness
from torch import Tensor

from octavo.model.config import ModelConfig
from octavo.model.decoder import DecoderLM
from octavo.model.linear import DenseMethod, DenseWeight
from octavo.model.safetensors_file import count_tensors, read_tensors, safetensors_files
from octavo.model.weights import load_weights

CPU = torch.device("cpu")
SIZES = {
    "vocab_size": 89,
    "hidden_size": 48,
    "intermediate_size": 72,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,  # three query heads share a KV head
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "pad_token_id": None,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 1e4,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16}
WINDOW = {"use_sliding_window": True, "sliding_window": 5}

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama-tied": ("Llama", {"tie_word_embeddings": True}),
    "llama-biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-wide-heads": ("Llama", {"head_dim": 16}),
    "llama-one-kv-head": ("Llama", {"num_key_value_heads": 1}),
    "llama-linear": ("Llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0}}),
    "llama-dynamic": ("Llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 3.0}}),
    "llama-llama3": ("Llama", {"rope_parameters": {**LLAMA3, "original_max_position_embeddings": 32}}),
    "llama-yarn": ("Llama", {"rope_parameters": YARN}),
    "llama-yarn-mscale": ("Llama", {"rope_parameters": {**YARN, "mscale": 0.8, "mscale_all_dim": 0.5, "truncate": False}}),
    "mistral-window": ("Mistral", {"sliding_window": 6}),
    "mistral": ("Mistral", {"sliding_window": None, "head_dim": 16}),
    "qwen2": ("Qwen2", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
    "qwen2-late-windows": ("Qwen2", {**WINDOW, "max_window_layers": 1, "tie_word_embeddings": True}),
    "qwen2-layer-types": (
        "Qwen2",
        {**WINDOW, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    ),
    "qwen3": ("Qwen3", {"head_dim": 12}),
    "qwen3-windows-biases": ("Qwen3", {**WINDOW, "head_dim": 16, "max_window_layers": 2, "attention_bias": True}),
    "smollm3": ("SmolLM3", {"no_rope_layer_interval": 2, "pad_token_id": 0}),
    "smollm3-windows": ("SmolLM3", {**WINDOW, "no_rope_layers": [1, 0, 1], "pad_token_id": 0}),
}  # fmt: skip


def make_reference(name: str, **overrides: Any) -> transformers.PreTrainedModel:
    """A random model whose weights are large enough that a mistake anywhere shows in the logits."""
    family, settings = MODELS[name]
    config = getattr(transformers, f"{family}Config")(**{**SIZES, **settings, **overrides})
    model: transformers.PreTrainedModel = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            spread = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(spread * 0.15 if parameter.dim() > 1 else 1 + spread * 0.3)
    return model


def load(directory: Path, **settings: Any) -> tuple[DecoderLM, ModelConfig]:
    """What a launch does with a directory in the Hugging Face layout."""
    config = ModelConfig.from_hf(json.loads((directory / "config.json").read_text()))
    model = DecoderLM(config, torch.float32, CPU, **settings)
    files = safetensors_files(directory)
    load_weights(model, read_tensors(files), count_tensors(files))
    return model, config


def random_tokens(length: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, SIZES["vocab_size"], (length,), generator=generator).tolist()


def reference_logits(model: transformers.PreTrainedModel, tokens: list[int]) -> Tensor:
    with torch.inference_mode():
        logits: Tensor = model(torch.tensor([tokens])).logits[0]
    return logits


def assert_same(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    reference = make_reference(name)
    reference.save_pretrained(tmp_path)
    model, config = load(tmp_path)
    tokens = random_tokens(40, seed=1)
    expected = reference_logits(reference, tokens)
    assert expected.std() > 0.5, "logits too flat to tell models apart"
    harness = Harness(model, config, num_slots=3, max_length=48)

    assert_same(harness.step({0: tokens})[0], expected)
    chunks = [harness.step({1: chunk})[1] for chunk in (tokens[:7], tokens[7:8], tokens[8:21], tokens[21:])]
    assert_same(torch.cat(chunks), expected)
    assert_same(torch.cat([harness.step({2: [token]})[2] for token in tokens]), expected)
