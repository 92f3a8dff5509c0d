"""Every family against transformers' own implementation, logit by logit, on small random models."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from model_harness import Harness, with_padding
from torch import Tensor

from octavo.model.config import ModelConfig
from octavo.model.decoder import DecoderLM
from octavo.model.linear import DenseWeight
from octavo.model.safetensors_file import count_tensors, read_tensors, safetensors_files
from octavo.model.weights import load_weights
from octavo.ops.paged_attention import DecodeRows

CPU = torch.device("cpu")
SIZES: dict[str, Any] = {
    "vocab_size": 89,
    "hidden_size": 48,
    "intermediate_size": 72,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,  # three query heads share a KV head
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "pad_token_id": None,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 1e4,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16}
YARN_MSCALE = {**YARN, "mscale": 0.8, "mscale_all_dim": 0.5, "truncate": False}
WINDOW = {"use_sliding_window": True, "sliding_window": 5}

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama-tied": ("Llama", {"tie_word_embeddings": True}),
    "llama-biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-wide-heads": ("Llama", {"head_dim": 16}),
    "llama-one-kv-head": ("Llama", {"num_key_value_heads": 1}),
    "llama-linear": ("Llama", {"rope_parameters": LINEAR}),
    "llama-dynamic": ("Llama", {"rope_parameters": {**LINEAR, "rope_type": "dynamic"}}),
    "llama-llama3": ("Llama", {"rope_parameters": LLAMA3}),
    "llama-yarn": ("Llama", {"rope_parameters": YARN}),
    "llama-yarn-mscale": ("Llama", {"rope_parameters": YARN_MSCALE}),
    "mistral-window": ("Mistral", {"sliding_window": 6}),
    "mistral": ("Mistral", {"sliding_window": None, "head_dim": 16}),
    "qwen2": ("Qwen2", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
    "qwen2-late-windows": ("Qwen2", {**WINDOW, "max_window_layers": 1, "tie_word_embeddings": True}),
    "qwen2-layer-types": (
        "Qwen2",
        {**WINDOW, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    ),
    "qwen3": ("Qwen3", {"head_dim": 12}),
    "qwen3-windows-biases": (
        "Qwen3",
        {**WINDOW, "head_dim": 16, "max_window_layers": 2, "attention_bias": True},
    ),
    "smollm3": ("SmolLM3", {"no_rope_layer_interval": 2, "pad_token_id": 0}),
    "smollm3-windows": ("SmolLM3", {**WINDOW, "no_rope_layers": [1, 0, 1], "pad_token_id": 0}),
}


def make_reference(name: str) -> transformers.PreTrainedModel:
    """A random model whose weights are large enough that a mistake anywhere shows in the logits."""
    family, settings = MODELS[name]
    config = getattr(transformers, f"{family}Config")(**{**SIZES, **settings})
    model: transformers.PreTrainedModel = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            spread = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(spread * 0.15 if parameter.dim() > 1 else 1 + spread * 0.3)
    return model


def load(directory: Path, **settings: Any) -> tuple[DecoderLM, ModelConfig]:
    """What a launch does with a directory in the Hugging Face layout."""
    config = ModelConfig.from_hf(json.loads((directory / "config.json").read_text()))
    model = DecoderLM(config, torch.float32, CPU, **settings)
    files = safetensors_files(directory)
    load_weights(model, read_tensors(files), count_tensors(files))
    return model, config


def random_tokens(length: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, SIZES["vocab_size"], (length,), generator=generator).tolist()


def reference_logits(model: transformers.PreTrainedModel, tokens: list[int]) -> Tensor:
    with torch.inference_mode():
        logits: Tensor = model(torch.tensor([tokens])).logits[0]
    return logits


def assert_same(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    reference = saved(name, tmp_path)
    model, config = load(tmp_path)
    tokens = random_tokens(40, seed=1)
    expected = reference_logits(reference, tokens)
    assert expected.std() > 0.5, "logits too flat to tell models apart"
    harness = Harness(model, config, num_slots=3, max_length=48)

    assert_same(harness.step({0: tokens})[0], expected)
    chunks = [harness.step({1: chunk})[1] for chunk in (tokens[:7], tokens[7:8], tokens[8:21], tokens[21:])]
    assert_same(torch.cat(chunks), expected)
    assert_same(torch.cat([harness.step({2: [token]})[2] for token in tokens]), expected)


def saved(name: str, directory: Path) -> transformers.PreTrainedModel:
    reference = make_reference(name)
    reference.save_pretrained(directory)
    return reference


@pytest.mark.parametrize("name", ["llama", "mistral-window", "qwen3-windows-biases"])
def test_sequences_do_not_touch_each_other_in_mixed_steps(name: str, tmp_path: Path) -> None:
    """Decodes and chunks of several prompts in one step, at different lengths."""
    reference = saved(name, tmp_path)
    model, config = load(tmp_path)
    texts = {slot: random_tokens(length, seed=slot) for slot, length in enumerate((30, 9, 40, 17))}
    harness = Harness(model, config, num_slots=4, max_length=40)
    got: dict[int, list[Tensor]] = {slot: [] for slot in texts}
    chunk_sizes = {0: (12, 1, 1, 16), 1: (1, 1, 6, 1), 2: (5, 30, 1, 4), 3: (15, 1, 1)}
    for step in range(4):
        chunks = {
            slot: texts[slot][sum(sizes[:step]) : sum(sizes[: step + 1])]
            for slot, sizes in chunk_sizes.items()
            if step < len(sizes)
        }
        for slot, logits in harness.step(chunks).items():
            got[slot].append(logits)
    for slot, text in texts.items():
        assert_same(torch.cat(got[slot]), reference_logits(reference, text))


@pytest.mark.parametrize("wanted", [[], [0], [3, 11], [11, 2, 2, 0]])
def test_only_the_last_tokens_go_through_the_head(wanted: list[int], tmp_path: Path) -> None:
    reference = saved("llama-tied", tmp_path)
    model, config = load(tmp_path)
    tokens = random_tokens(12, seed=4)
    harness = Harness(model, config, num_slots=1, max_length=16)
    batch, last = harness.batch({0: tokens}), torch.tensor(wanted, dtype=torch.int64)
    rows = DecodeRows(batch.last.slots[last], batch.last.seq_lens[last], batch.last.max_seq_len)
    batch = replace(batch, last_tokens=last, last=rows)
    logits = harness.run(batch)
    assert logits.shape == (len(wanted), SIZES["vocab_size"])
    assert_same(logits, reference_logits(reference, tokens)[wanted])


def test_padding_changes_nothing(tmp_path: Path) -> None:
    """Rows beyond the real ones, as in a captured graph: no keys, nowhere to write, logits unread."""
    saved("llama", tmp_path)
    model, config = load(tmp_path)
    harness = Harness(model, config, num_slots=2, max_length=16)
    harness.step({0: random_tokens(9, seed=1)})
    batch = harness.batch({0: [5]})
    expected = harness.run(batch)
    pages = [page.clone() for pair in harness.kv.layers for page in pair]
    padding = torch.zeros(3, dtype=torch.int32)
    padded = replace(
        batch,
        token_ids=torch.cat((batch.token_ids, padding)),
        positions=torch.cat((batch.positions, padding)),
        kv_slots=torch.cat((batch.kv_slots, torch.full((3,), -1))),
        decodes=with_padding(batch.decodes, 3),
    )
    assert_same(harness.run(padded), expected)
    for before, after in zip(pages, (page for pair in harness.kv.layers for page in pair), strict=True):
        assert_same(after, before)


def test_partial_rotation(tmp_path: Path) -> None:
    """transformers has no partial rotation in these families: pairs that are to stay get frequency 0

    A full rotation pairs dimension i with i + 8 of 16, one of 8 dimensions pairs i with i + 4 and keeps
    8..15: moving the rows of q and k from the one order to the other makes both models the same.
    """
    reference = saved("llama-wide-heads", tmp_path)
    hf = json.loads((tmp_path / "config.json").read_text())
    hf["rope_parameters"] = {**hf["rope_parameters"], "partial_rotary_factor": 0.5}
    (tmp_path / "config.json").write_text(json.dumps(hf))
    model, config = load(tmp_path)
    assert config.rope.rotary_dim == 8

    place_of = torch.tensor([0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 12, 13, 14, 15])
    frequencies = torch.zeros(8)
    frequencies[:4] = 1e4 ** (-torch.arange(0, 8, 2) / 8)
    reference.model.rotary_emb.inv_freq = frequencies
    with torch.no_grad():
        for layer in reference.model.layers:
            for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj):
                heads = projection.weight.view(-1, 16, 48)
                moved = torch.empty_like(heads)
                moved[:, place_of] = heads
                projection.weight.copy_(moved.view(-1, 48))
    tokens = random_tokens(20, seed=2)
    harness = Harness(model, config, num_slots=1, max_length=20)
    assert_same(harness.step({0: tokens})[0], reference_logits(reference, tokens))


def test_a_method_decides_how_weights_are_kept(tmp_path: Path) -> None:
    """Plain matrices instead of packed ones: the same logits."""

    class Plain:
        def create(self, in_features: int, out_features: int, *, is_head: bool = False) -> DenseWeight:
            return DenseWeight(torch.empty(out_features, in_features))

        def tie(self, table: Tensor) -> DenseWeight:
            return DenseWeight(table)

    reference = saved("llama-biases", tmp_path)
    model, config = load(tmp_path, method=Plain())
    tokens = random_tokens(10, seed=3)
    harness = Harness(model, config, num_slots=1, max_length=12)
    assert_same(harness.step({0: tokens})[0], reference_logits(reference, tokens))


def test_in_a_fixed_order_the_logits_are_the_same(tmp_path: Path) -> None:
    reference = saved("qwen2-late-windows", tmp_path)
    model, config = load(tmp_path, deterministic=True)
    tokens = random_tokens(20, seed=3)
    expected = reference_logits(reference, tokens)
    harness = Harness(model, config, num_slots=2, max_length=24)
    chunks = [harness.step({1: chunk})[1] for chunk in (tokens[:7], tokens[7:8], tokens[8:])]
    assert_same(torch.cat(chunks), expected)
    assert_same(torch.cat([harness.step({0: [token]})[0] for token in tokens]), expected)


def test_a_table_shorter_than_the_model_serves_as_far_as_it_goes(tmp_path: Path) -> None:
    reference = saved("llama-yarn", tmp_path)
    model, config = load(tmp_path, max_positions=16)
    tokens = random_tokens(16, seed=3)
    harness = Harness(model, config, num_slots=1, max_length=16)
    assert_same(harness.step({0: tokens})[0], reference_logits(reference, tokens))


def test_bfloat16_stays_near_float32(tmp_path: Path) -> None:
    reference = saved("qwen2", tmp_path)
    config = ModelConfig.from_hf(json.loads((tmp_path / "config.json").read_text()))
    model = DecoderLM(config, torch.bfloat16, CPU)
    load_weights(model, read_tensors(safetensors_files(tmp_path)))
    tokens = random_tokens(20, seed=5)
    harness = Harness(model, config, num_slots=1, max_length=20, dtype=torch.bfloat16)
    logits, expected = harness.step({0: tokens})[0], reference_logits(reference, tokens)
    assert logits.dtype == torch.bfloat16
    error = (logits.float() - expected).abs().mean() / expected.std()
    assert error < 0.05


def test_an_outline_has_one_layer_of_each_kind_and_the_last() -> None:
    fields: dict[str, Any] = {
        "architectures": ["Qwen2ForCausalLM"],
        "vocab_size": 60,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 8,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
    }
    windowed = fields | {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 5}
    for config, kept in ((fields, [0, 7]), (windowed, [0, 5, 7]), (fields | {"num_hidden_layers": 1}, [0])):
        model = DecoderLM(ModelConfig.from_hf(config), torch.float32, torch.device("meta"))
        outline = model.outline()
        assert outline._layers == [model._layers[i] for i in kept]
        assert outline.num_layers == len(kept) and model.num_layers == config["num_hidden_layers"]
