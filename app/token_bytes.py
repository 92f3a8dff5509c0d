"""What each token id contributes to the text, as bytes, for the decoders whose output is a concatenation.

Byte-level BPE and SentencePiece-style decoders are concatenations; for others `TokenBytes.of` gives None and
text has to go through the tokenizer's own decoder. Knows nothing of streaming.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from tokenizers import Tokenizer as Backend

_BYTE_TOKEN = re.compile(r"^<0x([0-9A-Fa-f]{2})>$")
_SPACE_MARK = "\u2581"


class TokenBytes(dict[int, bytes]):
    """Token id to its bytes, filled as ids are asked for; ids outside the vocabulary give no bytes.

    strips_space: whether decoding drops one space at the beginning of a text.
    """

    def __init__(self, backend: Backend, *, byte_level: bool, strips_space: bool) -> None:
        super().__init__()
        self._backend = backend
        self._to_byte = _byte_level_alphabet() if byte_level else None
        self.strips_space = strips_space

    @classmethod
    def of(cls, backend: Backend) -> TokenBytes | None:
        """The table for a tokenizer, or None if its decoder does more than concatenate."""
        steps = _decoder_steps(backend)
        if [step["type"] for step in steps] == ["ByteLevel"]:
            return cls(backend, byte_level=True, strips_space=False)
        strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
        strips_space = bool(steps) and steps[-1] == strip
        replace = {"type": "Replace", "pattern": {"String": _SPACE_MARK}, "content": " "}
        if steps[: len(steps) - strips_space] == [replace, {"type": "ByteFallback"}, {"type": "Fuse"}]:
            return cls(backend, byte_level=False, strips_space=strips_space)
        return None

    def without(self, token_ids: Iterable[int]) -> TokenBytes:
        """The same table, except that `token_ids` contribute nothing."""
        table = TokenBytes(
            self._backend, byte_level=self._to_byte is not None, strips_space=self.strips_space
        )
        table.update(dict.fromkeys(token_ids, b""))
        return table

    def __missing__(self, token_id: int) -> bytes:
        piece = self._backend.id_to_token(token_id)
        self[token_id] = contribution = b"" if piece is None else self._encode(piece)
        return contribution

    def _encode(self, piece: str) -> bytes:
        if self._to_byte is not None:
            # A piece with a character outside the byte alphabet is an added token, which stands for itself.
            mapped = [self._to_byte.get(character) for character in piece]
            whole = [byte for byte in mapped if byte is not None]
            return bytes(whole) if len(whole) == len(mapped) else piece.encode()
        if byte := _BYTE_TOKEN.match(piece):
            return bytes([int(byte[1], 16)])
        return piece.replace(_SPACE_MARK, " ").encode()


def _decoder_steps(backend: Backend) -> list[dict[str, Any]]:
    """The decoder's settings, a sequence of decoders as one list."""
    if backend.decoder is None:
        return []
    state: dict[str, Any] = json.loads(backend.decoder.__getstate__())
    return state["decoders"] if state["type"] == "Sequence" else [state]


def _byte_level_alphabet() -> dict[str, int]:
    """GPT-2's stand-ins: bytes printable in Latin-1 stand for themselves, the others are U+0100 and on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(hidden)}
