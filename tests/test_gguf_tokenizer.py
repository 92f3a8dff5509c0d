"""Tokenizers out of GGUF files against transformers' reading of them, and the demo model's on real text."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from gguf_models import write_vocabulary
from tokenizers import Tokenizer as Backend
from tokenizers import models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer

from octavo.app.chat_template import ChatTemplate
from octavo.app.demo import demo_model
from octavo.app.errors import StartupError
from octavo.app.gguf_tokenizer import gguf_tokenizer
from octavo.app.tokenizer import Tokenizer
from octavo.model.gguf_file import GGUFFile

ROOT = Path(__file__).parent.parent
CORPUS = [
    *(ROOT / "LICENSE").read_text().split("\n\n"),
    *(ROOT / "app" / "client.py").read_text().split("\n\n"),
    "It's we'll THEY'RE I'D can't",
    "prices: 1234567.89 €, 3/4, ½, ², ٣٤٥, Ⅷ",
    "  leading, trailing and    inner spaces  \n\n\n \t\t x \r\n y\u00a0z\u3000",
    "def f(x):\n\treturn x**2  # done\n\n\n    pass;{}[]()<>!?...---===",
    "Ελληνικά Русский український العَرَبِيَّة עברית हिन्दी বাংলা ไทย ភាសាខ្មែរ",
    "漢字かな交じり文と한국어 中文，标点。「引用」",
    "👩‍👩‍👧‍👦 🇩🇪 👍🏽 ❤️ 😀😃😄 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 ﷽ ẞ ǅ",
    "camelCaseXMLHttpRequest snake_case SCREAMING iPhone McDonald",
    "\x00\x01 control \x7f \u200b \ufeff \u2028 end",
]
SPECIAL = ["<|endoftext|>", "<|begin|>", "<|end|>", "<｜fullwidth▁name｜>"]


def trained() -> tuple[list[str], list[str]]:
    """Tokens and merges of a small byte-level BPE."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=900, initial_alphabet=alphabet, show_progress=False)
    )
    model = json.loads(backend.to_str())["model"]
    return sorted(model["vocab"], key=model["vocab"].__getitem__), [" ".join(m) for m in model["merges"]]


@pytest.fixture(scope="module")
def vocabulary() -> tuple[list[str], list[str]]:
    return trained()


def write_byte_level(path: Path, vocabulary: tuple[list[str], list[str]], **settings: Any) -> None:
    tokens, merges = vocabulary
    write_vocabulary(
        path,
        model="gpt2",
        tokens=[*SPECIAL, *tokens, "<think>", "[PAD999]"],
        token_types=[*[3] * len(SPECIAL), *[1] * len(tokens), 4, 5],
        merges=merges,
        bos_token_id=1,
        eos_token_id=2,
        **settings,
    )


def load(path: Path) -> Tokenizer:
    return gguf_tokenizer(GGUFFile.open(path))


@pytest.mark.parametrize("pre", ["gpt-2", "llama-bpe", "qwen2", "tekken", "deepseek-r1-qwen"])
def test_byte_level_agrees_with_transformers(
    tmp_path: Path, vocabulary: tuple[list[str], list[str]], pre: str
) -> None:
    write_byte_level(tmp_path / "t.gguf", vocabulary, pre=pre, add_bos_token=False)
    theirs = AutoTokenizer.from_pretrained(tmp_path, gguf_file="t.gguf")
    ours = load(tmp_path / "t.gguf")
    for text in CORPUS:
        text = unicodedata.normalize(
            "NFC", text
        )  # Qwen's tokenizer.json does so; transformers forgets it here
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False), text
        assert ours.decode(ours.encode(text)) == text


@pytest.mark.parametrize("pre", ["smollm", "starcoder", "refact"])
def test_digits_stand_apart(tmp_path: Path, vocabulary: tuple[list[str], list[str]], pre: str) -> None:
    """As in SmolLM2's tokenizer.json: Digits(individual_digits=True), then GPT-2's splits."""
    write_byte_level(tmp_path / "t.gguf", vocabulary, pre=pre)
    ours = load(tmp_path / "t.gguf")
    reference = Backend.from_str(ours.backend.to_str())
    reference.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    for text in CORPUS:
        assert ours.encode(text) == reference.encode(text).ids, text
    assert [ours.token_text(token) for token in ours.encode("20 24")] == ["2", "0", " ", "2", "4"]


