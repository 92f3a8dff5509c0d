"""MODEL in all its forms, and everything that can be wrong with it: one sentence each."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFWriter
from gguf_models import write_model
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

from octavo.app import model_source
from octavo.app.errors import StartupError
from octavo.app.model_source import LoadFormat, ModelSource, find_model
from octavo.model.targets import StoredBlocks

CHATML = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}"


def tiny() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    return LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=320, eos_token_id=5))


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return tiny()


@pytest.fixture(scope="module")
def original(model: LlamaForCausalLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    model.save_pretrained(directory)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(models.BPE(vocab={token: i for i, token in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    backend.add_special_tokens(["</s>"])
    backend.save(str(directory / "tokenizer.json"))
    settings = {"eos_token": "</s>", "chat_template": CHATML}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": [7], "top_k": 40}))
    return directory


@pytest.fixture
def directory(original: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(original, tmp_path / "model"))


def vocabulary(writer: GGUFWriter) -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([*alphabet, "</s>", "!!"])
    writer.add_token_types([*[1] * 256, 3, 1])
    writer.add_token_merges(["! !"])
    writer.add_eos_token_id(256)
    writer.add_chat_template(CHATML)


@pytest.fixture
def gguf_file(model: LlamaForCausalLM, tmp_path: Path) -> Path:
    write_model(tmp_path / "tiny.gguf", model, "llama", "Q8_0", metadata=vocabulary)
    return tmp_path / "tiny.gguf"


def refusal(model: str | Path, load_format: LoadFormat = "auto") -> str:
    with pytest.raises(StartupError) as caught:
        find_model(str(model), load_format=load_format)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def read(source: ModelSource, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """All tensors, quantized ones as values."""
    contents = source.tensors(dtype)
    return {name: each.values() if isinstance(each, StoredBlocks) else each for name, each in contents}


def test_a_directory(directory: Path, model: LlamaForCausalLM) -> None:
    source = find_model(str(directory))
    assert (source.name, source.path) == (str(directory), directory)
    assert source.config["hidden_size"] == 64
    assert source.generation_config["top_k"] == 40
    tensors = read(source, torch.float32)
    assert source.num_tensors == len(tensors)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensors[name], tensor)
    assert source.tokenizer is not None
    assert source.tokenizer.eos_token_ids == {7, 256}
    assert source.chat_template is not None
    assert source.chat_template.render([{"role": "user", "content": "é"}]) == "<user>é</s>"


def test_a_gguf_file(gguf_file: Path, model: LlamaForCausalLM) -> None:
    source = find_model(str(gguf_file))
    assert (source.name, source.path) == (str(gguf_file), gguf_file)
    tensors = read(source, torch.bfloat16)
    assert source.num_tensors == len(tensors)
    for name, tensor in model.state_dict().items():
        assert tensors[name].dtype == torch.bfloat16
        torch.testing.assert_close(tensors[name].float(), tensor, rtol=0.02, atol=0.002)
    assert source.tokenizer is not None
    assert source.tokenizer.eos_token_ids == {256}
    assert source.chat_template is not None
    assert source.chat_template.render([{"role": "user", "content": "é"}]) == "<user>é</s>"


def test_a_directory_with_one_gguf_file(gguf_file: Path, tmp_path: Path) -> None:
    assert find_model(str(tmp_path)).path == gguf_file
    shutil.copy(gguf_file, tmp_path / "other.gguf")
    assert "holds several GGUF files; name one of other.gguf, tiny.gguf" in refusal(tmp_path)


def test_the_demo_and_a_hub_id(gguf_file: Path, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from octavo.app import hub

    asked: list[tuple[str, str | None, bool]] = []

    def download(repo_id: str, revision: str | None, *, weights: bool) -> Path:
        asked.append((repo_id, revision, weights))
        return directory

    monkeypatch.setattr(hub, "download_model", download)
    monkeypatch.setattr(model_source, "demo_model", lambda: gguf_file)
    assert find_model("demo").name == "demo"
    assert find_model("tiny/single").name == "tiny/single"
    assert find_model("tiny/single@v1", load_format="dummy").weights is None
    (directory / "model.safetensors").unlink()
    described = find_model("tiny/single", with_weights=False)
    assert (described.weights, described.config["hidden_size"]) == (None, 64)
    assert asked == [
        ("tiny/single", None, True),
        ("tiny/single", "v1", False),
        ("tiny/single", None, False),
    ]


@pytest.mark.parametrize("kind", ["directory", "gguf"])
def test_made_up_weights_need_no_file_of_weights(directory: Path, gguf_file: Path, kind: str) -> None:
    (directory / "model.safetensors").unlink()
    source = find_model(str(directory if kind == "directory" else gguf_file), load_format="dummy")
    assert (source.weights, source.num_tensors) == (None, None)
    assert source.tokenizer is not None


def test_without_a_tokenizer(directory: Path) -> None:
    (directory / "tokenizer.json").unlink()
    source = find_model(str(directory), with_tokenizer=False)
    assert (source.tokenizer, source.chat_template) == (None, None)
    assert "has no tokenizer.json" in refusal(directory)


def test_optional_files(directory: Path) -> None:
    (directory / "generation_config.json").unlink()
    (directory / "tokenizer_config.json").unlink()
    source = find_model(str(directory))
    assert (source.generation_config, source.chat_template) == ({}, None)
    assert source.tokenizer is not None
    assert source.tokenizer.eos_token_ids == {5}, "of config.json"


def test_places_that_hold_no_model(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"{tmp_path} is empty"
    (tmp_path / "notes.txt").write_text("x")
    assert refusal(tmp_path) == f"{tmp_path} has no config.json, so it is no model in the Hugging Face layout"
    assert "notes.txt is a file but no .gguf" in refusal(tmp_path / "notes.txt")
    assert refusal(tmp_path / "nothing") == f"{tmp_path / 'nothing'} does not exist"
    assert refusal("nothing.gguf") == "nothing.gguf does not exist"
    assert refusal("../nothing") == "../nothing does not exist"
    assert refusal("") == "MODEL must not be empty"
    for word in ("a/b/c", "with space", "-x", "~no-such-user/x", "http://localhost/x"):
        assert refusal(word) == f"{word!r} is no file or directory here, and it cannot be a hub id"


@pytest.mark.parametrize(
    ("file_name", "content", "sentence"),
    [
        ("config.json", b"{", "config.json is not valid JSON: "),
        ("config.json", b"\xff", "config.json is not valid JSON: "),
        ("config.json", b"[]", "config.json must hold a JSON object, got list"),
        ("generation_config.json", b"null", "generation_config.json must hold a JSON object, got NoneType"),
        ("model.safetensors", b"", "model.safetensors"),
        ("model.safetensors", b"\x10\x00\x00\x00\x00\x00\x00\x00{}", "model.safetensors"),
        ("model.safetensors.index.json", b"{}", "is not a safetensors index"),
        ("model.safetensors.index.json", b'{"weight_map": {"a": "b.safetensors"}}', "missing: b.safetensors"),
        ("tokenizer.json", b"{", "is not a usable tokenizer"),
        ("chat_template.jinja", b"{% if %}", "the chat template is not valid Jinja"),
    ],
)
def test_damaged_files(directory: Path, file_name: str, content: bytes, sentence: str) -> None:
    (directory / file_name).write_bytes(content)
    assert sentence in refusal(directory)


def test_a_truncated_weight_file(directory: Path) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert "model.safetensors is truncated or no safetensors file" in refusal(directory)


def test_pickled_weights_only(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    said = refusal(directory)
    assert "has no safetensors weights" in said
    assert "(pytorch_model.bin is a pickle, which octavo does not read)" in said


def test_a_damaged_gguf_file(gguf_file: Path) -> None:
    whole = gguf_file.read_bytes()
    gguf_file.write_bytes(whole[: len(whole) // 2])
    assert "tiny.gguf is damaged or was not downloaded whole" in refusal(gguf_file)
    gguf_file.write_bytes(b"")
    assert "tiny.gguf is not a GGUF file: it has 0 bytes" in refusal(gguf_file)


def test_formats_that_do_not_fit(gguf_file: Path, directory: Path) -> None:
    assert "--load-format safetensors does not fit" in refusal(gguf_file, "safetensors")
    assert "--load-format gguf does not fit" in refusal(directory, "gguf")
    shutil.copy(gguf_file, directory / "beside.gguf")
    assert find_model(str(directory)).path == directory
    assert find_model(str(directory), load_format="gguf").path == directory / "beside.gguf"
