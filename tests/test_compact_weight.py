"""Matrices kept in fewer bits: which are, which are not, and that all multiply as their float32 values do."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from test_block_format import stored
from torch import Tensor

from octavo.model.compact_weight import CompactWeight
from octavo.model.linear import DenseMethod, DenseWeight, Linear, TiedLinear
from octavo.model.targets import StoredBlocks, WeightTarget
from octavo.model.weights import load_weights
from octavo.ops.block_format import BLOCK_FORMATS
from octavo.ops.block_linear import BlockLinear
from octavo.ops.native_code import find_team
from octavo.ops.sampling import choose_greedy

pytestmark = pytest.mark.skipif(find_team() is None, reason="no native code on this processor")
CPU = torch.device("cpu")
Stream = dict[str, Tensor | StoredBlocks]


def never() -> Tensor:
    raise AssertionError("a matrix that stays in its blocks is not dequantized")


def blocks(name: str, rows: int, columns: int, *, seed: int = 0, dequantized: bool = False) -> StoredBlocks:
    content, values = stored(name, rows, columns, seed)
    return StoredBlocks(BLOCK_FORMATS[name], content, (lambda: values) if dequantized else never)


def loaded(parts: dict[str, int], stream: Stream) -> Linear:
    """A linear of 64 columns, filled as a model is."""
    linear = Linear(DenseMethod(torch.float32, CPU), 64, list(parts.items()), split=0)

    class Model:
        targets, finish = linear.targets, linear.finish

        def ignores(self, name: str) -> bool:
            return False

    load_weights(Model(), {f"{name}.weight": content for name, content in stream.items()}.items())
    return linear


def check(linear: Callable[[Tensor], Tensor], *values: Tensor) -> None:
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(linear(x), x @ torch.cat(values).t(), atol=1e-4, rtol=1e-4)


def test_parts_stay_in_their_blocks_though_their_formats_differ() -> None:
    formats = {"q": "Q4_1", "k": "Q4_1", "v": "Q8_0"}
    stream: Stream = {name: blocks(form, 32, 64, seed=i) for i, (name, form) in enumerate(formats.items())}
    linear = loaded(dict.fromkeys(formats, 32), stream)
    check(linear, *(stored(form, 32, 64, i)[1] for i, form in enumerate(formats.values())))


@pytest.mark.parametrize("other", ["Q4_0", None])
def test_what_cannot_stay_is_dequantized(other: str | None) -> None:
    """A part of 48 rows fills no pair of tiles; a part of floats has no blocks."""
    first, rows = blocks("Q8_0", 32, 64, dequantized=True), 48 if other else 64
    floats = torch.randn(64, 64) / 3
    second = blocks(other, rows, 64, seed=1, dequantized=True) if other else floats
    last = (
        blocks("Q8_0", 16, 64, seed=2, dequantized=True)
        if other
        else blocks("Q8_0", 32, 64, dequantized=True)
    )
    parts = {"a": first, "b": second, "c": last}
    linear = loaded({name: content.shape[0] for name, content in parts.items()}, dict(parts))
    check(linear, *(c.values() if isinstance(c, StoredBlocks) else c for c in parts.values()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_floats_are_kept_in_16_bits_only_if_all_fit(dtype: torch.dtype) -> None:
    values = torch.randn(64, 64, generator=torch.Generator().manual_seed(0)).to(dtype).float()
    made: list[Tensor] = []

    def whole(content: Tensor) -> DenseWeight:
        made.append(content)
        return DenseWeight(content)

    weight = CompactWeight(values.clone(), BlockLinear(), whole, is_table=False)
    weight.finish()
    assert len(made) == (dtype == torch.float32)
    check(lambda x: weight.apply(x, None), values)
    bias, out = torch.randn(64), torch.empty(5, 64)
    x = torch.randn(5, 64)
    assert weight.apply(x, bias, out) is out
    torch.testing.assert_close(out, x @ values.t() + bias, atol=1e-4, rtol=1e-4)


def test_a_head_of_any_floats_chooses_as_its_products_say() -> None:
    """Of float32 that do not fit into 16 bits, too; matrices that are no heads choose nothing."""
    values, x = torch.randn(96, 64), torch.randn(40, 64)
    for is_head in (True, False):
        linear = Linear(DenseMethod(torch.float32, CPU), 64, [("lm_head", 96)], split=0, is_head=is_head)
        (target,) = linear.targets()
        target.view.copy_(values)
        del target
        linear.finish()
        check(linear, values)
        tokens = linear.likeliest(x)
        if is_head:
            assert tokens is not None and torch.equal(tokens, choose_greedy(linear(x)))
        else:
            assert tokens is None


def test_tied_head_keeps_blocks_and_fills_the_table() -> None:
    table = torch.zeros(96, 64)
    head = TiedLinear(DenseMethod(torch.float32, CPU), "embed", table)
    (target,) = head.targets()
    content, values = stored("Q8_0", 96, 64)
    assert (target.name, target.split) == ("embed.weight", 0)
    assert target.keep is not None and not target.keep(StoredBlocks(BLOCK_FORMATS["Q8_0"], content, never))
    target.view.copy_(values)
    del target
    head.finish()
    assert torch.equal(table, values)
    check(head, values)
    x = torch.randn(20, 64)
    tokens = head.likeliest(x)
    assert tokens is not None and torch.equal(tokens, choose_greedy(head(x)))


def test_blocks_of_a_wrong_shape_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"a.weight has shape \[64, 64\] in the checkpoint.*\[32, 64\]"):
        loaded({"a": 32}, {"a": blocks("Q8_0", 64, 64)})


def test_targets_without_a_keeper_take_the_values() -> None:
    view = torch.zeros(32, 64)
    target = WeightTarget("w", view)

    class Model:
        def targets(self) -> list[WeightTarget]:
            return [target]

        def finish(self) -> None: ...

        def ignores(self, name: str) -> bool:
            return False

    load_weights(Model(), [("w", blocks("Q4_0", 32, 64, dequantized=True))])  # type: ignore[arg-type]
    assert torch.equal(view, stored("Q4_0", 32, 64)[1])
