"""Weights from safetensors, whole and sharded, and made up; checkpoints that do not fit are named."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from octavo.model.config import ModelConfig
from octavo.model.decoder import DecoderLM
from octavo.model.safetensors_file import count_tensors, read_tensors, safetensors_files
from octavo.model.targets import WeightTarget
from octavo.model.weights import Rank, fill_dummy_weights, load_weights

CPU = torch.device("cpu")
Tensors = dict[str, Tensor]


class Sink:
    """A model that keeps its targets, so that a test sees what arrived."""

    def __init__(self, *targets: WeightTarget) -> None:
        self.views = {target.name: target.view for target in targets}
        self._targets = targets
        self.finished = 0

    def targets(self) -> Iterator[WeightTarget]:
        return iter(self._targets)

    def ignores(self, name: str) -> bool:
        return name == "old.buffer"

    def finish(self) -> None:
        self.finished += 1


def sink() -> Sink:
    merged = torch.zeros(5, 3)
    return Sink(
        WeightTarget("a.weight", merged[:2], 0),
        WeightTarget("b.weight", merged[2:], 0),
        WeightTarget("c.weight", torch.zeros(3, 4).t(), 1),
    )


def source() -> Tensors:
    return {"a.weight": torch.rand(2, 3), "b.weight": torch.rand(3, 3), "c.weight": torch.rand(4, 3)}


def test_tensors_land_in_their_views() -> None:
    model, tensors = sink(), source()
    load_weights(model, {**tensors, "old.buffer": torch.zeros(1)}.items(), total=4)
    for name, tensor in tensors.items():
        assert torch.equal(model.views[name], tensor)
    assert model.finished == 1


def test_dtype_is_converted_on_the_way() -> None:
    model, tensors = sink(), {name: tensor.bfloat16() for name, tensor in source().items()}
    load_weights(model, tensors.items())
    assert torch.equal(model.views["b.weight"], tensors["b.weight"].float())


def rename(tensors: Tensors, old: str, new: str) -> Tensors:
    return {new if name == old else name: tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda t: rename(t, "b.weight", "old.buffer"), "^the checkpoint lacks tensors .* needs: b.weight$"),
        (lambda t: {**t, "x.bias": t["a.weight"]}, "^the checkpoint holds tensors .* not take: x.bias$"),
        (
            lambda t: {**t, "c.weight": torch.rand(3, 4)},
            r"c.weight has shape \[3, 4\] in the checkpoint, .* \[4, 3\]",
        ),
        (
            lambda t: {**t, "a.weight": torch.rand(1, 3)},
            r"a.weight has shape \[1, 3\] in the checkpoint, .* \[2, 3\]",
        ),
        (lambda t: {**t, "a.weight": torch.tensor(1.0)}, r"a.weight has shape \[\] in the checkpoint"),
        (lambda t: {**t, **{f"x{i}": t["a.weight"] for i in range(9)}}, "x0, x1, x2, x3, x4, x5 and 3 more"),
    ],
    ids=["missing", "unexpected", "transposed", "broadcastable", "scalar", "many"],
)
def test_refuses_by_name(spoil: Callable[[Tensors], Tensors], message: str) -> None:
    model = sink()
    with pytest.raises(ValueError, match=message):
        load_weights(model, spoil(source()).items())
    assert model.finished == 0


def test_refuses_a_name_twice() -> None:
    twice = [*source().items(), ("a.weight", torch.rand(2, 3))]
    with pytest.raises(ValueError, match="the checkpoint holds a.weight twice"):
        load_weights(sink(), twice)


def test_ranks_take_their_share() -> None:
    tensors = {"rows": torch.rand(4, 6), "columns": torch.rand(4, 6), "whole": torch.rand(3)}
    for index in range(2):
        model = Sink(
            WeightTarget("rows", torch.zeros(2, 6), 0),
            WeightTarget("columns", torch.zeros(4, 3), 1),
            WeightTarget("whole", torch.zeros(3)),
        )
        load_weights(model, tensors.items(), rank=Rank(index, 2))
        assert torch.equal(model.views["rows"], tensors["rows"][2 * index : 2 * index + 2])
        assert torch.equal(model.views["columns"], tensors["columns"][:, 3 * index : 3 * index + 3])
        assert torch.equal(model.views["whole"], tensors["whole"])
    with pytest.raises(ValueError, match=r"dimension 0 of \[3, 6\] does not divide among 2 ranks"):
        Rank(0, 2).share(torch.rand(3, 6), 0)


def tiny_llama(directory: Path, *, shards: bool, tied: bool = False) -> tuple[ModelConfig, Tensors]:
    """A checkpoint as transformers writes it, and what is in it."""
    sizes: dict[str, Any] = {
        "vocab_size": 50,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
    }
    config = LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=tied)
    model = LlamaForCausalLM(config)
    model.save_pretrained(directory, max_shard_size="8KB" if shards else "1GB")
    hf = json.loads((directory / "config.json").read_text())
    return ModelConfig.from_hf(hf), {name: tensor.detach() for name, tensor in model.state_dict().items()}


def test_shards_are_read_like_one_file(tmp_path: Path) -> None:
    _, expected = tiny_llama(tmp_path / "sharded", shards=True)
    save_file(expected, tmp_path / "model.safetensors")
    sharded, single = safetensors_files(tmp_path / "sharded"), safetensors_files(tmp_path)
    assert len(sharded) > 2 and len(single) == 1
    for files in (sharded, single):
        tensors = dict(read_tensors(files))
        assert tensors.keys() == expected.keys() and count_tensors(files) == len(expected)
        assert all(torch.equal(tensors[name], expected[name]) for name in expected)


def test_a_file_is_read_in_the_order_of_its_bytes(tmp_path: Path) -> None:
    """Sequential reads let the system read ahead; by name, layer 10 would come before layer 2."""
    tiny_llama(tmp_path, shards=False)
    header_bytes = int.from_bytes((tmp_path / "model.safetensors").read_bytes()[:8], "little")
    header = json.loads((tmp_path / "model.safetensors").read_bytes()[8 : 8 + header_bytes])
    offsets = [header[name]["data_offsets"][0] for name, _ in read_tensors(safetensors_files(tmp_path))]
    assert offsets == sorted(offsets)


def test_tied_checkpoint_may_repeat_the_head_and_untied_may_not_lack_it(tmp_path: Path) -> None:
    tied, tensors = tiny_llama(tmp_path / "tied", shards=False, tied=True)
    assert "lm_head.weight" in tensors  # in the state dict, though not in the file
    old = {**tensors, "model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(2)}
    load_weights(DecoderLM(tied, torch.float32, CPU), old.items())

    untied, tensors = tiny_llama(tmp_path / "untied", shards=False)
    with pytest.raises(ValueError, match="lacks tensors that the model needs: lm_head.weight"):
        load_weights(DecoderLM(untied, torch.float32, CPU), list(tensors.items())[:-1])


def truncate(file: Path, keep: float) -> None:
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * keep)])


@pytest.mark.parametrize("keep", [0.0, 0.001, 0.1, 0.99])
def test_truncated_file_is_named(keep: float, tmp_path: Path) -> None:
    tiny_llama(tmp_path, shards=False)
    truncate(tmp_path / "model.safetensors", keep)
    for use in (count_tensors, lambda files: list(read_tensors(files))):
        with pytest.raises(ValueError, match=r"model\.safetensors is truncated or no safetensors file"):
            use(safetensors_files(tmp_path))


def test_other_files_in_place_of_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no safetensors weights"):
        safetensors_files(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n" * 3)
    with pytest.raises(ValueError, match="is truncated or no safetensors file"):
        count_tensors(safetensors_files(tmp_path))


def test_missing_shard_is_named(tmp_path: Path) -> None:
    tiny_llama(tmp_path, shards=True)
    lost = safetensors_files(tmp_path)[1]
    lost.unlink()
    with pytest.raises(ValueError, match=f"names files that are missing: {lost.name}$"):
        safetensors_files(tmp_path)


@pytest.mark.parametrize("index", ["", "[]", "{}", '{"weight_map": ["a"]}', '{"weight_map": {"a": 1}}'])
def test_malformed_index_is_named(index: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(ValueError, match="index.json is not a safetensors index"):
        safetensors_files(tmp_path)


def test_checkpoint_of_another_size_is_refused(tmp_path: Path) -> None:
    config, tensors = tiny_llama(tmp_path, shards=False)
    wider = {**tensors, "model.embed_tokens.weight": torch.zeros(51, 16)}
    with pytest.raises(ValueError, match=r"model.embed_tokens.weight has shape \[51, 16\] .* \[50, 16\]"):
        load_weights(DecoderLM(config, torch.float32, CPU), wider.items())


def test_dummy_weights_repeat_with_the_seed(tmp_path: Path) -> None:
    def fill(seed: int) -> dict[str, Tensor]:
        norm, matrix, bias = torch.empty(4), torch.empty(300, 200), torch.empty(9)
        model = Sink(
            WeightTarget("model.norm.weight", norm),
            WeightTarget("o.weight", matrix.t()),
            WeightTarget("o.bias", bias),
        )
        fill_dummy_weights(model, seed=seed)
        assert model.finished == 1
        return model.views

    first, again, other = fill(5), fill(5), fill(6)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["o.weight"], other["o.weight"])
    assert torch.equal(first["model.norm.weight"], torch.ones(4))
    matrix = first["o.weight"]
    assert matrix.abs().max() <= 0.02 and 0.009 < matrix.std() < 0.014 and matrix.mean().abs() < 1e-3
    assert not torch.equal(matrix[:, 0], matrix[:, 1])


def test_saved_dummy_is_a_loadable_checkpoint(tmp_path: Path) -> None:
    """What the loader takes is what transformers wrote, name by name."""
    config, tensors = tiny_llama(tmp_path, shards=False)
    model = DecoderLM(config, torch.float32, CPU)
    assert {target.name for target in model.targets()} == set(load_file(tmp_path / "model.safetensors"))
    assert model.weight_bytes == sum(tensor.nbytes for tensor in tensors.values())
    assert DecoderLM(config, torch.bfloat16, torch.device("meta")).weight_bytes == model.weight_bytes // 2
