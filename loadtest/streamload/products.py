"""What a CPU's matrix products and argmax alone allow: tokens a second of a model, without what serves it.

The products are those that octavo computes with, packed by the same library, one after the other on rows that
are in the processor's cache; attention, norms, sampling parameters, scheduling and HTTP are left out.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from octavo.app.process import let_threads_sleep

_SECONDS = 3.0


def allowed_tokens_per_s(config: Mapping[str, Any], num_rows: int) -> float:
    """The best of some seconds of steps of `num_rows` tokens, of a Llama's config.json."""
    let_threads_sleep()
    import torch  # the generator of loads does without

    from octavo.model.packed_weight import PackedWeight, best_packing
    from octavo.ops.sampling import choose_greedy

    torch.set_num_threads(os.cpu_count() or 1)
    packing = best_packing()
    assert packing is not None, "this torch multiplies no packed matrices"
    hidden, inner, heads = (
        config[name] for name in ("hidden_size", "intermediate_size", "num_attention_heads")
    )
    qkv = hidden + 2 * config["num_key_value_heads"] * hidden // heads
    layer = [(qkv, hidden), (hidden, hidden), (2 * inner, hidden), (hidden, inner)]
    shapes = [*layer * config["num_hidden_layers"], (config["vocab_size"], hidden)]
    weights = [PackedWeight(torch.randn(shape), packing) for shape in shapes]
    for weight in weights:
        weight.finish()
    rows = {width: torch.randn(num_rows, width) for _, width in shapes}
    best_s, until_s = float("inf"), time.monotonic() + _SECONDS
    with torch.inference_mode():
        while time.monotonic() < until_s:
            began_s = time.perf_counter()
            for weight, (_, width) in zip(weights, shapes, strict=True):
                product = weight.apply(rows[width], None)
            choose_greedy(product)
            best_s = min(best_s, time.perf_counter() - began_s)
    return num_rows / best_s
