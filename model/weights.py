"""Fills a model's weights from a stream of tensors, or with made-up numbers. Knows no file format."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from .targets import WeightTarget

_MAX_NAMES_SHOWN = 6


class Loadable(Protocol):
    """A model that says which checkpoint tensors it takes."""

    def targets(self) -> Iterator[WeightTarget]: ...

    def ignores(self, name: str) -> bool:
        """Whether a checkpoint may hold this tensor though the model has no use for it."""


@dataclass(frozen=True, slots=True)
class Rank:
    """A place in a tensor-parallel group, and the share of a checkpoint tensor that belongs to it."""

    index: int = 0
    size: int = 1

    def share(self, tensor: Tensor, dim: int | None) -> Tensor:
        """This rank's equal part along `dim`; all of it if dim is None or what does not divide."""
        if dim is None or dim >= tensor.dim() or tensor.shape[dim] % self.size:
            return tensor
        length = tensor.shape[dim] // self.size
        return tensor.narrow(dim, self.index * length, length)


def load_weights(
    model: Loadable,
    tensors: Iterable[tuple[str, Tensor]],
    total: int | None = None,
    *,
    rank: Rank | None = None,
) -> None:
    """Copy each checkpoint tensor to where the model wants it, converting dtype, device and layout; show progress.

    tensors: (name, tensor), each used before the next is asked for, so that one at a time need exist.
    total: how many there are, if known.   rank: whose share to take; all of it by default.
    Raises ValueError naming the tensors that are missing, unexpected, repeated or of the wrong shape.
    """
    rank = rank or Rank()
    wanted: dict[str, list[WeightTarget]] = {}
    for target in model.targets():
        wanted.setdefault(target.name, []).append(target)
    filled: set[str] = set()
    unexpected: list[str] = []
    for name, tensor in tqdm(
        tensors, total=total, desc="Loading weights", unit="tensor", disable=None, leave=False
    ):
        if name in filled:
            raise ValueError(f"the checkpoint holds {name} twice")
        for target in wanted.get(name, ()):
            _fill(target, tensor, rank)
        if name in wanted:
            filled.add(name)
        elif not model.ignores(name):
            unexpected.append(name)
    _require_none(unexpected, "the checkpoint holds tensors that the model does not take")
    _require_none(
        [name for name in wanted if name not in filled], "the checkpoint lacks tensors that the model needs"
    )


def _fill(target: WeightTarget, tensor: Tensor, rank: Rank) -> None:
    source = rank.share(tensor, target.split)
    if source.shape != target.view.shape:
        # `copy_` would broadcast a wrong shape without a word.
        raise ValueError(
            f"{target.name} has shape {list(source.shape)} in the checkpoint, the config implies {list(target.view.shape)}"
        )
    target.view.copy_(source)


def _require_none(names: Collection[str], complaint: str) -> None:
    if names:
        shown = ", ".join(list(names)[:_MAX_NAMES_SHOWN])
        more = f" and {len(names) - _MAX_NAMES_SHOWN} more" if len(names) > _MAX_NAMES_SHOWN else ""
        raise ValueError(f"{complaint}: {shown}{more}")


def fill_dummy_weights(model: Loadable, *, seed: int = 0, scale: float = 0.02) -> None:
    """Random weights made on the model's own device: norms' scales are 1, all else uniform in [-scale, scale).

    The same seed gives the same weights on the same kind of device, whatever was drawn before.
    """
    generators: dict[torch.device, torch.Generator] = {}
    for target in model.targets():
        device = target.view.device
        if device not in generators:
            generators[device] = torch.Generator(device).manual_seed(seed)
        if target.name.endswith("norm.weight"):
            target.view.fill_(1)
        else:
            target.view.uniform_(-scale, scale, generator=generators[device])
