"""How the next token is chosen and when a sequence ends. Knows neither HTTP nor tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .grammar import Grammar, StructuredOutputsParams, as_grammar

MAX_BIASES = 1024
"""Entries of `logit_bias` and ids of `stop_token_ids` together, the model's own end tokens included."""
_RESERVED_BIASES = 32
_MAX_INT32 = 2**31 - 1
_GREEDY_BELOW = 1e-5
"""Logits divided by less than this have one token left anyway, and may overflow; vLLM draws the same line."""

_SKIP = "skip_reading_prefix_cache"
_INTEGERS = ("n", "top_k", "min_tokens")
_OPTIONAL_INTEGERS = ("seed", "max_tokens", "logprobs", "prompt_logprobs")
_NUMBERS = ("temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")
_SWITCHES = (
    "ignore_eos",
    "include_stop_str_in_output",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "detokenize",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """Sampling settings of one request; names and defaults as in vLLM.

    Raises ValueError, naming the field, the rule and the value, for anything of another type or out of range.
    """

    n: int = 1
    """Completions per prompt."""
    temperature: float = 1.0
    """Below 1e-5 is greedy, and becomes 0."""
    top_p: float = 1.0
    top_k: int = 0
    """0 or -1: off."""
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    """Over prompt and output, in [0.01, 100]; 1 is off. Beyond these bounds logits leave float32's range."""
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
    """None is taken as none, here and in `stop_token_ids`; once built, both are tuples."""
    stop_token_ids: tuple[int, ...] | list[int] = ()
    ignore_eos: bool = False
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    """False needs a tokenizer whose decoder puts none there, as those of most models do."""
    detokenize: bool = True
    logprobs: int | None = None
    """Likeliest tokens to report beside the chosen one's log-probability, -1 for all; None: no report."""
    prompt_logprobs: int | None = None
    """The same of every prompt token but the first, given the tokens before it."""
    allowed_token_ids: tuple[int, ...] | list[int] | None = None
    """No other token is taken; None allows all. A tuple once built."""
    bad_words: tuple[str, ...] | list[str] = ()
    """Words that do not come about, at the beginning of a text or after a space. A tuple once built."""
    skip_reading_prefix_cache: bool | None = None
    """Compute the whole prompt; None: if prompt_logprobs needs it."""
    structured_outputs: StructuredOutputsParams | Grammar | None = None
    """The form that the text must have; see `grammar`."""

    def __post_init__(self) -> None:
        self._check_types()
        # Frozen: what may be given in several ways is normalised here, once, while the value is being built.
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        object.__setattr__(self, "stop", stop)
        object.__setattr__(self, "stop_token_ids", tuple(self.stop_token_ids or ()))
        object.__setattr__(self, "bad_words", tuple(self.bad_words or ()))
        if self.allowed_token_ids is not None:
            object.__setattr__(self, "allowed_token_ids", tuple(self.allowed_token_ids))
        object.__setattr__(self, "structured_outputs", as_grammar(self.structured_outputs))
        if 0 <= self.temperature < _GREEDY_BELOW:
            object.__setattr__(self, "temperature", 0.0)
        self._check_ranges()
        self._check_lengths()
        self._check_stops()

    def _check_types(self) -> None:
        """Callers in Python may pass anything, and the engine's step is no place to find out."""
        for name in _INTEGERS:
            _require(_is_integer(getattr(self, name)), name, "an integer", getattr(self, name))
        for name in _OPTIONAL_INTEGERS:
            value = getattr(self, name)
            _require(value is None or _is_integer(value), name, "an integer or None", value)
        for name in _NUMBERS:
            _require(_is_number(getattr(self, name)), name, "a finite number", getattr(self, name))
        for name in _SWITCHES:
            _require(isinstance(getattr(self, name), bool), name, "True or False", getattr(self, name))
        stop, ids, biases = self.stop, self.stop_token_ids, self.logit_bias
        strings = stop is None or isinstance(stop, str) or _is_list_of(stop, _is_string)
        _require(strings, "stop", "a string or a list of strings", stop)
        _require(ids is None or _is_list_of(ids, _is_integer), "stop_token_ids", "a list of integers", ids)
        allowed, words = self.allowed_token_ids, self.bad_words
        listed = allowed is None or (_is_list_of(allowed, _is_integer) and bool(allowed))
        _require(listed, "allowed_token_ids", "a list of integers, not empty", allowed)
        rule = "a list of strings, none of them blank"
        _require(words is None or _is_list_of(words, _is_word), "bad_words", rule, words)
        mapping = biases is None or isinstance(biases, Mapping)
        _require(mapping, "logit_bias", "a mapping from token ids to numbers", biases)
        for token, bias in (biases or {}).items():
            _require(_is_integer(token), "logit_bias", "keyed by token ids, which are integers", token)
            _require(_is_number(bias), "logit_bias", "made of finite numbers", bias)

    def _check_ranges(self) -> None:
        _require(self.n >= 1, "n", "at least 1", self.n)
        _require(0 <= self.temperature <= 2, "temperature", "in [0, 2]", self.temperature)
        _require(0 < self.top_p <= 1, "top_p", "in (0, 1]", self.top_p)
        _require(self.top_k >= -1, "top_k", "-1 (off), 0 (off) or positive", self.top_k)
        _require(0 <= self.min_p <= 1, "min_p", "in [0, 1]", self.min_p)
        penalty = self.repetition_penalty
        _require(0.01 <= penalty <= 100, "repetition_penalty", "in [0.01, 100]", penalty)
        for name in ("presence_penalty", "frequency_penalty"):
            value = getattr(self, name)
            _require(-2 <= value <= 2, name, "in [-2, 2]", value)
        for token, bias in (self.logit_bias or {}).items():
            _require(token >= 0, "logit_bias", "keyed by token ids, which are not negative", token)
            _require(-100 <= bias <= 100, "logit_bias", "in [-100, 100]", bias)
        if self.seed is not None:
            _require(-(2**63) <= self.seed < 2**63, "seed", "a signed 64-bit integer", self.seed)
        for name in ("logprobs", "prompt_logprobs"):
            asked = getattr(self, name)
            _require(asked is None or asked >= -1, name, "-1 (all tokens) or not negative", asked)
        skip = self.skip_reading_prefix_cache
        _require(skip is None or isinstance(skip, bool), _SKIP, "True, False or None", skip)
        needs_all = self.prompt_logprobs is not None
        _require(not (needs_all and skip is False), _SKIP, "True or None beside prompt_logprobs", skip)

    def _check_lengths(self) -> None:
        if self.max_tokens is not None:
            _require(self.max_tokens >= 1, "max_tokens", "at least 1", self.max_tokens)
            rule = f"at most max_tokens ({self.max_tokens})"
            _require(self.min_tokens <= self.max_tokens, "min_tokens", rule, self.min_tokens)
        _require(0 <= self.min_tokens < _MAX_INT32, "min_tokens", f"in [0, {_MAX_INT32})", self.min_tokens)

    def _check_stops(self) -> None:
        stop, ids = self.stop, self.stop_token_ids
        _require(all(stop), "stop", "made of non-empty strings", list(stop))
        _require(self.detokenize or not stop, "stop", "empty when detokenize is off", stop)
        _require(all(t >= 0 for t in ids), "stop_token_ids", "token ids, which are not negative", list(ids))
        most = MAX_BIASES - _RESERVED_BIASES
        _require(len(ids) <= most, "stop_token_ids", f"at most {most} ids", len(ids))
        room, biases = most - len(ids), len(self.logit_bias or ())
        _require(biases <= room, "logit_bias", f"at most {room} entries beside the stop_token_ids", biases)

    @property
    def reads_prefix_cache(self) -> bool:
        """Whether the prompt may begin with cached blocks."""
        return not self.skip_reading_prefix_cache and self.prompt_logprobs is None

    @property
    def constrained(self) -> bool:
        """Whether a mask says what may come next: of a grammar, or of tokens that may not be taken."""
        return self.grammar is not None or self.allowed_token_ids is not None or bool(self.bad_words)

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken."""
        return self.temperature == 0

    @property
    def grammar(self) -> Grammar | None:
        """What the text must conform to."""
        return as_grammar(self.structured_outputs)


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_string(value: object) -> bool:
    return isinstance(value, str)


def _is_word(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_list_of(value: object, holds: Callable[[object], bool]) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes) and all(map(holds, value))


def _require(holds: bool, name: str, rule: str, value: object) -> None:
    if not holds:
        raise ValueError(f"{name} must be {rule}, got {value!r}")
