"""Rotary tables against the frequencies that transformers computes from the same config."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from octavo.model.rope import cos_sin_table, identity_table, inverse_frequencies
from octavo.model.rope_config import RopeConfig

CPU = torch.device("cpu")
HEAD_DIM, MAX_POSITIONS = 32, 4096
LLAMA31 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 512,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 2.5},
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
    "llama3": LLAMA31,
    "llama3-narrow": {**LLAMA31, "factor": 32.0, "low_freq_factor": 2.0, "high_freq_factor": 2.5},
    "yarn": YARN,
    "yarn-own-temperature": {**YARN, "attention_factor": 1.25},
    "yarn-mscale": {**YARN, "mscale": 0.7, "mscale_all_dim": 1.0},
    "yarn-betas": {**YARN, "beta_fast": 16.0, "beta_slow": 2.0},
    "yarn-untruncated": {**YARN, "truncate": False},
    "yarn-unscaled": {**YARN, "factor": 1.0},
    "yarn-without-factor": {**YARN, "factor": None},
    "yarn-sharp": {**YARN, "beta_fast": 1.0, "beta_slow": 1.0, "original_max_position_embeddings": 6},
}


def theirs(parameters: dict[str, Any], theta: float) -> LlamaRotaryEmbedding:
    config = LlamaConfig(
        hidden_size=64,
        num_attention_heads=2,
        max_position_embeddings=MAX_POSITIONS,
        rope_parameters={**parameters, "rope_theta": theta},
    )
    return LlamaRotaryEmbedding(config)


def ours(parameters: dict[str, Any], **top: Any) -> RopeConfig:
    hf = {"rope_parameters": parameters, **top}
    return RopeConfig.from_hf(hf, head_dim=HEAD_DIM, max_position_embeddings=MAX_POSITIONS)


@pytest.mark.parametrize("theta", [10000.0, 500000.0])
@pytest.mark.parametrize("name", VARIANTS)
def test_table_is_that_of_transformers(name: str, theta: float) -> None:
    reference = theirs(VARIANTS[name], theta)
    rope = ours(VARIANTS[name], rope_theta=theta)
    torch.testing.assert_close(
        inverse_frequencies(rope, MAX_POSITIONS), reference.inv_freq, rtol=1e-6, atol=0
    )
    positions = torch.arange(MAX_POSITIONS)
    cos, sin = reference(torch.zeros(1), positions[None])
    table = cos_sin_table(rope, MAX_POSITIONS, CPU)
    assert table.shape == (MAX_POSITIONS, HEAD_DIM) and table.dtype == torch.float32
    # One part in 10^7 of a frequency is 4096 * 10^-7 radians at the last position.
    halves = torch.cat((cos[0, :, : HEAD_DIM // 2], sin[0, :, : HEAD_DIM // 2]), -1)
    torch.testing.assert_close(table, halves, atol=1e-3, rtol=0)
    torch.testing.assert_close(table[:64], halves[:64], atol=2e-5, rtol=0)


@pytest.mark.parametrize("longest", [MAX_POSITIONS + 1, 3 * MAX_POSITIONS])
def test_dynamic_takes_the_base_of_the_longest_sequence(longest: int) -> None:
    parameters = VARIANTS["dynamic"]
    config = theirs(parameters, 1e4).config
    expected, _ = ROPE_INIT_FUNCTIONS["dynamic"](config, CPU, seq_len=longest)
    torch.testing.assert_close(inverse_frequencies(ours(parameters), longest), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ["default", "linear", "dynamic", "llama3", "yarn"])
def test_partial_rotation_has_the_frequencies_of_a_smaller_head(name: str) -> None:
    rope = ours({**VARIANTS[name], "partial_rotary_factor": 0.5})
    assert rope.rotary_dim == HEAD_DIM // 2
    small = RopeConfig.from_hf(
        {"rope_parameters": VARIANTS[name]}, head_dim=HEAD_DIM // 2, max_position_embeddings=MAX_POSITIONS
    )
    table = cos_sin_table(rope, 100, CPU)
    assert table.shape == (100, HEAD_DIM // 2)
    torch.testing.assert_close(table, cos_sin_table(small, 100, CPU), rtol=0, atol=0)


def test_angles_beyond_2_to_the_16_stay_exact_enough() -> None:
    table = cos_sin_table(ours({"rope_type": "default"}), 131072, CPU)
    angle = 131071 * inverse_frequencies(ours({"rope_type": "default"}), 1).double()
    expected = torch.cat((angle.cos(), angle.sin()))
    torch.testing.assert_close(table[-1].double(), expected, atol=1e-2, rtol=0)


def test_identity_table_rotates_nothing() -> None:
    table = identity_table(ours({"rope_type": "default"}), 5, CPU)
    assert torch.equal(table[:, : HEAD_DIM // 2], torch.ones(5, HEAD_DIM // 2))
    assert torch.equal(table[:, HEAD_DIM // 2 :], torch.zeros(5, HEAD_DIM // 2))
