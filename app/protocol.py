"""Fields that the APIs share, and how they become SamplingParams. Knows no prompt and no text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from ..model.sampling_params import SamplingParams
from .errors import ContextLengthError, RequestError
from .protocol_grammar import ResponseFormat, StructuredOutputs, asked_grammar
from .validation import Refused, check_fields, without_nulls

DEFAULT_MAX_LOGPROBS = 20
MAX_CHOICES = 128
_MAX_ID_CHARS = 128
_SIDES = ("left", "right")

# Unset ones are taken from the model's generation_config.json, as vLLM does.
_MODEL_DEFAULTS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
_PLAIN = (
    *_MODEL_DEFAULTS,
    "presence_penalty",
    "frequency_penalty",
    "min_tokens",
    "stop",
    "stop_token_ids",
    "ignore_eos",
    "include_stop_str_in_output",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "allowed_token_ids",
    "bad_words",
)

REFUSED: Refused = {
    # OpenAI
    "best_of": (1,),
    "prompt_cache_retention": ("in_memory",),
    "service_tier": ("auto", "default"),
    "store": (False,),
    # vLLM
    "early_stopping": (False,),
    "ec_transfer_params": (),
    "guided_choice": (),
    "guided_decoding_backend": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "guided_whitespace_pattern": (),
    "kv_transfer_params": (),
    "length_penalty": (1,),
    "logits_processors": ([],),
    "logprob_token_ids": ([],),
    "repetition_detection": (),
    "return_token_offsets": (False,),
    "return_weight_versions": (False,),
    "routed_experts_prompt_start": (),
    "session_id": (),
    "stream_interval": (1,),
    "use_beam_search": (False,),
    "vllm_xargs": ({},),
    "watermarking": (),
}
"""Fields of the OpenAI API and of vLLM that both routes know and do not implement."""

_STREAM_OPTIONS_REFUSED: Refused = {"include_obfuscation": (False,)}


class StreamOptions(Struct, kw_only=True):
    """`stream_options`. continuous_usage_stats puts the running usage on every chunk; needs include_usage."""

    include_usage: bool = False
    continuous_usage_stats: bool = False


class CommonFields(Struct, kw_only=True):
    """What means the same in every API, most of it vLLM's extensions.

    Types are checked here, ranges by SamplingParams.
    timeout, queue_timeout: seconds that the request may take, and wait, from its arrival on.
    """

    model: str | None = None
    stream: bool = False
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    seed: int | None = None
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    min_tokens: int | None = None
    skip_special_tokens: bool | None = None
    structured_outputs: StructuredOutputs | None = None
    priority: int = 0
    cache_salt: str | None = None
    request_id: str | None = None
    timeout: float | None = None
    queue_timeout: float | None = None


class SamplingFields(CommonFields, kw_only=True):
    """What chat and completions understand.

    user, metadata, safety_identifier and prompt_cache_key are labels: no answer depends on them.
    """

    n: int = 1
    stop: str | list[str] | None = None
    prompt_logprobs: int | None = None
    allowed_token_ids: list[int] | None = None
    bad_words: list[str] | None = None
    spaces_between_special_tokens: bool | None = None
    truncate_prompt_tokens: int | None = None
    truncation_side: str = "left"
    return_token_ids: bool = False
    return_tokens_as_token_ids: bool = False
    response_format: ResponseFormat | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    metadata: dict[str, Any] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    @property
    def grammar_field(self) -> str:
        """Which field asks for a grammar, if one does."""
        return asked_grammar(self.response_format, self.structured_outputs).field

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a usage chunk."""
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def continuous_usage(self) -> bool:
        """Whether every chunk of a stream carries the usage so far."""
        return (
            self.include_usage
            and self.stream_options is not None
            and self.stream_options.continuous_usage_stats
        )


def read_stream_options(body: Mapping[str, Any], ignored: list[str]) -> Mapping[str, Any]:
    """`body` without nulls in its stream_options; the paths of unknown fields there go to `ignored`.

    Raises RequestError for a field that is refused.
    """
    options = body.get("stream_options")
    if not isinstance(options, dict):
        return body
    ignored += check_fields(options, StreamOptions, _STREAM_OPTIONS_REFUSED, "stream_options")
    return {**body, "stream_options": without_nulls(options)}


