"""Greedy tokens on a GPU against Transformers, float32: small random models of four families, 40 prompts.

Graphs or not, chunked or whole, cache cold or warm, a pool so small that sequences are preempted: the answer
is the same. Needs a GPU and about a minute.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from octavo import LLM, SamplingParams

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

NUM_TOKENS = 24
COMMON: dict[str, Any] = {
    "vocab_size": 1000,
    "max_position_embeddings": 2048,
    "num_hidden_layers": 3,
    "intermediate_size": 512,
    "eos_token_id": None,
    "bos_token_id": None,
    "pad_token_id": None,
}
FAMILIES: dict[str, PretrainedConfig] = {
    "llama, 3 heads a group": LlamaConfig(
        **COMMON, hidden_size=288, num_attention_heads=9, num_key_value_heads=3, head_dim=64
    ),
    "qwen2, 6 heads a group": Qwen2Config(
        **COMMON, hidden_size=768, num_attention_heads=12, num_key_value_heads=2, tie_word_embeddings=True
    ),
    "qwen3": Qwen3Config(
        **COMMON, hidden_size=256, num_attention_heads=8, num_key_value_heads=2, head_dim=128
    ),
    "mistral, window": MistralConfig(
        **COMMON,
        hidden_size=384,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=96,
        sliding_window=40,
    ),
}
MODES: dict[str, dict[str, Any]] = {
    "kernel by kernel": {"enforce_eager": True},
    "graphs": {},
    "chunks of 64": {"max_num_batched_tokens": 64, "max_num_seqs": 64},
    "starved": {"num_gpu_blocks_override": 60, "max_model_len": 512},
}


def prompts() -> list[list[int]]:
    """Forty, of 1 to 300 tokens. None holds token 0, which `generate` would take for padding."""
    rng = random.Random(1)
    lengths = [1, 2, 7, 16, 17, 33, 64, 129, 300]
    return [[rng.randrange(1, 1000) for _ in range(rng.choice(lengths))] for _ in range(40)]


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_are_those_of_transformers_in_every_mode(family: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(FAMILIES[family], attn_implementation="eager").float()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.mul_(3)  # spreads the logits, so that no two tokens are nearly equal
    model.save_pretrained(tmp_path)
    model = model.cuda().eval()
    expected = [
        model.generate(
            torch.tensor([prompt], device="cuda"), max_new_tokens=NUM_TOKENS, do_sample=False, pad_token_id=0
        )[0, len(prompt) :].tolist()
        for prompt in prompts()
    ]
    params = SamplingParams(temperature=0, max_tokens=NUM_TOKENS, ignore_eos=True)
    for name, settings in MODES.items():
        with LLM(
            str(tmp_path),
            dtype="float32",
            device="cuda",
            skip_tokenizer_init=True,
            gpu_memory_utilization=0.3,
            **settings,
        ) as llm:
            for cache in ("cold", "warm"):
                outputs = llm.generate([{"prompt_token_ids": p} for p in prompts()], params, use_tqdm=False)
                got = [list(output.outputs[0].token_ids) for output in outputs]
                assert got == expected, f"{name}, cache {cache}"
