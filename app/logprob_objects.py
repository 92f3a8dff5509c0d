"""What responses say of log-probabilities, as far as chat and completions agree. Knows no requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..model.plan import TokenLogprobs
from .outputs import Logprob, prompt_positions


def prompt_logprobs(
    token_ids: Sequence[int], logprobs: Sequence[TokenLogprobs], token_text: Callable[[int], str]
) -> list[dict[str, dict[str, Any]] | None]:
    """vLLM's `prompt_logprobs`: per token {id: log-probability, rank and text}, null for the first."""
    positions = prompt_positions(token_ids, logprobs, token_text)
    return [None if position is None else _position(position) for position in positions]


def _position(position: Mapping[int, Logprob]) -> dict[str, dict[str, Any]]:
    return {
        str(token): {
            "logprob": finite(entry.logprob),
            "rank": entry.rank,
            "decoded_token": entry.decoded_token,
        }
        for token, entry in position.items()
    }


def finite(logprob: float) -> float:
    """JSON has no minus infinity: a token that cannot be drawn shows as -9999, as in vLLM."""
    return max(logprob, -9999.0)


def id_name(token_id: int) -> str:
    """How a token is named for `return_tokens_as_token_ids`: texts of several tokens can be the same."""
    return f"token_id:{token_id}"
