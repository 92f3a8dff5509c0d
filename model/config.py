"""What a decoder looks like, read strictly from a Hugging Face config dict. Knows no tensors and no files.

Where a key is absent, the default is the one that transformers gives the same architecture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal

from .hf_fields import HfFields
from .rope_config import RopeConfig

Windows = Literal["no layer", "every layer", "late layers", "unrotated layers"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Shapes and switches of one decoder-only transformer.

    attention_bias: of the query, key and value projections.   output_bias: of attention's output projection.
    layer_windows: per layer, how many positions a query sees back, itself included; None sees all.
    layer_uses_rope: per layer; False where queries and keys stay unrotated (NoPE).
    dtype: of the checkpoint, "bfloat16", "float16" or "float32"; None if the config does not say.
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope: RopeConfig
    max_position_embeddings: int
    tie_word_embeddings: bool
    attention_bias: bool
    output_bias: bool
    mlp_bias: bool
    qk_norm: bool
    layer_windows: tuple[int | None, ...]
    layer_uses_rope: tuple[bool, ...]
    eos_token_ids: tuple[int, ...]
    bos_token_id: int | None
    dtype: str | None

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> ModelConfig:
        """Read the content of a config.json.

        Raises ValueError, naming the field and its value, for anything missing, malformed or not supported.
        """
        architecture = _architecture(hf)
        family = _FAMILIES[architecture]
        values = {**family.defaults, **hf}
        fields = HfFields(values)
        fields.choice("hidden_act", ("silu", "swish"), default="silu")
        fields.require(not fields.get("quantization_config"), "quantization_config", "absent (not supported)")
        num_layers, hidden_size = fields.integer("num_hidden_layers"), fields.integer("hidden_size")
        num_heads = fields.integer("num_attention_heads")
        head_dim = fields.integer("head_dim", default=hidden_size // num_heads)
        max_positions = fields.integer("max_position_embeddings")
        biased = fields.flag("attention_bias") if family.bias_switches else False
        uses_rope = _layer_uses_rope(fields, num_layers) if family.nope_layers else (True,) * num_layers
        return cls(
            architecture=architecture,
            vocab_size=fields.integer("vocab_size"),
            hidden_size=hidden_size,
            intermediate_size=fields.integer("intermediate_size"),
            num_layers=num_layers,
            num_heads=num_heads,
            num_kv_heads=_num_kv_heads(fields, num_heads),
            head_dim=head_dim,
            rms_norm_eps=fields.number("rms_norm_eps", default=1e-6),
            rope=RopeConfig.from_hf(values, head_dim=head_dim, max_position_embeddings=max_positions),
            max_position_embeddings=max_positions,
            tie_word_embeddings=fields.flag("tie_word_embeddings"),
            attention_bias=biased or family.qkv_bias,
            output_bias=biased,
            mlp_bias=fields.flag("mlp_bias") if "mlp_bias" in family.bias_switches else False,
            qk_norm=family.qk_norm,
            layer_windows=_layer_windows(fields, family.windows, num_layers, uses_rope),
            layer_uses_rope=uses_rope,
            eos_token_ids=fields.token_ids("eos_token_id"),
            bos_token_id=next(iter(fields.token_ids("bos_token_id")), None),
            dtype=_dtype(fields),
        )

    @property
    def sliding_window(self) -> int | None:
        """How many positions back any layer looks; None if a layer looks at everything."""
        windows = [window for window in self.layer_windows if window is not None]
        return max(windows) if len(windows) == self.num_layers else None

    @property
    def max_length(self) -> int:
        """Tokens in the longest sequence that the positions are made for.

        YaRN's checkpoints state the length before stretching; those of all other types state the final one.
        """
        if self.rope.rope_type == "yarn":
            return max(self.max_position_embeddings, int(self.rope.original_max_positions * self.rope.factor))
        return self.max_position_embeddings


@dataclass(frozen=True, slots=True, kw_only=True)
class _Family:
    """What an architecture fixes, which switches of the config it heeds, and what absent keys mean."""

    bias_switches: tuple[str, ...] = ()
    qkv_bias: bool = False
    qk_norm: bool = False
    nope_layers: bool = False
    windows: Windows = "no layer"
    defaults: Mapping[str, Any] = field(default_factory=dict)


_LLAMA = _Family(
    bias_switches=("attention_bias", "mlp_bias"),
    defaults={"max_position_embeddings": 2048, "bos_token_id": 1, "eos_token_id": 2},
)
_MISTRAL = _Family(
    windows="every layer",
    defaults={
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "sliding_window": 4096,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
)
_QWEN_DEFAULTS = {
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
    "sliding_window": 4096,
    "max_window_layers": 28,
}
_QWEN2 = _Family(qkv_bias=True, windows="late layers", defaults=_QWEN_DEFAULTS)
_QWEN3 = _Family(
    bias_switches=("attention_bias",),
    qk_norm=True,
    windows="late layers",
    defaults={**_QWEN_DEFAULTS, "head_dim": 128},
)
_SMOLLM3 = _Family(
    bias_switches=("attention_bias", "mlp_bias"),
    nope_layers=True,
    windows="unrotated layers",
    defaults={
        "num_key_value_heads": 4,
        "max_position_embeddings": 32768,
        "rope_theta": 2e6,
        "tie_word_embeddings": True,
        "bos_token_id": 128000,
        "eos_token_id": 128001,
    },
)
_FAMILIES: Final[Mapping[str, _Family]] = MappingProxyType(
    {
        "LlamaForCausalLM": _LLAMA,
        "MistralForCausalLM": _MISTRAL,
        "Qwen2ForCausalLM": _QWEN2,
        "Qwen3ForCausalLM": _QWEN3,
        "SmolLM3ForCausalLM": _SMOLLM3,
    }
)


def _architecture(hf: Mapping[str, Any]) -> str:
    named = hf.get("architectures")
    name = named[0] if isinstance(named, list | tuple) and len(named) == 1 else named
    if not isinstance(name, str) or name not in _FAMILIES:
        raise ValueError(f"architectures must be one of {', '.join(_FAMILIES)}, got {named!r}")
    return name


def _num_kv_heads(fields: HfFields, num_heads: int) -> int:
    num_kv_heads = fields.integer("num_key_value_heads", default=num_heads)
    divides = num_heads % num_kv_heads == 0
    fields.require(divides, "num_key_value_heads", f"a divisor of num_attention_heads ({num_heads})")
    return num_kv_heads


def _layer_uses_rope(fields: HfFields, num_layers: int) -> tuple[bool, ...]:
    """SmolLM3: `no_rope_layers` holds 1 for a layer *with* rope; if absent, every fourth goes without."""
    marks = fields.sequence("no_rope_layers", num_layers)
    if marks is None:
        interval = fields.integer("no_rope_layer_interval", default=4)
        return tuple((layer + 1) % interval != 0 for layer in range(num_layers))
    return tuple(bool(mark) for mark in marks)


def _layer_windows(
    fields: HfFields, windows: Windows, num_layers: int, uses_rope: tuple[bool, ...]
) -> tuple[int | None, ...]:
    switched_on = windows == "every layer" or (windows != "no layer" and fields.flag("use_sliding_window"))
    if not switched_on or fields.get("sliding_window") is None:
        return (None,) * num_layers
    window = fields.integer("sliding_window")
    slides: tuple[bool, ...] = (True,) * num_layers
    kinds = fields.sequence("layer_types", num_layers)
    if windows != "every layer" and kinds is not None:
        known = all(kind in ("full_attention", "sliding_attention") for kind in kinds)
        fields.require(known, "layer_types", "made of full_attention and sliding_attention")
        slides = tuple(kind == "sliding_attention" for kind in kinds)
    elif windows == "late layers":
        first = fields.integer("max_window_layers", minimum=0)
        slides = tuple(layer >= first for layer in range(num_layers))
    elif windows == "unrotated layers":
        slides = tuple(not rotates for rotates in uses_rope)
    return tuple(window if slide else None for slide in slides)


def _dtype(fields: HfFields) -> str | None:
    for name in ("dtype", "torch_dtype"):
        if fields.get(name) is not None:
            return fields.choice(name, ("bfloat16", "float16", "float32"))
    return None
