"""/v1/completions: the request's fields and prompts, and the answer's objects. Knows no HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from .errors import RequestError
from .protocol import (
    DEFAULT_MAX_LOGPROBS,
    REFUSED,
    SamplingFields,
    check_common,
    check_num_logprobs,
    read_stream_options,
)
from .protocol_grammar import read_grammar_fields
from .validation import Refused, check_fields, convert, refuse_unknown, show, wrong

DEFAULT_MAX_TOKENS = 16

COMPLETION_REFUSED: Refused = {
    **REFUSED,
    "documents": ([],),
    "prompt_embeds": (),
    "suffix": ("",),
    "thinking_token_budget": (),
}


class CompletionRequest(SamplingFields, kw_only=True):
    """The fields of a completion request that are understood; `prompt` is checked by `read_prompts`."""

    prompt: Any
    max_tokens: int = DEFAULT_MAX_TOKENS
    echo: bool = False
    logprobs: int | None = None
    add_special_tokens: bool = True

    @property
    def prompt_only(self) -> bool:
        """Whether the answer is the prompt, and nothing is generated."""
        return self.echo and self.max_tokens == 0

    @property
    def num_prompt_logprobs(self) -> int | None:
        """Unless the request says how many, an echoed prompt has as many alternatives as the answer."""
        echoed = self.logprobs if self.echo else None
        return echoed if self.prompt_logprobs is None else self.prompt_logprobs


class CompletionPrompts(NamedTuple):
    """A completion request, checked: each prompt text or token ids; `ignored` the unknown fields' paths."""

    request: CompletionRequest
    prompts: list[str | list[int]]
    ignored: list[str]


def read_completion(
    body: Mapping[str, Any], *, strict: bool = False, max_logprobs: int = DEFAULT_MAX_LOGPROBS
) -> CompletionPrompts:
    """Raises RequestError with the path of the field at fault; an unknown field is one if `strict`.

    max_logprobs: how many likeliest tokens may be asked for; -1 is all.
    """
    ignored = check_fields(body, CompletionRequest, COMPLETION_REFUSED)
    body = read_grammar_fields(read_stream_options(body, ignored), ignored)
    refuse_unknown(ignored, {*CompletionRequest.__struct_fields__, *COMPLETION_REFUSED} if strict else None)
    request = convert(body, CompletionRequest)
    check_common(request, max_logprobs)
    _check_completion(request, max_logprobs)
    return CompletionPrompts(request, read_prompts(request.prompt), ignored)


def read_prompts(prompt: Any) -> list[str | list[int]]:
    """A str, token ids, or a list of either, as a list. Raises RequestError; an empty prompt is one."""
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], (str, list)):
        if isinstance(prompt[0], str):
            prompts: list[str | list[int]] = [*convert(prompt, list[str], "prompt")]
        else:
            prompts = [*convert(prompt, list[list[int]], "prompt")]
        many = True
    elif isinstance(prompt, str):
        prompts, many = [prompt], False
    elif isinstance(prompt, list):
        prompts, many = [convert(prompt, list[int], "prompt")], False
    else:
        rule = "a string, a list of strings, a list of token ids or a list of lists of token ids"
        raise wrong("prompt", rule, prompt, "invalid_type")
    for i, entry in enumerate(prompts):
        if not entry:
            path = f"prompt[{i}]" if many else "prompt"
            raise RequestError(f"{path} must not be empty, got {show(entry)}", param=path)
    return prompts


def _check_completion(request: CompletionRequest, max_logprobs: int) -> None:
    if request.logprobs is not None:
        check_num_logprobs("logprobs", request.logprobs, max_logprobs)


def completion_choice(
    index: int, text: str, logprobs: Any, finish_reason: str | None, stop_reason: str | int | None
) -> dict[str, Any]:
    """One finished choice."""
    return {
        "index": index,
        "text": text,
        "logprobs": logprobs,
        "finish_reason": finish_reason,
        "stop_reason": stop_reason,
    }