def test_qwen_normalizes(tmp_path: Path, vocabulary: tuple[list[str], list[str]]) -> None:
    write_byte_level(tmp_path / "t.gguf", vocabulary, pre="qwen2")
    ours = load(tmp_path / "t.gguf")
    assert ours.encode("cafe\u0301") == ours.encode("café")


def test_llama_cpps_default_splits_digits_in_threes(
    tmp_path: Path, vocabulary: tuple[list[str], list[str]]
) -> None:
    write_byte_level(tmp_path / "t.gguf", vocabulary, pre="default")
    ours = load(tmp_path / "t.gguf")
    words = [text for text, _ in ours.backend.pre_tokenizer.pre_tokenize_str("a+b 12345 it's")]
    assert words == ["a", "+", "b", "Ġ", "123", "45", "Ġit", "'", "s"]


def test_special_and_added_tokens(tmp_path: Path, vocabulary: tuple[list[str], list[str]]) -> None:
    write_byte_level(tmp_path / "t.gguf", vocabulary, pre="llama-bpe")
    ours = load(tmp_path / "t.gguf")
    assert ours.eos_token_ids == {2}
    assert ours.special_tokens["bos_token"] == "<|begin|>"
    assert ours.encode("")[0] == 1, (
        "Llama 3 begins every text with its token, whether or not the file says so"
    )
    assert ours.encode("a<|end|>", add_special_tokens=False)[1:] == [2]
    fullwidth = ours.encode("x<｜fullwidth▁name｜>y", add_special_tokens=False)
    assert fullwidth[1] == 3
    assert ours.decode(fullwidth) == "xy"
    assert ours.decode(fullwidth, skip_special_tokens=False) == "x<｜fullwidth▁name｜>y"
    think = ours.backend.get_vocab()["<think>"]
    assert ours.encode("<think>", add_special_tokens=False) == [think]
    assert ours.decode([think]) == "<think>"
    unused = think + 1
    assert ours.decode([unused]) == "", "a place that only rounds up the vocabulary is no text"


def test_bos_and_eos_as_the_file_says(tmp_path: Path, vocabulary: tuple[list[str], list[str]]) -> None:
    write_byte_level(
        tmp_path / "t.gguf", vocabulary, pre="llama-bpe", add_bos_token=False, add_eos_token=True
    )
    ours = load(tmp_path / "t.gguf")
    assert ours.encode("")[-1:] == [2]
    assert 1 not in ours.encode("text")


def sentence_piece_vocabulary() -> tuple[list[str], list[int], list[float]]:
    """Tokens, types and scores as in Llama 2: bytes, then merged pieces by rank, then characters."""
    backend = Backend(models.BPE())
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.train_from_iterator(CORPUS[:40], trainers.BpeTrainer(vocab_size=700, show_progress=False))
    pieces = sorted(backend.get_vocab(), key=backend.get_vocab().__getitem__)
    merged, characters = [p for p in pieces if len(p) > 1], [p for p in pieces if len(p) == 1]
    characters = list(dict.fromkeys(["▁", *characters]))
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *merged, *characters]
    types = [2, 3, 3, *[6] * 256, *[1] * (len(merged) + len(characters))]
    scores = [0.0] * 259 + [-float(i) for i in range(len(merged) + len(characters))]
    return tokens, types, scores


def write_sentence_piece(path: Path, **settings: Any) -> None:
    tokens, types, scores = sentence_piece_vocabulary()
    write_vocabulary(
        path,
        model="llama",
        tokens=tokens,
        token_types=types,
        scores=scores,
        bos_token_id=1,
        eos_token_id=2,
        unknown_token_id=0,
        **settings,
    )


def test_sentence_piece_agrees_with_transformers(tmp_path: Path) -> None:
    write_sentence_piece(tmp_path / "t.gguf")
    theirs = AutoTokenizer.from_pretrained(tmp_path, gguf_file="t.gguf")
    ours = load(tmp_path / "t.gguf")
    num_merged = 0
    for text in CORPUS:
        text = text.strip()  # transformers leaves out the prefix before a space, llama.cpp and Llama 2 do not
        ids = ours.encode(text)
        assert ids == theirs.encode(text), text
        assert ours.decode(ids) == text
        num_merged += sum(len(ours.token_text(token)) > 2 for token in ids)
    assert num_merged > 1000, "the corpus must not fall to bytes"


