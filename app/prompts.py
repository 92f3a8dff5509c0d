"""The forms in which Python callers give prompts, brought into one. Knows no engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeGuard, cast

from .tokenizer import Tokenizer

PromptInput: TypeAlias = str | Sequence[int] | Mapping[str, Any]
"""Text, token ids, or {"prompt": text} or {"prompt_token_ids": ids}, with "cache_salt" if wanted."""

_KEYS = frozenset(("prompt", "prompt_token_ids", "cache_salt"))


@dataclass(frozen=True, slots=True)
class Prompt:
    """text: None if the caller gave token ids alone."""

    text: str | None
    token_ids: Sequence[int]
    cache_salt: str = ""


def parse_prompts(prompts: PromptInput | Sequence[PromptInput], tokenizer: Tokenizer | None) -> list[Prompt]:
    """One prompt or a list of them. Raises ValueError or TypeError, naming the prompt that is wrong."""
    if isinstance(prompts, str | Mapping):
        return [parse_prompt(prompts, tokenizer)]
    if _is_token_ids(prompts):
        return [parse_prompt(prompts, tokenizer)]
    if not isinstance(prompts, Sequence):
        raise TypeError(f"prompts must be text, token ids, a dict or a list of these, got {prompts!r}")
    listed = cast(Sequence[PromptInput], prompts)
    return [parse_prompt(prompt, tokenizer, name=f"prompts[{index}]") for index, prompt in enumerate(listed)]


def parse_prompt(prompt: PromptInput, tokenizer: Tokenizer | None, *, name: str = "prompt") -> Prompt:
    """One prompt in token ids; text is encoded with the model's special tokens. Raises like parse_prompts."""
    if isinstance(prompt, str):
        return Prompt(prompt, _encode(prompt, tokenizer, name))
    if isinstance(prompt, Mapping):
        return _parse_mapping(prompt, tokenizer, name)
    if _is_token_ids(prompt):
        return Prompt(None, _checked(prompt, name))
    raise TypeError(f"{name} must be text, token ids or a dict, got {prompt!r}")


def _parse_mapping(prompt: Mapping[str, Any], tokenizer: Tokenizer | None, name: str) -> Prompt:
    unknown = sorted(prompt.keys() - _KEYS)
    if unknown:
        raise ValueError(f"{name} must hold only {', '.join(sorted(_KEYS))}, got {', '.join(unknown)}")
    text, token_ids = prompt.get("prompt"), prompt.get("prompt_token_ids")
    cache_salt = _cache_salt(prompt.get("cache_salt"), name)
    if token_ids is not None:
        if not _is_token_ids(token_ids):
            raise TypeError(f"{name} must hold prompt_token_ids as a list of integers, got {token_ids!r}")
        return Prompt(text, _checked(token_ids, f"{name}'s prompt_token_ids"), cache_salt)
    if not isinstance(text, str):
        raise ValueError(f"{name} must hold prompt (text) or prompt_token_ids, got {prompt!r}")
    return Prompt(text, _encode(text, tokenizer, name), cache_salt)


def _encode(text: str, tokenizer: Tokenizer | None, name: str) -> list[int]:
    if tokenizer is None:
        raise ValueError(f"{name} must be token ids: there is no tokenizer (skip_tokenizer_init)")
    return tokenizer.encode(text)


def _is_token_ids(value: object) -> TypeGuard[Sequence[int]]:
    """Looks at the first element only: enough to tell the forms apart."""
    return (
        isinstance(value, Sequence) and not isinstance(value, str) and bool(value) and type(value[0]) is int
    )


def _checked(token_ids: Sequence[int], name: str) -> Sequence[int]:
    """`token_ids`, all of them integers. Generation checks that the model has them."""
    if set(map(type, token_ids)) != {int}:
        wrong = next(token for token in token_ids if type(token) is not int)
        raise ValueError(f"{name} must hold integers only, got {wrong!r}")
    return token_ids


def _cache_salt(value: object, name: str) -> str:
    """The engine hashes it as UTF-8."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"{name}'s cache_salt must be a string, got {value!r}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{name}'s cache_salt must be valid Unicode, got a lone surrogate at {error.start}"
        ) from None
    return value
