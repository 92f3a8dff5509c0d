"""Text to token ids and back, over the `tokenizers` library. Knows neither streaming nor chat templates.

A tokenizer comes from a directory in the Hugging Face layout (here) or from a GGUF file (gguf_tokenizer.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from .errors import StartupError
from .json_file import read_json_object
from .panics import PANICS_ARE_ERRORS
from .token_bytes import TokenBytes

_SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token")


class Tokenizer:
    """A `tokenizers.Tokenizer` and what a server needs beside it.

    eos_token_ids: ids that end a text.
    special_tokens: "bos_token", "eos_token", ... to their text, as chat templates use them.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        eos_token_ids: Iterable[int] = (),
        special_tokens: Mapping[str, str] | None = None,
    ) -> None:
        backend.no_truncation()
        backend.no_padding()
        self.backend = backend
        self.special_tokens = dict(special_tokens or {})
        self.eos_token_ids = frozenset(eos_token_ids)
        added = backend.get_added_tokens_decoder()
        self._special_ids = frozenset(token_id for token_id, token in added.items() if token.special)
        self._all_bytes = TokenBytes.of(backend)
        self._visible_bytes = None if self._all_bytes is None else self._all_bytes.without(self._special_ids)

    @classmethod
    def from_directory(
        cls,
        directory: Path,
        config: Mapping[str, Any] | None = None,
        generation_config: Mapping[str, Any] | None = None,
    ) -> Tokenizer:
        """Reads tokenizer.json and, where there is one, tokenizer_config.json. Raises StartupError.

        config, generation_config: the model's, for the ids that end a text.
        """
        path = directory / "tokenizer.json"
        if not path.is_file():
            raise StartupError(
                f"{directory} has no tokenizer.json, which octavo needs to turn text into tokens; "
                "--skip-tokenizer-init serves token ids alone"
            )
        try:
            backend = Backend.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise StartupError(f"{path} is not a usable tokenizer: {error}") from error
        special_tokens = _special_tokens(directory)
        eos = (generation_config or {}).get("eos_token_id")
        eos_token_ids = token_ids(eos if eos is not None else (config or {}).get("eos_token_id"))
        named = backend.token_to_id(special_tokens.get("eos_token", ""))
        if named is not None:
            eos_token_ids = [*eos_token_ids, named]
        return cls(backend, eos_token_ids=eos_token_ids, special_tokens=special_tokens)

    def special_id(self, text: str) -> int | None:
        """The id of the special token with this text; None if there is none."""
        token_id = self.backend.token_to_id(text)
        return token_id if token_id in self._special_ids else None

    @property
    def vocab_size(self) -> int:
        """Number of tokens, added ones included; a model's may be larger for padding."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of `text`. Raises ValueError for a lone surrogate, which no UTF-8 text can hold."""
        try:
            # A batch of one: unlike `encode` it releases the lock, and it computes no offsets.
            with PANICS_ARE_ERRORS:
                (encoding,) = self.backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)
            return encoding.ids
        except TypeError:
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise ValueError(
                    f"text must be valid Unicode, got a lone surrogate at {error.start}"
                ) from None
            raise

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Text of `ids`; bytes that are not UTF-8 become U+FFFD, ids outside the vocabulary nothing.

        Differs from the library in one case: of a run of byte-fallback tokens only invalid bytes are
        replaced, not the whole run, so that a stream can show characters before the run ends.
        """
        table = self.byte_table(skip_special_tokens)
        if table is None:
            with PANICS_ARE_ERRORS:
                return self.backend.decode(ids, skip_special_tokens=skip_special_tokens)
        text = b"".join([table[token] for token in ids]).decode(errors="replace")
        return text[1:] if table.strips_space and text.startswith(" ") else text

    def byte_table(self, skip_special_tokens: bool = True) -> TokenBytes | None:
        """What each id contributes to the text; None if the decoder is not a concatenation."""
        return self._visible_bytes if skip_special_tokens else self._all_bytes

    def token_bytes(self, token_id: int) -> bytes:
        """What the token adds to the middle of a text; for a special token its name."""
        if self._all_bytes is not None:
            return self._all_bytes[token_id]
        return self.backend.decode([token_id], skip_special_tokens=False).encode()

    def token_text(self, token_id: int) -> str:
        """The token alone as text; a part of a character gives U+FFFD."""
        return self.token_bytes(token_id).decode(errors="replace")


def token_ids(value: object) -> list[int]:
    """`eos_token_id` of a config, which may be absent, a number or a list. Raises StartupError."""
    given: list[object] = [] if value is None else value if isinstance(value, list) else [value]
    found = [token for token in given if isinstance(token, int)]
    if len(found) != len(given):
        raise StartupError(f"eos_token_id must be a number or a list of numbers, got {value!r}")
    return found


def _special_tokens(directory: Path) -> dict[str, str]:
    """Names of special tokens, from tokenizer_config.json or, in older models, special_tokens_map.json."""
    found: dict[str, str] = {}
    for file_name in ("special_tokens_map.json", "tokenizer_config.json"):
        if not (directory / file_name).is_file():
            continue
        settings = read_json_object(directory / file_name)
        for name in _SPECIAL_TOKENS:
            value = settings.get(name)
            text = value.get("content") if isinstance(value, dict) else value
            if isinstance(text, str):
                found[name] = text
    return found
