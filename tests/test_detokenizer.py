"""Text from tokens, however they are split."""

from __future__ import annotations

import json
from codecs import getincrementaldecoder
from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from octavo.app.detokenizer import Detokenizer
from octavo.app.tokenizer import Tokenizer

TEXTS = [
    "plain words, and a number: 12345",
    "naïve café — “quotes” …",
    "漢字かな交じり文と한국어",
    "العربية עברית ไทย हिन्दी",
    "👩‍👩‍👧‍👦 🇩🇪 👍🏽 𝔘𝔫𝔦𝔠𝔬𝔡𝔢",
    "  two spaces\n\n\ttabs   and trailing  ",
]


def byte_level() -> Tokenizer:
    """Every byte a token, a few merges, three added tokens; the library takes the last for a byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "h"), ("Ġ", "a"), ("æ", "¼"), ("ð", "Ł")]
    vocab = {token: i for i, token in enumerate([*alphabet, *("".join(pair) for pair in merges)])}
    backend = Backend(models.BPE(vocab=vocab, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken("<|end|>")])
    backend.add_tokens([AddedToken("<think more>", normalized=False), AddedToken("ø", normalized=False)])
    return Tokenizer(backend)


def sentence_piece(strip: bool = True) -> Tokenizer:
    """Llama 2's kind: a leading space, and bytes for what the vocabulary lacks."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["▁", "a", "b", "▁a", "▁the", "é", "漢"]
    merges = [("▁", "a")]
    backend = Backend(
        models.BPE(
            vocab={piece: i for i, piece in enumerate(pieces)},
            merges=merges,
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*steps, *([decoders.Strip(" ", 1, 0)] if strip else [])])
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    return Tokenizer(backend)


def word_piece() -> Tokenizer:
    """A decoder that is no concatenation of bytes, for the general path."""
    words = ["[UNK]", "[SEP]", "stream", "##ing", "##s", "token", "the", "."]
    backend = Backend(models.WordPiece(vocab={w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    backend.decoder = decoders.WordPiece(cleanup=False)
    backend.add_special_tokens(["[SEP]"])
    return Tokenizer(backend)


def bytes_in_windows() -> Tokenizer:
    """Bytes again, with a decoder that says nothing of them: the general path has to guess."""
    tokenizer = byte_level()
    tokenizer.backend.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Replace("\0\0", "\0\0")])
    return Tokenizer(tokenizer.backend)


TOKENIZERS = {
    "byte_level": byte_level(),
    "bytes_in_windows": bytes_in_windows(),
    "sentence_piece": sentence_piece(),
    "gemma": sentence_piece(strip=False),
    "word_piece": word_piece(),
}


def run(
    tokenizer: Tokenizer,
    ids: Sequence[int],
    cuts: Sequence[int],
    prompt: Sequence[int] = (),
    skip_special_tokens: bool = True,
) -> list[str]:
    """The pieces that come out when `ids` go in in parts, and what is flushed at the end."""
    detokenizer = Detokenizer(tokenizer, prompt, skip_special_tokens)
    borders = [0, *sorted(cut % (len(ids) + 1) for cut in cuts), len(ids)]
    pieces = [detokenizer.push(ids[a:b]) for a, b in zip(borders, borders[1:], strict=False)]
    return [*pieces, detokenizer.flush()]


def pieces_of(name: str) -> st.SearchStrategy[list[int]]:
    # A few more than there are: a model's vocabulary may be larger than its tokenizer's.
    return st.lists(st.integers(0, TOKENIZERS[name].vocab_size + 3), max_size=40)


@pytest.mark.parametrize("name", TOKENIZERS)
@given(data=st.data(), skip=st.booleans(), cuts=st.lists(st.integers(0, 100), max_size=20))
@settings(deadline=None, max_examples=200)
def test_pieces_add_up_to_the_whole_for_every_split(
    name: str, data: st.DataObject, skip: bool, cuts: list[int]
) -> None:
    tokenizer, ids = TOKENIZERS[name], data.draw(pieces_of(name))
    assert "".join(run(tokenizer, ids, cuts, skip_special_tokens=skip)) == tokenizer.decode(ids, skip)


@given(ids=pieces_of("byte_level"), skip=st.booleans())
@settings(deadline=None, max_examples=300)
def test_byte_level_decoding_is_the_librarys_own(ids: list[int], skip: bool) -> None:
    tokenizer = TOKENIZERS["byte_level"]
    assert tokenizer.decode(ids, skip) == tokenizer.backend.decode(ids, skip_special_tokens=skip)


@given(text=st.text(max_size=30), skip=st.booleans())
@settings(deadline=None, max_examples=300)
@pytest.mark.parametrize("name", ["sentence_piece", "gemma"])
def test_decoding_of_real_text_is_the_librarys_own(name: str, text: str, skip: bool) -> None:
    tokenizer = TOKENIZERS[name]
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids, skip) == tokenizer.backend.decode(ids, skip_special_tokens=skip)


@pytest.mark.parametrize("name", ["byte_level", "sentence_piece"])
@pytest.mark.parametrize("text", TEXTS)
def test_never_half_a_character(name: str, text: str) -> None:
    tokenizer = TOKENIZERS[name]
    ids = tokenizer.encode(text)
    pieces = run(tokenizer, ids, range(len(ids)))
    assert "".join(pieces) == text
    assert "\ufffd" not in "".join(pieces)