def check_common(fields: SamplingFields, max_logprobs: int) -> None:
    """Rules between fields, and the few ranges that SamplingParams does not know."""
    if fields.prompt_logprobs is not None:
        check_num_logprobs("prompt_logprobs", fields.prompt_logprobs, max_logprobs)
        if fields.stream:
            message = "prompt_logprobs must be left out when stream is true"
            raise RequestError(message, param="prompt_logprobs", code="unsupported_value")
    _require(1 <= fields.n <= MAX_CHOICES, "n", f"in [1, {MAX_CHOICES}]", fields.n)
    in_range = -(2**63) <= fields.priority < 2**63
    _require(in_range, "priority", "a signed 64-bit integer", fields.priority)
    _require(fields.cache_salt != "", "cache_salt", "a non-empty string", fields.cache_salt)
    if fields.request_id is not None and not usable_id(fields.request_id):
        rule = f"1 to {_MAX_ID_CHARS} printable ASCII characters without spaces"
        raise RequestError(f"request_id must be {rule}", param="request_id")
    cut = fields.truncate_prompt_tokens
    _require(cut is None or cut == -1 or cut >= 1, "truncate_prompt_tokens", "-1 or at least 1", cut)
    _require(fields.truncation_side in _SIDES, "truncation_side", "left or right", fields.truncation_side)
    for name in ("timeout", "queue_timeout"):
        limit_s = getattr(fields, name)
        _require(limit_s is None or limit_s > 0, name, "a number of seconds above 0", limit_s)
    options = fields.stream_options
    if options is not None and not fields.stream:
        raise RequestError("stream_options must be left out unless stream is true", param="stream_options")
    if options is not None and options.continuous_usage_stats and not options.include_usage:
        message = "stream_options.continuous_usage_stats must be false unless include_usage is true"
        raise RequestError(message, param="stream_options.continuous_usage_stats")


def check_num_logprobs(field: str, number: int, most: int) -> None:
    """Raise RequestError unless `number` likeliest tokens may be asked for; -1 is all, in `most` too."""
    if most == -1:
        _require(number >= -1, field, "-1 (all tokens) or at least 0", number)
    else:
        _require(0 <= number <= most, field, f"in [0, {most}]", number)


def usable_id(text: str) -> bool:
    """Whether `text` may serve as a request id, in headers and logs too."""
    return 0 < len(text) <= _MAX_ID_CHARS and text.isascii() and text.isprintable() and " " not in text


def sampling_params(
    fields: SamplingFields,
    defaults: Mapping[str, Any],
    *,
    max_tokens: int | None,
    max_tokens_field: str,
    logprobs: int | None,
    prompt_logprobs: int | None,
) -> SamplingParams:
    """The fields over the model's `defaults`; raises RequestError with the field that is out of range.

    max_tokens_field: the name under which the client knows max_tokens.
    """
    grammar = asked_grammar(fields.response_format, fields.structured_outputs).grammar
    values: dict[str, Any] = {
        name: defaults[name] for name in _MODEL_DEFAULTS if defaults.get(name) is not None
    }
    for name in _PLAIN:
        value = getattr(fields, name)
        if value is not None:
            values[name] = value
    try:
        return SamplingParams(
            n=fields.n,
            logit_bias=_logit_bias(fields.logit_bias),
            seed=None if fields.seed == -1 else fields.seed,
            max_tokens=max_tokens,
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
            structured_outputs=grammar,
            **values,
        )
    except ValueError as error:
        message = str(error)
        param = message.partition(" ")[0]
        if param == "max_tokens":
            param = max_tokens_field
            message = message.replace("max_tokens", max_tokens_field, 1)
        raise RequestError(message, param=param) from error


def client_names(error: RequestError, names: Mapping[str, str]) -> RequestError:
    """`error`, raised below the routes, with the request's own names of fields."""
    name = names.get(error.param or "")
    if name is not None:
        if isinstance(error, ContextLengthError):
            error.message = error.message.replace(f"set {error.param} ", f"set {name} ")
        error.param = name
    return error


def usage(num_prompt_tokens: int, num_completion_tokens: int, num_cached_tokens: int) -> dict[str, Any]:
    """The `usage` object of a response."""
    return {
        "prompt_tokens": num_prompt_tokens,
        "completion_tokens": num_completion_tokens,
        "total_tokens": num_prompt_tokens + num_completion_tokens,
        "prompt_tokens_details": {"cached_tokens": num_cached_tokens},
    }


def _logit_bias(bias: Mapping[str, float] | None) -> dict[int, float] | None:
    if not bias:
        return None
    for token in bias:
        # int() alone would also take "1_0", " 1" and digits of other scripts.
        _require(
            token.isascii() and token.isdigit() and len(token) < 10, "logit_bias", "keyed by token ids", token
        )
    return {int(token): value for token, value in bias.items()}


def _require(holds: bool, field: str, rule: str, value: object) -> None:
    if not holds:
        raise RequestError(f"{field} must be {rule}, got {value!r}", param=field)
