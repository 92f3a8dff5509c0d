"""Fills a model's weights from a stream of tensors, or with made-up numbers. Knows no file format."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from .targets import StoredBlocks, WeightTarget

_MAX_NAMES_SHOWN = 6
_DUMMY_SCALE = 0.02
"""Small enough for the residual stream of any depth to stay finite in float16."""


class Loadable(Protocol):
    """A model that says which checkpoint tensors it takes."""

    def targets(self) -> Iterator[WeightTarget]: ...

    def ignores(self, name: str) -> bool:
        """Whether a checkpoint may hold this tensor though the model has no use for it."""

    def finish(self) -> None:
        """Told once that all targets are filled."""


@dataclass(frozen=True, slots=True)
class Rank:
    """A place in a tensor-parallel group, and the share of a checkpoint tensor that belongs to it."""

    index: int = 0
    size: int = 1

    def share(self, tensor: Tensor | StoredBlocks, dim: int | None) -> Tensor | StoredBlocks:
        """This rank's equal part along `dim`; all of it if dim is None. Raises ValueError if uneven."""
        if dim is None or self.size == 1:
            return tensor
        if isinstance(tensor, StoredBlocks):
            tensor = tensor.values()
        length, rest = divmod(tensor.shape[dim], self.size)
        if rest:
            raise ValueError(
                f"dimension {dim} of {list(tensor.shape)} does not divide among {self.size} ranks"
            )
        return tensor.narrow(dim, self.index * length, length)


def load_weights(
    model: Loadable,
    tensors: Iterable[tuple[str, Tensor | StoredBlocks]],
    total: int | None = None,
    *,
    rank: Rank | None = None,
) -> None:
    """Copy each checkpoint tensor to where the model wants it, whatever dtype and device; show progress.

    tensors: (name, tensor), each used before the next is asked for, so that one at a time need exist; the
        bytes of StoredBlocks may be kept until the end.
    total: how many there are, if known.   rank: whose share to take; all of it by default.
    Raises ValueError naming the tensors that are missing, unexpected, repeated or of the wrong shape.
    """
    progress = tqdm(tensors, total=total, desc="Loading weights", unit="tensor", disable=None, leave=False)
    _fill_targets(model, progress, rank or Rank())
    model.finish()


def _fill_targets(model: Loadable, tensors: Iterable[tuple[str, Tensor | StoredBlocks]], rank: Rank) -> None:
    # A function of its own, so that no target holds memory any more when `finish` wants to release it.
    waiting = {target.name: target for target in model.targets()}
    filled: set[str] = set()
    unexpected: list[str] = []
    for name, tensor in tensors:
        target = waiting.pop(name, None)
        if target is not None:
            _copy(rank.share(tensor, target.split), target)
            filled.add(name)
        elif name in filled:
            raise ValueError(f"the checkpoint holds {name} twice")
        elif not model.ignores(name):
            unexpected.append(name)
    _require_none(unexpected, "the checkpoint holds tensors that the model does not take")
    _require_none(waiting, "the checkpoint lacks tensors that the model needs")


def _copy(source: Tensor | StoredBlocks, target: WeightTarget) -> None:
    found, wanted = list(source.shape), list(target.view.shape)
    if found != wanted:  # which `copy_` would broadcast without a word where it can
        raise ValueError(
            f"{target.name} has shape {found} in the checkpoint, but the config implies {wanted}"
        )
    if isinstance(source, StoredBlocks):
        if target.keep is not None and target.keep(source):
            return
        source = source.values()
    target.view.copy_(source)


def _require_none(names: Collection[str], complaint: str) -> None:
    if names:
        shown = ", ".join(islice(names, _MAX_NAMES_SHOWN))
        more = f" and {len(names) - _MAX_NAMES_SHOWN} more" if len(names) > _MAX_NAMES_SHOWN else ""
        raise ValueError(f"{complaint}: {shown}{more}")


def fill_dummy_weights(model: Loadable, *, seed: int = 0) -> None:
    """Random weights made on the model's own device: norms' scales are 1, all else is small and uniform.

    The same seed gives the same weights on the same kind of device, whatever was drawn before.
    """
    _fill_randomly(model.targets(), seed)
    model.finish()


def _fill_randomly(targets: Iterator[WeightTarget], seed: int) -> None:
    generator: torch.Generator | None = None
    for target in targets:
        if generator is None:
            generator = torch.Generator(target.view.device).manual_seed(seed)
        if target.name.endswith("norm.weight"):
            target.view.fill_(1)
        else:
            target.view.uniform_(-_DUMMY_SCALE, _DUMMY_SCALE, generator=generator)