def whole_characters(data: bytes) -> str:
    """Its text up to an unfinished character; U+FFFD for bytes that begin none, as added tokens bring."""
    return getincrementaldecoder("utf-8")("replace").decode(data)


@given(
    text=st.text(min_size=1, max_size=12).map("x".__add__),
    cut=st.integers(0, 100),
    cuts=st.lists(st.integers(0, 100), max_size=9),
)
@example(text="xø𐀀", cut=4, cuts=[])
@settings(deadline=None, max_examples=300)
@pytest.mark.parametrize("name", ["byte_level", "sentence_piece"])
def test_after_a_prompt_that_may_end_inside_a_character(
    name: str, text: str, cut: int, cuts: list[int]
) -> None:
    tokenizer = TOKENIZERS[name]
    ids = tokenizer.encode(text)
    cut = 2 + cut % (len(ids) - 1)  # behind the x, so that the prompt has text
    prompt, output = ids[:cut], ids[cut:]
    known = whole_characters(b"".join(tokenizer.token_bytes(token) for token in prompt)).removeprefix(" ")
    if name == "byte_level":
        assert known.rstrip("\ufffd") == tokenizer.decode(prompt).rstrip("\ufffd")
    assert known + "".join(run(tokenizer, output, cuts, prompt)) == tokenizer.decode(ids)


def test_an_unfinished_prompt_leaks_nothing_when_it_is_not_continued() -> None:
    tokenizer = TOKENIZERS["byte_level"]
    half = tokenizer.encode("long prompt 漢")[:-1]
    for continuation, expected in {"abc": "abc", "é!": "é!", "字": "字"}.items():
        ids = tokenizer.encode(continuation)
        for cuts in (range(0), range(9)):
            assert "".join(run(tokenizer, ids, cuts, half)) == expected
    assert run(tokenizer, [], [], half) == ["", ""]


def test_half_a_character_at_the_end_is_flushed_as_one_replacement() -> None:
    tokenizer = TOKENIZERS["byte_level"]
    ids = tokenizer.encode("a😀")[:-1]
    assert run(tokenizer, ids, range(9))[-1] == "\ufffd"
    assert "".join(run(tokenizer, ids, range(9))) == "a\ufffd" == tokenizer.decode(ids)


def test_a_leading_space_stays_after_a_prompt_and_goes_without_one() -> None:
    tokenizer = TOKENIZERS["sentence_piece"]
    vocab = tokenizer.backend.get_vocab()
    the, bos = vocab["▁the"], vocab["<s>"]
    assert "".join(run(tokenizer, [the, the], [1])) == "the the"
    assert "".join(run(tokenizer, [the, the], [1], [bos])) == "the the"
    assert "".join(run(tokenizer, [the, the], [1], [bos, the])) == " the the"
    assert "".join(run(TOKENIZERS["gemma"], [the], [])) == " the"


def test_special_tokens_are_skipped_or_shown() -> None:
    tokenizer = TOKENIZERS["byte_level"]
    ids = tokenizer.encode("a<|end|>b<think more>")
    assert "".join(run(tokenizer, ids, range(9))) == "ab<think more>"
    assert "".join(run(tokenizer, ids, range(9), skip_special_tokens=False)) == "a<|end|>b<think more>"


def test_general_path_after_a_prompt() -> None:
    tokenizer = TOKENIZERS["word_piece"]
    ids = [2, 3, 5, 4, 1, 6, 2, 3]
    whole = tokenizer.decode(ids)
    assert whole == "streaming tokens the streaming"
    for cut in range(len(ids) + 1):
        prompt_text = tokenizer.decode(ids[:cut])
        assert prompt_text + "".join(run(tokenizer, ids[cut:], range(9), ids[:cut])) == whole


def test_replacement_characters_do_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = TOKENIZERS["bytes_in_windows"]
    assert tokenizer.byte_table() is None, "the test is of the general path"
    half = tokenizer.backend.get_vocab()["æ"]
    detokenizer = Detokenizer(tokenizer)
    decode, longest = tokenizer.decode, 0

    def watched(ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        nonlocal longest
        longest = max(longest, len(ids))
        return decode(ids, skip_special_tokens)

    monkeypatch.setattr(tokenizer, "decode", watched)
    shown = "".join(detokenizer.push([half]) for _ in range(500))
    assert 500 - 8 <= len(shown) < 500 and set(shown) == {"\ufffd"}
    assert shown + detokenizer.flush() == decode([half] * 500)
    assert longest < 30


def test_tokens_that_are_no_text_do_not_wait_for_ever() -> None:
    tokenizer = TOKENIZERS["word_piece"]
    ids = [5, *[1] * 50, 6, 2, 3]
    assert "".join(run(tokenizer, ids, range(60))) == tokenizer.decode(ids) == "token the streaming"


def test_decoder_of_a_loaded_tokenizer_is_recognised() -> None:
    """Writing and reading tokenizer.json must not lose the fast path."""
    for name, fast in {
        "byte_level": True,
        "sentence_piece": True,
        "gemma": True,
        "word_piece": False,
    }.items():
        text = TOKENIZERS[name].backend.to_str()
        assert json.loads(text)["decoder"] is not None
        assert (Tokenizer(Backend.from_str(text)).byte_table() is not None) is fast
