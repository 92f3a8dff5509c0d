"""What a request may ask of one model: valid token ids, what its tokenizer can do, words as tokens.

Knows no engine. Raises RequestError with SamplingParams' names of the fields.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..model.sampling_params import SamplingParams
from ..scheduler.token_limits import TokenLimits
from .errors import RequestError
from .tokenizer import Tokenizer


def check_number(num_prompts: int, n: int, max_queued: int | None) -> None:
    """Refuse more choices than can ever wait."""
    if max_queued is not None and num_prompts * n > max_queued:
        field = "n" if num_prompts == 1 else "prompt"
        raise RequestError(
            f"{field} must ask for at most {max_queued} choices, as many as may wait here, "
            f"got {num_prompts * n} ({num_prompts} x n {n})",
            param=field,
        )


def check_ids(prompt_token_ids: Sequence[int], params: SamplingParams, vocab_size: int) -> None:
    """Refuse token ids that the model does not have."""
    if not prompt_token_ids:
        raise RequestError("prompt must not be empty", param="prompt")
    for param, ids in (
        ("prompt", prompt_token_ids),
        ("stop_token_ids", params.stop_token_ids),
        ("logit_bias", params.logit_bias or ()),
        ("allowed_token_ids", params.allowed_token_ids or ()),
    ):
        if ids and not 0 <= min(ids) <= max(ids) < vocab_size:
            wrong = next(i for i in ids if not 0 <= i < vocab_size)
            raise RequestError(f"{param} must hold token ids in [0, {vocab_size}), got {wrong}", param=param)
    for name in ("logprobs", "prompt_logprobs"):
        asked = getattr(params, name) or 0
        if asked > vocab_size:
            message = f"{name} must be at most {vocab_size}, the tokens there are, got {asked}"
            raise RequestError(message, param=name)


def check_text(params: SamplingParams, tokenizer: Tokenizer | None) -> None:
    """Refuse what the tokenizer cannot do."""
    if tokenizer is None:
        asked = {
            "stop": params.stop,
            "bad_words": params.bad_words,
            "structured_outputs": params.grammar is not None,
        }
        for name, value in asked.items():
            if value:
                rule = "must be left out: this server runs without a tokenizer"
                raise RequestError(f"{name} {rule}", param=name)
        return
    shows_special = not (params.spaces_between_special_tokens or params.skip_special_tokens)
    if shows_special and tokenizer.byte_table() is None:
        # Only a decoder that concatenates tokens is known to put no spaces between them.
        message = "spaces_between_special_tokens must be true: this model's decoder decides on spaces"
        raise RequestError(message, param="spaces_between_special_tokens", code="unsupported_value")


def with_numbers(params: SamplingParams, vocab_size: int) -> SamplingParams:
    """`params` with -1 log-probabilities, which are all, as a number."""
    if -1 not in (params.logprobs, params.prompt_logprobs):
        return params
    logprobs, of_prompt = (
        vocab_size if number == -1 else number for number in (params.logprobs, params.prompt_logprobs)
    )
    return replace(params, logprobs=logprobs, prompt_logprobs=of_prompt)


def token_limits(params: SamplingParams, tokenizer: Tokenizer | None, vocab_size: int) -> TokenLimits | None:
    """allowed_token_ids and bad_words in token ids; None if there are neither."""
    if params.allowed_token_ids is None and not params.bad_words:
        return None
    allowed = None if params.allowed_token_ids is None else tuple(params.allowed_token_ids)
    banned: list[tuple[int, ...]] = []
    for word in params.bad_words:
        assert tokenizer is not None, "check_text comes first"
        banned += _spellings(word, tokenizer, vocab_size)
    return TokenLimits(vocab_size, allowed, tuple(banned))


def _spellings(word: str, tokenizer: Tokenizer, vocab_size: int) -> list[tuple[int, ...]]:
    """As vLLM does: the word at the beginning of a text, and after a space if its first token differs
    then."""
    alone, spaced = (tuple(tokenizer.encode(f"{p}{word.lstrip()}", False)) for p in ("", " "))
    spellings = [alone]
    if spaced and alone and spaced[0] != alone[0] and len(spaced) == len(alone):
        spellings.append(spaced)
    found = [ids for ids in spellings if ids and max(ids) < vocab_size]
    if not found:
        raise RequestError(
            f"bad_words must be made of words that have tokens, got {word!r}", param="bad_words"
        )
    return found
