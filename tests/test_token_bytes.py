"""Bytes of single tokens against the libraries that define them."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers
from transformers.convert_slow_tokenizer import bytes_to_unicode

from octavo.app.token_bytes import TokenBytes


def backend(pieces: list[str], decoder: decoders.Decoder | None) -> Backend:
    made = Backend(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[]))
    if decoder is not None:
        made.decoder = decoder
    return made


def llama(*more: decoders.Decoder) -> decoders.Decoder:
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    return decoders.Sequence([*steps, *more])


def test_every_byte_of_the_byte_level_alphabet() -> None:
    mapping = bytes_to_unicode()
    table = TokenBytes.of(backend(list(mapping.values()), decoders.ByteLevel()))
    assert table is not None
    assert [table[i] for i in range(256)] == [bytes([byte]) for byte in mapping]
    assert set(mapping.values()) == set(pre_tokenizers.ByteLevel.alphabet())


def test_pieces_outside_the_alphabet_stand_for_themselves() -> None:
    table = TokenBytes.of(backend(["Ġthe", "two words", "漢"], decoders.ByteLevel()))
    assert table is not None
    assert [table[i] for i in range(4)] == [b" the", b"two words", "漢".encode(), b""]


def test_byte_fallback_pieces() -> None:
    table = TokenBytes.of(backend(["▁the", "<0x0A>", "<0xff>", "<0x1>", "▁▁", "é"], llama()))
    assert table is not None
    expected = [b" the", b"\n", b"\xff", b"<0x1>", b"  ", "é".encode()]
    assert [table[i] for i in range(6)] == expected


@pytest.mark.parametrize(
    ("decoder", "strips_space"),
    [
        (decoders.ByteLevel(), False),
        (decoders.Sequence([decoders.ByteLevel()]), False),
        (llama(), False),
        (llama(decoders.Strip(" ", 1, 0)), True),
        (llama(decoders.Strip(" ", 2, 0)), None),
        (llama(decoders.Strip("x", 1, 0)), None),
        (decoders.Sequence([decoders.ByteLevel(), decoders.Fuse()]), None),
        (decoders.WordPiece(), None),
        (decoders.Metaspace(), None),
        (None, None),
    ],
)
def test_which_decoders_are_concatenations(
    decoder: decoders.Decoder | None, strips_space: bool | None
) -> None:
    """strips_space None: not a concatenation that octavo recognises."""
    table = TokenBytes.of(backend(["a"], decoder))
    assert (None if table is None else table.strips_space) == strips_space


def test_without() -> None:
    table = TokenBytes.of(backend(["a", "b"], decoders.ByteLevel()))
    assert table is not None
    some = table.without([1])
    assert (some[0], some[1], table[1]) == (b"a", b"", b"b")
