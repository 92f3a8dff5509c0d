"""GGUF models against the packages that write and read them elsewhere: gguf and transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGUFReader, GGUFWriter
from gguf.quants import dequantize
from gguf_models import finish, write_model
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from octavo.model.config import ModelConfig
from octavo.model.gguf_config import gguf_config
from octavo.model.gguf_file import GGUFError, GGUFFile
from octavo.model.gguf_tensors import gguf_tensors

TYPES = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"]
SIZES: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}


def llama(**changes: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    model: PreTrainedModel = LlamaForCausalLM(LlamaConfig(**SIZES | changes)).eval()
    return model


def read(path: Path, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    return dict(gguf_tensors(GGUFFile.open(path), dtype))


@pytest.mark.parametrize("type_name", TYPES)
def test_each_type_is_dequantized_as_gguf_does(tmp_path: Path, type_name: str) -> None:
    write_model(tmp_path / "m.gguf", llama(), "llama", type_name)
    reference = {tensor.name: tensor for tensor in GGUFReader(tmp_path / "m.gguf").tensors}
    ours = read(tmp_path / "m.gguf")
    for name, hf_name in {
        "token_embd.weight": "model.embed_tokens.weight",
        "blk.1.ffn_down.weight": "model.layers.1.mlp.down_proj.weight",
        "blk.0.attn_norm.weight": "model.layers.0.input_layernorm.weight",
        "output.weight": "lm_head.weight",
    }.items():
        expected = dequantize(reference[name].data, reference[name].tensor_type)
        assert ours[hf_name].dtype == torch.float32
        np.testing.assert_array_equal(ours[hf_name].numpy(), expected)
    halved = read(tmp_path / "m.gguf", torch.bfloat16)
    for hf_name, tensor in ours.items():
        assert torch.equal(halved[hf_name], tensor.to(torch.bfloat16))


@pytest.mark.parametrize("type_name", ["F32", "Q4_0", "Q6_K"])
def test_weights_are_those_that_transformers_loads(tmp_path: Path, type_name: str) -> None:
    """Names, shapes and, above all, the order of the rows of queries and keys."""
    write_model(tmp_path / "m.gguf", llama(head_dim=128), "llama", type_name, metadata=_sizes)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf", dtype=torch.float32)
    expected = theirs.state_dict()
    ours = read(tmp_path / "m.gguf")
    assert ours.keys() == expected.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-6)


def _sizes(writer: GGUFWriter) -> None:
    writer.add_vocab_size(SIZES["vocab_size"])
    writer.add_rope_dimension_count(128)


@pytest.mark.parametrize(
    ("arch", "make"),
    [
        ("llama", lambda: llama()),
        ("llama", lambda: llama(head_dim=32, tie_word_embeddings=True)),
        ("llama", lambda: llama(attention_bias=True, mlp_bias=True)),
        ("qwen2", lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES))),
        ("qwen3", lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=128))),
    ],
)
def test_a_model_comes_back_as_it_was(tmp_path: Path, arch: str, make: Callable[[], PreTrainedModel]) -> None:
    torch.manual_seed(1)
    model = make().float()
    for parameter in model.parameters():  # biases and norms are born as 0 and 1, which would hide a mix-up
        torch.nn.init.normal_(parameter)
    write_model(tmp_path / "m.gguf", model, arch)
    tied = model.config.tie_word_embeddings
    expected = {k: v for k, v in model.state_dict().items() if not (tied and k == "lm_head.weight")}
    ours = read(tmp_path / "m.gguf")
    assert ours.keys() == expected.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, expected[name]), name
    config = ModelConfig.from_hf(gguf_config(GGUFFile.open(tmp_path / "m.gguf")))
    original = model.config.to_dict() | {"architectures": [type(model).__name__]}
    expected_config = ModelConfig.from_hf(original)
    ignored = (
        "eos_token_ids",
        "bos_token_id",
        "dtype",
    )  # the file's vocabulary knows them, and there is none
    for field in expected_config.__dataclass_fields__:
        if field not in ignored:
            assert getattr(config, field) == getattr(expected_config, field), field
    assert config.dtype == "float32"


@pytest.mark.parametrize(("factor", "theta", "head_dim"), [(8.0, 500000.0, 128), (32.0, 500000.0, 64)])
def test_llama3_rope_is_found_again_from_its_table(
    tmp_path: Path, factor: float, theta: float, head_dim: int
) -> None:
    scaling = {
        "rope_type": "llama3",
        "rope_theta": theta,
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    plain = 1 / theta ** (torch.arange(0, head_dim, 2).double() / head_dim)
    config = LlamaConfig(
        **SIZES | {"max_position_embeddings": 131072}, head_dim=head_dim, rope_parameters=scaling
    )
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    table = (plain / scaled.double()).float().numpy()
    write_model(tmp_path / "m.gguf", LlamaForCausalLM(config), "llama", extra={"rope_freqs.weight": table})
    found = gguf_config(GGUFFile.open(tmp_path / "m.gguf"))
    assert found["rope_scaling"] == {k: v for k, v in scaling.items() if k != "rope_theta"}
    assert found["rope_theta"] == theta
    assert "rope_freqs.weight" not in read(tmp_path / "m.gguf")
    table[len(table) // 2] *= 1.5
    write_model(tmp_path / "m.gguf", LlamaForCausalLM(config), "llama", extra={"rope_freqs.weight": table})
    with pytest.raises(GGUFError, match="do not follow Llama 3's formula"):
        gguf_config(GGUFFile.open(tmp_path / "m.gguf"))


def _yarn(writer: GGUFWriter) -> None:
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(4.0)
    writer.add_rope_scaling_orig_ctx_len(128)


def _linear(writer: GGUFWriter) -> None:
    writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
    writer.add_rope_scaling_factor(2.5)


def _longrope(writer: GGUFWriter) -> None:
    writer.add_rope_scaling_type(gguf.RopeScalingType.LONGROPE)
    writer.add_rope_scaling_factor(2.5)


def test_rope_scaling(tmp_path: Path) -> None:
    def scaling(metadata: Callable[[GGUFWriter], None]) -> Any:
        write_model(tmp_path / "m.gguf", llama(), "llama", metadata=metadata)
        return gguf_config(GGUFFile.open(tmp_path / "m.gguf"))["rope_scaling"]

    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
    assert scaling(_yarn) == yarn
    assert scaling(_linear) == {"rope_type": "linear", "factor": 2.5}
    assert scaling(lambda writer: writer.add_rope_scaling_type(gguf.RopeScalingType.NONE)) is None
    assert scaling(lambda writer: writer.add_float32("llama.rope.scale_linear", 4.0)) == {
        "rope_type": "linear",
        "factor": 4.0,
    }
    with pytest.raises(GGUFError, match="RoPE type 'longrope'"):
        scaling(_longrope)


def test_eos_and_bos(tmp_path: Path) -> None:
    def metadata(writer: GGUFWriter) -> None:
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_eot_token_id(7)

    write_model(tmp_path / "m.gguf", llama(), "llama", metadata=metadata)
    config = gguf_config(GGUFFile.open(tmp_path / "m.gguf"))
    assert (config["bos_token_id"], config["eos_token_id"]) == (1, [2, 7])


# ----- what cannot be run


@pytest.mark.parametrize("arch", ["gemma3", "phi3", "llama4"])
def test_other_architectures_are_named(tmp_path: Path, arch: str) -> None:
    finish(GGUFWriter(tmp_path / "m.gguf", arch))
    with pytest.raises(GGUFError, match=rf"m\.gguf has the architecture '{arch}', which octavo does not run"):
        gguf_config(GGUFFile.open(tmp_path / "m.gguf"))


def test_mixture_of_experts_is_refused(tmp_path: Path) -> None:
    write_model(tmp_path / "m.gguf", llama(), "llama", metadata=lambda writer: writer.add_expert_count(8))
    with pytest.raises(GGUFError, match="mixture of experts"):
        gguf_config(GGUFFile.open(tmp_path / "m.gguf"))


def test_other_types_and_unknown_tensors_are_named(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "type.gguf", "llama")
    blocks = np.zeros((4, 84), np.uint8)
    writer.add_tensor("blk.0.ffn_up.weight", blocks, raw_dtype=gguf.GGMLQuantizationType.Q2_K)
    finish(writer)
    with pytest.raises(
        GGUFError, match=r"tensors of type Q2_K \(blk\.0\.ffn_up\.weight\); octavo reads F32, F16"
    ):
        read(tmp_path / "type.gguf")
    write_model(
        tmp_path / "name.gguf", llama(), "llama", extra={"blk.0.attn_sinks.weight": np.zeros(4, np.float32)}
    )
    with pytest.raises(GGUFError, match=r"a tensor that octavo does not know: blk\.0\.attn_sinks\.weight"):
        read(tmp_path / "name.gguf")
