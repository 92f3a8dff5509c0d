"""Matrix products with weights, and the seam where quantization plugs in. Knows no layers and no files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops.block_linear import BlockLinear
from ..ops.fixed_order_linear import fixed_order_linear
from ..ops.thin_linear import thin_linear
from ..ops.tuning import MAX_THIN_ROWS, thin_tiles
from .compact_weight import CompactWeight
from .packed_weight import PackedWeight, best_packing
from .targets import WeightTarget


class LinearWeight(Protocol):
    """One stored matrix, in whatever form its method keeps it."""

    def targets(self, name: str, rows: slice, split: int | None) -> Iterator[WeightTarget]:
        """What the checkpoint linear called `name` fills, which is stacked into these output rows."""

    def finish(self) -> None:
        """Called once when all targets are filled: repack, release what loading alone needed."""

    def apply(self, x: Tensor, bias: Tensor | None, out: Tensor | None = None) -> Tensor:
        """x [num_tokens, in_features] -> [num_tokens, out_features] of the same dtype, in `out` if given."""

    def likeliest(self, x: Tensor) -> Tensor | None:
        """ops.sampling.choose_greedy of what `apply` gives, the same bits, but without memory for it.

        None where there is no such way, or it would be no quicker.
        """


class LinearMethod(Protocol):
    """How matrices are stored and multiplied; one object serves all layers of a model."""

    def create(self, in_features: int, out_features: int, *, is_head: bool = False) -> LinearWeight:
        """Allocate one matrix, its content undefined until its targets are filled.

        is_head: whether tokens are chosen from its products.
        """

    def tie(self, table: Tensor) -> LinearWeight:
        """A head with the content of an embedding [vocab, hidden]; its targets fill the embedding, too."""


class DenseMethod:
    """Weights as in the checkpoint, in the form that is known to be fastest on the processor.

    On a CPU, float32 matrices are kept in the blocks or the 16 bits that they come from, or else packed by
    MKL or oneDNN: see docs/decisions.md. Everything else stays [out, in].
    """

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self._dtype = dtype
        self._device = device
        on_cpu = device.type == "cpu" and dtype == torch.float32
        self._packing = best_packing() if on_cpu else None
        self._products = BlockLinear() if on_cpu else None

    def create(self, in_features: int, out_features: int, *, is_head: bool = False) -> LinearWeight:
        """Allocate [out, in]."""
        content = torch.empty(out_features, in_features, dtype=self._dtype, device=self._device)
        return self._weight(content, is_table=False, is_head=is_head)

    def tie(self, table: Tensor) -> LinearWeight:
        """The table itself, or a packed or compact copy of it."""
        return self._weight(table, is_table=True, is_head=True)

    def _weight(self, content: Tensor, *, is_table: bool, is_head: bool) -> LinearWeight:
        if self._products is not None and self._products.fits(*content.shape):
            return CompactWeight(content, self._products, self._whole, is_table=is_table, is_head=is_head)
        return self._whole(content)

    def _whole(self, content: Tensor) -> PackedWeight | DenseWeight:
        return DenseWeight(content) if self._packing is None else PackedWeight(content, self._packing)


class DenseWeight:
    """A matrix stored [out, in], the checkpoint's own layout."""

    def __init__(self, weight: Tensor) -> None:
        self._weight = weight
        thin = weight.is_cuda and weight.element_size() == 2
        self._thin_rows = frozenset(
            m for m in range(1, MAX_THIN_ROWS + 1) if thin and thin_tiles(m, *weight.shape)
        )

    def targets(self, name: str, rows: slice, split: int | None) -> Iterator[WeightTarget]:
        """The rows of the matrix are one tensor of the checkpoint."""
        yield WeightTarget(f"{name}.weight", self._weight[rows], split)

    def finish(self) -> None:
        """Nothing to do."""

    def apply(self, x: Tensor, bias: Tensor | None, out: Tensor | None = None) -> Tensor:
        """x [num_tokens, in_features] -> [num_tokens, out_features]."""
        if out is None:
            if bias is None and x.shape[0] in self._thin_rows:
                return thin_linear(x, self._weight)
            return F.linear(x, self._weight, bias)
        if bias is None:
            return torch.mm(x, self._weight.t(), out=out)
        return torch.addmm(bias, x, self._weight.t(), out=out)

    def likeliest(self, x: Tensor) -> Tensor | None:
        """There is no such way."""
        return None


