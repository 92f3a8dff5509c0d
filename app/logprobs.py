"""What responses say of log-probabilities: chat choices, completion choices, prompts. Knows no requests."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..model.plan import TokenLogprobs
from .outputs import Logprob, prompt_positions

_UTF8 = codecs.getincrementaldecoder("utf-8")

LogprobsWriter = Callable[[Sequence[int], Sequence[Any]], Any]
"""(token ids, their TokenLogprobs) of one choice's next tokens -> what the response says of them."""


def chat_logprobs(
    token_ids: Sequence[int],
    logprobs: Sequence[TokenLogprobs],
    token_bytes: Callable[[int], bytes],
    as_ids: bool = False,
) -> dict[str, Any]:
    """The `logprobs` object of a chat choice or chunk, for tokens in order; as_ids: named by their ids."""
    content = [
        {
            **_token(token_id, entry.logprob, token_bytes, as_ids),
            "top_logprobs": [_token(other, logprob, token_bytes, as_ids) for other, logprob in entry.top],
        }
        for token_id, entry in zip(token_ids, logprobs, strict=True)
    ]
    return {"content": content, "refusal": None}


class CompletionLogprobs:
    """The `logprobs` object of one choice, token by token; `text_offset` runs through all its chunks.

    It counts the whole characters before a token: where several tokens make one, all stand at its place.

    as_ids: tokens are named by their ids.
    """

    def __init__(self, token_bytes: Callable[[int], bytes], as_ids: bool = False) -> None:
        self._token_bytes = token_bytes
        self._as_ids = as_ids
        self._offset = 0
        self._characters = _UTF8(errors="replace")

    def build(self, token_ids: Sequence[int], logprobs: Sequence[TokenLogprobs | None]) -> dict[str, Any]:
        """The object for the next tokens of the choice; the entry of a prompt's first token is None."""
        tokens: list[str] = []
        offsets: list[int] = []
        top: list[dict[str, float] | None] = []
        for token_id, entry in zip(token_ids, logprobs, strict=True):
            token = self._name(token_id)
            tokens.append(token)
            offsets.append(self._offset)
            self._offset += len(self._characters.decode(self._token_bytes(token_id)))
            if entry is None:
                top.append(None)
                continue
            # The chosen token is always among them, so up to one more than asked for.
            chances = {self._name(other): _finite(logprob) for other, logprob in entry.top}
            top.append({token: _finite(entry.logprob)} | chances)
        return {
            "text_offset": offsets,
            "token_logprobs": [None if entry is None else _finite(entry.logprob) for entry in logprobs],
            "tokens": tokens,
            "top_logprobs": top,
        }

    def _name(self, token_id: int) -> str:
        return _id_name(token_id) if self._as_ids else self._text(token_id)

    def _text(self, token_id: int) -> str:
        return self._token_bytes(token_id).decode("utf-8", "replace")


def prompt_logprobs(
    token_ids: Sequence[int], logprobs: Sequence[TokenLogprobs], token_text: Callable[[int], str]
) -> list[dict[str, dict[str, Any]] | None]:
    """vLLM's `prompt_logprobs`: per token {id: log-probability, rank and text}, null for the first."""
    positions = prompt_positions(token_ids, logprobs, token_text)
    return [None if position is None else _position(position) for position in positions]


def _token(
    token_id: int, logprob: float, token_bytes: Callable[[int], bytes], as_ids: bool
) -> dict[str, Any]:
    data = token_bytes(token_id)
    name = _id_name(token_id) if as_ids else data.decode("utf-8", "replace")
    return {"token": name, "logprob": _finite(logprob), "bytes": list(data)}


def _position(position: Mapping[int, Logprob]) -> dict[str, dict[str, Any]]:
    return {
        str(token): {
            "logprob": _finite(entry.logprob),
            "rank": entry.rank,
            "decoded_token": entry.decoded_token,
        }
        for token, entry in position.items()
    }


def _finite(logprob: float) -> float:
    """JSON has no minus infinity: a token that cannot be drawn has -9999, as in vLLM."""
    return max(logprob, -9999.0)


def _id_name(token_id: int) -> str:
    """How a token is named for `return_tokens_as_token_ids`: texts of several tokens can be the same."""
    return f"token_id:{token_id}"
