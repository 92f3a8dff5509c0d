"""Directories of models without weights: a config.json and a tokenizer made for it. Knows no server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pad_tokenizer import write_tokenizer

TINY = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 2000,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 16384,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": None,
    "torch_dtype": "float32",
}
"""So small that its products do not set the pace on two CPU cores."""


def write_model(folder: Path, config_from: Path | None, vocab_size: int | None = None) -> dict[str, Any]:
    """Fill `folder` with the config.json of `config_from`, or TINY, and a tokenizer; gives the config.

    vocab_size: instead of the config's own.
    """
    config: dict[str, Any] = json.loads((config_from / "config.json").read_text()) if config_from else TINY
    config = config if vocab_size is None else {**config, "vocab_size": vocab_size}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    write_tokenizer(folder, int(config["vocab_size"]))
    return config