class FixedOrderMethod:
    """Every matrix is a FixedOrderWeight."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self._dtype = dtype
        self._device = device

    def create(self, in_features: int, out_features: int, *, is_head: bool = False) -> LinearWeight:
        """Allocate [out, in]."""
        return self.tie(torch.empty(out_features, in_features, dtype=self._dtype, device=self._device))

    def tie(self, table: Tensor) -> LinearWeight:
        """The table itself."""
        return FixedOrderWeight(table)


class FixedOrderWeight(DenseWeight):
    """The same, multiplied so that no row depends on how many others there are."""

    def apply(self, x: Tensor, bias: Tensor | None, out: Tensor | None = None) -> Tensor:
        """x [num_tokens, in_features] -> [num_tokens, out_features]."""
        return fixed_order_linear(x, self._weight, bias, out)

    def likeliest(self, x: Tensor) -> Tensor | None:
        """There is no such way."""
        return None


class Linear:
    """x W^T + b, where W may be several checkpoint linears stacked along the output.

    parts: (checkpoint name, output features) of each, in stacking order.
    split: the dimension of the checkpoint's [out, in] that tensor-parallel ranks divide; None if none is.
    bias: [sum of output features], or None; filled from the parts' biases.
    is_head: see LinearMethod.
    """

    def __init__(
        self,
        method: LinearMethod,
        in_features: int,
        parts: Sequence[tuple[str, int]],
        *,
        split: int | None,
        bias: Tensor | None = None,
        is_head: bool = False,
    ) -> None:
        assert bias is None or not is_head, "a head has no bias"
        self._parts = tuple(parts)
        self._split = split
        self._bias = bias
        self._weight = method.create(in_features, sum(rows for _, rows in parts), is_head=is_head)
        self._apply = self._weight.apply
        self.likeliest = self._weight.likeliest

    def __call__(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """[num_tokens, in_features] -> [num_tokens, out_features], in `out` if given."""
        return self._apply(x, self._bias, out)

    def targets(self) -> Iterator[WeightTarget]:
        """Where the parts' weights and biases go."""
        start = 0
        for name, num_rows in self._parts:
            rows = slice(start, start + num_rows)
            yield from self._weight.targets(name, rows, self._split)
            if self._bias is not None:
                yield bias_target(name, self._bias[rows], self._split)
            start += num_rows

    def finish(self) -> None:
        """Called once when all targets are filled."""
        self._weight.finish()


class TiedLinear:
    """A head whose matrix is the embedding's table.   name: the table's in the checkpoint."""

    def __init__(self, method: LinearMethod, name: str, table: Tensor) -> None:
        self._name = name
        self._weight = method.tie(table)
        self.likeliest = self._weight.likeliest

    def __call__(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """[num_tokens, hidden] -> [num_tokens, vocab], in `out` if given."""
        return self._weight.apply(x, None, out)

    def targets(self) -> Iterator[WeightTarget]:
        """The table, for both."""
        return self._weight.targets(self._name, slice(None), 0)

    def finish(self) -> None:
        """Called once when the table is filled."""
        self._weight.finish()


def bias_target(name: str, view: Tensor, split: int | None) -> WeightTarget:
    """The bias of linear `name`: ranks that divide the output rows divide it, others take the whole."""
    return WeightTarget(f"{name}.bias", view, 0 if split == 0 else None)
