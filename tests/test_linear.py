"""Linears: merging by targets, both ways to store a matrix, and the seam for others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from octavo.model import packed_weight
from octavo.model.linear import DenseMethod, DenseWeight, Linear, TiedLinear
from octavo.model.packed_weight import MklPacking, OneDnnPacking, PackedWeight, Packing, best_packing
from octavo.model.targets import WeightTarget

CPU = torch.device("cpu")
PACKINGS = [
    pytest.param(
        MklPacking(), marks=pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="no MKL")
    ),
    pytest.param(
        OneDnnPacking(),
        marks=pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="no oneDNN"),
    ),
]


def random_tensor(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("biased", [False, True])
def test_merged_parts_act_like_separate_linears(dtype: torch.dtype, tolerance: float, biased: bool) -> None:
    sizes = {"q": 10, "k": 3, "v": 4}
    bias = torch.empty(17, dtype=dtype) if biased else None
    linear = Linear(DenseMethod(dtype, CPU), 6, list(sizes.items()), split=0, bias=bias)
    sources: dict[str, Tensor] = {}
    for seed, target in enumerate(linear.targets()):
        sources[target.name] = random_tensor(*target.view.shape, seed=seed, dtype=dtype)
        target.view.copy_(sources[target.name])
    del target
    linear.finish()

    assert set(sources) == {f"{n}.{kind}" for n in sizes for kind in ("weight", "bias")[: 1 + biased]}
    x = random_tensor(5, 6, seed=9, dtype=dtype)
    separate = [F.linear(x, sources[f"{name}.weight"], sources.get(f"{name}.bias")) for name in sizes]
    torch.testing.assert_close(linear(x), torch.cat(separate, -1), atol=tolerance, rtol=tolerance)


def test_bias_is_divided_with_the_output_and_whole_otherwise() -> None:
    for split, bias_split in ((0, 0), (1, None)):
        linear = Linear(DenseMethod(torch.float32, CPU), 4, [("o", 2)], split=split, bias=torch.empty(2))
        assert {t.name: t.split for t in linear.targets()} == {"o.weight": split, "o.bias": bias_split}


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("out_features, in_features", [(1, 1), (7, 33), (200, 96), (65, 513), (1024, 17)])
@pytest.mark.parametrize("biased", [False, True])
def test_packed_matrix_multiplies_any_number_of_rows(
    out_features: int, in_features: int, biased: bool, packing: Packing
) -> None:
    matrix = random_tensor(out_features, in_features)
    bias = random_tensor(out_features, seed=1) if biased else None
    packed = PackedWeight(matrix.clone(), packing)
    packed.finish()
    for num_rows in (0, 1, 2, 3, 4, 7, 16, 63, 64, 65, 257):
        x = random_tensor(num_rows, in_features, seed=2)
        expected = F.linear(x.double(), matrix.double(), None if bias is None else bias.double()).float()
        with torch.inference_mode():
            torch.testing.assert_close(packed.apply(x, bias), expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("packing", PACKINGS)
def test_packed_matrix_takes_strided_rows(packing: Packing) -> None:
    matrix, wide = random_tensor(12, 8), random_tensor(5, 20, seed=1)
    packed = PackedWeight(matrix, packing)
    packed.finish()
    torch.testing.assert_close(packed.apply(wide[:, 3:11], None), wide[:, 3:11] @ matrix.t())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("biased", [False, True])
def test_product_lands_in_the_given_memory(dtype: torch.dtype, biased: bool) -> None:
    bias = random_tensor(7, seed=1, dtype=dtype) if biased else None
    linear = Linear(DenseMethod(dtype, CPU), 6, [("o", 7)], split=0, bias=bias)
    next(linear.targets()).view.copy_(random_tensor(7, 6, dtype=dtype))
    linear.finish()
    x, out = random_tensor(3, 6, seed=2, dtype=dtype), torch.zeros(3, 7, dtype=dtype)
    assert linear(x, out).data_ptr() == out.data_ptr()
    torch.testing.assert_close(out, linear(x))


def test_a_processor_gets_the_library_that_suits_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()
    for vendor, wanted in (("GenuineIntel", MklPacking), ("AuthenticAMD", OneDnnPacking)):
        (tmp_path / "cpuinfo").write_text(f"vendor_id : {vendor}\n")
        monkeypatch.setattr(packed_weight, "_CPU_INFO", tmp_path / "cpuinfo")
        assert isinstance(best_packing(), wanted) or not both


def test_tied_head_follows_the_table_which_its_target_fills() -> None:
    table = torch.empty(11, 6)
    head = TiedLinear(DenseMethod(torch.float32, CPU), "embed", table)
    (target,) = head.targets()
    assert (target.name, target.view.data_ptr()) == ("embed.weight", table.data_ptr())
    target.view.copy_(random_tensor(11, 6))
    del target
    head.finish()
    x = random_tensor(3, 6, seed=1)
    torch.testing.assert_close(head(x), x @ table.t())


def test_bfloat16_stays_as_in_the_checkpoint() -> None:
    assert isinstance(DenseMethod(torch.bfloat16, CPU).create(4, 3), DenseWeight)


class Negated:
    """A stand-in for a quantization: it stores something other than the weight, under other names."""

    def __init__(self, in_features: int, out_features: int) -> None:
        self._stored = torch.empty(out_features, in_features)
        self._weight = self._stored

    def targets(self, name: str, rows: slice, split: int | None) -> Iterator[WeightTarget]:
        yield WeightTarget(f"{name}.negated", self._stored[rows], split)

    def finish(self) -> None:
        self._weight = -self._stored

    def apply(self, x: Tensor, bias: Tensor | None, out: Tensor | None = None) -> Tensor:
        return F.linear(x, self._weight, bias)

    def likeliest(self, x: Tensor) -> Tensor | None:
        return None


class NegatedMethod:
    def create(self, in_features: int, out_features: int, *, is_head: bool = False) -> Negated:
        return Negated(in_features, out_features)

    def tie(self, table: Tensor) -> DenseWeight:
        return DenseWeight(table)


def test_another_method_names_and_stores_its_own_tensors() -> None:
    linear = Linear(NegatedMethod(), 4, [("gate", 2), ("up", 3)], split=0)
    stored = {target.name: target.view for target in linear.targets()}
    assert list(stored) == ["gate.negated", "up.negated"]
    for view in stored.values():
        view.copy_(random_tensor(*view.shape))
    linear.finish()
    x = random_tensor(2, 4, seed=1)
    torch.testing.assert_close(linear(x), torch.cat([-x @ view.t() for view in stored.values()], -1))
