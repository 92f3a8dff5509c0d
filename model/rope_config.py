"""Which rotary embedding a model uses, from either spelling of the config keys. Computes no frequencies."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from .hf_fields import HfFields

_ROPE_TYPES: Final = ("default", "linear", "dynamic", "llama3", "yarn")
_KEYS: Final = frozenset(
    ("rope_type", "type", "rope_theta", "partial_rotary_factor", "factor", "original_max_position_embeddings")
    + ("low_freq_factor", "high_freq_factor", "attention_factor", "beta_fast", "beta_slow", "truncate")
    + ("mscale", "mscale_all_dim", "finetuned")
)
"""What may stand in the config's object; `finetuned`, in YaRN's first checkpoints, changes nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeConfig:
    """A rotary embedding over the first `rotary_dim` dimensions of each head.

    factor: how far `linear`, `dynamic`, `llama3` and `yarn` stretch the positions.
    original_max_positions: the length before stretching (`dynamic`, `llama3`, `yarn`).
    low_freq_factor, high_freq_factor: `llama3`: wavelengths above original / low are stretched in full,
        those below original / high not at all.
    beta_fast, beta_slow: `yarn`: rotations within the original length between which stretching fades in.
    truncate: `yarn`: whether the fade's borders are whole dimensions.
    attention_factor: `yarn`: what cosines and sines are multiplied with; 1 otherwise.
    """

    rope_type: str
    theta: float
    rotary_dim: int
    original_max_positions: int
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float = 1.0

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], *, head_dim: int, max_position_embeddings: int) -> RopeConfig:
        """Read `rope_parameters` (transformers 5), or `rope_scaling` with `rope_theta` beside it.

        Raises ValueError, naming the field and its value.
        """
        key = "rope_scaling" if hf.get("rope_scaling") else "rope_parameters"
        nested = hf.get(key) or {}
        if not isinstance(nested, Mapping):
            raise ValueError(f"{key} must be an object, got {nested!r}")
        for name in nested.keys() - _KEYS:
            raise ValueError(f"{key}.{name} is not supported, got {nested[name]!r}")
        top = {name: hf[name] for name in ("rope_theta", "partial_rotary_factor") if hf.get(name) is not None}
        fields = HfFields({**top, **{k: v for k, v in nested.items() if v is not None}}, prefix=f"{key}.")
        type_key = (
            "rope_type" if fields.get("rope_type") is not None or fields.get("type") is None else "type"
        )
        rope_type = fields.choice(type_key, _ROPE_TYPES, default="default")
        original = max_position_embeddings
        if rope_type in ("llama3", "yarn"):
            original = fields.integer("original_max_position_embeddings", default=max_position_embeddings)
        factor = (
            1.0 if rope_type == "default" else _factor(fields, rope_type, max_position_embeddings / original)
        )
        return cls(
            rope_type=rope_type,
            theta=fields.number("rope_theta", default=10000.0),
            rotary_dim=_rotary_dim(fields, head_dim),
            original_max_positions=original,
            factor=factor,
            attention_factor=_yarn_attention_factor(fields, factor) if rope_type == "yarn" else 1.0,
            **(_llama3(fields) if rope_type == "llama3" else {}),
            **(_yarn(fields) if rope_type == "yarn" else {}),
        )


def _factor(fields: HfFields, rope_type: str, implied: float) -> float:
    # DeepSeek's convention, which transformers follows for yarn: no factor means the lengths' ratio.
    factor = fields.number("factor", default=implied if rope_type == "yarn" else None)
    fields.require(factor >= 1, "factor", "at least 1")
    return factor


def _rotary_dim(fields: HfFields, head_dim: int) -> int:
    share = fields.number("partial_rotary_factor", default=1.0)
    rotary_dim = int(head_dim * share)
    even = rotary_dim % 2 == 0 and 0 < rotary_dim <= head_dim
    fields.require(
        even, "partial_rotary_factor", f"a share of head_dim ({head_dim}) that gives an even number"
    )
    return rotary_dim


def _llama3(fields: HfFields) -> dict[str, Any]:
    low, high = fields.number("low_freq_factor"), fields.number("high_freq_factor")
    fields.require(high > low, "high_freq_factor", f"greater than low_freq_factor ({low})")
    return {"low_freq_factor": low, "high_freq_factor": high}


def _yarn(fields: HfFields) -> dict[str, Any]:
    return {
        "beta_fast": fields.number("beta_fast", default=32.0),
        "beta_slow": fields.number("beta_slow", default=1.0),
        "truncate": fields.flag("truncate", default=True),
    }


def _yarn_attention_factor(fields: HfFields, factor: float) -> float:
    """The temperature of YaRN (Peng et al. 2023, arXiv:2309.00071), folded into cosines and sines."""
    if fields.get("attention_factor") is not None:
        return fields.number("attention_factor")
    mscale, mscale_all_dim = fields.get("mscale"), fields.get("mscale_all_dim")
    if mscale and mscale_all_dim:
        return _mscale(factor, fields.number("mscale")) / _mscale(factor, fields.number("mscale_all_dim"))
    return _mscale(factor, 1.0)


def _mscale(factor: float, mscale: float) -> float:
    return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0
