"""Tokenizers in the Hugging Face layout: what is read from which file, and text there and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from octavo.app.errors import StartupError
from octavo.app.tokenizer import Tokenizer, token_ids


def backend() -> Backend:
    """A byte-level tokenizer that begins every text with <s>."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Backend(models.BPE(vocab={token: i for i, token in enumerate(alphabet)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<s>", "</s>", "<|eot|>"])  # 256, 257, 258
    made.add_tokens([AddedToken("<tool>", normalized=False)])  # 259
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 256)])
    return made


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    backend().save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def write(path: Path, **content: Any) -> None:
    path.write_text(json.dumps(content))


def test_encode_and_decode(directory: Path) -> None:
    tokenizer = Tokenizer.from_directory(directory)
    text = "naïve 漢字 😀\n"
    ids = tokenizer.encode(text)
    assert ids[0] == 256
    assert ids[1:] == tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode(ids, skip_special_tokens=False) == "<s>" + text
    assert tokenizer.encode("a</s>b<tool>", add_special_tokens=False)[1:] == [257, ord("b") - 33, 259]
    assert tokenizer.encode("") == [256]
    assert tokenizer.decode([]) == ""
    assert tokenizer.vocab_size == 260


def test_single_tokens(directory: Path) -> None:
    tokenizer = Tokenizer.from_directory(directory)
    first, second = tokenizer.encode("é", add_special_tokens=False)
    assert tokenizer.token_bytes(first) + tokenizer.token_bytes(second) == "é".encode()
    assert tokenizer.token_text(first) == "\ufffd"
    assert tokenizer.token_text(257) == "</s>"
    assert tokenizer.token_text(10_000) == ""


def test_truncation_and_padding_of_the_file_are_not_applied(directory: Path) -> None:
    made = backend()
    made.enable_truncation(4)
    made.enable_padding(length=16)
    made.save(str(directory / "tokenizer.json"))
    assert len(Tokenizer.from_directory(directory).encode("a" * 9)) == 10


def test_a_lone_surrogate_is_named(directory: Path) -> None:
    with pytest.raises(ValueError, match="a lone surrogate at 2"):
        Tokenizer.from_directory(directory).encode("ab\ud800")


def test_special_tokens_in_both_spellings(directory: Path) -> None:
    write(directory / "tokenizer_config.json", bos_token="<s>", eos_token={"content": "</s>"}, pad_token=None)
    tokenizer = Tokenizer.from_directory(directory)
    assert tokenizer.special_tokens == {"bos_token": "<s>", "eos_token": "</s>"}
    assert tokenizer.eos_token_ids == {257}


def test_special_tokens_of_older_models(directory: Path) -> None:
    write(directory / "special_tokens_map.json", bos_token={"content": "<s>"}, eos_token="<|eot|>")
    write(directory / "tokenizer_config.json", eos_token="</s>")
    tokenizer = Tokenizer.from_directory(directory)
    assert tokenizer.special_tokens == {"bos_token": "<s>", "eos_token": "</s>"}


@pytest.mark.parametrize(
    ("config", "generation_config", "expected"),
    [
        ({}, {}, {257}),
        ({"eos_token_id": 5}, {}, {5, 257}),
        ({"eos_token_id": [5, 6]}, {"temperature": 1}, {5, 6, 257}),
        ({"eos_token_id": 5}, {"eos_token_id": [6, 258]}, {6, 258, 257}),
        ({"eos_token_id": 5}, {"eos_token_id": 0}, {0, 257}),
        ({"eos_token_id": None}, {"eos_token_id": None}, {257}),
    ],
)
def test_ids_that_end_a_text(
    directory: Path, config: dict[str, Any], generation_config: dict[str, Any], expected: set[int]
) -> None:
    """Those of generation_config.json, else of config.json, and the tokenizer's own."""
    write(directory / "tokenizer_config.json", eos_token="</s>")
    assert Tokenizer.from_directory(directory, config, generation_config).eos_token_ids == expected


def test_token_ids_in_all_their_forms() -> None:
    assert (token_ids(None), token_ids(0), token_ids([1, 2])) == ([], [0], [1, 2])
    for wrong in ("2", [1, None], {"id": 2}):
        with pytest.raises(StartupError, match="eos_token_id must be a number or a list of numbers, got"):
            token_ids(wrong)


@pytest.mark.parametrize(
    ("file_name", "content", "sentence"),
    [
        ("tokenizer.json", b"{}", r"tokenizer\.json is not a usable tokenizer"),
        ("tokenizer.json", b"\x00\xff", r"tokenizer\.json is not a usable tokenizer"),
        ("tokenizer_config.json", b'{"eos_token": ', r"tokenizer_config\.json is not valid JSON"),
        ("tokenizer_config.json", b"[1]", r"tokenizer_config\.json must hold a JSON object, got list"),
        ("special_tokens_map.json", b"\xff", r"special_tokens_map\.json is not valid JSON"),
    ],
)
def test_damaged_files_are_named(directory: Path, file_name: str, content: bytes, sentence: str) -> None:
    (directory / file_name).write_bytes(content)
    with pytest.raises(StartupError, match=sentence):
        Tokenizer.from_directory(directory)


def test_a_directory_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=r"has no tokenizer\.json"):
        Tokenizer.from_directory(tmp_path)
