"""Token ids to text as they arrive, and stop strings in it. Knows nothing of requests or of stop tokens."""

from __future__ import annotations

from codecs import utf_8_decode
from collections.abc import Sequence

from .token_bytes import TokenBytes
from .tokenizer import Tokenizer

_MAX_UTF8_BYTES = 4


class Detokenizer:
    """The text of one growing sequence, piece by piece, never half a character.

    All pieces and `flush` together are `tokenizer.decode` of all ids, however they are split. After a prompt
    they are what the ids add to its text: a leading space stays, and if the prompt ends in the middle of a
    character, the whole character comes once its other half has arrived.
    """

    def __init__(
        self, tokenizer: Tokenizer, prompt_token_ids: Sequence[int] = (), skip_special_tokens: bool = True
    ) -> None:
        table = tokenizer.byte_table(skip_special_tokens)
        self._decoder = (
            _ByteDecoder(table, prompt_token_ids)
            if table is not None
            else _WindowDecoder(tokenizer, prompt_token_ids, skip_special_tokens)
        )

    def push(self, ids: Sequence[int]) -> str:
        """The text that `ids` make certain; empty while half a character waits."""
        return self._decoder.push(ids)

    def flush(self) -> str:
        """What still waits; U+FFFD for half a character. Nothing may be pushed afterwards."""
        return self._decoder.flush()


class _ByteDecoder:
    """For tokenizers whose text is the concatenation of their tokens' bytes; half a microsecond a token."""

    def __init__(self, table: TokenBytes, prompt_token_ids: Sequence[int]) -> None:
        self._table = table
        self._pending = _unfinished_character(table, prompt_token_ids)
        self._begun = False  # whether the sequence itself, not its prompt, has brought a byte
        self._strips_space = table.strips_space and not any(table[token] for token in prompt_token_ids)

    def push(self, ids: Sequence[int]) -> str:
        table = self._table
        data = table[ids[0]] if len(ids) == 1 else b"".join([table[token] for token in ids])
        if not self._begun:
            data = self._begin(data)
        if self._pending:
            data = self._pending + data
        text, num_used = utf_8_decode(data, "replace", False)
        self._pending = data[num_used:]
        return text

    def flush(self) -> str:
        return utf_8_decode(self._pending, "replace", True)[0] if self._begun else ""

    def _begin(self, data: bytes) -> bytes:
        """The first bytes decide what becomes of the prompt's half character and of a leading space."""
        if not data:
            return data
        self._begun = True
        try:
            utf_8_decode(self._pending + data[:1], "strict", False)
        except UnicodeDecodeError:
            self._pending = b""  # its U+FFFD would belong to the prompt's text
        return data[1:] if self._strips_space and data.startswith(b" ") else data


def _unfinished_character(table: TokenBytes, token_ids: Sequence[int]) -> bytes:
    """The bytes of a UTF-8 character that `token_ids` begin and do not end."""
    tail = b""
    for token in reversed(token_ids):
        tail = table[token] + tail
        if len(tail) >= _MAX_UTF8_BYTES:
            break
    return tail[utf_8_decode(tail, "replace", False)[1] :]


class _WindowDecoder:
    """For other tokenizers: decodes the last piece together with the new tokens and takes the difference.

    Text that ends in U+FFFD waits, since it may be half a character. Only a few tokens do: a model may write
    U+FFFD, or bytes that are no text, without end.
    """

    _NUM_PROMPT_TOKENS = 8
    _MAX_WAITING = 8

    def __init__(
        self, tokenizer: Tokenizer, prompt_token_ids: Sequence[int], skip_special_tokens: bool
    ) -> None:
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        self._waiting: list[int] = []
        self._set_context(list(prompt_token_ids[-self._NUM_PROMPT_TOKENS :]))

    def push(self, ids: Sequence[int]) -> str:
        self._waiting.extend(ids)
        text = self._decode(self._context + self._waiting)
        added = text[len(self._shown) :]
        if added and not added.endswith("\ufffd"):
            self._set_context(self._waiting)
            self._waiting = []
            return added
        return self._settle(text) if len(self._waiting) > self._MAX_WAITING else ""

    def _settle(self, text: str) -> str:
        """The text of tokens that have waited too long, without the last if they may begin a character."""
        shown = len(self._shown)
        for end in range(len(self._waiting) - _MAX_UTF8_BYTES + 1, 0, -1):
            settled = self._decode(self._context + self._waiting[:end])
            if text.startswith(settled):
                break
        else:
            end, settled = len(self._waiting), text
        if len(settled) > shown:  # else they are no text, and the context stays
            self._set_context(self._waiting[:end])
        self._waiting = self._waiting[end:]
        return settled[shown:]

    def flush(self) -> str:
        return self._decode(self._context + self._waiting)[len(self._shown) :] if self._waiting else ""

    def _set_context(self, ids: list[int]) -> None:
        self._context, self._shown = ids, self._decode(ids)

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, self._skip_special_tokens)


class StopChecker:
    """Finds stop strings in text that arrives in pieces, wherever it is cut.

    The stop string that is complete first wins, the longest of those that end together. With include_stop it
    is part of the text.
    """

    def __init__(self, stops: Sequence[str], include_stop: bool = False) -> None:
        self._stops = tuple(stops)
        self._include_stop = include_stop
        self._held = ""

    def push(self, text: str) -> tuple[str, str | None]:
        """Text that can no longer be part of a stop string, and the stop string that ended it, if one did.

        After a match nothing more may be pushed.
        """
        if self._held:
            text = self._held + text
        num_safe = len(text)
        for stop in self._stops:
            if stop in text:
                return self._finish(text)
            num_safe = min(num_safe, start_of_partial(text, stop))
        self._held = text[num_safe:]
        return text[:num_safe], None

    def _finish(self, text: str) -> tuple[str, str]:
        self._held = ""
        found = [(text.find(stop), stop) for stop in self._stops if stop in text]
        start, stop = min(found, key=lambda match: (match[0] + len(match[1]), match[0]))
        return text[: start + len(stop) if self._include_stop else start], stop


def start_of_partial(text: str, marker: str) -> int:
    """Where the longest end of `text` starts that is a beginning of `marker`; len(text) if there is none."""
    start = text.find(marker[0], max(0, len(text) - len(marker) + 1))
    while start >= 0:
        if marker.startswith(text[start:]):
            return start
        start = text.find(marker[0], start + 1)
    return len(text)
