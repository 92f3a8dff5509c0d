"""How the next token is chosen and when a sequence ends. Knows neither HTTP nor tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

MAX_BIASES = 1024
"""Entries of `logit_bias` and ids of `stop_token_ids` together, the model's own end tokens included."""
_RESERVED_BIASES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """Sampling settings of one request; names and defaults as in vLLM.

    Raises ValueError, naming the field, the rule and the value, for anything out of range.
    """

    n: int = 1
    """Completions per prompt."""
    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 or -1: off."""
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    """Over prompt and output; 1 is off."""
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] | None = None
    """Token id to an addend in [-100, 100]."""
    seed: int | None = None
    max_tokens: int | None = 16
    """None: up to the model's length."""
    min_tokens: int = 0
    """End-of-sequence and stop tokens are banned, stop strings ignored, before so many tokens are out."""
    stop: tuple[str, ...] | list[str] | str = ()
    stop_token_ids: tuple[int, ...] | list[int] = ()
    ignore_eos: bool = False
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    detokenize: bool = True
    logprobs: int | None = None
    """Number of likeliest tokens to report beside the chosen one's log-probability; None reports nothing."""

    def __post_init__(self) -> None:
        # Frozen: the two list-like fields are normalised here, once, while the value is being built.
        object.__setattr__(self, "stop", (self.stop,) if isinstance(self.stop, str) else tuple(self.stop))
        object.__setattr__(self, "stop_token_ids", tuple(self.stop_token_ids))
        _require(self.n >= 1, "n", "at least 1", self.n)
        _require(
            _finite(self.temperature) and 0 <= self.temperature <= 2,
            "temperature",
            "in [0, 2]",
            self.temperature,
        )
        _require(_finite(self.top_p) and 0 < self.top_p <= 1, "top_p", "in (0, 1]", self.top_p)
        _require(self.top_k >= -1, "top_k", "-1 (off), 0 (off) or positive", self.top_k)
        _require(_finite(self.min_p) and 0 <= self.min_p <= 1, "min_p", "in [0, 1]", self.min_p)
        penalty = self.repetition_penalty
        _require(_finite(penalty) and penalty > 0, "repetition_penalty", "positive and finite", penalty)
        for name in ("presence_penalty", "frequency_penalty"):
            value = getattr(self, name)
            _require(_finite(value) and -2 <= value <= 2, name, "in [-2, 2]", value)
        room = MAX_BIASES - _RESERVED_BIASES - len(self.stop_token_ids)
        _require(
            room >= 0,
            "stop_token_ids",
            f"at most {MAX_BIASES - _RESERVED_BIASES} ids",
            len(self.stop_token_ids),
        )
        biases = len(self.logit_bias or ())
        _require(biases <= room, "logit_bias", f"at most {room} entries beside the stop_token_ids", biases)
        for token, bias in (self.logit_bias or {}).items():
            _require(token >= 0, "logit_bias", "keyed by token ids, which are not negative", token)
            _require(_finite(bias) and -100 <= bias <= 100, "logit_bias", "in [-100, 100]", bias)
        if self.seed is not None:
            _require(-(2**63) <= self.seed < 2**63, "seed", "a signed 64-bit integer", self.seed)
        if self.max_tokens is not None:
            _require(self.max_tokens >= 1, "max_tokens", "at least 1", self.max_tokens)
            _require(
                self.min_tokens <= self.max_tokens,
                "min_tokens",
                f"at most max_tokens ({self.max_tokens})",
                self.min_tokens,
            )
        _require(self.min_tokens >= 0, "min_tokens", "not negative", self.min_tokens)
        _require(all(self.stop), "stop", "made of non-empty strings", self.stop)
        _require(self.detokenize or not self.stop, "stop", "empty when detokenize is off", self.stop)
        _require(
            all(t >= 0 for t in self.stop_token_ids),
            "stop_token_ids",
            "token ids, which are not negative",
            self.stop_token_ids,
        )
        if self.logprobs is not None:
            _require(self.logprobs >= 0, "logprobs", "not negative", self.logprobs)

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken."""
        return self.temperature == 0


def _finite(value: float) -> bool:
    return math.isfinite(value)


def _require(holds: bool, name: str, rule: str, value: object) -> None:
    if not holds:
        raise ValueError(f"{name} must be {rule}, got {value!r}")
