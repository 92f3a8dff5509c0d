"""What a CPU's matrix products and argmax alone allow: tokens a second of a model, without what serves it.

One after the other on rows that are in the cache; attention, norms, sampling parameters, scheduling
and HTTP are left out.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from octavo.app.process import let_threads_sleep

_SECONDS = 3.0


@dataclass(frozen=True)
class Allowed:
    """Tokens a second.

    own: with the products that octavo computes with, the head's fused with the argmax where it does so.
    library: every product by the library that octavo packs matrices for, logits written down for the argmax.
    """

    own: float
    library: float

    def best(self, other: Allowed) -> Allowed:
        """Of two measurements: the machine may have other things to do."""
        return Allowed(max(self.own, other.own), max(self.library, other.library))


def allowed(config: Mapping[str, Any], num_rows: int) -> Allowed:
    """The best of some seconds of steps of `num_rows` tokens, of a Llama's config.json."""
    let_threads_sleep()
    import torch  # the generator of loads does without

    from octavo.model.linear import DenseMethod, LinearWeight
    from octavo.model.packed_weight import PackedWeight, best_packing
    from octavo.ops.sampling import choose_greedy

    torch.set_num_threads(os.cpu_count() or 1)
    packing, method = best_packing(), DenseMethod(torch.float32, torch.device("cpu"))
    assert packing is not None, "this torch multiplies no packed matrices"
    hidden, inner, heads = (
        config[name] for name in ("hidden_size", "intermediate_size", "num_attention_heads")
    )
    qkv = hidden + 2 * config["num_key_value_heads"] * hidden // heads
    layer = [(qkv, hidden), (hidden, hidden), (2 * inner, hidden), (hidden, inner)]
    shapes = [*layer * config["num_hidden_layers"], (config["vocab_size"], hidden)]
    rows = {width: torch.randn(num_rows, width) for _, width in shapes}

    def filled(weight: LinearWeight, values: torch.Tensor) -> LinearWeight:
        for target in weight.targets("", slice(None), None):
            target.view.copy_(values)
        weight.finish()
        return weight

    own, library = [], []
    for i, (outputs, width) in enumerate(shapes):
        values = torch.randn(outputs, width)
        own.append(filled(method.create(width, outputs, is_head=i == len(shapes) - 1), values))
        library.append(filled(PackedWeight(values.clone(), packing), values))

    def step(weights: list[LinearWeight]) -> None:
        *others, head = weights
        for weight, (_, width) in zip(others, shapes, strict=False):
            weight.apply(rows[width], None)
        if head.likeliest(rows[hidden]) is None:
            choose_greedy(head.apply(rows[hidden], None))

    with torch.inference_mode():
        return Allowed(*(num_rows / _best_s(partial(step, each)) for each in (own, library)))


def _best_s(run: Callable[[], None]) -> float:
    best_s, until_s = float("inf"), time.monotonic() + _SECONDS
    while time.monotonic() < until_s:
        began_s = time.perf_counter()
        run()
        best_s = min(best_s, time.perf_counter() - began_s)
    return best_s
