"""The table of cosines and sines that rotates queries and keys. Su et al. 2021, arXiv:2104.09864."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .rope_config import RopeConfig


def cos_sin_table(rope: RopeConfig, max_positions: int, device: torch.device) -> Tensor:
    """Cosines, then sines, of every position's angles.

    max_positions: length of the longest sequence that will be served. `dynamic` chooses its base for it, so a
    token's rotation depends on its position alone, whatever the chunks and the cache; up to
    max_position_embeddings this is what transformers computes.
    Returns [max_positions, rotary_dim] float32, already multiplied by YaRN's attention factor.
    """
    positions = torch.arange(max_positions, dtype=torch.float32, device=device)
    angles = positions[:, None] * inverse_frequencies(rope, max_positions).to(device)
    return torch.cat((angles.cos(), angles.sin()), dim=-1).mul_(rope.attention_factor)


def identity_table(rope: RopeConfig, max_positions: int, device: torch.device) -> Tensor:
    """A table of the same shape that rotates nothing, for layers without positions."""
    table = torch.zeros(max_positions, rope.rotary_dim, dtype=torch.float32, device=device)
    table[:, : rope.rotary_dim // 2] = 1
    return table


def inverse_frequencies(rope: RopeConfig, max_positions: int) -> Tensor:
    """Radians per position of each pair of dimensions: [rotary_dim / 2] float32, fastest first."""
    if rope.rope_type == "linear":
        return _plain(rope.theta, rope.rotary_dim) / rope.factor
    if rope.rope_type == "dynamic":
        return _dynamic(rope, max_positions)
    if rope.rope_type == "llama3":
        return _llama3(rope)
    if rope.rope_type == "yarn":
        return _yarn(rope)
    return _plain(rope.theta, rope.rotary_dim)


def _plain(theta: float, rotary_dim: int) -> Tensor:
    return 1.0 / theta ** (torch.arange(0, rotary_dim, 2, dtype=torch.float32) / rotary_dim)


def _dynamic(rope: RopeConfig, max_positions: int) -> Tensor:
    """NTK-aware scaling: a larger base, chosen so that the slowest pair is stretched by the whole factor."""
    original = rope.original_max_positions
    stretch = rope.factor * max(max_positions, original) / original - (rope.factor - 1)
    return _plain(rope.theta * stretch ** (rope.rotary_dim / (rope.rotary_dim - 2)), rope.rotary_dim)


def _llama3(rope: RopeConfig) -> Tensor:
    """Llama 3.1: slow pairs are stretched, fast ones kept, those between blended linearly in rotations."""
    plain = _plain(rope.theta, rope.rotary_dim)
    rotations = rope.original_max_positions * plain / (2 * math.pi)
    kept = (rotations - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    return torch.lerp(plain / rope.factor, plain, kept.clamp(0, 1))


def _yarn(rope: RopeConfig) -> Tensor:
    """YaRN, Peng et al. 2023, arXiv:2309.00071: stretching fades in from fast pairs to slow ones."""
    plain = _plain(rope.theta, rope.rotary_dim)
    first, last = _pair_with(rope, rope.beta_fast), _pair_with(rope, rope.beta_slow)
    if rope.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, rope.rotary_dim - 1)
    width = last - first if last != first else 0.001
    stretched = ((torch.arange(rope.rotary_dim // 2, dtype=torch.float32) - first) / width).clamp(0, 1)
    return torch.lerp(plain, plain / rope.factor, stretched)


def _pair_with(rope: RopeConfig, rotations: float) -> float:
    """The (fractional) pair of dimensions that makes so many rotations within the original length."""
    wavelength = rope.original_max_positions / (2 * math.pi * rotations)
    return rope.rotary_dim * math.log(wavelength) / (2 * math.log(rope.theta))