def test_sentence_piece_space_prefix(tmp_path: Path) -> None:
    write_sentence_piece(tmp_path / "with.gguf")
    write_sentence_piece(tmp_path / "without.gguf", add_space_prefix=False, add_bos_token=False)
    with_prefix, without = load(tmp_path / "with.gguf"), load(tmp_path / "without.gguf")
    assert with_prefix.encode("the") == [1, with_prefix.backend.token_to_id("▁the")]
    assert without.encode(" the") == [with_prefix.backend.token_to_id("▁the")]
    for text in ("the", " the", "  the"):
        assert with_prefix.decode(with_prefix.encode(text)) == text
        assert without.decode(without.encode(text)) == text


def refusal(path: Path) -> str:
    with pytest.raises(StartupError) as caught:
        load(path)
    return str(caught.value)


def test_what_cannot_be_rebuilt_is_refused(tmp_path: Path, vocabulary: tuple[list[str], list[str]]) -> None:
    path = tmp_path / "t.gguf"
    write_byte_level(path, vocabulary, pre="granite-vision")
    assert "t.gguf asks for the pre-tokenizer 'granite-vision'" in refusal(path)
    write_byte_level(path, vocabulary)
    assert "asks for the pre-tokenizer ''" in refusal(path)
    write_vocabulary(path, model="bert", tokens=["a"], token_types=[1])
    assert "a tokenizer of the kind 'bert'; octavo rebuilds gpt2 and llama only" in refusal(path)
    write_vocabulary(path, model="llama", tokens=["a", "b"], token_types=[1, 1], scores=[0.0])
    assert "2 tokens but 1 scores" in refusal(path)
    write_vocabulary(path, model="gpt2", tokens=["a", "b"], token_types=[1], pre="smollm")
    assert "2 tokens but 1 token types" in refusal(path)
    write_vocabulary(path, model="gpt2", tokens=["a"], token_types=[1], merges=["a zz"], pre="smollm")
    assert "cannot be rebuilt" in refusal(path)
    write_vocabulary(
        path, model="gpt2", tokens=["a"], token_types=[1], merges=[], pre="smollm", add_bos_token=True
    )
    assert "wants tokenizer.ggml.bos_token_id in every text but does not define it" in refusal(path)


# ----- the demo model


@pytest.fixture(scope="module")
def demo() -> GGUFFile:
    return GGUFFile.open(demo_model())


@pytest.fixture(scope="module")
def demo_tokenizer(demo: GGUFFile) -> Tokenizer:
    return gguf_tokenizer(demo)


def test_the_demo_models_text_comes_back(demo_tokenizer: Tokenizer) -> None:
    lacking = {0x04, 0x06, 0x13, 0x14, 0x16, 0x1D}  # its vocabulary has no tokens for these, and drops them
    codes = {*range(0x250), *range(0x250, 0x20000, 7)} - set(range(0xD800, 0xE000)) - lacking
    every_character = "".join(map(chr, sorted(codes)))
    for text in [*CORPUS, every_character]:
        assert demo_tokenizer.decode(demo_tokenizer.encode(text)) == text


def test_the_demo_models_tokens_are_smollm2s(demo_tokenizer: Tokenizer) -> None:
    assert demo_tokenizer.vocab_size == 49152
    assert demo_tokenizer.eos_token_ids == {2}
    assert demo_tokenizer.encode("Hello world") == [19556, 905]
    ids = demo_tokenizer.encode("<|im_start|>user\nIn 1984, 1+1=2<|im_end|>")
    assert [demo_tokenizer.token_text(token) for token in ids] == [
        *("<|im_start|>", "user", "\n", "In", " ", "1", "9", "8", "4", ",", " ", "1", "+", "1", "=", "2"),
        "<|im_end|>",
    ]
    assert (ids[0], ids[-1]) == (1, 2)


def test_the_demo_models_tokens_are_transformers_where_there_are_no_digits(
    demo: GGUFFile, demo_tokenizer: Tokenizer
) -> None:
    """transformers (5.23) reads this file without splitting digits, which SmolLM2 learned apart."""
    theirs = AutoTokenizer.from_pretrained(demo.path.parent, gguf_file=demo.path.name)
    compared = 0
    for text in CORPUS:
        if not any(character.isnumeric() for character in text):
            assert demo_tokenizer.encode(text) == theirs.encode(text), text
            compared += 1
    assert compared > 20


def test_the_demo_models_chat_template(demo: GGUFFile, demo_tokenizer: Tokenizer) -> None:
    template = ChatTemplate(demo.metadata["tokenizer.chat_template"], demo_tokenizer.special_tokens)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert template.render(messages) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
